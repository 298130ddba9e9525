"""What an answer's headers say of the limits of its account and model family.

Sources are the providers' pages on rate limits, where none other is named. Headers of a capacity that ordinary
calls do not draw on (Anthropic's priority tier and fast mode) are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .durations import LONGEST, duration, moment
from .model import DAY, MINUTE, Dimension, Reading

_HOUR = 3600.0
_LARGEST = 1e12
"""Requests or tokens. No limit is that large: what is larger is nonsense, or means that there is none."""


@dataclass(frozen=True, slots=True, eq=False)
class _Limit:
    """One limit that headers describe, and its period in seconds where their names tell it."""

    dimension: Dimension
    period: float | None = None


_TOKENS = _Limit(Dimension.TOKENS)
_PROJECT_TOKENS = _Limit(Dimension.TOKENS)  # OpenAI, where a project has a limit of its own
_PROMPT = _Limit(Dimension.INPUT)
_UNCACHED_PROMPT = _Limit(Dimension.INPUT)
_RIVALS = frozenset([_PROJECT_TOKENS, _UNCACHED_PROMPT])
"""Second limits of what another one limits too: the tighter of the two counts."""

_ORDINARY: dict[str, _Limit] = {
    "": _Limit(Dimension.REQUESTS),  # OpenRouter, and Together's older form
    "-requests": _Limit(Dimension.REQUESTS),
    "-tokens": _TOKENS,
    "-project-tokens": _PROJECT_TOKENS,
    "-req-minute": _Limit(Dimension.REQUESTS, MINUTE),  # Mistral; seen in an answer
    "-requests-minute": _Limit(Dimension.REQUESTS, MINUTE),  # Cerebras, and the others with a period
    "-requests-hour": _Limit(Dimension.REQUESTS, _HOUR),
    "-requests-day": _Limit(Dimension.REQUESTS, DAY),
    "-tokens-minute": _Limit(Dimension.TOKENS, MINUTE),
    "-tokens-hour": _Limit(Dimension.TOKENS, _HOUR),
    "-tokens-day": _Limit(Dimension.TOKENS, DAY),
    "-tokens-prompt": _PROMPT,  # Fireworks
    "-tokens-cache-adjusted-prompt": _UNCACHED_PROMPT,
    "-tokens-generated": _Limit(Dimension.OUTPUT),
}
"""By what follows `x-ratelimit-limit`, `-remaining` or `-reset`."""

_ANTHROPIC: dict[str, _Limit] = {
    "requests": _Limit(Dimension.REQUESTS, MINUTE),
    "tokens": _Limit(Dimension.TOKENS, MINUTE),
    "input-tokens": _Limit(Dimension.INPUT, MINUTE),
    "output-tokens": _Limit(Dimension.OUTPUT, MINUTE),
}
"""By what stands between `anthropic-ratelimit-` and the part."""

_PARTS = ("limit", "remaining", "reset")


def _headers() -> Iterator[tuple[str, tuple[_Limit, int]]]:
    for part, word in enumerate(_PARTS):
        for what, limit in _ORDINARY.items():
            yield f"x-ratelimit-{word}{what}", (limit, part)
        for what, limit in _ANTHROPIC.items():
            yield f"anthropic-ratelimit-{what}-{word}", (limit, part)
        yield f"x-tokenlimit-{word}", (_TOKENS, part)  # Together's older form


_HEADERS = {name.encode(): what for name, what in _headers()}

_PERIODS: dict[str, dict[Dimension, float]] = {
    "groq": {Dimension.REQUESTS: DAY, Dimension.TOKENS: MINUTE},  # "always", says its page
    "anthropic": {Dimension.REQUESTS: MINUTE, Dimension.TOKENS: MINUTE},
    "azure": {Dimension.TOKENS: MINUTE},  # its requests may be counted over 1 to 10 seconds
    "fireworks": {Dimension.INPUT: MINUTE, Dimension.OUTPUT: MINUTE},
}
"""What a provider means where the name of its header does not tell."""
_NO_PERIODS: dict[Dimension, float] = {}


def read_limits(headers: Sequence[tuple[bytes, bytes]], *, provider: str, now: float) -> tuple[Reading, ...]:
    """What an answer's raw headers say of its limits, one `Reading` for each; whatever they hold, it never raises.

    Args:
        headers: names in any letter case, and values.
        provider: who answered; a name that is not known is fine.
        now: wall-clock seconds since the epoch. Moments are compared with it only where the answer has no `Date`
            of its own: this machine's clock and the provider's may differ.
    """
    get = _HEADERS.get
    found: dict[_Limit, list[bytes]] = {}
    for name, value in headers:
        known = get(name.lower())
        if known is not None:
            limit, part = known
            if limit not in found:
                found[limit] = [b"", b"", b""]
            found[limit][part] = value
    if not found:
        return ()
    periods = _PERIODS.get(provider, _NO_PERIODS)
    readings: list[Reading] = []
    for limit, values in found.items():
        most, left = _number(values[0]), _number(values[1])
        if most == 0.0 or (most is None and left is None):
            continue  # nothing that can be used: a limit of nothing is how some say that there is none
        if most is not None and left is not None and left > most:
            left = None
        period = limit.period or periods.get(limit.dimension)
        readings.append(Reading(limit.dimension, period, most, left, _reset(values[2], headers, now)))
    return tuple(readings) if _RIVALS.isdisjoint(found) else _tightest(readings)


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0.0 <= number <= _LARGEST else None


def _reset(value: bytes, headers: Sequence[tuple[bytes, bytes]], now: float) -> float | None:
    """Seconds until a limit is whole again."""
    try:  # the forms of nearly all answers: `12ms`, `8.64s`, `6m0s`, `17`
        if value.endswith(b"ms"):
            reset = float(value[:-2]) / 1000.0
        elif value.endswith(b"s"):
            minutes, has_minutes, rest = value[:-1].rpartition(b"m")
            reset = (float(minutes) * 60.0 if has_minutes else 0.0) + float(rest)
        else:
            reset = float(value)
    except ValueError:
        reset = -1.0
    if not 0.0 <= reset <= LONGEST:
        reset = _unusual(value.decode(errors="replace"), headers, now)
    return reset


def _unusual(value: str, headers: Sequence[tuple[bytes, bytes]], now: float) -> float | None:
    reset = duration(value)
    if reset is None and (at := moment(value)) is not None:
        dates = (_written(value) for name, value in headers if name.lower() == b"date")
        reset = at - next((date for date in dates if date is not None), now)
    return reset if reset is not None and 0.0 <= reset <= LONGEST else None


@lru_cache(maxsize=64)  # the same for all answers of a second, and slow to read
def _written(date: bytes) -> float | None:
    return moment(date.decode(errors="replace"))


def _tightest(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    """Of several limits of one dimension and period, the one with the least left."""
    kept: dict[tuple[Dimension, float | None], Reading] = {}
    for reading in readings:
        kind = reading.dimension, reading.period
        if kind not in kept or _left(reading) < _left(kept[kind]):
            kept[kind] = reading
    return tuple(kept.values())


def _left(reading: Reading) -> tuple[float, float]:
    """What is left, and of equals what is granted; what is not known is no limit."""
    most = _LARGEST if reading.limit is None else reading.limit
    return (most if reading.remaining is None else reading.remaining), most
