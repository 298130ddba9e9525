"""What a call can go to: the keys of one account at one host."""

from __future__ import annotations

from math import inf

from .quota import Amounts, Quota
from .standing import Standing
from .state import AccountState, HostState, KeyState


class Candidate:
    """The keys of one account at one host that can serve a lane's models: what objectives choose among.

    All attributes are to be read only.
    """

    __slots__ = (
        *("account", "closed_until", "host", "keys", "place", "price_multiplier", "quality", "quota", "standing"),
        *("shaped_at", "weight"),
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
        self.price_multiplier = 1.0
        """The smallest of its keys' price multipliers."""
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
    def in_flight(self) -> int:
        """Calls of this model family that the account is serving."""
        return self.standing.in_flight

    @property
    def latency(self) -> float:
        """Mean seconds until the headers of an answer; 0 while unknown."""
        return self.standing.latency

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
        self.price_multiplier = min((key.price_multiplier for key in self.keys), default=1.0)


class Choice:
    """An account and a key for a call, from monotonic time `start` on."""

    __slots__ = ("amounts", "candidate", "key", "start")

    def __init__(self, candidate: Candidate, key: KeyState, amounts: Amounts, start: float) -> None:
        self.candidate = candidate
        self.key = key
        self.amounts = amounts
        self.start = start
