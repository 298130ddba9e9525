"""What every key of a lane can do for a call: why not, or from when."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from .candidate import Candidate
from .model import RouteRequest
from .select import History, Obstacle, is_denied, obstacle, trouble


class Survey(NamedTuple):
    """What every key of a lane can do for a call: the first start (infinite if nobody knows), and why not now."""

    first: float
    obstacles: dict[str, Obstacle]
    all_denied: bool
    """All that could serve are known to lack the scope, model or region."""


def survey(candidates: Iterable[Candidate], request: RouteRequest, history: History, now: float, most: int) -> Survey:
    """What every key can do for a call: why not, or from when. Reasons are given for the first `most` keys."""
    first, obstacles, denied = inf, dict[str, Obstacle](), dict[str, float]()
    for candidate in candidates:
        ahead = trouble(candidate.account, candidate.host, request, now)
        start: float | None = None
        for key in candidate.keys:
            found = obstacle(key, request, history, now) or ahead
            if found is None:
                if start is None:
                    start = start_at(candidate, request, now)
                too_large = start == inf and candidate.quota.concurrent is None
                found = ("the request exceeds its account's whole limit" if too_large else "throttled"), start
                if is_denied(key, request, now):
                    denied[key.name] = start
                    found = "lacks the scope, model or region", inf
            first = min(first, found[1])
            if len(obstacles) < most:
                obstacles[key.name] = found
    if denied and first == inf:
        return Survey(min(denied.values()), obstacles, all_denied=True)
    return Survey(first, obstacles, all_denied=False)


def start_at(candidate: Candidate, request: RouteRequest, now: float) -> float:
    """When an account could start a call, if nothing but its limits stood in the way; infinite if never."""
    quota = candidate.quota
    estimate = request.estimate()
    return inf if quota.is_too_large(estimate, now) else quota.start(quota.amounts(estimate), now)
