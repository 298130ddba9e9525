"""Times as providers write them: durations (`56`, `0.25`, `20ms`, `6m0s`) and moments (epoch, RFC 3339, HTTP dates)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 32 * 86_400.0
"""Seconds. The longest wait that a provider means is until the first of the next month."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER = r"\d+(?:\.\d+)?"
_UNIT = r"(?:ns|us|µs|ms|millis\w*|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])"
_PART = re.compile(rf"({_NUMBER}) ?({_UNIT})")
DURATION = rf"(?:{_NUMBER} ?{_UNIT}(?:,? (?:and )?)?)+"
"""The pattern of a duration with units, in lower case: `1h2m3.5s`, `1 hour, 2 minutes and 3 seconds`."""
_WHOLE = re.compile(DURATION)

_EPOCH = 1e9
"""A larger number is no duration but a moment: seconds since the epoch, or from here on its square, milliseconds."""
_EPOCH_MS = 1e12


def seconds(value: str, now: float) -> float | None:
    """The seconds from `now` that a duration or moment means.

    None for what is neither, is not in the future, or is further off than `LONGEST`.
    """
    wait = duration(value)
    if wait is None and (at := moment(value)) is not None:
        wait = at - now
    return wait if wait is not None and 0.0 < wait <= LONGEST else None


def duration(value: str) -> float | None:
    """The seconds of a plain number or a duration with units, or None."""
    value = value.strip().lower()
    try:
        number = float(value)
    except ValueError:
        return _sum(value) if _WHOLE.fullmatch(value) else None
    return number if 0.0 <= number <= _EPOCH else None


def moment(value: str) -> float | None:
    """The seconds since the epoch of a moment, or None. What names no time zone is UTC."""
    value = value.strip()
    try:
        number = float(value)
    except ValueError:
        return _date(value.upper())
    if number > _EPOCH_MS:
        number /= 1000.0
    return number if number > _EPOCH else None


def _sum(text: str) -> float:
    return sum(
        float(number) * (_UNITS.get(unit) or _UNITS["ms" if unit.startswith("mil") else unit[0]])
        for number, unit in _PART.findall(text)
    )


def _date(text: str) -> float | None:
    for parse in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = parse(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            continue
    return None
