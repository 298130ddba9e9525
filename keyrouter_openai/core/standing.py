"""How much an account has served of a model family, and how well: what accounts are ranked by."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from .affinity import LENGTHS

UNIT_STEP = 0.05
"""Weight of one call in the mean of what a call takes."""
RATE_STEP = 0.2
"""Weight of one observation in the mean of latency."""
MEMORY = 60.0
"""Seconds in which what is known of an account's reliability halves."""
CACHED_STEP = 0.02
"""Weight of one prompt in the mean of what comes from the cache."""
DOUBT = 4.0
"""Successes that an account of which nothing is known is credited with."""


class Unit:
    """In what the ranks of a model family are counted: seconds of refill, once the limits of any account are known."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0
        """Mean seconds of refill that a call takes; 0 while no account's limits are known, and calls are counted."""

    def share(self, known: float, standings: Iterable[Standing]) -> float:
        """What a call counts that takes `known` seconds of refill; where that is 0, what others take of theirs."""
        if not known:
            return self.seconds or 1.0
        if not self.seconds:  # until now it was calls that were counted
            self.seconds = known
            for standing in standings:
                standing.rank *= known
        self.seconds += UNIT_STEP * (known - self.seconds)
        return known


class Standing:
    """What is known of one account's service of one model family. Times are monotonic seconds."""

    __slots__ = ("_failures", "_seen_at", "_successes", "cached", "in_flight", "latency", "rank")

    def __init__(self) -> None:
        self.rank = 0.0
        """What it has served, in seconds of its limits (in calls, where none are known), relative to its weight."""
        self.in_flight = 0
        self.latency = 0.0
        """Mean seconds until the headers of an answer; 0 while unknown."""
        self.cached = 0.5
        """Mean share of a prompt that comes from its cache, of those that are long enough; half of it while unknown."""
        self._successes = 0.0
        self._failures = 0.0
        self._seen_at = -inf

    def success_rate(self, now: float) -> float:
        """The expected share of calls that succeed, 0 to 1: what was seen, decayed, with a little benefit of doubt."""
        fade = self._fade(now)
        return (self._successes * fade + DOUBT) / ((self._successes + self._failures) * fade + DOUBT)

    def ended(self, *, ok: bool | None, first_byte_s: float | None, now: float) -> None:
        """Note what an attempt came to; None says nothing about the account."""
        if ok is None:
            return
        fade = self._fade(now)
        self._successes = self._successes * fade + (1.0 if ok else 0.0)
        self._failures = self._failures * fade + (0.0 if ok else 1.0)
        self._seen_at = now
        if ok and first_byte_s is not None:
            before = self.latency or first_byte_s
            self.latency = before + RATE_STEP * (first_byte_s - before)

    def read_prompt(self, prompt: int, cached: int) -> None:
        """Note how many tokens of a prompt came from the cache."""
        if prompt >= LENGTHS[0]:
            self.cached += CACHED_STEP * (min(cached / prompt, 1.0) - self.cached)

    def _fade(self, now: float) -> float:
        return 0.5 ** ((now - self._seen_at) / MEMORY) if self._seen_at > -inf else 0.0
