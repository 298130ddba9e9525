"""What the exception of an attempt means, and how an error may leave the package: explained, and with no secret."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import openai

from . import _sdk
from ._sdk import httpx2
from .bodies import cover_credential
from .core.budget import Shortage
from .core.model import Failure, Fault, RouteRequest
from .core.verdict import POLICIES, Verdict
from .errors import BudgetExceeded, NoKeyAvailable
from .exchange import Exchange

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .core.select import Refusal
    from .router import Router


_CAUSES = {
    "PoolTimeout": Fault.LOCAL,  # no connection is free in this process
    "RuntimeError": Fault.LOCAL,  # the connection belongs to an event loop that has ended
    "InvalidStatus": Fault.REQUEST,  # a websocket that was to be opened leads elsewhere,
    "SecurityError": Fault.REQUEST,  # or to another host
}
"""Causes of a failed connection that do not lie in the network."""
_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError")
"""Causes that show that nothing of a request was sent."""


def failure_of(exchange: Exchange, error: BaseException) -> Failure | None:
    """What the exception of an attempt means, or None if nothing of it ever left this process."""
    if isinstance(error, openai.APIStatusError):
        response = error.response
        if _left_origin(response):  # no credential went there, so its answer says nothing of the key
            return Failure(Fault.NETWORK, 0, detail="redirected")
        exchange.answered(error.status_code, response.headers.raw)
        return exchange.classify(error.status_code, response.headers, _content_of(response))
    if isinstance(error, openai.APIConnectionError):
        cause = type(error.__cause__).__name__ if error.__cause__ is not None else "StreamCut"
        return Failure(_CAUSES.get(cause, Fault.NETWORK), 0, detail=cause)
    if not isinstance(error, Exception):  # cancelled, interrupted, closed
        return Failure(Fault.ABANDONED, exchange.status or 0, detail=type(error).__name__)
    return None


def _left_origin(response: Any) -> bool:
    """Whether redirects led to another host than the one that was asked."""
    first, last = (response.history or [response])[0].request.url, response.request.url
    return (first.scheme, first.host, first.port) != (last.scheme, last.host, last.port)


def _content_of(response: Any) -> bytes:
    try:
        return response.content
    except RuntimeError:  # closed before it was read, as by an event hook of the caller's own
        return b""


def may_be_done(error: BaseException, fault: Fault) -> bool:
    """Whether the provider may have carried out the request all the same: it was sent, and not refused."""
    if isinstance(error, openai.RateLimitError) or POLICIES[fault].verdict is Verdict.ROTATE:
        return False
    return type(error.__cause__).__name__ not in _UNSENT


def forbids_retry(error: BaseException) -> bool:
    """Whether the answer says that the request must not be sent again as it is, in the SDK's own header."""
    return isinstance(error, openai.APIStatusError) and error.response.headers.get("x-should-retry") == "false"


def refuses_stream_options(error: BaseException) -> bool:
    """Whether a server does not know the field by which the usage of a stream is asked for."""
    return (
        isinstance(error, openai.APIStatusError) and error.status_code in (400, 422) and "stream_options" in str(error)
    )


def response_of(error: BaseException | None) -> Any:
    """The HTTP response behind an error, for the SDK's own reckoning of the wait; None where there is none."""
    return error.response if isinstance(error, openai.APIStatusError) else None


def seal(
    client: _sdk.Client, error: BaseException, secrets: Sequence[SecretStr], outer: BaseException | None
) -> BaseException:
    """The error as it may leave the package: with no credential in its request, text, body or tracebacks.

    `outer` is the exception that the caller was handling when it called: that one is left alone.

    Frames of the HTTP library hold the raw headers in local variables, so the tracebacks below this point are
    dropped. An answer that repeats a secret is masked, which takes a new error of the same type.
    """
    if isinstance(error, openai.APIStatusError):
        error = _masked(client, error, secrets)
    seen: set[int] = {id(outer)}
    links: list[BaseException | None] = [error]
    while links:  # which may be a circle: libraries that mock a transport make such
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            links += link.__cause__, link.__context__
    if isinstance(error, openai.APIStatusError):
        for hop in (*error.response.history, error.response):
            cover_credential(hop.request)
    elif isinstance(error, openai.APIError):
        cover_credential(error.request)
    return error


def _masked(client: _sdk.Client, error: openai.APIStatusError, secrets: Sequence[SecretStr]) -> openai.APIStatusError:
    response = error.response
    body, headers = _content_of(response), list(response.headers.raw)
    shown = body + b"".join(value for _, value in headers)
    leaked = [found for s in secrets if (found := s.get_secret_value().encode()) in shown]
    if not leaked:
        return error
    for secret in leaked:
        body = body.replace(secret, b"***")
        headers = [(name, value.replace(secret, b"***")) for name, value in headers]
    kept = [(name, value) for name, value in headers if name.lower() not in _sdk.BODY_HEADERS]
    clean = type(response)(response.status_code, headers=kept, content=body, request=response.request)
    return _sdk.status_error(client, clean)


def refused(
    client: _sdk.Client, router: Router, request: RouteRequest, why: Refusal | Shortage
) -> NoKeyAvailable | BudgetExceeded:
    """The error for a call that no key can serve, or that a budget does not allow."""
    if isinstance(why, Shortage):
        return _budget_exceeded(client, router, request, why)
    return _no_key_available(client, router, request, why)


def _no_key_available(client: _sdk.Client, router: Router, request: RouteRequest, refusal: Refusal) -> NoKeyAvailable:
    now = router.clock.monotonic()
    retry_after = refusal.first_return - now if math.isfinite(refusal.first_return) else None
    reasons = {
        name: reason if not math.isfinite(until) else f"{reason}, for {max(until - now, 0):.1f} s"
        for name, (reason, until) in refusal.obstacles.items()
    }
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    expected = "no key is expected back" if retry_after is None else f"the first returns in {retry_after:.1f} s"
    message = f"no key of pool {router.pool!r} can serve this call ({listed}): {expected}"
    response = _refusal(client, request, message, "no_key_available", retry_after)
    return NoKeyAvailable(message, response=response, reasons=reasons, retry_after=retry_after)


def _budget_exceeded(client: _sdk.Client, router: Router, request: RouteRequest, short: Shortage) -> BudgetExceeded:
    rule, end = short.rule, short.window.end
    left, now = short.left / 1_000_000, router.clock.time()
    opens_at = datetime.fromtimestamp(end, rule.zone) if math.isfinite(end) else None
    retry_after = max(end - now, 0.0) if opens_at is not None else None
    until = f"until {opens_at.isoformat(sep=' ')}" if opens_at is not None else "in all"
    has = f"budget {rule.name!r} has {left:.6f} of {rule.microusd / 1_000_000:.6f} US dollars left {until}"
    if short.need is None:
        prices = (router.prices.known(key, request.model) for key in router.keys)
        if any(price is not None and price.per_hour is not None for price in prices):
            why = f"model {request.model!r} is charged by the hour, and how long it is shows only in the answer: "
        else:
            why = f"it is not known what model {request.model!r} costs: give prices=, or "
        message = f"{has}, and {why}let such calls pass with Budget(admit_unpriced=True)"
        retry_after = None
    elif short.final:
        message = f"{has}, and this call can cost {short.need / 1_000_000:.6f}"
    else:
        message = f"{has}, but reserved for calls under way, and this call can cost {short.need / 1_000_000:.6f}"
        retry_after = 1.0
    response = _refusal(client, request, message, "budget_exceeded", retry_after)
    return BudgetExceeded(
        message, response=response, budget=rule.name, left_usd=left, opens_at=opens_at, retry_after=retry_after
    )


def _refusal(client: _sdk.Client, request: RouteRequest, message: str, code: str, retry_after: float | None) -> Any:
    """The response that code finds on an error which no provider has sent."""
    return httpx2.Response(
        429,
        headers={} if retry_after is None else {"retry-after": str(math.ceil(retry_after))},
        json={"error": {"message": message, "type": "keyrouter_error", "code": code}},
        request=httpx2.Request("POST", _sdk.request_url(client, request.endpoint)),
    )
