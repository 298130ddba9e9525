"""How much an account has served of a model family, and how well: what accounts are ranked by."""

from __future__ import annotations

from math import inf

RATE_STEP = 0.2
"""Weight of one observation in the mean of latency."""
MEMORY = 60.0
"""Seconds in which what is known of an account's reliability halves."""
DOUBT = 4.0
"""Successes that an account of which nothing is known is credited with."""


class Standing:
    """What is known of one account's service of one model family. Times are monotonic seconds."""

    __slots__ = ("_failures", "_seen_at", "_successes", "in_flight", "latency", "limits_at", "rank")

    def __init__(self) -> None:
        self.rank = 0.0
        """What it has served, in seconds of its limits (in calls, where none are known), relative to its weight."""
        self.limits_at = 0
        """The version of its limits in which that was counted."""
        self.in_flight = 0
        self.latency = 0.0
        """Mean seconds until the headers of an answer; 0 while unknown."""
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

    def _fade(self, now: float) -> float:
        return 0.5 ** ((now - self._seen_at) / MEMORY) if self._seen_at > -inf else 0.0
