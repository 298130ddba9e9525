"""A budget of retries for a whole pool, so that an outage is not multiplied by all who try again.

The well-known token bucket in which first attempts earn what retries spend (Finagle's RetryBudget): in the long
run a tenth of the traffic at most is retries. A quiet pool, whose few calls earn next to nothing, has a floor of
ten in hand, which comes back slowly.
"""

from __future__ import annotations

from math import exp

EARNED = 0.1
"""Retries that one first attempt earns."""
FLOOR = 10.0
"""Retries in hand without any traffic."""
REFILL = 0.1
"""Retries a second by which it returns to the floor."""
MEMORY = 10.0
"""Seconds in which what is above the floor shrinks to 1/e: a busy hour does not pay for the storm after it."""


class RetryBudget:
    """How many further attempts the pool may still make on account of failing providers and networks.

    `now` is the monotonic time in seconds from which it runs.
    """

    __slots__ = ("_at", "_balance", "_calls")

    def __init__(self, now: float) -> None:
        self._balance = FLOOR
        self._at = now
        self._calls = 0
        """First attempts since `_at`; the arithmetic is left to the few who ask for a retry."""

    def deposit(self) -> None:
        """A call makes its first attempt."""
        self._calls += 1

    def withdraw(self, now: float) -> bool:
        """Take one retry, if there is one in hand."""
        self._bring_up_to(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _bring_up_to(self, now: float) -> None:
        elapsed, earned = now - self._at, EARNED * self._calls
        self._at, self._calls = now, 0
        if elapsed > 0.0:
            # What was earned evenly over the time has faded by so much on average.
            earned *= MEMORY / elapsed * (1.0 - exp(-elapsed / MEMORY))
        if self._balance > FLOOR:
            self._balance = FLOOR + (self._balance - FLOOR) * exp(-elapsed / MEMORY)
        else:
            self._balance = min(FLOOR, self._balance + REFILL * elapsed)
        self._balance += earned
