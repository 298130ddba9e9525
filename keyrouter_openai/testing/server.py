"""The HTTP server: an asyncio loop on a thread of its own, so that sync and async clients can call it."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from .websocket import converse
from .wire import Ending, Reply, Request

HOST = "127.0.0.1"
_CHUNK = 64 * 1024
# OpenAI takes request headers of up to 64 KiB in all.
_MOST_HEADERS = 64 * 1024
_BACKLOG = 4096
_NO_LINGER = struct.pack("ii", 1, 0)


class HttpServer:
    """Serves `answer` on a loopback port. `answer` is called on the server's thread and must not block.

    Args:
        answer: makes the answer to a request.
        port: 0 picks a free one.
    """

    def __init__(self, answer: Callable[[Request], Reply], port: int) -> None:
        self._answer = answer
        self.port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: asyncio.Server | None = None
        self._stopping: asyncio.Event | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
            RuntimeError: it listens already.
        """
        if self._thread is not None:
            raise RuntimeError("the simulator is running already")
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(ready)), name="provider-simulator", daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except OSError:
            self._thread.join()
            self._thread = None
            raise

    def stop(self) -> None:
        """Drop all connections and end. It waits for no client, so it takes milliseconds."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    def refuse_connections(self) -> None:
        """Drop all connections and take no new ones."""
        self._call(self._close)

    def take_connections(self) -> None:
        """Listen again, on the same port."""
        self._call(self._open)

    def _call(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._thread is None or self._loop is None:
            raise RuntimeError("the simulator is not running: enter it first")
        asyncio.run_coroutine_threadsafe(what(), self._loop).result()

    async def _run(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        try:
            await self._open()
        except OSError as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        await self._stopping.wait()
        await self._close()

    async def _open(self) -> None:
        self._listener = await asyncio.start_server(self._connected, HOST, self.port, backlog=_BACKLOG)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        open_connections = list(self._connections)
        for connection in open_connections:
            connection.cancel()
        await asyncio.gather(*open_connections, return_exceptions=True)
        # Aborted transports close their sockets on the loop's next round.
        await asyncio.sleep(0)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections[connection] = writer
        connection.add_done_callback(self._disconnected)

    def _disconnected(self, connection: asyncio.Task[None]) -> None:
        # Not in the task itself: one that is cancelled before its first step never gets to its `finally`.
        self._connections.pop(connection).transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEADERS)
        try:
            while request := await _read_request(http, reader, writer):
                reply = self._answer(request)
                if reply.status == HTTPStatus.SWITCHING_PROTOCOLS:
                    head = h11.InformationalResponse(status_code=reply.status, headers=[*reply.headers.items()])
                    writer.write(_bytes(http, head))
                    await converse(request, self._answer, reader, writer)
                    break
                if not await _send(reply, http, reader, writer):
                    break
                http.start_next_cycle()
            writer.close()
            await writer.wait_closed()
        except (ConnectionError, h11.RemoteProtocolError):
            pass  # the client left, or does not speak HTTP


async def _read_request(
    http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    """The next request on a connection, or None when the client has closed it."""
    head: h11.Request | None = None
    body: list[bytes] = []
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                writer.write(_bytes(http, h11.InformationalResponse(status_code=100, headers=[])))
            http.receive_data(await reader.read(_CHUNK))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, b"".join(body))
        else:
            return None


def _request(head: h11.Request, body: bytes) -> Request:
    target = urlsplit(head.target.decode("ascii", errors="replace"))
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
    query = {name: ",".join(values) for name, values in parse_qs(target.query).items()}
    return Request(head.method.decode("ascii"), unquote(target.path), query, headers, body)


def _bytes(http: h11.Connection, *events: h11.Event) -> bytes:
    """These events of the protocol as they go over the wire."""
    return b"".join(http.send(event) or b"" for event in events)


async def _send(reply: Reply, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Send an answer; whether the connection can take another request."""
    if reply.delay > 0:
        await asyncio.sleep(reply.delay)
    if reply.status is None:
        writer.write(reply.body)
    elif reply.events is None:
        _write_plain(reply, http, writer)
    else:
        await _write_events(reply, http, writer)
    await writer.drain()
    if reply.ending is Ending.STALL:
        while await reader.read(_CHUNK):
            pass
    elif reply.ending is Ending.RESET:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        writer.transport.abort()
    return reply.ending is Ending.COMPLETE and http.our_state is h11.DONE and http.their_state is h11.DONE


def _write_plain(reply: Reply, http: h11.Connection, writer: asyncio.StreamWriter) -> None:
    headers = [*reply.headers.items(), ("content-length", str(len(reply.body)))]
    head = h11.Response(status_code=reply.status or 0, headers=headers)
    # In one write, so that a small answer is one packet.
    writer.write(_bytes(http, head, h11.Data(data=reply.body), h11.EndOfMessage()))


async def _write_events(reply: Reply, http: h11.Connection, writer: asyncio.StreamWriter) -> None:
    unsent = _bytes(http, h11.Response(status_code=reply.status or 0, headers=[*reply.headers.items()]))
    for place, event in enumerate(reply.events or ()):
        if place and reply.pace > 0:
            await asyncio.sleep(reply.pace)
        if event.content and reply.on_content is not None:
            reply.on_content()
        writer.write(unsent + _bytes(http, h11.Data(data=event.data)))
        await writer.drain()
        unsent = b""
    if reply.ending is Ending.COMPLETE:
        writer.write(unsent + _bytes(http, h11.EndOfMessage()))
