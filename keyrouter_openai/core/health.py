"""How standing is lost and won back: transitions between frozen values, given the time.

Nothing stays lost: whatever is out of service is tried again by one real call at a time (a canary), after
pauses that grow while it fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf

FIRST_PAUSE = 15 * 60.0
"""Seconds until a dry account or a rejected key is tried again for the first time."""
LONGEST_PAUSE = 24 * 3600.0
UNDECIDED_PAUSE = 30.0
"""Seconds until the next canary where one ended without telling anything about credit or key."""
INCIDENT_WINDOW = 10.0
"""Seconds within which refusals of all keys of a provider count as the provider's own fault."""
MEMORY = 10 * 60.0
"""Seconds for which a missing scope or model, or a refused region, is remembered."""


@dataclass(frozen=True, slots=True)
class Probation:
    """Out of service until one canary succeeds. `due` is monotonic time, `pause` seconds."""

    due: float
    pause: float


@dataclass(frozen=True, slots=True)
class KeyHealth:
    """What the provider's answers say about one credential."""

    refusals: int = 0
    refused_at: float = -inf
    probation: Probation | None = None

    @property
    def suspect(self) -> bool:
        """Refused once; the next answer decides."""
        return self.refusals > 0 and self.probation is None


HEALTHY = KeyHealth()


def out_of_service(previous: Probation | None, now: float, named_wait: float | None = None) -> Probation:
    """The probation after one more failure: 15 minutes, then doubling up to a day.

    A return that the provider named itself is taken instead, but looked at daily: people top up early.
    """
    pause = FIRST_PAUSE if previous is None else min(2 * previous.pause, LONGEST_PAUSE)
    return Probation(now + (pause if named_wait is None else min(named_wait, LONGEST_PAUSE)), pause)


def undecided(previous: Probation, now: float) -> Probation:
    """The probation after a canary that failed for a reason that says nothing about the matter."""
    return replace(previous, due=now + UNDECIDED_PAUSE)


def refused(health: KeyHealth, now: float) -> KeyHealth:
    """A credential after one more rejection: suspect at the first, invalid at the second."""
    refusals = health.refusals + 1
    probation = out_of_service(health.probation, now) if refusals > 1 else None
    return KeyHealth(refusals, now, probation)


def is_provider_incident(keys: Iterable[KeyHealth], now: float) -> bool:
    """Whether the provider is at fault, and not its keys: all that were good were refused within seconds.

    `keys` are all enabled keys of one provider. A single key says nothing.
    """
    good_until_now = [k for k in keys if k.probation is None or now - k.refused_at <= INCIDENT_WINDOW]
    return len(good_until_now) > 1 and all(now - k.refused_at <= INCIDENT_WINDOW for k in good_until_now)
