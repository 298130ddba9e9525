"""Pacing of an account that has hit a rate limit, so that the calls that wait for it do not return as a herd.

A refusal parks the account until the time that the provider named. From then on calls start one after
another, as far apart as the account is known to serve them: the time since its first refusal divided by what
it served in that time. The gap shrinks while all goes well, so that more capacity is found when there is more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

FIRST_GAP = 0.25
"""Longest gap in seconds after the first refusal, when nothing is known of the account's rate."""
LARGEST_STEP = 2.0
"""How many times longer or shorter one refusal may make the gap: few samples mislead."""
HALF_LIFE = 30.0
"""Seconds without a refusal in which the gap halves."""
FORGOTTEN_AFTER = 60.0
"""Seconds without a refusal after which an account runs free again: most limits are by the minute."""
UNNAMED_PARK = 5.0
"""Seconds to park where the provider named no time."""


@dataclass(frozen=True, slots=True)
class Pace:
    """One account's limit for one model family. All times are monotonic seconds."""

    parked_until: float = -inf
    first_refused_at: float = -inf
    """Of the refusals that follow each other closely; the rate is measured from there."""
    refused_at: float = -inf
    gap: float = 0.0
    """Seconds between two starts, as of the last refusal."""
    served: int = 0
    """Calls served since the first refusal."""
    next_start: float = -inf
    """Starts before this are given away already, also over a further refusal."""


FREE = Pace()


def start_time(pace: Pace, now: float) -> float:
    """When the next call may start, `now` at the earliest."""
    return max(now, pace.parked_until, pace.next_start)


def is_forgotten(pace: Pace, now: float) -> bool:
    """Whether the account runs free again."""
    return _quiet(pace, now) > FORGOTTEN_AFTER


def started(pace: Pace, start: float) -> Pace:
    """The pace after a call took the start time `start`."""
    if pace.gap == 0.0:
        return pace
    if is_forgotten(pace, start):
        return FREE
    return replace(pace, next_start=start + _gap(pace, start))


def given_back(pace: Pace, now: float) -> Pace:
    """The pace after a start time was not used: all later ones may come one gap earlier."""
    return replace(pace, next_start=max(pace.next_start - _gap(pace, now), pace.parked_until))


def served(pace: Pace) -> Pace:
    """The pace after a call succeeded."""
    return replace(pace, served=pace.served + 1)


def refused(pace: Pace, *, started_at: float, now: float, wait: float | None) -> Pace:
    """The pace after a rate-limit refusal of a call that had started at `started_at`.

    A cooldown is the maximum of its deadlines. Refusals of calls that were already on their way when the
    account was parked say nothing new about its rate.
    """
    until = max(now + (UNNAMED_PARK if wait is None else wait), pace.parked_until)
    if started_at < pace.parked_until or started_at <= pace.refused_at:
        return replace(pace, parked_until=until)
    if pace.gap == 0.0 or is_forgotten(pace, now):
        return Pace(until, now, now, gap=min(until - now, FIRST_GAP), next_start=until)
    before = _gap(pace, now)
    measured = (until - pace.first_refused_at) / max(pace.served, 1)
    gap = min(max(measured, before / LARGEST_STEP), before * LARGEST_STEP)
    next_start = max(pace.next_start, until)
    return replace(pace, parked_until=until, refused_at=now, gap=gap, next_start=next_start)


def _quiet(pace: Pace, at: float) -> float:
    """Seconds for which all has gone well."""
    return max(at - max(pace.refused_at, pace.parked_until), 0.0)


def _gap(pace: Pace, at: float) -> float:
    return pace.gap * 0.5 ** (_quiet(pace, at) / HALF_LIFE)
