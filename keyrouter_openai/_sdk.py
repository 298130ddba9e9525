"""Every private seam of the SDK.

The rest of the package sees what is private in the SDK through these functions alone. What a routed attempt needs:

* the HTTP response before it is parsed (`AsyncSeams`, `SyncSeams`: they override `_process_response`);
* its own rules of retrying, where there is but one key;
* its own exceptions, made from an answer.
"""

# pyright: reportPrivateUsage=false
# This module exists to touch what is private in the SDK, so that no other has to.

from __future__ import annotations

import logging
import math
import os
import re
import sys
import warnings
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any, NoReturn, cast
from weakref import WeakSet

import anyio.to_thread
import openai
from openai import AsyncOpenAI, NotGiven, OpenAI

from .sdk_versions import TESTED, is_tested

if not is_tested(openai.__version__):
    # Said before the private names are imported: where they are missing, this tells why.
    warnings.warn(
        f"keyrouter_openai is not tested with openai {openai.__version__}: install '{TESTED}'",
        RuntimeWarning,
        stacklevel=2,
    )

from openai import _base_client, _streaming
from openai._base_client import BaseAsyncPage as BaseAsyncPage
from openai._base_client import BaseSyncPage as BaseSyncPage
from openai._constants import DEFAULT_MAX_RETRIES as DEFAULT_MAX_RETRIES
from openai._models import FinalRequestOptions
from openai._provider import _Provider
from openai._response import AsyncAPIResponse
from openai._utils._json import openapi_dumps as openapi_dumps
from openai.auth import WorkloadIdentity

from .bodies import EarlyEnd, connection_error, corrected, transport_errors, watch_async, watch_sync
from .core.body import holds_error
from .errors import ConfigError
from .exchange import Exchange
from .keys import check_base_url
from .route import look_inside
from .sinks.log import logger

# What is not in every supported version. Type checkers see the newest.
if TYPE_CHECKING:
    import httpx2 as httpx2
    from openai._data_residency import DataResidency as DataResidency
    from openai.auth import X509WorkloadIdentity

    AnyWorkloadIdentity = WorkloadIdentity | X509WorkloadIdentity
    BASE_URL_NOT_GIVEN: NotGiven | None
else:
    httpx2 = getattr(_base_client, "httpx2", None) or _base_client.httpx  # the HTTP library under this SDK
    # Versions over httpx look whether httpx2 is loaded, and fail while a thread still loads it, as `prices` would.
    with suppress(ImportError):
        import_module("httpx2")
    DataResidency = Any
    AnyWorkloadIdentity = WorkloadIdentity | getattr(openai.auth, "X509WorkloadIdentity", WorkloadIdentity)
    BASE_URL_NOT_GIVEN = OpenAI.__init__.__kwdefaults__["base_url"]

Client = AsyncOpenAI | OpenAI
BaseClient = _base_client.BaseClient
Options = FinalRequestOptions
SdkProvider = _Provider

POOL_API_KEY = "keyrouter-pool-has-no-single-key"
"""What `client.api_key` answers on a pool: no secret, and not empty, since libraries check for that."""

current_exchange: ContextVar[Exchange | None] = ContextVar("keyrouter_openai_exchange", default=None)
"""The attempt that this task is making; set around the SDK's `request` alone."""

_WRAPS_STREAM_ERRORS = hasattr(_streaming, "APIConnectionError")
"""Earlier versions let the HTTP library's own errors out of a stream."""

BODY_HEADERS = (b"content-length", b"content-encoding", b"transfer-encoding")


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
    return not has_authorization(options.headers) and not has_authorization(client._custom_headers)


def has_authorization(headers: Any) -> bool:
    """Whether the caller authenticates by himself, or says that there is to be no credential."""
    return bool(headers) and not isinstance(headers, NotGiven) and any(n.lower() == "authorization" for n in headers)


def if_given(**arguments: Any) -> dict[str, Any]:
    """The arguments that were given: those that are newer than the oldest supported SDK go only if used."""
    return {name: value for name, value in arguments.items() if value is not None}


def is_page(cast_to: object) -> bool:
    """Whether the answer to a call is to be a page of a list."""
    return isinstance(cast_to, type) and issubclass(cast_to, (BaseSyncPage, BaseAsyncPage))


def raw_stream(result: object) -> object:
    """The stream of events that what `.stream()` helpers give is made of; None for anything else."""
    return getattr(result, "_raw_stream", None)


look_inside.append(raw_stream)


def list_again(page: Any, options: Options) -> Any:
    """The first page of a list, asked for as the page after this one is."""
    again = options.model_copy()
    again._strip_raw_response_header()
    return page._client._request_api_list(page._model, page=type(page), options=again)


def is_set(value: object) -> bool:
    """Whether an argument with the SDK's own "not given" default was given."""
    return not isinstance(value, NotGiven)


def tells_requests() -> bool:
    """Whether the SDK's log shows each request as it is made."""
    return _base_client.log.isEnabledFor(logging.DEBUG)


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
    seconds: Any = getattr(given, "read", given)  # of either HTTP library
    return math.inf if seconds is None else float(seconds)


# -- one attempt


class BodyReplay:
    """Whether a body can be sent again: one that is read only once must not be."""

    __slots__ = ("_is_plain", "_replay")

    def __init__(self, options: Options) -> None:
        kind = getattr(_base_client, "_RequestBodyReplay", None)  # not in every supported version
        content = getattr(options, "content", None)
        is_json = content is None and options.files is None
        self._replay: Any = kind(options) if kind is not None and not is_json else None
        self._is_plain = isinstance(content, bytes | bytearray | None)

    def rewind(self) -> bool:
        """Make ready to send again; False where that is impossible."""
        return self._is_plain if self._replay is None else self._replay.rewind()


# -- what came of it


class AsyncSeams(AsyncOpenAI):
    """Shows the router each successful HTTP response before the SDK parses it."""

    @property
    def user_agent(self) -> str:
        return f"AsyncOpenAI/Python {openai.__version__}"

    async def _send_request(self, request: Any, *, stream: bool, **rest: Any) -> Any:
        try:
            return await super()._send_request(request, stream=stream, **rest)
        except transport_errors() as error:
            failed = corrected(error, request)
            if failed is None:
                raise
        raise failed  # outside of the `except`: what aiohttp raises holds the request's headers

    async def _process_response(self, *, response: Any, stream: bool, retries_taken: int = 0, **rest: Any) -> Any:
        exchange = current_exchange.get()
        if exchange is not None and not exchange.settled:
            retries_taken = exchange.retries_taken
            if _is_read(exchange, response):
                _check_body(self, exchange, response)
                if exchange.lasts:
                    await anyio.to_thread.run_sync(exchange.record_owner)
            else:
                try:
                    await watch_async(response, exchange, stream=stream, wrap=_WRAPS_STREAM_ERRORS)
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


class _Forks:
    """Keeps a forked process off the connections of its parent, whose answers it would take and spoil.

    An async client has none that it could use there: a fork has an event loop of its own.
    """

    def __init__(self) -> None:
        self.in_child = False
        self._begin()
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._begin_child)

    def _begin(self) -> None:
        self._lock = Lock()
        self._left: WeakSet[Any] = WeakSet()

    def _begin_child(self) -> None:
        self.in_child = True
        self._begin()

    def leave_connections(self, http: Any) -> None:
        """Close this process's ends of the connections that an HTTP client has inherited; the parent's stay open."""
        with self._lock:
            if http not in self._left:
                for transport in (http._transport, *http._mounts.values()):
                    if isinstance(transport, httpx2.HTTPTransport):  # others may not open again
                        transport.close()
                self._left.add(http)


_forks = _Forks()


class SyncSeams(OpenAI):
    """As `AsyncSeams`, for the sync client."""

    @property
    def user_agent(self) -> str:
        return f"OpenAI/Python {openai.__version__}"

    def _prepare_request(self, request: Any) -> None:
        if _forks.in_child:
            _forks.leave_connections(self._client)
        super()._prepare_request(request)

    def _process_response(self, *, response: Any, stream: bool, retries_taken: int = 0, **rest: Any) -> Any:
        exchange = current_exchange.get()
        if exchange is not None and not exchange.settled:
            retries_taken = exchange.retries_taken
            if _is_read(exchange, response):
                _check_body(self, exchange, response)
                if exchange.lasts:
                    exchange.record_owner()
            else:
                try:
                    watch_sync(response, exchange, stream=stream, wrap=_WRAPS_STREAM_ERRORS)
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
    headers = [(name, value) for name, value in response.headers.raw if name.lower() not in BODY_HEADERS]
    stand_in = type(response)(failure.status, headers=headers, content=body, request=response.request)
    return client._make_status_error_from_response(stand_in)


def status_error(client: Client, response: Any) -> openai.APIStatusError:
    """The SDK's own exception for an error answer."""
    return client._make_status_error_from_response(response)


def request_url(client: Client, path: str) -> Any:
    """The full URL of a path, as the HTTP library has it."""
    return client._prepare_url(path)


def sdk_would_retry(client: Client, error: BaseException) -> bool:
    """Whether the SDK itself would try again after this error."""
    if isinstance(error, openai.APIStatusError):
        return client._should_retry(error.response)
    return isinstance(error, openai.APIConnectionError)


def check_pool_client(client: Client) -> None:
    """Refuse what would send a pool's keys in the clear, and warn of what would override them all.

    Raises:
        ConfigError: the base URL is not https.
    """
    for name, url in (("base_url", client.base_url), ("websocket_base_url", client.websocket_base_url)):
        try:
            check_base_url(re.sub("^ws", "http", str(url or client.base_url)))
        except ValueError as error:
            raise ConfigError(f"{name} of the client: {error}") from None
    if getattr(client, "_ambient_authorizations", None):
        logger.warning(
            "OPENAI_CUSTOM_HEADERS sets Authorization: no call is routed, all go out with that credential. "
            "Take it out, or give it as a key"
        )
