"""How the async client uses its connections: requests are sent whole, and none on one that the server has closed."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
import openai
import pytest

from keyrouter_openai import Key, RoutedOpenAI

from .support import MESSAGES

pytestmark = pytest.mark.anyio

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}}],
}


class Peer:
    """A server that keeps what it gets with each read of a socket, and may close a connection after each answer."""

    def __init__(self, *, closes: bool) -> None:
        self.received: list[bytes] = []
        self.connections = 0
        self.began = threading.Event()
        self.closed = threading.Event()
        self._closes = closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=[connection], daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        body = json.dumps(COMPLETION).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        with connection:
            while data := connection.recv(1 << 20):
                self.received.append(data)
                self.began.set()
                while not is_whole(data):
                    data += connection.recv(1 << 20)
                connection.sendall(head + body)
                if self._closes:
                    break
        self.closed.set()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")), b":0")
    return bool(end) and len(body) >= int(length.partition(b":")[2])


@contextmanager
def peer(*, closes: bool = False) -> Generator[Peer]:
    running = Peer(closes=closes)
    thread = threading.Thread(target=running.serve)
    thread.start()
    try:
        yield running
    finally:
        running.stop()
        thread.join()


def client_of(running: Peer, **arguments: Any) -> RoutedOpenAI:
    keys = [Key(name=f"key-{number}", secret=f"sk-{number:08}") for number in range(2)]
    return RoutedOpenAI(keys=keys, base_url=running.url, ledger=None, **arguments)


async def ask(client: Any) -> str | None:
    answer = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    return answer.choices[0].message.content


async def test_a_request_is_sent_as_a_whole() -> None:
    with peer() as running:
        async with client_of(running) as client:
            for _ in range(3):
                assert await ask(client) == "Hello"
            await client.models.retrieve("gpt-4o")
        assert len(running.received) == 4
        assert all(is_whole(data) for data in running.received), "head and body came together"
        assert running.connections == 1


async def test_a_long_body_arrives_whole(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    file.write_bytes(b'{"line": 1}\n' * 200_000)
    with peer() as running:
        async with client_of(running) as client:
            await client.files.create(file=file, purpose="batch")
        assert running.received[0].startswith(b"POST /v1/files ")


async def test_the_server_hears_of_a_request_before_its_body_is_made() -> None:
    with peer() as running:

        async def body() -> AsyncIterator[bytes]:
            assert await anyio.to_thread.run_sync(running.began.wait, 5)
            yield b"{}"

        async with client_of(running, max_retries=0) as client:
            await client.post("/chat/completions", cast_to=object, content=body())
            assert await ask(client) == "Hello"
    assert is_whole(running.received[-1])


async def test_a_connection_that_the_server_has_closed_is_not_used() -> None:
    with peer(closes=True) as running:
        async with client_of(running, max_retries=0) as client:
            for number in range(1, 4):
                assert await ask(client) == "Hello"
                assert running.closed.wait(10)
                running.closed.clear()
                assert running.connections == number


async def test_an_http_client_of_the_callers_own_is_left_as_it_is() -> None:
    with peer() as running:
        http_client: Any = openai.DefaultAsyncHttpxClient()
        backend = http_client._transport._pool._network_backend
        async with client_of(running, http_client=http_client) as client:
            assert await ask(client) == "Hello"
        assert http_client._transport._pool._network_backend is backend
