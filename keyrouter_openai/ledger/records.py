"""The records of a journal: attempts as bytes, and found again in bytes that may be damaged."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Generator, Iterable, Sequence
from enum import IntEnum
from typing import Any
from zlib import crc32

from keyrouter_openai.core.model import Attempt, Fault, Usage

_FRAME = struct.Struct("<4sII")
"""What goes before each record: a mark to find it by after damage, its length and its CRC-32."""
_MARK = b"krj1"
_MARSHAL = 2
"""A format that every Python 3 reads alike. It takes a quarter of the time of JSON."""

_REQUEST_ID, _NUMBER, _OUTCOME, _USAGE, _TAGS = (
    Attempt._fields.index(name) for name in ("request_id", "number", "outcome", "usage", "tags")
)
_NAMES = Attempt._fields, Usage._fields
_faults = {fault.value: fault for fault in Fault}

Subject = tuple[str, int]
"""Which attempt: the request's id, and its number."""
Record = tuple[Sequence[Any], int, int]
"""Its kind and values, and where it begins and ends."""


class Kind(IntEnum):
    """What a record says. Of one attempt the highest counts."""

    LAYOUT = 0
    """The names of the values in the records that follow: another version of this package may have others."""
    BEGAN = 1
    ENDED = 2
    WITHDRAWN = 3
    """Nothing of it was sent: there is to be no row."""


def subject_of(values: Sequence[Any]) -> Subject:
    """Which attempt a record is about."""
    return values[1 + _REQUEST_ID], values[1 + _NUMBER]


def attempt_of(values: Sequence[Any]) -> Attempt:
    """The attempt that a record has."""
    _, *own = values
    own[_OUTCOME] = _faults.get(own[_OUTCOME], Fault.LOCAL)
    if own[_USAGE] is not None:
        own[_USAGE] = Usage(*own[_USAGE])
    return Attempt(*own)


def translated(values: Sequence[Any], layout: Sequence[Any]) -> Sequence[Any]:
    """The values of a record in the order of this version, where another version wrote it after its layout."""
    if layout[1:] == _NAMES:
        return values
    kind, *own = values
    _, names, usage_names = layout
    theirs = dict(zip(names, own, strict=True))
    if theirs["usage"] is not None:
        used = dict(zip(usage_names, theirs["usage"], strict=True))
        theirs["usage"] = tuple(Usage(**{name: used[name] for name in Usage._fields if name in used}))
    return [kind, *(theirs.get(name, Attempt._field_defaults.get(name)) for name in Attempt._fields)]


def encoded(kind: Kind, attempt: Attempt) -> bytes:
    """The record of an attempt."""
    values: list[Any] = list(attempt)
    values[_OUTCOME] = attempt.outcome.value
    values[_TAGS] = dict(attempt.tags)
    if attempt.usage is not None:
        values[_USAGE] = tuple(attempt.usage)
    return framed(kind, values)


def decoded(data: bytes) -> Generator[Record, None, None]:
    """All whole records in a part of a journal."""
    start = 0
    while start >= 0 and (payload_at := start + _FRAME.size) <= len(data):
        mark, length, checksum = _FRAME.unpack_from(data, start)
        end = payload_at + length
        payload = data[payload_at:end]
        if mark == _MARK and len(payload) == length and crc32(payload) == checksum:
            yield marshal.loads(payload), start, end
            start = end
        else:
            start = data.find(_MARK, start + 1)


def framed(kind: Kind, values: Iterable[Any]) -> bytes:
    """A record with these values."""
    try:
        payload = marshal.dumps((int(kind), *values), _MARSHAL)
    except ValueError:  # a value of a caller or provider is no plain one
        payload = marshal.dumps((int(kind), *map(_plain, values)), _MARSHAL)
    return _FRAME.pack(_MARK, len(payload), crc32(payload)) + payload


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return {str(name): str(text) for name, text in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return tuple(map(_plain, value)) if type(value) is tuple else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


LAYOUT = framed(Kind.LAYOUT, _NAMES)
"""The record that each file begins with."""
