"""A limit as the provider keeps it: a bucket that refills continuously."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..core.model import Dimension

# Far above what floats lose in refills, far below a token.
NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class Level:
    """The true state of one limit, for tests and for schedulers that know everything.

    `limit` is granted for each `period` (60 or 86,400 s); `capacity` is the most that can be there at once, and
    `level` what is there now, below 0 where output was charged that was not there; `per_second` comes in.
    """

    dimension: Dimension
    period: float
    limit: int
    capacity: float
    per_second: float
    level: float


class Bucket:
    """One limit. It is full at first; what counts is how much of it is used.

    Args:
        dimension, period, limit: so many requests or tokens in so many of the provider's seconds.
        capacity: the most that can be there at once: less than the limit where shorter slices are enforced.
        per_second: what comes in each second of the clock.
        lag: headers show the state of so many of the clock's seconds ago.
        used: what is used at `now`.
    """

    __slots__ = ("_at", "_lag", "_past", "_used", "capacity", "dimension", "limit", "per_second", "period")

    def __init__(
        self,
        dimension: Dimension,
        period: float,
        limit: int,
        *,
        capacity: float,
        per_second: float,
        lag: float = 0.0,
        used: float = 0.0,
        now: float = 0.0,
    ) -> None:
        self.dimension = dimension
        self.period = period
        self.limit = limit
        self.capacity = capacity
        self.per_second = per_second
        self._used, self._at = min(capacity, used), now
        self._lag = lag
        # When something was taken, and what was used then: kept only for headers that lag.
        self._past: deque[tuple[float, float]] = deque([(now, self._used)])

    def used(self, now: float) -> float:
        used = self._used - (now - self._at) * self.per_second
        return used if used > 0.0 else 0.0

    def wait_for(self, amount: float, now: float) -> float:
        """Seconds until `amount` is there; 0 if it is there now."""
        missing = self.used(now) + amount - self.capacity
        return missing / self.per_second if missing > NOISE else 0.0

    def take(self, amount: float, now: float) -> None:
        """Take `amount`, whether it is there or not: what was not is owed."""
        self._used = self.used(now) + amount
        self._at = now
        if self._lag:
            self._past.append((now, self._used))

    def drain(self, amount: float, now: float) -> None:
        """Take `amount`, or what there is."""
        self.take(max(0.0, min(amount, self.capacity - self.used(now))), now)

    def shown(self, now: float) -> float:
        """What headers that are written now show as used."""
        if not self._lag:
            return self.used(now)
        then = now - self._lag
        while len(self._past) > 1 and self._past[1][0] <= then:
            self._past.popleft()
        at, used = self._past[0]
        return max(0.0, used - max(0.0, then - at) * self.per_second)

    def level(self, now: float) -> Level:
        left = self.capacity - self.used(now)
        return Level(self.dimension, self.period, self.limit, self.capacity, self.per_second, left)
