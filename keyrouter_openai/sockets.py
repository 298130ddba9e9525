"""Websockets: realtime, live and responses sessions, each opened with the best key, and watched while it is open.

The SDK opens a connection in one step (`Dial`), and repeats that step to reconnect. Here it is taken as a call is
made: with a lease, on as many keys in turn as it takes. The lease is held until the connection ends.
"""

# pyright: reportPrivateUsage=false
# A connection is made by the clients' own attempts, which are nobody else's business.

from __future__ import annotations

import logging
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

import openai
from websockets.asyncio.client import ClientConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidHandshake, InvalidStatus, SecurityError
from websockets.http11 import Response

from . import _sdk
from ._sdk import httpx2
from .core.body import Receipt
from .core.model import Dimension, Failure, Fault, Reading
from .core.quota import Reservation
from .core.session import SessionWatch
from .core.verdict import POLICIES, Blame
from .exchange import Exchange
from .lease import Lease
from .route import remember_route
from .router import Router

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._sdk_sockets import Dial
    from .client import RoutedOpenAI
    from .client_sync import SyncRoutedOpenAI
    from .retry import Call

_NOT_OPENED = (OSError, EOFError, InvalidHandshake)
"""What `websockets` raises where a connection is not opened."""
_FINAL = (Fault.EXHAUSTED, Fault.ACCOUNT_CLOSED, Fault.KEY_REFUSED)
"""Faults after which a session can do no more, whoever closes it."""


def take_over(client: RoutedOpenAI | SyncRoutedOpenAI, dial: Dial) -> None:
    """Have a connection opened with keys of the client's pool."""
    if isinstance(client, openai.AsyncOpenAI):
        dial.replace(partial(_open, client, dial))
    else:
        dial.replace(partial(_open_sync, client, dial))


class StayingConnection(ClientConnection):
    """Follows no redirect to another host, which would get the credential too."""

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        """As inherited, but for redirects."""
        try:
            await super().handshake(*args, **kwargs)
        except InvalidStatus as error:
            host, location = cast("Any", self.request).headers["Host"], error.response.headers.get("Location", "")
            if urlsplit(urljoin(f"ws://{host}", location)).netloc == host:
                raise
        else:
            return
        raise SecurityError("Cross-origin WebSocket redirects are not allowed")


async def _open(client: RoutedOpenAI, dial: Dial, query: Mapping[str, object], headers: Mapping[str, Any]) -> object:
    options = dial.options(query, headers)
    if not _sdk.is_routed(client, options):
        return await dial.open(query, headers)
    call = _new_call(client, options)

    async def send(prepared: _sdk.Options) -> object:
        with dial.to(prepared):
            try:
                connection = await dial.open(dial.query(query, prepared), prepared.headers)
            except _NOT_OPENED as error:
                raise _api_error(client, call.exchange, error) from error
        return _Socket(connection, Session(client.router, call.exchange, connection))

    try:
        return await client._attempts(call, send)
    except BaseException as error:
        raised = _raising(call, error)
        if raised is error:
            raise
    raise raised  # outside of the `except`, so that it does not keep the unmasked error as its context


def _open_sync(client: SyncRoutedOpenAI, dial: Dial, query: Mapping[str, object], headers: Mapping[str, Any]) -> object:
    options = dial.options(query, headers)
    if not _sdk.is_routed(client, options):
        return dial.open(query, headers)
    call = _new_call(client, options)

    def send(prepared: _sdk.Options) -> object:
        with dial.to(prepared):
            try:
                connection = dial.open(dial.query(query, prepared), prepared.headers)
            except _NOT_OPENED as error:
                raise _api_error(client, call.exchange, error) from error
        return _SyncSocket(connection, Session(client.router, call.exchange, connection))

    try:
        return client._attempts(call, send)
    except BaseException as error:
        raised = _raising(call, error)
        if raised is error:
            raise
    raise raised


def _new_call(client: RoutedOpenAI | SyncRoutedOpenAI, options: _sdk.Options) -> Call:
    if client.router.is_single:
        options.max_retries = 0  # the SDK tries once to open a connection
    call = client._new_call(options, stream=True)
    call.is_sent_once = False  # to open a connection carries nothing out
    return call


def _api_error(client: _sdk.Client, exchange: Exchange, error: Exception) -> openai.APIError:
    """The error that the same refusal of an HTTP call would be: the attempts of a call are judged by those."""
    request = httpx2.Request("GET", _sdk.request_url(client, exchange.lease.request.endpoint))
    if not isinstance(error, InvalidStatus) or 300 <= error.response.status_code < 400:
        return openai.APIConnectionError(request=request)
    response = error.response
    response.body = exchange.masked(bytes(response.body or b""))
    raw = [(name.encode(), exchange.masked(value.encode())) for name, value in response.headers.raw_items()]
    response.headers = Headers((name.decode(), value.decode()) for name, value in raw)
    kept = [(name, value) for name, value in raw if name.lower() not in _sdk.BODY_HEADERS]
    answer = httpx2.Response(response.status_code, headers=kept, content=response.body, request=request)
    return _sdk.status_error(client, answer)


def _raising(call: Call, error: BaseException) -> BaseException:
    """The error as the caller gets it: that of `websockets`, as from the SDK, with what is known of the attempts."""
    raised = call.raising(error)
    original = raised.__cause__
    if not isinstance(original, _NOT_OPENED):
        return raised
    for note in getattr(raised, "__notes__", ()):
        original.add_note(note)
    remember_route(original, call.trace)
    return original


class Session:
    """One open connection: what passes is watched, and its end settles the attempt."""

    def __init__(self, router: Router, exchange: Exchange, connection: Any) -> None:
        self._router = router
        self._exchange = exchange
        self._watch = SessionWatch()
        response = getattr(connection, "response", None)
        if isinstance(response, Response):  # a connection of the caller's own making may have none
            raw = [(name.encode(), value.encode()) for name, value in response.headers.raw_items()]
            exchange.answered(response.status_code, raw)
        exchange.under_way()
        exchange.opened()

    def received(self, message: bytes | str) -> None:
        """An event has come."""
        if self._exchange.settled:
            return
        told = self._watch.feed(message.encode() if isinstance(message, str) else message)
        if told.response is not None and self._exchange.shows:
            self._exchange.show(told.response)
        if told.readings:
            self._hear(told.readings)
        failure = self._failure() if told.failed else None
        if failure is None:
            return
        if failure.fault is Fault.RATE_LIMIT:
            dimension = failure.dimension or Dimension.REQUESTS
            self._hear((Reading(dimension, failure.period, failure.limit, 0.0, failure.wait),))
        elif failure.fault in _FINAL:
            self._end(Fault.STREAM_BROKEN)

    def dropped(self, closed: ConnectionClosed) -> None:
        """The connection has ended, and not because the caller wished so."""
        in_order = isinstance(closed, ConnectionClosedOK) and not self._watch.unfinished
        self._end(Fault.NONE if in_order else Fault.STREAM_BROKEN)

    def closed(self) -> None:
        """The caller has closed the connection."""
        self._end(Fault.ABANDONED if self._watch.unfinished else Fault.NONE)

    def orphaned(self) -> None:
        """The caller dropped the connection without closing it. Safe to call from a finalizer."""
        if not self._exchange.settled:
            self._router.abandon(lambda: self._end(Fault.ABANDONED))

    def _end(self, fault: Fault) -> None:
        if self._exchange.settled:
            return
        watch, failure = self._watch, self._failure()
        if failure is not None and fault is Fault.NONE:
            fault = Fault.STREAM_BROKEN
        self._exchange.end_session(fault, Receipt(watch.usage, watch.model, watch.tier), failure)

    def _failure(self) -> Failure | None:
        """What the last error means, if it is not the caller's own."""
        if not self._watch.failure:
            return None
        failure = self._exchange.classify(200, {}, self._watch.failure)
        return None if POLICIES[failure.fault].blame is Blame.CALLER else failure

    def _hear(self, readings: Sequence[Reading]) -> None:
        """Pass on what is left of limits now, which is another matter than when the connection was opened."""
        if self._router.is_single:
            return
        lease: Lease = copy(self._exchange.lease)
        buckets = lease.quota.buckets
        lease.start = self._router.clock.monotonic()
        lease.reservation = Reservation(buckets, (0.0,) * len(buckets), tuple([bucket.taken for bucket in buckets]))
        self._router.heard(lease, readings)


class _Watched:
    """A connection of `websockets` as the SDK uses it. Whoever holds the SDK's connection holds this."""

    def __init__(self, connection: Any, session: Session) -> None:
        self._connection = connection
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def __del__(self) -> None:
        self._session.orphaned()


class _Socket(_Watched):
    async def recv(self, *args: Any, **kwargs: Any) -> bytes | str:
        try:
            message = cast("bytes | str", await self._connection.recv(*args, **kwargs))
        except ConnectionClosed as closed:
            self._session.dropped(closed)
            raise
        self._session.received(message)
        return message

    async def close(self, *args: Any, **kwargs: Any) -> None:
        try:
            await self._connection.close(*args, **kwargs)
        finally:
            self._session.closed()


class _SyncSocket(_Watched):
    def recv(self, *args: Any, **kwargs: Any) -> bytes | str:
        try:
            message = cast("bytes | str", self._connection.recv(*args, **kwargs))
        except ConnectionClosed as closed:
            self._session.dropped(closed)
            raise
        self._session.received(message)
        return message

    def close(self, *args: Any, **kwargs: Any) -> None:
        try:
            self._connection.close(*args, **kwargs)
        finally:
            self._session.closed()


def _cover(record: logging.LogRecord) -> bool:
    """At DEBUG level `websockets` logs the headers of each upgrade: without the credential."""
    match record.args:
        case (str() as name, value) if name.lower() == "authorization" and value:
            record.args = (name, "***")
        case _:
            pass
    return True


logging.getLogger("websockets.client").addFilter(_cover)
