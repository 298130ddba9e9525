"""The records of a journal: attempts as bytes, and found again in bytes that may be damaged."""

from __future__ import annotations

import marshal
import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple
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
_faults = {fault.value: fault for fault in Fault}

Subject = tuple[str, int]
"""Which attempt: the request's id, and its number."""


class Kind(IntEnum):
    """What a record says. Of one attempt the highest counts."""

    LAYOUT = 0
    """The names of the values in the records that follow: another version of this package may have others."""
    BEGAN = 1
    ENDED = 2
    WITHDRAWN = 3
    """Nothing of it was sent: there is to be no row."""


class Record(NamedTuple):
    """A record that was found."""

    kind: int
    values: Sequence[Any]
    frame: bytes
    """All of its bytes."""

    @property
    def subject(self) -> Subject:
        """Which attempt it is about."""
        return self.values[_REQUEST_ID], self.values[_NUMBER]

    def attempt(self) -> Attempt:
        """The attempt that it has."""
        attempt = Attempt(*self.values)
        usage: Any = attempt.usage
        return attempt._replace(
            outcome=_faults.get(attempt.outcome, Fault.LOCAL), usage=None if usage is None else Usage(*usage)
        )

    def after(self, layout: Record) -> Record:
        """The same with its values in the order of this version, where another version wrote it after its layout."""
        if layout.frame == LAYOUT:
            return self
        names, usage_names = layout.values
        theirs = dict(zip(names, self.values, strict=True))
        if theirs["usage"] is not None:
            used = dict(zip(usage_names, theirs["usage"], strict=True))
            theirs["usage"] = tuple(Usage(**{name: used[name] for name in Usage._fields if name in used}))
        own = [theirs.get(name, Attempt._field_defaults.get(name)) for name in Attempt._fields]
        return self._replace(values=own)


def encoded(kind: Kind, attempt: Attempt) -> bytes:
    """The record of an attempt."""
    values: list[Any] = list(attempt)
    values[_OUTCOME] = attempt.outcome.value
    values[_TAGS] = dict(attempt.tags)
    if attempt.usage is not None:
        values[_USAGE] = tuple(attempt.usage)
    return framed(kind, values)


def decoded(data: bytes) -> tuple[list[Record], int]:
    """All whole records in a part of a journal, and where the last of them ends."""
    records: list[Record] = []
    end = 0
    start = data.find(_MARK)
    while start >= 0:
        record = _record_at(data, start)
        if record is not None:
            records.append(record)
            end = start + len(record.frame)
        start = data.find(_MARK, end if record is not None else start + 1)
    return records, end


def _record_at(data: bytes, start: int) -> Record | None:
    payload_at = start + _FRAME.size
    if payload_at > len(data):
        return None
    _, length, checksum = _FRAME.unpack_from(data, start)
    payload = data[payload_at : payload_at + length]
    if len(payload) < length or crc32(payload) != checksum:
        return None
    kind, *values = marshal.loads(payload)
    return Record(kind, values, data[start : payload_at + length])


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


LAYOUT = framed(Kind.LAYOUT, (Attempt._fields, Usage._fields))
"""The record that each file begins with."""
