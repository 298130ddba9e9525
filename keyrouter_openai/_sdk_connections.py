"""How the async client's own HTTP library uses its connections: as it does by itself, in fewer steps.

Twice for each call it asks all idle connections whether the server has closed them, each time through a mapping of all
that is known of a socket, made anew: where ten are idle that is a tenth of what a call costs. And it sends the head of
a request by itself, which makes two packets and two turns of the event loop of what is one. Both are put right beneath
it, in the streams of bytes that its network backend gives it.
"""

from __future__ import annotations

import select
from typing import Any

from ._sdk import Client


def quicken(client: Client) -> None:
    """Have the connections of a client used in fewer steps. For HTTP/1.1, and an HTTP client that nobody else has."""
    http: Any = client._client  # pyright: ignore[reportPrivateUsage]
    if not hasattr(select, "poll"):  # as on Windows
        return
    for transport in (http._transport, *http._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if hasattr(pool, "_network_backend"):
            pool._network_backend = _Backend(pool._network_backend)


class _Backend:
    """A network backend whose streams are quick."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(await self._backend.connect_tcp(*args, **kwargs))

    async def connect_unix_socket(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(await self._backend.connect_unix_socket(*args, **kwargs))


class _Stream:
    """A stream that sends the head of a request together with the first of its body, and knows its socket."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._socket = stream.get_extra_info("socket")
        self._head = b""
        self._starts = True
        """What is written next begins a request."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  as httpcore has it
        if self._head:
            await self.write(b"", timeout)
        self._starts = True
        return await self._stream.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  likewise
        if self._starts and buffer:
            self._starts = False
            if b"\r\ntransfer-encoding:" not in buffer.lower():  # a body in chunks comes when its maker has it
                self._head = bytes(buffer)
                return  # what follows comes at once: the body, or a write of nothing that ends a request without one
        head, self._head = self._head, b""
        await self._stream.write(head + buffer if head else buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(self, *args: Any, **kwargs: Any) -> _Stream:
        return _Stream(await self._stream.start_tls(*args, **kwargs))

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._socket is not None:
            return _is_readable(self._socket)
        return self._stream.get_extra_info(info)


def _is_readable(socket: Any) -> bool:
    """Whether there is something to be read: of an idle connection only its end can be."""
    if socket.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
