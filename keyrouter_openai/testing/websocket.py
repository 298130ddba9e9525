"""Websockets: what is said on a connection after its upgrade, in the Realtime, the Live and the Responses API.

A message that asks a model for something is answered as a request of its own, so that limits, credit and faults hold
for it, and it is recorded: with the method `WEBSOCKET` and the path of the connection.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any, Protocol

from ..core.durations import duration
from .wire import Ending, Json, Reply, Request, as_list, as_object, to_json

MESSAGE = "WEBSOCKET"
"""The method of a request that came as a message."""

_CHUNK = 64 * 1024
# RFC 6455, section 1.3.
_ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_BASE = "/v1/"


def is_upgrade(request: Request) -> bool:
    """Whether a request asks for a websocket."""
    return request.method == "GET" and request.headers.get("upgrade", "").lower() == "websocket"


def upgrade(request: Request) -> Reply | None:
    """The answer to an upgrade whose credential is good; None where no API speaks over websockets."""
    if _dialog(request.path) is None:
        return None
    key = request.headers.get("sec-websocket-key", "").encode()
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT, usedforsecurity=False).digest()).decode()
    return Reply(101, {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": accept})


async def converse(
    opened: Request, answer: Callable[[Request], Reply], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Speak on a connection that was upgraded by the request `opened`, until either side ends it."""
    # From the SDK's extra `realtime`: who connects has it.
    from websockets.protocol import State
    from websockets.server import ServerProtocol

    dialog = _dialog(opened.path)
    assert dialog is not None, "upgrade() grants no other path"
    protocol = ServerProtocol(state=State.OPEN, max_size=None)
    messages = _Messages()
    events: list[Json] = dialog.greet(opened)
    last: Reply | None = None
    while True:
        for event in events:
            protocol.send_text(to_json(event))
        writer.write(b"".join(protocol.data_to_send()))
        await writer.drain()
        if last is not None and last.ending is not Ending.COMPLETE:
            await _drop(last, reader)
            return
        if protocol.state is not State.OPEN or not (received := await reader.read(_CHUNK)):
            return
        protocol.receive_data(received)
        events = []
        for message in messages.of(protocol.events_received()):
            heard, asked = dialog.hear(message)
            events += heard
            if asked is not None:
                body = to_json({**opened.query, **asked, "stream": True})
                last = answer(Request(MESSAGE, opened.path, {}, opened.headers, body))
                events += dialog.tell(last)


class _Messages:
    """Puts messages together that come in several frames."""

    def __init__(self) -> None:
        self._text = b""

    def of(self, frames: Iterable[Any]) -> Iterator[Json]:
        """The messages that these frames complete."""
        for frame in frames:
            if frame.opcode.name in ("TEXT", "CONT"):
                self._text += frame.data
                if frame.fin:
                    message, self._text = as_object(json.loads(self._text)), b""
                    yield message


async def _drop(reply: Reply, reader: asyncio.StreamReader) -> None:
    """Say no more; the connection hangs until the client leaves, or is dropped at once."""
    while reply.ending is Ending.STALL and await reader.read(_CHUNK):
        pass


class _Dialog(Protocol):
    """What one API says."""

    def greet(self, opened: Request) -> list[Json]:
        """The first events."""
        ...

    def hear(self, message: Json) -> tuple[list[Json], Json | None]:
        """The events that answer a message, and the fields of a call to a model if it asks for one."""
        ...

    def tell(self, reply: Reply) -> list[Json]:
        """A model's answer as events."""
        ...


def _dialog(path: str) -> _Dialog | None:
    api = path.removeprefix(_BASE).partition("/")[0]
    return {"realtime": _Realtime, "responses": _Responses, "live": _Live}.get(api, lambda: None)()


class _Responses:
    """Each `response.create` gets the events that the same call over HTTP would stream."""

    def greet(self, opened: Request) -> list[Json]:
        return []

    def hear(self, message: Json) -> tuple[list[Json], Json | None]:
        return [], message if message.get("type") == "response.create" else None

    def tell(self, reply: Reply) -> list[Json]:
        if _failed(reply):
            return [{"type": "error", "status": reply.status, **_error(reply)}]
        return list(_streamed(reply))


class _Live:
    """A session that starts and closes."""

    def greet(self, opened: Request) -> list[Json]:
        return []

    def hear(self, message: Json) -> tuple[list[Json], Json | None]:
        kinds = {"session.start": "session.started", "session.close": "session.closed"}
        kind = kinds.get(str(message.get("type")))
        usage = {"usage": {"seconds": 1}} if kind == "session.closed" else {}
        session = {"id": "sess_live", "object": "live.session"}
        return [{"type": kind, "event_id": "event_live", "session": session, **usage}] if kind else [], None

    def tell(self, reply: Reply) -> list[Json]:
        return []


class _Realtime:
    """A conversation: the model echoes the last text of the user."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._items: list[Json] = []

    def greet(self, opened: Request) -> list[Json]:
        session = {"id": "sess_realtime", "object": "realtime.session", "type": "realtime", **opened.query}
        return [self._event("session.created", session=session)]

    def hear(self, message: Json) -> tuple[list[Json], Json | None]:
        match message.get("type"):
            case "conversation.item.create":
                item = as_object(message.get("item"))
                self._items.append(item)
                return [self._event("conversation.item.added", item=item)], None
            case "session.update":
                return [self._event("session.updated", session=as_object(message.get("session")))], None
            case "response.create":
                asked = as_object(message.get("response"))
                return [], {"input": as_list(asked.get("input")) or self._items}
            case kind:
                error = {"type": "invalid_request_error", "code": "invalid_value", "param": "type"}
                return [self._event("error", error={**error, "message": f"Invalid value: {kind!r}."})], None

    def tell(self, reply: Reply) -> list[Json]:
        if _failed(reply):
            return [self._event("error", **_error(reply))]
        return [event for streamed in _streamed(reply) for event in self._translate(streamed, reply)]

    def _translate(self, streamed: Json, reply: Reply) -> Iterator[Json]:
        """The events of this API that say the same as one of the Responses API."""
        response = as_object(streamed.get("response"))
        match streamed["type"]:
            case "response.created":
                yield self._event("response.created", response=_response(response))
                yield self._event("rate_limits.updated", rate_limits=_rate_limits(reply))
            case "response.output_text.delta":
                place = {name: streamed[name] for name in ("item_id", "output_index", "content_index")}
                yield self._event("response.output_text.delta", **place, delta=streamed["delta"])
            case "response.completed" | "response.incomplete" | "response.failed":
                yield self._event("response.done", response=_response(response))
            case "error":
                error = {"type": "server_error", "code": streamed["code"], "message": streamed["message"]}
                yield self._event("error", error=error)
            case _:
                pass

    def _event(self, kind: str, **fields: object) -> Json:
        return {"type": kind, "event_id": f"event_{next(self._numbers)}", **fields}


def _failed(reply: Reply) -> bool:
    return reply.events is None and (reply.status or 0) >= 400


def _error(reply: Reply) -> Json:
    return {"error": as_object(json.loads(reply.body)).get("error")}


def _streamed(reply: Reply) -> Iterator[Json]:
    """The data of server-sent events."""
    for event in reply.events or ():
        yield json.loads(event.data.partition(b"data: ")[2])


def _response(response: Json) -> Json:
    """A response as the Realtime API shows it: it has its own names for the details of usage."""
    usage = as_object(response.get("usage"))
    error = response.get("error")
    shown: Json = {
        "id": response["id"],
        "object": "realtime.response",
        "status": response["status"],
        "status_details": {"type": "failed", "error": {"type": "server_error", **error}} if error else None,
        "output": response["output"],
        "usage": None,
    }
    if usage:
        cached = usage["input_tokens_details"]["cached_tokens"]
        shown["usage"] = {
            **{name: usage[name] for name in ("total_tokens", "input_tokens", "output_tokens")},
            "input_token_details": {"text_tokens": usage["input_tokens"], "audio_tokens": 0, "cached_tokens": cached},
            "output_token_details": {"text_tokens": usage["output_tokens"], "audio_tokens": 0},
        }
    return shown


def _rate_limits(reply: Reply) -> list[Json]:
    """What the headers of an HTTP answer say, as this API says it."""
    return [
        {
            "name": name,
            "limit": int(limit),
            "remaining": int(reply.headers[f"x-ratelimit-remaining-{name}"]),
            "reset_seconds": duration(reply.headers[f"x-ratelimit-reset-{name}"]),
        }
        for name in ("requests", "tokens")
        if (limit := reply.headers.get(f"x-ratelimit-limit-{name}"))
    ]
