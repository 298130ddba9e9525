"""Pacing of an account that has hit a rate limit, so that the calls that wait for it do not return as a herd.

A refusal parks the account until the time that the provider named. From then on calls start one after
another, as far apart as the account is known to serve them: the time between two refusals divided by what
was served in between. Success shortens the gap a little, so that more capacity is found when there is more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

FIRST_GAP = 0.25
"""Longest gap in seconds after the first refusal, when nothing is known of the account's rate."""
GAP_GROWTH = 0.98
FORGOTTEN_AFTER = 60.0
"""Seconds without a refusal after which an account runs free again: most limits are by the minute."""
UNNAMED_PARK = 5.0
"""Seconds to park where the provider named no time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """One account's limit for one model family. All times are monotonic seconds."""

    parked_until: float = -inf
    refused_at: float = -inf
    gap: float = 0.0
    served: int = 0
    """Calls served since the last refusal."""
    next_start: float = -inf


FREE = Pace()


def start_time(pace: Pace, now: float) -> float:
    """When the next call may start, `now` at the earliest."""
    return max(now, pace.parked_until, pace.next_start)


def started(pace: Pace, start: float) -> Pace:
    """The pace after a call took the start time `start`."""
    if pace.gap == 0.0:
        return pace
    if start - pace.refused_at > FORGOTTEN_AFTER and start > pace.parked_until + FORGOTTEN_AFTER:
        return FREE
    return replace(pace, next_start=start + pace.gap)


def served(pace: Pace) -> Pace:
    """The pace after a call succeeded."""
    return replace(pace, served=pace.served + 1, gap=pace.gap * GAP_GROWTH)


def refused(pace: Pace, *, started_at: float, now: float, wait: float | None) -> Pace:
    """The pace after a rate-limit refusal of a call that had started at `started_at`.

    A cooldown is the maximum of its deadlines. Refusals of calls that were already on their way when the
    account was parked say nothing new about its rate.
    """
    until = now + (UNNAMED_PARK if wait is None else wait)
    if started_at < pace.parked_until or started_at <= pace.refused_at:
        return replace(pace, parked_until=max(pace.parked_until, until))
    if pace.refused_at == -inf or now - pace.refused_at > FORGOTTEN_AFTER + (until - now):
        gap = min(until - now, FIRST_GAP)
    else:
        gap = (until - pace.refused_at) / max(pace.served, 1)
    return Pace(parked_until=max(pace.parked_until, until), refused_at=now, gap=gap, next_start=until)
