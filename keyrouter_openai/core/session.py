"""What the events of a websocket session say: tokens used, limits, the model that serves, and what went wrong.

The shapes are those of OpenAI's API reference: realtime server events, responses over websockets (whose events are
those of a stream), and live sessions, which wrap such events in events of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from .body import find_model, read_usage
from .model import Dimension, Reading, Usage

_MARKS = (b'"usage"', b'"error"', b"rate_limits.updated", b"response.done")
"""Events without any of these are not parsed: most bring nothing but a piece of audio or text."""
_DELTA = b'.delta"'
_DIMENSIONS = {"requests": Dimension.REQUESTS, "tokens": Dimension.TOKENS}
_COUNTS = [name for name in Usage._fields if name not in ("estimated", "longest_prompt")]
_ENDS = ("response.done", "response.completed", "response.incomplete", "response.failed", "response.cancelled")


class Told(NamedTuple):
    """What one event says."""

    readings: tuple[Reading, ...] = ()
    """What is left of limits."""
    failed: bool = False
    """It tells of an error."""
    response: Mapping[str, Any] | None = None
    """A response that has ended, whether well or not."""


_NOTHING = Told()


class SessionWatch:
    """Watches one session; give it each event with `feed`."""

    __slots__ = ("_pieces", "_used", "failure", "model", "tier", "unfinished")

    def __init__(self) -> None:
        self.failure: bytes = b""
        """The last event that told of an error, until a response succeeds."""
        self.model: str | None = None
        self.tier: str | None = None
        """The service tier of the last response that names one."""
        self.unfinished = False
        """A response has begun and not ended."""
        self._used = Usage()
        self._pieces = 0

    @property
    def usage(self) -> Usage:
        """What all responses used. Where one did not end, or none told, it is an estimate: a token a piece."""
        used = self._used
        if self.unfinished or not (used.prompt or used.completion or used.seconds):
            return used._replace(completion=used.completion + self._pieces, estimated=True)
        return used

    def feed(self, data: bytes) -> Told:
        """Take one event."""
        if self.model is None:
            self.model = find_model(data)
        if not any(mark in data for mark in _MARKS):
            if _DELTA in data:
                self._pieces += 1
                self.unfinished = True
            return _NOTHING
        try:
            event = _object(json.loads(data))
        except ValueError:
            return _NOTHING
        event = _object(event.get("event")) or event
        kind, response = event.get("type"), _object(event.get("response"))
        usage = read_usage(_object((response or event).get("usage")))
        if usage is not None:
            # Live sessions count seconds of audio from their beginning.
            self._used = self._used._replace(seconds=usage.seconds) if usage.seconds else _sum(self._used, usage)
            tier: object = response.get("service_tier")
            self.tier = tier if isinstance(tier, str) else self.tier
        if kind == "rate_limits.updated":
            return Told(readings=tuple(_readings(event)))
        if kind == "response.created":
            self.unfinished = True
        if kind == "error":
            self.failure = data
            return Told(failed=True)
        return self._ended(data, response) if kind in _ENDS else _NOTHING

    def _ended(self, data: bytes, response: Mapping[str, Any]) -> Told:
        self.unfinished, self._pieces = False, 0
        failed = response.get("status") == "failed"
        self.failure = data if failed else b""
        return Told(failed=failed, response=response)


def _readings(event: Mapping[str, Any]) -> Iterator[Reading]:
    limits: object = event.get("rate_limits")
    for limit in map(_object, cast("list[object]", limits) if isinstance(limits, list) else ()):
        dimension = _DIMENSIONS.get(str(limit.get("name")))
        if dimension is not None:
            numbers = (limit.get(name) for name in ("limit", "remaining", "reset_seconds"))
            yield Reading(dimension, None, *(float(n) if isinstance(n, int | float) else None for n in numbers))


def _sum(one: Usage, other: Usage) -> Usage:
    longest = max(one.longest_prompt, other.prompt)
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in _COUNTS}, longest_prompt=longest)


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
