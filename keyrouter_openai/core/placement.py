"""Which account a call should go to where limits are of different shape: tokens for each request.

A large call uses up the tokens of an account that has few for its requests; a small one wastes a request of an
account that has few of those. What serves the most is the optimum of a linear programme over requests and tokens.
Its dual gives each limit a price, and a call belongs where what it takes costs least. What was used of a limit,
relative to what is left, serves as its price: it rises until no more is asked of the limit than comes in. That
finds the optimum without knowing what calls will come (MaxWeight: L. Tassiulas and A. Ephremides, IEEE TAC 37(12),
1992; of such prices: A. Stolyar, Queueing Systems 50(4), 2005).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from .candidate import Candidate
from .model import Dimension, Estimate
from .quota import Amounts, Quota

WAIT = 1.0
"""Seconds, at most, that a call waits for an account where it costs less than where it could start now."""
LEAST = 0.005
"""Share of a limit that is taken to be left at least: below that only the margin is."""
ALIKE = 1.05
"""Times that tokens for each request may differ between accounts of one shape."""
SIZE_STEP = 0.01
"""Weight of one call in the mean size of calls."""


class Placement:
    """What is known of the shapes of a lane's limits, and of the size of its calls."""

    __slots__ = ("_least", "_most", "_size", "matters")

    def __init__(self) -> None:
        self.matters = False
        """Whether accounts of different shape have been seen."""
        self._least = inf
        self._most = 0.0
        self._size = 0.0
        """Mean tokens of a call: in prices, a request counts for as many."""

    def learn(self, quota: Quota) -> None:
        """Take note of an account's limits: they were not known, or have changed."""
        requests = min([b.rate for b in quota.buckets if b.dimension is Dimension.REQUESTS], default=inf)
        tokens = min([b.rate for b in quota.buckets if b.dimension is not Dimension.REQUESTS], default=inf)
        if requests == inf and tokens == inf:
            return
        shape = tokens / requests
        self._least, self._most = min(self._least, shape), max(self._most, shape)
        self.matters = self._most > ALIKE * self._least

    def granted(self, quota: Quota, amounts: Amounts) -> None:
        """Take note of a call's size."""
        size = 0.0
        for bucket, amount in zip(quota.buckets, amounts, strict=False):
            if amount > size and bucket.dimension is not Dimension.REQUESTS:
                size = amount
        self._size += (SIZE_STEP if self._size else 1.0) * (size - self._size)

    def cost(self, quota: Quota, amounts: Amounts, now: float) -> float:
        """What a call costs at an account: 0 where all of its limits is there."""
        cost, size = 0.0, self._size or 1.0
        for bucket, amount in zip(quota.buckets, amounts, strict=False):
            left = (bucket.level + bucket.net * (now - bucket.at)) / bucket.capacity
            if left < 1.0:
                price = 1.0 / (left if left > LEAST else LEAST) - 1.0
                cost += price if bucket.dimension is Dimension.REQUESTS else price * amount / size
        return cost

    def ranked(self, candidates: Iterable[Candidate], estimate: Estimate, now: float) -> list[Candidate]:
        """Accounts by what a call costs there, relative to weight; of equals, the least used comes first."""
        costs = [
            (self.cost(c.quota, c.quota.amounts(estimate), now) / c.share, c.standing.rank, place, c)
            for place, c in enumerate(candidates)
        ]
        return [candidate for *_, candidate in sorted(costs)]
