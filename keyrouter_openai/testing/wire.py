"""What the parts of the simulator hand each other: a request, an answer, and how the answer ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Header names are in lower case; `path` is without the query.

    The values of a parameter that is repeated are joined by commas.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def secret(self) -> str | None:
        """The bearer credential that came along, or None."""
        scheme, _, secret = self.headers.get("authorization", "").partition(" ")
        return secret.strip() if scheme.lower() == "bearer" else None


class Ending(Enum):
    """How the connection goes on after what was sent."""

    COMPLETE = "the answer ends as HTTP wants it"
    CUT = "the connection is closed in the middle of the answer"
    RESET = "the connection is reset (TCP RST)"
    STALL = "nothing more is sent; the connection stays open until the client leaves"


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event. `content` is True where it brings a piece of the answer's text."""

    data: bytes
    content: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: a body, or a stream of events, or (with `status` None) raw bytes that are not HTTP.

    `bare` answers do not come from the API itself, so they carry none of its headers and count nowhere.
    `tokens` is what the call used in all; `completion_tokens` is what was generated. `delay` is the time
    before the first byte and `pace` that between two events, in seconds.
    """

    status: int | None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    events: tuple[Event, ...] | None = None
    ending: Ending = Ending.COMPLETE
    bare: bool = False
    tokens: int = 0
    completion_tokens: int = 0
    delay: float = 0.0
    pace: float = 0.0
    on_content: Callable[[], None] | None = field(default=None, repr=False)
    """Called as each event with content is sent."""

    @property
    def seconds(self) -> float:
        """How long it takes from the request to the end of the answer."""
        return self.delay + self.pace * max(0, len(self.events or ()) - 1)


class Refused(Exception):
    """The provider does not serve a call; `reply` is its answer, or makes it when it is asked for."""

    def __init__(self, reply: Reply | Callable[[], Reply]) -> None:
        super().__init__()
        self._reply = reply

    @property
    def reply(self) -> Reply:
        return self._reply if isinstance(self._reply, Reply) else self._reply()


def json_reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer with a JSON body."""
    return Reply(status, {"content-type": "application/json", **(headers or {})}, to_json(body))


def to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def as_object(value: object) -> Json:
    """`value` if it is a JSON object, else an empty one."""
    return cast(Json, value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """`value` if it is a JSON array, else an empty one."""
    return cast(list[Any], value) if isinstance(value, list) else []


def count_tokens(text: str) -> int:
    """Tokens of a text by the rule of thumb: a token is four characters, and nothing is free."""
    return max(1, math.ceil(len(text) / 4))


def go_duration(seconds: float) -> str:
    """Seconds as OpenAI writes them, in Go's format: `20ms`, `8.64s`, `7m12s`; rounded up to 1 ms."""
    millis = whole_millis(seconds)
    if 0 < millis < 1000:
        return f"{millis}ms"
    minutes, rest = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{rest / 1000:g}s"


def whole_millis(seconds: float) -> int:
    """Milliseconds, rounded up, so that who waits as long as told has waited long enough."""
    return math.ceil(seconds * 1000 - 1e-6)
