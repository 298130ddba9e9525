"""Answer bodies that are still to come: watched as they pass, and settled at their end, whoever reads them.

The watching itself is `core.stream`; here are the two thin drivers that feed it, async and sync. They sit
beneath the SDK, in the place of the HTTP response's own byte stream, and so serve direct streams, raw and
streaming responses and all helpers alike.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import anyio.to_thread
import openai

from .core.model import Fault
from .core.stream import BodyWatch, Phase, StreamWatch
from .exchange import Exchange

Watch = StreamWatch | BodyWatch


class EarlyEnd(Exception):
    """A stream failed before its first content. `body` is the error's data, empty where it simply ended."""

    def __init__(self, body: bytes) -> None:
        super().__init__("the stream ended before its first content")
        self.body = body


class _Body:
    """What both drivers share: the watch, the exchange, and how the end is settled."""

    def __init__(self, response: Any, watch: Watch, exchange: Exchange) -> None:
        self._source: Any = response.stream
        self._request: Any = response.request
        self._watch = watch
        self._exchange = exchange
        self._ready = b""
        self._ended = False
        self.wraps = not isinstance(watch, BodyWatch)
        """Connection errors become the SDK's own; whoever reads the raw body sees the HTTP library's."""

    def _opened(self) -> None:
        if self._watch.phase is Phase.FAILED:
            raise EarlyEnd(self._watch.failure)
        self._exchange.opened()

    def _is_waiting(self) -> bool:
        return self._watch.phase is Phase.STARTING and not self._ended

    def _feed(self, chunk: bytes) -> bytes:
        return self._safe(self._watch.feed(chunk))

    def _finish(self) -> bytes:
        self._ended = True
        return self._safe(self._watch.finish())

    def _safe(self, out: bytes) -> bytes:
        """What is passed on; of a broken stream the SDK makes an error, which must hold no credential."""
        if self._watch.phase is not Phase.BROKEN:
            return out
        cover_credential(self._request)
        return self._exchange.masked(out)

    def _settle(self, fault: Fault) -> None:
        watch = self._watch
        cause = self._exchange.classify(200, {}, watch.failure) if watch.failure else None
        self._exchange.end_stream(fault, watch.receipt, watch.events, cause)

    def _settle_end(self) -> None:
        """The body is over: raise if it was cut short and the SDK would not notice."""
        watch = self._watch
        complete = watch.phase is Phase.COMPLETE
        self._settle(Fault.NONE if complete else Fault.STREAM_BROKEN)
        if not complete and not watch.failure:
            cover_credential(self._request)
            message = "The stream ended without its final event."
            raise self._explained(openai.APIConnectionError(message=message, request=self._request))

    def _settle_error(self, error: BaseException) -> None:
        """A transport error while reading: raise it, as the SDK would, unless the answer was complete before."""
        if self._watch.phase is Phase.COMPLETE:
            self._settle(Fault.NONE)
            return
        self._settle(Fault.STREAM_BROKEN)
        cover_credential(self._request)
        if not self.wraps:
            raise error
        raise self._explained(connection_error(error, self._request)) from error

    def _explained(self, error: openai.APIConnectionError) -> openai.APIConnectionError:
        self._exchange.explain(error)
        return error

    def _settle_closed(self) -> None:
        """The caller has closed the stream, wherever it stood."""
        ends = {Phase.COMPLETE: Fault.NONE, Phase.BROKEN: Fault.STREAM_BROKEN}
        self._settle(ends.get(self._watch.phase, Fault.ABANDONED))

    def __del__(self) -> None:
        self._exchange.orphaned()


_B = TypeVar("_B", bound=_Body)


class AsyncBody(_Body):
    """The async driver."""

    def __init__(self, response: Any, watch: Watch, exchange: Exchange) -> None:
        super().__init__(response, watch, exchange)
        self._chunks: AsyncIterator[bytes] = aiter(self._source)

    async def open(self) -> None:
        """Read until content may be passed on.

        Raises:
            EarlyEnd: an error or the end came first.
        """
        while self._is_waiting():
            chunk = await anext(self._chunks, None)
            self._ready += self._finish() if chunk is None else self._feed(chunk)
        self._opened()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    # No generator: there would be one more for a loop that ends to close, while others close what they read from.
    async def __anext__(self) -> bytes:
        if self._ready:
            ready, self._ready = self._ready, b""
            return ready
        try:
            while not self._ended:
                chunk = await anext(self._chunks, None)
                if out := self._finish() if chunk is None else self._feed(chunk):
                    return out
        except transport_errors() as error:
            self._settle_error(error)
        else:
            self._settle_end()
            if self._exchange.lasts:
                await anyio.to_thread.run_sync(self._exchange.record_owner)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection's stream; what was not read is given up."""
        try:
            await self._source.aclose()
        finally:
            self._settle_closed()


class SyncBody(_Body):
    """The sync driver."""

    def __init__(self, response: Any, watch: Watch, exchange: Exchange) -> None:
        super().__init__(response, watch, exchange)
        self._chunks: Iterator[bytes] = iter(self._source)

    def open(self) -> None:
        """Read until content may be passed on.

        Raises:
            EarlyEnd: an error or the end came first.
        """
        while self._is_waiting():
            chunk = next(self._chunks, None)
            self._ready += self._finish() if chunk is None else self._feed(chunk)
        self._opened()

    def __iter__(self) -> Iterator[bytes]:
        if self._ready:
            ready, self._ready = self._ready, b""
            yield ready
        try:
            if not self._ended:
                for chunk in self._chunks:
                    if out := self._feed(chunk):
                        yield out
                if out := self._finish():
                    yield out
        except transport_errors() as error:
            self._settle_error(error)
            return
        self._settle_end()
        if self._exchange.lasts:
            self._exchange.record_owner()

    def close(self) -> None:
        """Close the connection's stream; what was not read is given up."""
        try:
            self._source.close()
        finally:
            self._settle_closed()


async def watch_async(response: Any, exchange: Exchange, *, stream: bool, wrap: bool) -> None:
    """Put a watched body in the place of the answer's own, and read up to its first content.

    `wrap` says whether the SDK makes connection errors of a stream its own.

    Raises:
        EarlyEnd: a stream failed before its first content.
    """
    if stream:
        _decode(response, "aiter_bytes")
    body = _bound(AsyncBody, _http_of(response), "AsyncByteStream")(response, _watch(exchange, stream), exchange)
    await body.open()
    body.wraps = body.wraps and wrap
    response.stream = body


def watch_sync(response: Any, exchange: Exchange, *, stream: bool, wrap: bool) -> None:
    """As `watch_async`, blocking."""
    if stream:
        _decode(response, "iter_bytes")
    body = _bound(SyncBody, _http_of(response), "SyncByteStream")(response, _watch(exchange, stream), exchange)
    body.open()
    body.wraps = body.wraps and wrap
    response.stream = body


def transport_errors() -> tuple[type[Exception], ...]:
    """What an HTTP library raises when the connection fails, for those that are loaded."""
    kinds = {"httpx2": "RequestError", "httpx": "RequestError", "aiohttp": "ClientError"}
    # Another thread may be importing one of them at this moment.
    loaded = (getattr(sys.modules.get(name), kind, None) for name, kind in kinds.items())
    return (*filter(None, loaded), ssl.SSLError, anyio.EndOfStream)


def corrected(error: BaseException, request: Any) -> BaseException | None:
    """What httpx's own transport raises, where the SDK's aiohttp transport has another name for it, or lets it through.

    To that one every lost connection is a ConnectTimeout, whether anything had been sent or not. None where the error
    is right as it is.
    """
    aiohttp: Any = sys.modules.get("aiohttp")
    if aiohttp is None:
        return None
    let_through = isinstance(error, aiohttp.ClientError)
    if not let_through and type(error).__name__ != "ConnectTimeout":
        return None
    cause = error if let_through else error.__cause__
    if not isinstance(cause, aiohttp.ClientError) or isinstance(cause, aiohttp.ServerTimeoutError):
        return None
    http = sys.modules[type(request).__module__.partition(".")[0]]
    kind = http.ConnectError if isinstance(cause, aiohttp.ClientConnectorError) else http.RemoteProtocolError
    mended = kind(str(cause), request=request)
    # What lies beneath knows nothing of the request, and a caller may look for it.
    mended.__cause__ = getattr(cause, "certificate_error", None) or getattr(cause, "os_error", None)
    return mended


def connection_error(error: BaseException, request: Any) -> openai.APIConnectionError:
    """The SDK's own error for a failed connection."""
    error = corrected(error, request) or error
    if any("Timeout" in kind.__name__ for kind in type(error).__mro__):
        return openai.APITimeoutError(request=request)
    return openai.APIConnectionError(request=request)


def cover_credential(request: Any) -> None:
    """Take the credential off a request that failed: its error leads to it."""
    if "authorization" in request.headers:
        request.headers["Authorization"] = "Bearer ***"


def _watch(exchange: Exchange, stream: bool) -> Watch:
    show = exchange.show if exchange.shows else None
    if not stream:
        return BodyWatch(show)
    return StreamWatch(hide_usage=exchange.asked_usage, hold=exchange.hold, choices=exchange.choices, show=show)


def _decode(response: Any, read: str) -> None:
    """Have a compressed stream decoded beneath the watch, which must see its events."""
    if "content-encoding" not in response.headers:
        return
    inner = type(response)(
        response.status_code, headers=response.headers, stream=response.stream, request=response.request
    )
    response.stream = _Decoded(inner, read)
    del response.headers["content-encoding"]


class _Decoded:
    """The decoded bytes of a response, as a byte stream of its own."""

    def __init__(self, inner: Any, read: str) -> None:
        self._inner = inner
        self._read = read

    def __aiter__(self) -> AsyncIterator[bytes]:
        return getattr(self._inner, self._read)()

    def __iter__(self) -> Iterator[bytes]:
        return getattr(self._inner, self._read)()

    async def aclose(self) -> None:
        await self._inner.aclose()

    def close(self) -> None:
        self._inner.close()


def _http_of(response: Any) -> ModuleType:
    """The HTTP library that made this response: httpx2, or httpx where the caller brought such a client."""
    return sys.modules[type(response).__module__.partition(".")[0]]


@cache
def _bound(body: type[_B], http: ModuleType, base: str) -> type[_B]:
    """`body` as a byte stream of the HTTP library in use, which checks for its own base class."""
    return type(body.__name__, (body, getattr(http, base)), {})
