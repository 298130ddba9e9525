"""Every private seam of the SDK, and all that must be known of its errors and answers.

The rest of the package sees the SDK through these functions alone. What a routed attempt needs of it:

* the HTTP response before it is parsed (`AsyncSeams`, `SyncSeams`: they override `_process_response`);
* what its exceptions mean (`failure_of`), and that they give away nothing (`seal`);
* its own rules of retrying, where there is but one key.
"""

# pyright: reportPrivateUsage=false
# This module exists to touch what is private in the SDK, so that no other has to.

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, cast

import openai
from openai import AsyncOpenAI, NotGiven, OpenAI
from openai._constants import DEFAULT_MAX_RETRIES as DEFAULT_MAX_RETRIES
from openai._data_residency import DataResidency as DataResidency
from openai._models import FinalRequestOptions
from openai._provider import _Provider
from openai._response import AsyncAPIResponse
from openai.auth import WorkloadIdentity, X509WorkloadIdentity

from .bodies import EarlyEnd, connection_error, cover_credential, transport_errors, watch_async, watch_sync
from .core.body import holds_error
from .core.model import Failure, Fault, RouteRequest
from .errors import ConfigError, NoKeyAvailable
from .exchange import Exchange
from .keys import check_base_url
from .sinks.log import logger

if TYPE_CHECKING:
    import httpx2
    from pydantic import SecretStr

    from .core.select import Refusal
    from .router import Router
else:
    httpx2 = sys.modules.get("httpx2") or sys.modules["httpx"]  # the HTTP library under this SDK

Client = AsyncOpenAI | OpenAI
Options = FinalRequestOptions
SdkProvider = _Provider
AnyWorkloadIdentity = WorkloadIdentity | X509WorkloadIdentity

POOL_API_KEY = "keyrouter-pool-has-no-single-key"
"""What `client.api_key` answers on a pool: no secret, and not empty, since libraries check for that."""

current_exchange: ContextVar[Exchange | None] = ContextVar("keyrouter_openai_exchange", default=None)
"""The attempt that this task is making; set around the SDK's `request` alone."""

_BODY_HEADERS = (b"content-length", b"content-encoding", b"transfer-encoding")


# -- what is asked


def is_routed(client: Client, options: Options) -> bool:
    """Whether a call is the router's to serve.

    It is not where the caller authenticates in another way: with an `Authorization` of his own (or its
    omission), a provider runtime, a workload identity, or the admin key that admin routes take.
    """
    if client._provider_runtime is not None or client.workload_identity is not None:
        return False
    security = getattr(options, "security", None)  # not in every supported version
    if security is not None and not security.get("bearer_auth", False):
        return False
    return not _has_authorization(options.headers) and not _has_authorization(client._custom_headers)


def _has_authorization(headers: Any) -> bool:
    return bool(headers) and not isinstance(headers, NotGiven) and any(n.lower() == "authorization" for n in headers)


def if_given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given: those that are newer than the oldest supported SDK go only if used."""
    return {name: value for name, value in arguments.items() if value is not None}


def is_set(value: object) -> bool:
    """Whether an argument with the SDK's own "not given" default was given."""
    return not isinstance(value, NotGiven)


def idempotency_key(client: Client, options: Options) -> str | None:
    """The key that all attempts of a call share, as the SDK would make it."""
    if options.idempotency_key is None and options.method.lower() != "get":
        return client._idempotency_key()
    return options.idempotency_key


def max_retries(client: Client, options: Options) -> int:
    """The further attempts that the caller allows, checked as the SDK checks them."""
    retries = options.get_max_retries(client.max_retries)
    validate = getattr(client, "_validate_max_retries", None)  # not in every supported version
    if validate is not None:
        validate(retries)
    return retries


def read_timeout(client: Client, options: Options) -> float:
    """Seconds for which the caller waits for an answer, and so for which a call may wait for capacity."""
    given = client.timeout if isinstance(options.timeout, NotGiven) else options.timeout
    seconds = given.read if isinstance(given, openai.Timeout) else given
    return math.inf if seconds is None else float(seconds)


# -- one attempt


class BodyReplay:
    """Whether a body can be sent again: one that is read only once must not be."""

    def __init__(self, options: Options) -> None:
        from openai import _base_client

        kind = getattr(_base_client, "_RequestBodyReplay", None)  # not in every supported version
        self._replay: Any = kind(options) if kind is not None else None
        self._is_plain = isinstance(getattr(options, "content", None), bytes | bytearray | None)

    def rewind(self) -> bool:
        """Make ready to send again; False where that is impossible."""
        return self._is_plain if self._replay is None else self._replay.rewind()


# -- what came of it


class AsyncSeams(AsyncOpenAI):
    """Shows the router each successful HTTP response before the SDK parses it."""

    @property
    def user_agent(self) -> str:
        return f"AsyncOpenAI/Python {openai.__version__}"

    async def _process_response(self, *, response: Any, stream: bool, retries_taken: int = 0, **rest: Any) -> Any:
        exchange = current_exchange.get()
        if exchange is not None and not exchange.settled:
            retries_taken = exchange.retries_taken
            if _is_read(exchange, response):
                _check_body(self, exchange, response)
            else:
                try:
                    await watch_async(response, exchange, stream=stream)
                except EarlyEnd as end:
                    await response.aclose()
                    _raise_early_end(self, exchange, response, end)
                except transport_errors() as error:
                    await response.aclose()
                    raise connection_error(error, response.request) from error
        return await super()._process_response(response=response, stream=stream, retries_taken=retries_taken, **rest)

    async def _sleep_as_sdk(self, **arguments: Any) -> None:
        """Wait before a retry as the SDK does, with its log lines."""
        await self._sleep_for_retry(**arguments)


async def close_result(result: object) -> None:
    """Close an answer that nobody will read; most are read as a whole before they are returned."""
    if isinstance(result, openai.AsyncStream):
        await result.close()
    elif isinstance(result, AsyncAPIResponse):
        await cast("AsyncAPIResponse[Any]", result).close()


class SyncSeams(OpenAI):
    """As `AsyncSeams`, for the sync client."""

    @property
    def user_agent(self) -> str:
        return f"OpenAI/Python {openai.__version__}"

    def _process_response(self, *, response: Any, stream: bool, retries_taken: int = 0, **rest: Any) -> Any:
        exchange = current_exchange.get()
        if exchange is not None and not exchange.settled:
            retries_taken = exchange.retries_taken
            if _is_read(exchange, response):
                _check_body(self, exchange, response)
            else:
                try:
                    watch_sync(response, exchange, stream=stream)
                except EarlyEnd as end:
                    response.close()
                    _raise_early_end(self, exchange, response, end)
                except transport_errors() as error:
                    response.close()
                    raise connection_error(error, response.request) from error
        return super()._process_response(response=response, stream=stream, retries_taken=retries_taken, **rest)

    def _sleep_as_sdk(self, **arguments: Any) -> None:
        self._sleep_for_retry(**arguments)


def _is_read(exchange: Exchange, response: Any) -> bool:
    """Note the answer's headers, and say whether its body is already here."""
    exchange.answered(response.status_code, response.headers.raw)
    if response.is_closed:
        return True
    exchange.under_way()
    return False


def _check_body(client: Client, exchange: Exchange, response: Any) -> None:
    """Settle an attempt whose whole answer is here, unless it is an error in the guise of a success."""
    body: bytes = response.content
    if response.request.headers.get("accept") == "application/json" and holds_error(body):
        raise _as_status_error(client, exchange, response, body)
    exchange.succeed(body)


def _raise_early_end(client: Client, exchange: Exchange, response: Any, end: EarlyEnd) -> NoReturn:
    if not end.body.strip():
        raise openai.APIConnectionError(
            message="The stream ended before its first content.", request=response.request
        ) from None
    raise _as_status_error(client, exchange, response, end.body) from None


def _as_status_error(client: Client, exchange: Exchange, response: Any, body: bytes) -> openai.APIStatusError:
    """The error that a body stands for, with the status it should have come with."""
    failure = exchange.classify(response.status_code, response.headers, body)
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _BODY_HEADERS]
    stand_in = type(response)(failure.status, headers=headers, content=body, request=response.request)
    return client._make_status_error_from_response(stand_in)


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
        return Failure(Fault.LOCAL if cause == "PoolTimeout" else Fault.NETWORK, 0, detail=cause)
    if not isinstance(error, Exception):  # cancelled, interrupted, closed
        return Failure(Fault.ABANDONED, exchange.status or 0, detail=type(error).__name__)
    if type(error).__module__.startswith("aiohttp"):  # the SDK's aiohttp transport lets some through as they are
        return Failure(Fault.NETWORK, 0, detail=type(error).__name__)
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


def sdk_would_retry(client: Client, error: BaseException) -> bool:
    """Whether the SDK itself would try again after this error."""
    if isinstance(error, openai.APIStatusError):
        return client._should_retry(error.response)
    return isinstance(error, openai.APIConnectionError)


def response_of(error: BaseException | None) -> Any:
    """The HTTP response behind an error, for the SDK's own reckoning of the wait; None where there is none."""
    return error.response if isinstance(error, openai.APIStatusError) else None


def seal(
    client: Client, error: BaseException, secrets: Sequence[SecretStr], outer: BaseException | None
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


def _masked(client: Client, error: openai.APIStatusError, secrets: Sequence[SecretStr]) -> openai.APIStatusError:
    response = error.response
    body, headers = _content_of(response), list(response.headers.raw)
    shown = body + b"".join(value for _, value in headers)
    leaked = [found for s in secrets if (found := s.get_secret_value().encode()) in shown]
    if not leaked:
        return error
    for secret in leaked:
        body = body.replace(secret, b"***")
        headers = [(name, value.replace(secret, b"***")) for name, value in headers]
    kept = [(name, value) for name, value in headers if name.lower() not in _BODY_HEADERS]
    clean = type(response)(response.status_code, headers=kept, content=body, request=response.request)
    return client._make_status_error_from_response(cast("Any", clean))


def no_key_available(client: Client, router: Router, request: RouteRequest, refusal: Refusal) -> NoKeyAvailable:
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
        request=httpx2.Request("POST", client._prepare_url(request.endpoint)),
    )
    return NoKeyAvailable(message, response=response, reasons=reasons, retry_after=retry_after)


def check_pool_client(client: Client) -> None:
    """Refuse what would send a pool's keys in the clear, and warn of what would override them all.

    Raises:
        ConfigError: the base URL is not https.
    """
    try:
        check_base_url(str(client.base_url))
    except ValueError as error:
        raise ConfigError(f"base_url of the client: {error}") from None
    if getattr(client, "_ambient_authorizations", None):
        logger.warning(
            "OPENAI_CUSTOM_HEADERS sets Authorization: no call is routed, all go out with that credential. "
            "Take it out, or give it as a key"
        )
