"""The cheapest provider that a client can be measured against: it parses next to nothing, and answers all the same.

    python tests/benchmarks/upstream.py

It prints its base URL and serves until it is terminated. A chat gets one fixed answer with the headers that OpenAI
sends, as one body or, if it asks for a stream, as `EVENTS` events, each in a write of its own. What stands before
`/v1` in the path says when: `/after/0.1` seconds later, or, for `/all/1000`, once so many calls wait.
"""

from __future__ import annotations

import asyncio
import json
import re
from asyncio import Transport
from collections.abc import Iterator
from typing import Any, ClassVar, cast

EVENTS = 20
_PATH = re.compile(rb"^POST (?:/(after|all)/([\d.]+))?/v1/")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SECRET = re.compile(rb"\r\nauthorization: *Bearer (\S+)", re.IGNORECASE)
_TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all today."
_USAGE = {
    "prompt_tokens": 60,
    "completion_tokens": EVENTS,
    "total_tokens": 60 + EVENTS,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
_HEADERS = b"""\
date: Tue, 03 Mar 2026 12:00:00 GMT
access-control-expose-headers: X-Request-ID
openai-organization: %s
openai-processing-ms: 412
openai-project: proj_5fK2mL
openai-version: 2020-10-01
x-ratelimit-limit-requests: 30000
x-ratelimit-limit-tokens: 150000000
x-ratelimit-remaining-requests: 29999
x-ratelimit-remaining-tokens: 149999923
x-ratelimit-reset-requests: 2ms
x-ratelimit-reset-tokens: 0s
x-request-id: req_0f9d6a5b4c3e2d1f
strict-transport-security: max-age=31536000; includeSubDomains; preload
cf-cache-status: DYNAMIC
x-content-type-options: nosniff
server: cloudflare
cf-ray: 8f1c2d3e4f5a6b7c-FRA
""".replace(b"\n", b"\r\n")


def _whole() -> bytes:
    message: dict[str, object] = {"role": "assistant", "content": _TEXT, "refusal": None, "annotations": []}
    choice: dict[str, object] = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body = json.dumps(_object("chat.completion", [choice], usage=_USAGE)).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n" % (
        len(body),
        _HEADERS,
    ) + body.replace(b"%", b"%%")


def _events() -> Iterator[bytes]:
    deltas: list[Any] = [{"role": "assistant", "content": ""}, *({"content": f"{word} "} for word in _TEXT.split())]
    for delta in deltas[: EVENTS - 1]:
        yield _event(_object("chat.completion.chunk", [_choice(delta, None)]))
    yield _event(_object("chat.completion.chunk", [_choice({}, "stop")]))
    yield _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _choice(delta: dict[str, object], reason: str | None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


def _object(kind: str, choices: list[Any], **rest: object) -> dict[str, object]:
    return {
        "id": "chatcmpl-BTqVx2",
        "object": kind,
        "created": 1741569952,
        "model": "gpt-4o-2024-08-06",
        "choices": choices,
        "service_tier": "default",
        "system_fingerprint": "fp_b376dfbbd5",
        **rest,
    }


def _event(fields: dict[str, object]) -> bytes:
    return _chunked(b"data: " + json.dumps(fields).encode() + b"\n\n")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WHOLE = _whole()
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n%s\r\n" % _HEADERS
STREAM_EVENTS = tuple(_events())


class Upstream(asyncio.Protocol):
    """One connection."""

    waiting: ClassVar[list[tuple[Upstream, bytes, bytes]]] = []
    """Calls that are answered together, of all connections."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer, once the request is whole; clients do not pipeline."""
        self._unread += data
        head, found, body = self._unread.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or length is None or len(body) < int(length[1]):
            return
        self._unread = b""
        path = _PATH.match(head)
        assert path is not None, head
        if path[1] is None:
            self._answer(head, body)
        elif path[1] == b"after":
            self._loop.call_later(float(path[2]), self._answer, head, body)
        else:
            self.waiting.append((self, head, body))
            if len(self.waiting) == int(path[2]):
                for connection, *request in self.waiting:
                    connection._answer(*request)
                self.waiting.clear()

    def _answer(self, head: bytes, body: bytes) -> None:
        secret = _SECRET.search(head)
        assert secret is not None, head
        organization = b"org-" + secret[1][-8:]
        if b'"stream":true' in body:
            self._transport.write(STREAM % organization)
            self._send_event(0)
        else:
            self._transport.write(WHOLE % organization)

    def _send_event(self, place: int) -> None:
        self._transport.write(STREAM_EVENTS[place])
        if place + 1 < len(STREAM_EVENTS):
            self._loop.call_soon(self._send_event, place + 1)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
