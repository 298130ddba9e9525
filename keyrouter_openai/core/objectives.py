"""How to rank the accounts that can serve a call: the built-in objectives, and the shape of a caller's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .model import RouteRequest

if TYPE_CHECKING:
    from .candidate import Candidate

SPARING = 0.5
"""By how much an account's share of calls is smaller if one of its limits is sure to be used up before its reset."""
PREMIUM = 0.1
"""How much dearer an account may be, as a share, and be taken in place of such a one. More would cost more than it
saves: what is cheap is used up in the end, now or later."""
QUALITY_STEP = 1e-3
"""Weight of reliability against quality: it breaks ties."""


@runtime_checkable
class Objective(Protocol):
    """Ranks accounts; called for each account that is compared, so it should take a microsecond or two."""

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        """How well an account suits a call: the lowest score is chosen among those that can start now.

        It must change nothing and not raise, nor ask anything of the router, whose lock it is called under: that
        would wait for ever. `now` is monotonic seconds.
        """
        ...


class Reliability:
    """The highest expected share of calls that succeed; then the least used."""

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        return -candidate.success_rate(now)


class Latency:
    """The shortest expected time until the first byte, with the calls in flight counted; who was never called first."""

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        return candidate.latency * (1.0 + candidate.in_flight / candidate.weight)


class Cost:
    """The lowest expected cost (see `Candidate.expected_cost`), a little more where limits are likely to run dry."""

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        return candidate.expected_cost(request) * (1.0 + PREMIUM * candidate.quota.scarcity)


class Quality:
    """The highest configured quality; of equals, the more reliable."""

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        return -candidate.quality - QUALITY_STEP * candidate.success_rate(now)


OBJECTIVES: dict[str, Objective | None] = {
    "fairness": None,
    "reliability": Reliability(),
    "latency": Latency(),
    "cost": Cost(),
    "quality": Quality(),
}
"""By name. `fairness` is the order in which accounts are compared anyway: the least used relative to weight."""


def find_objective(given: object) -> Objective | None:
    """The objective of that name, or the caller's own; None is fairness.

    Raises:
        ValueError: there is none of that name, or it is no objective.
    """
    if isinstance(given, str):
        if given not in OBJECTIVES:
            raise ValueError(f"objective {given!r} does not exist: use one of {', '.join(OBJECTIVES)}, or your own")
        return OBJECTIVES[given]
    if isinstance(given, type):
        raise ValueError(f"objective {given.__name__} is a class: give an instance, {given.__name__}(...)")
    if isinstance(given, Objective) and callable(given.score):
        return given
    raise ValueError(f"objective {given!r} has no method score(candidate, request, now)")
