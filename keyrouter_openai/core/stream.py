"""What a stream of server-sent events is up to: starting, under way, complete, failed, or broken.

`StreamWatch` is fed the bytes as they come and says what may be passed on. It holds back the start-up events,
so that another key can still take over while nothing of substance has reached the caller; it takes out the
usage chunk that the router alone asked for; and it knows whether the end was a real one. It does no I/O.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, cast

from .body import Receipt, find_model, find_receipt


class Phase(Enum):
    """Where a stream stands."""

    STARTING = "nothing of substance yet: held back"
    FLOWING = "content has been passed on"
    COMPLETE = "a final mark was seen"
    FAILED = "an error before any content: nothing was passed on"
    BROKEN = "an error after content"


_TAIL = 16 * 1024
"""Bytes kept of a body that is passed on unread: providers put the usage at the end."""
_MOST_SHOWN = 1024 * 1024
"""Bytes of the longest body that is kept for what it shows."""

_LINE_END = re.compile(r"\r\n|\n|\r")  # not splitlines(): JSON may hold other separators raw, such as U+2028
_BLOCK_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")

_FINAL_TYPES = (
    "response.completed",
    "response.incomplete",
    "response.cancelled",
    "response.failed",
    "image_generation.completed",
    "image_edit.completed",
    "speech.audio.done",
    "transcript.text.done",
)
_STARTUP_TYPES = frozenset(
    {
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_summary_part.added",
    }
)
_USAGE_CHUNK = frozenset(
    {"id", "object", "created", "model", "choices", "usage", "system_fingerprint", "service_tier", "obfuscation"}
)
"""Fields of a chunk that holds nothing but usage; one that holds more is not taken out."""
# Once content flows only events with one of these get a closer look; a false alarm costs a parse, no more.
_MARKS = (
    b"[DONE]",
    b'"error"',
    b"event: error",
    b"event:error",
    *(b"." + ending.encode() for ending in sorted({kind.rpartition(".")[2] for kind in _FINAL_TYPES})),
)
_CHAT_MARKS = (b"[DONE]", b'"error"', b"event:")
"""All that the chunks of a chat can have; few servers name their events."""
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')


class StreamWatch:
    """Watches one event stream. Feed it bytes with `feed`, and call `finish` once at the end of the body.

    Args:
        hide_usage: take out the chunk that holds nothing but usage.
        hold: hold back the start-up events; False where a second attempt must never be made.
        choices: how many choices were asked for: the stream of a chat ends when all of them have finished.
        show: gets what events show of a stored response or completion, as soon as they come.
    """

    __slots__ = (
        "_buffer",
        "_choices",
        "_finished",
        "_held",
        "_hide_usage",
        "_known",
        "_marks",
        "_show",
        "_wants_end",
        "events",
        "failure",
        "phase",
        "receipt",
    )

    def __init__(
        self,
        *,
        hide_usage: bool,
        hold: bool = True,
        choices: int = 1,
        show: Callable[[object], None] | None = None,
    ) -> None:
        self.phase = Phase.STARTING if hold else Phase.FLOWING
        self.failure: bytes = b""
        """The data of the error event, or the whole body where it was no event stream."""
        self.receipt = Receipt()
        """What the events say of the whole."""
        self.events = 0
        """Blocks passed on: about one a token, which is the estimate where no usage comes."""
        self._hide_usage = hide_usage
        self._held: list[bytes] = []
        self._buffer = b""
        self._known = False
        """The first event has shown what kind of stream this is."""
        self._marks = _MARKS
        self._wants_end = False
        self._choices = choices
        self._finished: set[object] = set()
        self._show = show

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body; return what may be passed on now, possibly nothing."""
        self._buffer += data
        cut = _last_block_end(self._buffer)
        if cut == 0:
            return b""
        whole, self._buffer = self._buffer[:cut], self._buffer[cut:]
        if self.phase is Phase.FLOWING and self._known and not _is_noteworthy(whole, self._marks):
            self.events += whole.count(b"\n\n") or 1
            return whole
        return b"".join(self._take(block) for block in _split(whole))

    def finish(self) -> bytes:
        """The body has ended; return what is left to pass on, and settle the phase."""
        rest, self._buffer = self._buffer, b""
        out = self._take(rest) if rest.strip() else b""
        if self.phase is Phase.STARTING:
            self.phase = Phase.FAILED
            return b""
        if self.phase is Phase.FLOWING:
            # Of a protocol without a known final mark the end of the body is the end.
            self.phase = Phase.BROKEN if self._wants_end else Phase.COMPLETE
        return out

    def _take(self, block: bytes) -> bytes:
        """Account for one block; return what it lets through."""
        if self.phase is Phase.FAILED:
            return b""
        self.events += 1
        event, text = _parse(block)
        if text is None:  # a comment, a keep-alive, an event without data
            return self._let_through(block, content=False)
        if text.startswith("[DONE]"):
            return self._end(block)
        try:
            data: object = json.loads(text)
        except ValueError:
            return self._error(block, text)
        if not isinstance(data, Mapping):
            return self._let_through(block, content=True)
        fields = cast("Mapping[str, Any]", data)
        if _is_error(event, fields):
            return self._error(block, text)
        return self._take_fields(block, fields)

    def _take_fields(self, block: bytes, fields: Mapping[str, Any]) -> bytes:
        self._tell(fields)
        self._known = True
        if self.receipt.model is None:
            self.receipt = self.receipt._replace(model=find_model(block))
        if isinstance(tier := fields.get("service_tier"), str):  # the chunk with the usage need not repeat it
            self.receipt = self.receipt._replace(tier=tier)
        kind = fields.get("type")
        choices = fields.get("choices")
        usage = _object(fields, "usage") or _object(_object(fields, "response"), "usage")
        if usage:
            told = find_receipt(block)
            if told.usage is not None:
                self.receipt = told._replace(model=self.receipt.model, tier=told.tier or self.receipt.tier)
            if self._hide_usage and choices == [] and fields.keys() <= _USAGE_CHUNK:
                return b""
        if isinstance(choices, list):
            self._wants_end, self._marks = True, _CHAT_MARKS
            found = cast("list[object]", choices)
            chunks = [cast("Mapping[str, Any]", c) for c in found if isinstance(c, dict)]
            self._finished |= {c.get("index") for c in chunks if c.get("finish_reason")}
            if len(self._finished) >= self._choices:
                return self._end(block)
            return self._let_through(block, content=bool(self._finished) or any(_has_content(c) for c in chunks))
        if kind in _FINAL_TYPES:
            return self._end(block)
        if isinstance(kind, str) and kind.startswith("response."):
            self._wants_end = True
        return self._let_through(block, content=kind not in _STARTUP_TYPES)

    def _tell(self, fields: Mapping[str, Any]) -> None:
        """Pass on the response of an event, or the first chunk of a completion: the others show the same."""
        if self._show is not None and ("response" in fields or ("choices" in fields and not self._known)):
            self._show(fields.get("response", fields))

    def _let_through(self, block: bytes, *, content: bool) -> bytes:
        if self.phase is not Phase.STARTING:
            return block
        self._held.append(block)
        if not content:
            return b""
        self.phase = Phase.FLOWING
        return self._release()

    def _end(self, block: bytes) -> bytes:
        starting = self.phase is Phase.STARTING
        if self.phase is not Phase.BROKEN:
            self.phase = Phase.COMPLETE
        if starting:
            self._held.append(block)
            return self._release()
        return block

    def _error(self, block: bytes, text: str) -> bytes:
        self.failure = text.encode()
        if self.phase is Phase.STARTING:
            self.phase = Phase.FAILED
            return b""
        self.phase = Phase.BROKEN
        return block

    def _release(self) -> bytes:
        out = b"".join(self._held)
        self._held.clear()
        return out


class BodyWatch:
    """Watches a body that is no event stream: all of it is passed on, and its end tells what it used.

    Args:
        show: gets the body at its end, unless it is longer than `_MOST_SHOWN`.
    """

    __slots__ = ("_body", "_show", "_tail", "events", "failure", "phase", "receipt")

    def __init__(self, show: Callable[[object], None] | None = None) -> None:
        self.phase = Phase.FLOWING
        self.failure: bytes = b""
        self.receipt = Receipt()
        self.events = 0
        self._tail = b""
        self._show = show
        self._body = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return them."""
        if not self._tail:
            self.receipt = Receipt(model=find_model(data))
        if self._show is not None and len(self._body) <= _MOST_SHOWN:
            self._body += data
        self._tail = (self._tail + data)[-_TAIL:]
        return data

    def finish(self) -> bytes:
        """The body has ended."""
        self.receipt = find_receipt(self._tail)._replace(model=self.receipt.model)
        self.phase = Phase.COMPLETE
        if self._show is not None and len(self._body) <= _MOST_SHOWN:
            self._show(self._body)
        return b""


def _is_noteworthy(data: bytes, marks: tuple[bytes, ...]) -> bool:
    """Whether one of these events may end the stream, fail it, or tell its usage; most do not.

    Plain searches, each for one literal: an alternation costs ten times as much, for every chunk.
    """
    for mark in marks:
        if mark in data:
            return True
    return _FINISHED.search(data) is not None or _USAGE.search(data) is not None


def _last_block_end(data: bytes) -> int:
    """Where the last whole block ends, or 0 where there is none."""
    if data.endswith(b"\n\n"):
        return len(data)
    end = 0
    for mark in (b"\n\n", b"\r\n\r\n", b"\r\r"):
        if (at := data.rfind(mark)) >= 0:
            end = max(end, at + len(mark))
    return end


def _split(whole: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    start = 0
    for match in _BLOCK_END.finditer(whole):
        blocks.append(whole[start : match.end()])
        start = match.end()
    if start < len(whole):
        blocks.append(whole[start:])
    return blocks


def _parse(block: bytes) -> tuple[str | None, str | None]:
    """The event name and the data of one block; a body that is no event stream counts as data."""
    event: str | None = None
    data: list[str] = []
    text = block.decode("utf-8", "replace")
    for line in _LINE_END.split(text):
        name, _, value = line.partition(":")
        if name == "data":
            data.append(value.removeprefix(" "))
        elif name == "event":
            event = value.strip()
    if data:
        return event, "\n".join(data)
    stripped = text.strip()
    return event, stripped if stripped.startswith(("{", "[", "<")) else None


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _is_error(event: str | None, fields: Mapping[str, Any]) -> bool:
    if event == "error" or fields.get("type") in ("error", "response.failed"):
        return True
    error = fields.get("error")
    return bool(error) and not isinstance(error, bool)


def _has_content(choice: Mapping[str, Any]) -> bool:
    if choice.get("text"):
        return True
    return any(value for name, value in _object(choice, "delta").items() if name != "role")
