"""A circuit breaker for one model of one provider's host, so that an outage is probed and not stormed.

Closed, it counts strikes: a failure adds one, a success takes two away, and at ten it opens. This is a cumulative
sum test: a total outage opens it with the tenth failure, be it a call a minute or a thousand a second, while
failures among successes do not add up unless two calls in three fail. Open, it lets nothing through. After its
pause it is half-open: one call goes out as a probe, each success makes room for more, and once the calls
no longer fill that room it is closed. So those who waited return step by step, and not as a herd:
never more than three times as many as were in flight when the trouble began.

A breaker is made at the first failure and may be dropped once it `is_over`. All times are monotonic seconds.
"""

from __future__ import annotations

from math import inf
from random import Random
from typing import Literal

OPENS_AT = 10
"""Strikes at which it opens."""
SUCCESS = 2
"""Strikes that one success takes away."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 1.0
"""Seconds; with the time that a probe takes, the end of an outage is seen within some two seconds."""
PATIENCE = 2.0
"""Seconds after which another probe goes out though the last has no answer: it may hang, or just take long."""
GROWTH = 15
"""Further calls in flight for which each success makes room: every round may be sixteen times the last."""
ROOM = 3
"""How many times the usual number of calls may be in flight while it is half-open: those who waited are many."""
FEW = 16
"""Calls for which there is room however few are usual."""
MEMORY = 600.0
"""Seconds without news after which it may be dropped."""


class Breaker:
    """Whether calls may go out, judged by what became of those before.

    `usual` is how many calls are in flight to the host when it is made. Its owner asks `admits`, tells `sent` in the
    same step when a call is let go, and `ended` once for each call, also for those from before the breaker was made.
    """

    __slots__ = (
        "_in_flight",
        "_most",
        "_news_at",
        "_openings",
        "_room",
        "_sent_at",
        "_since",
        "_strikes",
        "opened_until",
        "state",
    )

    def __init__(self, usual: int = 0) -> None:
        self.state: Literal["closed", "open", "half-open"] = "closed"
        """It is open until the first probe is sent, even if `opened_until` is past."""
        self.opened_until = -inf
        """When the latest pause ends or ended."""
        self._strikes = 0
        self._openings = 0
        """How often it opened without having closed; pauses grow with it."""
        self._since = inf
        """When the first probe was sent. Calls from before it tell nothing of how the host is now."""
        self._room = 1
        """How many probes may be in flight."""
        self._in_flight = 0
        self._most = max(ROOM * usual, FEW)
        """How many probes there may be at most."""
        self._sent_at = -inf
        self._news_at = -inf

    def admits(self, now: float) -> float:
        """`now` if a call may go. Else when to look again: at that time, or sooner if a call ends."""
        if self.state == "closed" or (self.state == "half-open" and self._in_flight < self._room):
            return now
        return max(now, self.opened_until if self.state == "open" else self._sent_at + PATIENCE)

    def sent(self, now: float) -> None:
        """A call that was admitted is on its way."""
        if self.state == "closed":
            return
        if self.state == "open":
            self.state, self._since = "half-open", now
            self._room, self._in_flight = 1, 0
        self._sent_at = now
        self._in_flight += 1

    def ended(self, ok: bool | None, now: float, *, sent_at: float, rng: Random, wait: float | None = None) -> None:
        """A call came to its end, or will come to a good one.

        Args:
            ok: whether the host served it; None if the outcome tells nothing of the host.
            sent_at: what `sent` was told of this call.
            wait: seconds for which the host asks to be left alone, where it does. That opens the breaker at once.
        """
        self._news_at = now
        is_probe = self.state == "half-open" and sent_at >= self._since
        if is_probe:
            self._in_flight -= 1
        if wait:
            self._open(max(now + wait, self.opened_until))
        elif is_probe or self.state == "closed":
            if ok is False:
                self._strikes += 1
                if self._strikes >= OPENS_AT:
                    longest = min(FIRST_PAUSE * 2.0 ** min(self._openings, 10), LONGEST_PAUSE)
                    self._open(now + rng.uniform(longest / 2, longest))
            elif ok:
                self._strikes = max(self._strikes - SUCCESS, 0)
                if is_probe:
                    self._make_room()

    def is_over(self, now: float) -> bool:
        """Whether it can be dropped: nothing is held against the host, or nobody has called it for long."""
        if self.state == "closed" and not self._strikes:
            return True
        return now - max(self._news_at, self._sent_at, self.opened_until) > MEMORY

    def _open(self, until: float) -> None:
        self._openings += self.state != "open"
        self.state, self.opened_until = "open", until
        self._strikes = OPENS_AT - 1  # of the first probes, each failure opens it again

    def _make_room(self) -> None:
        if 2 * self._in_flight < self._room - 1:  # there is more room than calls to fill it
            self.state, self._openings = "closed", 0
        self._room = min(self._room + GROWTH, self._most)
