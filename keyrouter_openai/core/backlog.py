"""How long calls will have to wait: what a lane's accounts bring in together, and what its calls need."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from .candidate import Candidate

RATES_AGE = 0.25
"""Seconds for which the capacity, as worked out, is used."""
RATES_STEP = 0.1
"""Weight of a new one in the mean that is used."""
NEED_MEMORY = 30.0
"""Seconds in which half of the longest need of a call is forgotten."""


class Backlog:
    """Foretells waits. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._rates = (inf, inf)
        """Requests and tokens a second."""
        self._rates_until = -inf
        self._need = 0.0
        self._need_at = 0.0

    def changed(self) -> None:
        """The accounts are others than before."""
        self._rates_until = -inf

    def waits(self, candidates: Iterable[Candidate], calls: float, tokens: float, now: float) -> float:
        """Seconds in which all accounts together refill what so many calls take."""
        if now >= self._rates_until:
            self._rates_until = now + RATES_AGE
            before, summed = self._rates, _sum_rates(candidates)
            # A mean: corrections make each account's rate flutter.
            self._rates = _mean(before[0], summed[0]), _mean(before[1], summed[1])
        requests_rate, tokens_rate = self._rates
        return max(calls / requests_rate, tokens / tokens_rate) if requests_rate else inf if calls else 0.0

    def longest_need(self, need: float, now: float) -> float:
        """The longest that a call of late needed for the refill of its own amounts, in seconds; `need` is one more."""
        faded = self._need * 0.5 ** ((now - self._need_at) / NEED_MEMORY)
        self._need, self._need_at = max(faded, need if need < inf else 0.0), now
        return self._need


def _sum_rates(candidates: Iterable[Candidate]) -> tuple[float, float]:
    requests_rate = tokens_rate = 0.0
    for candidate in candidates:
        if candidate.account.probation is None and any(key.health.probation is None for key in candidate.keys):
            requests, tokens = candidate.quota.rates()
            requests_rate, tokens_rate = requests_rate + requests, tokens_rate + tokens
    return requests_rate, tokens_rate or inf


def _mean(before: float, now: float) -> float:
    return before + RATES_STEP * (now - before) if before < inf and now < inf else now
