"""What the exception of an attempt means, and how an error may leave the package: explained, and with no secret."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import openai

from . import _sdk
from ._sdk import httpx2
from .bodies import cover_credential
from .core.model import Failure, Fault, RouteRequest
from .errors import NoKeyAvailable
from .exchange import Exchange

if TYPE_CHECKING:
    from pydantic import SecretStr

    from .core.select import Refusal
    from .router import Router


_LOCAL = ("PoolTimeout", "RuntimeError")
"""Causes that lie in this process: no connection is free, or it belongs to an event loop that has ended."""


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
        return Failure(Fault.LOCAL if cause in _LOCAL else Fault.NETWORK, 0, detail=cause)
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
    link: BaseException | None = error
    while link is not None and link is not outer:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
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


def no_key_available(client: _sdk.Client, router: Router, request: RouteRequest, refusal: Refusal) -> NoKeyAvailable:
    """The error for a call that no key can serve."""
    now = router.clock.monotonic()
    retry_after = refusal.first_return - now if math.isfinite(refusal.first_return) else None
    reasons = {
        name: reason if not math.isfinite(until) else f"{reason}, for {max(until - now, 0):.1f} s"
        for name, (reason, until) in refusal.obstacles.items()
    }
    listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    expected = "no key is expected back" if retry_after is None else f"the first returns in {retry_after:.1f} s"
    message = f"no key of pool {router.pool!r} can serve this call ({listed}): {expected}"
    response = httpx2.Response(
        429,
        headers={} if retry_after is None else {"retry-after": str(math.ceil(retry_after))},
        json={"error": {"message": message, "type": "keyrouter_error", "code": "no_key_available"}},
        request=httpx2.Request("POST", _sdk.request_url(client, request.endpoint)),
    )
    return NoKeyAvailable(message, response=response, reasons=reasons, retry_after=retry_after)
