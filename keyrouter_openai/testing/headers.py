"""What an answer's headers say of the limits, in several providers' ways.

It is worked out as numbers, for simulations in virtual time, and the text of the headers is made of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..core.model import DAY, MINUTE, Dimension, Reading
from .limits import NOISE, Bucket
from .wire import go_duration, whole_millis

_Period = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one provider tells of its limits."""

    name: str
    """A header's name, where `{part}` is limit, remaining or reset, and `{what}` is what is limited."""
    shows: Mapping[Dimension, _Period]
    """What is shown: of limits for several periods, the first there is."""
    told: frozenset[Dimension] = frozenset()
    """What has a period that the headers' names or the documentation tell."""
    token_step: int = 1
    """Remaining tokens are rounded to a multiple of this."""
    reset: Callable[[float, float], float] = lambda left, wall: whole_millis(left) / 1000
    """The seconds until the bucket is full as a client reads them; from the exact ones, at that wall-clock time."""
    reset_text: Callable[[float, float], str] = lambda reset, wall: go_duration(reset)
    exact_wait: bool = True
    """Whether 429s have `retry-after-ms` besides `retry-after`."""

    def pick(self, buckets: Sequence[Bucket]) -> tuple[Bucket, ...]:
        """The limits that have headers."""
        by_kind = {(bucket.dimension, bucket.period): bucket for bucket in buckets}
        picks = ((by_kind.get((what, period)) for period in periods) for what, periods in self.shows.items())
        return tuple(bucket for found in picks if (bucket := next(filter(None, found), None)))

    def read(self, bucket: Bucket, used: float, wall: float) -> Reading:
        left = bucket.limit - used
        step = 1 if bucket.dimension is Dimension.REQUESTS else self.token_step
        return Reading(
            bucket.dimension,
            bucket.period if bucket.dimension in self.told else None,
            bucket.limit,
            max(0, math.floor(left + NOISE) if step == 1 else min(bucket.limit, round(left / step) * step)),
            self.reset(used / bucket.per_second, wall),
        )

    def write(self, reading: Reading, wall: float) -> dict[str, str]:
        values = {
            "limit": f"{reading.limit}",
            "remaining": f"{reading.remaining}",
            "reset": self.reset_text(reading.reset or 0.0, wall),
        }
        what = reading.dimension.replace("_", "-")
        return {self.name.format(part=part, what=what): value for part, value in values.items()}


def _whole_seconds(left: float, wall: float) -> float:
    return math.ceil(whole_millis(left) / 1000)


def _date(reset: float, wall: float) -> str:
    """The end of `reset` seconds, which count from the answer's `date` header: that has whole seconds."""
    return datetime.fromtimestamp(math.floor(wall) + reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_OPENAI = "x-ratelimit-{part}-{what}"
_MINUTE: _Period = (MINUTE,)

DIALECTS: dict[str, Dialect] = {
    # https://developers.openai.com/api/docs/guides/rate-limits; accounts with a daily limit of requests are shown
    # that one, as in 'limit 200, reset 7m12s' (https://github.com/openai/codex/issues/797).
    "openai": Dialect(_OPENAI, {Dimension.REQUESTS: (DAY, MINUTE), Dimension.TOKENS: (MINUTE, DAY)}),
    # Whole seconds: https://learn.microsoft.com/answers/questions/5625878
    "azure": Dialect(
        _OPENAI,
        {Dimension.REQUESTS: _MINUTE, Dimension.TOKENS: _MINUTE},
        told=frozenset({Dimension.TOKENS}),
        reset=_whole_seconds,
        reset_text=lambda reset, wall: f"{reset:g}",
    ),
    # Requests are those per day, tokens those per minute: https://console.groq.com/docs/rate-limits
    "groq": Dialect(
        _OPENAI,
        {Dimension.REQUESTS: (DAY,), Dimension.TOKENS: _MINUTE},
        told=frozenset({Dimension.REQUESTS, Dimension.TOKENS}),
        exact_wait=False,
    ),
    # https://platform.claude.com/docs/en/api/rate-limits: all are per minute, tokens to the nearest thousand.
    "anthropic": Dialect(
        "anthropic-ratelimit-{what}-{part}",
        dict.fromkeys(Dimension, _MINUTE),
        told=frozenset(Dimension),
        token_step=1000,
        reset=lambda left, wall: math.ceil(wall + left - NOISE) - math.floor(wall),
        reset_text=_date,
        exact_wait=False,
    ),
    "none": Dialect(_OPENAI, {}),
}


class Shown:
    """What one answer's headers show: as of the moment it was made, put into words when asked for."""

    __slots__ = ("_dialect", "_used", "_wall")

    def __init__(self, dialect: Dialect, buckets: Sequence[Bucket], now: float, wall: float) -> None:
        self._dialect = dialect
        self._used = [(bucket, bucket.shown(now)) for bucket in buckets]
        self._wall = wall

    @property
    def readings(self) -> tuple[Reading, ...]:
        """The numbers, as whoever reads the headers gets them."""
        return tuple([self._dialect.read(bucket, used, self._wall) for bucket, used in self._used])

    @property
    def headers(self) -> dict[str, str]:
        """The same as text."""
        headers: dict[str, str] = {}
        for reading in self.readings:
            headers |= self._dialect.write(reading, self._wall)
        return headers
