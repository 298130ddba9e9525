"""What a call can go to: the keys of one account at one host."""

from __future__ import annotations

from math import inf

from .affinity import LENGTHS, LIFETIMES, UNSTATED
from .model import RouteRequest
from .objectives import SPARING
from .price import Price
from .quota import Amounts, Quota
from .standing import Standing
from .state import AccountState, HostState, KeyState

UNPRICED = 1e12
"""Micro-dollars at which a call is ranked that has no known price."""


class Candidate:
    """The keys of one account at one host that can serve a lane's models: what objectives choose among.

    All attributes are to be read only.
    """

    __slots__ = (
        *("_price", "_rates", "account", "cheapest", "closed_until", "host", "keys", "place", "quality", "quota"),
        *("shaped_at", "standing", "weight"),
    )

    def __init__(self, account: AccountState, host: HostState, quota: Quota, standing: Standing) -> None:
        self.account = account
        self.host = host
        self.quota = quota
        self.standing = standing
        self.keys: list[KeyState] = []
        self.weight = 1.0
        """The largest of its keys' weights."""
        self.quality = 0.0
        """The largest of its keys' qualities, 0 to 1; 0.5 where none is set."""
        self.cheapest: KeyState | None = None
        """The first of its keys with the smallest price multiplier."""
        self._price: Price | None = None
        self._rates: tuple[float, ...] = ()
        """Micro-dollars for a token of a prompt, what it is more where it is cached (less than 0), and of an answer."""
        self.place = -1
        """Where it stands among the lane's open accounts; -1 if it is closed."""
        self.closed_until = -inf
        self.shaped_at = 0
        """The version of its limits of which the lane knows the shape."""

    @property
    def name(self) -> str:
        """The account's name."""
        return self.account.name

    @property
    def share(self) -> float:
        """Its weight, less where one of its limits is likely to be used up before it is there again."""
        return self.weight * (1.0 - SPARING * self.quota.scarcity)

    @property
    def in_flight(self) -> int:
        """Calls of this model family that the account is serving."""
        return self.standing.in_flight

    @property
    def latency(self) -> float:
        """Mean seconds until the headers of an answer; 0 while unknown."""
        return self.standing.latency

    @property
    def price_multiplier(self) -> float:
        """The smallest of its keys' price multipliers."""
        return self.cheapest.price_multiplier if self.cheapest else 1.0

    def expected_cost(self, request: RouteRequest) -> float:
        """Micro-dollars that a call costs here, where as much of its prompt comes from the cache as usual.

        What has no known price comes after all that has, by price multiplier. An answer counts as long as its cap,
        and a long prompt as any other: this ranks, and is no bill.
        """
        key = self.cheapest
        price = key.price_of(request.model) if key else None
        if key is None or price is None:
            return UNPRICED * self.price_multiplier
        if price is not self._price:
            self._price, rates = price, dict(price.rates)
            self._rates = tuple(float(rates.get(part, 0)) for part in ("prompt", "cached", "completion"))
        prompt, answer = request.estimate()
        caches = prompt >= LENGTHS[0] and LIFETIMES.get(key.provider, UNSTATED).gone > 0.0
        for_prompt, for_cached, for_answer = self._rates
        return prompt * (for_prompt + for_cached * self.standing.cached * caches) + answer * for_answer

    def success_rate(self, now: float) -> float:
        """The expected share of calls that succeed, 0 to 1; `now` is monotonic seconds."""
        return self.standing.success_rate(now)

    def add(self, key: KeyState) -> None:
        """One more key of this account; it owes nothing for what the others have served."""
        key.rank = max(key.rank, min((other.rank for other in self.keys), default=0.0))
        self.keys.append(key)
        self._sum_up()

    def remove(self, key: KeyState) -> None:
        """A key that belongs to another account after all."""
        self.keys.remove(key)
        self._sum_up()

    def _sum_up(self) -> None:
        self.weight = max((key.weight for key in self.keys), default=1.0)
        self.quality = max((key.quality for key in self.keys), default=0.0)
        self.cheapest = min(self.keys, key=lambda key: key.price_multiplier, default=None)


class Choice:
    """An account and a key for a call, from monotonic time `start` on."""

    __slots__ = ("amounts", "candidate", "key", "start")

    def __init__(self, candidate: Candidate, key: KeyState, amounts: Amounts, start: float) -> None:
        self.candidate = candidate
        self.key = key
        self.amounts = amounts
        self.start = start
