"""Who is in the pool: its keys, accounts and hosts, and for each model the lane of those that can serve it.

`Router` changes this under its lock; nothing here waits, sends or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from itertools import islice
from math import inf
from random import Random

from .core.buckets import Bucket
from .core.health import HEALTHY
from .core.kinship import Kinship, own_account
from .core.lanes import Lane
from .core.memory import Learned, LearnedLimit
from .core.model import DAY, MINUTE, Dimension, RouteRequest
from .core.price import Price
from .core.queue import Turn
from .core.quota import Quota
from .core.select import Obstacle, mismatch
from .core.standing import Unit
from .core.state import LONG, AccountState, HostState, KeyState, model_family
from .keys import Key, Limits, is_made_up
from .providers import PROVIDERS

MOST_PLACES = 300_000
"""Keys that can serve, summed over the models that are kept in mind."""
MOST_NAMES = 1024
"""Models that are kept in mind: their names come from callers, and never end."""
ENDPOINT = "endpoint:"
"""What the name of a lane begins with for calls without a model."""
LONG_CONTEXT = 128_000
"""Tokens of a prompt from which on some models have limits of their own (OpenAI's rate-limit guide)."""


class Pool:
    """The state of one pool, and how it is put together from `Key`s."""

    def __init__(self, rng: Random, price_of: Callable[[Key, str | None], Price | None]) -> None:
        self._rng = rng
        self._price_of = price_of
        self.keys: dict[str, KeyState] = {}
        self.accounts: dict[str, AccountState] = {}
        self.hosts: dict[str, HostState] = {}
        self.settings: dict[str, Key] = {}
        self.kinship = Kinship()
        """Works out which keys share limits."""
        self._recalled: dict[tuple[str, str], list[LearnedLimit]] = {}
        """What was learned of limits before a restart, by account and family; taken out once it is used."""
        self._wall = 0.0
        """What wall-clock time was ahead of monotonic time when that was recalled, in seconds."""
        self.changed = False
        """An account or host has been looked at anew since those that wait were last told."""
        self._units: dict[str, Unit] = {}
        """By model family: in what the ranks of accounts are counted."""
        self._by_name: dict[tuple[str, str | None, str | None, bool], Lane] = {}
        """By model or endpoint, the key or account that the caller named, and whether the prompt is long."""
        self._places = 0
        """The keys of all lanes together."""
        self._lanes: dict[tuple[str, str, str | None, frozenset[str]], Lane] = {}
        """By model family or else endpoint, the account that was named, and the keys that can serve."""

    def replace(self, keys: Sequence[Key], now: float) -> list[Turn]:
        """Have these keys and no others. Returns the calls that waited, which are to be placed anew."""
        self._rename_accounts({key.name for key in keys if self._is_same(key)})
        states = {key.name: self._state_of(key) for key in keys}
        self.keys = states
        self.kinship = Kinship()
        for key in keys:
            self.kinship.add(key.name, states[key.name].host.name, declared=key.account)
        for name, state in states.items():
            if self.kinship.accounts[name] != state.account.name:
                self.kinship.restore(name, state.account.name)
        self.settings = {key.name: key for key in keys}
        for account in self.accounts.values():
            account.members = []
        for state in states.values():
            state.account.members.append(state)
        self.accounts = {name: account for name, account in self.accounts.items() if account.members}
        waiting = [turn for lane in self._lanes.values() for turn in lane.send_away()]
        self._lanes.clear()
        self._by_name.clear()
        self._places = 0
        return waiting

    def _is_same(self, key: Key) -> bool:
        """Whether the pool has a key of this name with the same credential."""
        old = self.settings.get(key.name)
        return old is not None and (old.secret, old.base_url, old.provider) == (key.secret, key.base_url, key.provider)

    def _rename_accounts(self, staying: set[str]) -> None:
        """An account that is called after a key that goes is called after one that stays."""
        for account in list(self.accounts.values()):
            left = [key.name for key in account.members if key.name in staying]
            if left and account.name in {own_account(key.name) for key in account.members if key.name not in staying}:
                del self.accounts[account.name]
                account.name = own_account(left[0])
                self.accounts[account.name] = account

    def _state_of(self, key: Key) -> KeyState:
        """The state of a key: what is known of one of that name, with the settings of the new."""
        address = key.base_url or PROVIDERS[key.provider].base_url or key.provider
        host = self.hosts.setdefault(address, HostState(address))
        name = key.account or own_account(key.name)
        old = self.settings.get(key.name)
        same = self._is_same(key)
        if old is not None and not same and key.account is None:
            self.accounts.pop(name, None)  # what is known of that account was of another credential
        account = self.accounts.setdefault(name, AccountState(name))
        if old is None or not same:
            state = KeyState(key.name, key.provider, account, host)
        else:
            state = self.keys[key.name]
            if key.account is not None or old.account is not None:
                state.account = account
            if key.secret is None:
                state.health, state.vault_until = HEALTHY, -inf
        if old is not None and old.limits != key.limits:
            state.account.quotas = {}  # what was learned may have come from them
        state.declared_account = key.account is not None
        state.weight, state.models, state.enabled = key.weight, key.models, key.enabled
        state.quality = 0.5 if key.quality is None else key.quality
        state.price_multiplier = key.price_multiplier
        state.price_of = partial(self._price_of, key)
        return state

    # -- lanes

    def lane(self, request: RouteRequest, now: float) -> Lane:
        """All that can serve a call."""
        model = request.model
        is_long = model is not None and request.estimate().prompt >= LONG_CONTEXT
        name = (model or f"{ENDPOINT}{request.endpoint}", request.key, request.account, is_long)
        found = self._by_name.get(name)
        if found is None:
            if len(self._by_name) >= MOST_NAMES or self._places >= MOST_PLACES:
                self._forget_idle()
            found = self._by_name[name] = self._find_lane(request, is_long=is_long, now=now)
        found.in_use = True
        return found

    def _find_lane(self, request: RouteRequest, *, is_long: bool, now: float) -> Lane:
        """Models of one family that the same keys serve have one lane."""
        members = [key for key in self.keys.values() if mismatch(key, request) is None]
        family = model_family(request.model) + (LONG if is_long else "")
        names = frozenset(key.name for key in members)
        place = (family, "" if request.model else request.endpoint, request.account, names)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(request.model, family, names, self._units.setdefault(family, Unit()))
            for key in members:
                lane.add(key, key.account, key.host, self._quota(key, key.account, lane, now), self._rng)
            lane.even_out()
            self._places += len(members)
        return lane

    def _forget_idle(self) -> None:
        """Drop what is kept for names that were not used since the last time: they may have been made up."""
        self._by_name.clear()
        waited_for = {place: lane for place, lane in self._lanes.items() if lane.queue or lane.holds}
        used = {place: lane for place, lane in self._lanes.items() if lane.in_use} | waited_for
        self._lanes = used if 2 * len(used) < len(self._lanes) else waited_for
        for lane in self._lanes.values():
            lane.in_use = False
        self._places = sum(len(lane.members) for lane in self._lanes.values())
        families = {lane.family for lane in self._lanes.values()}
        families |= {family.removesuffix(LONG) for family in families}
        for account in self.accounts.values():
            account.forget_families(families)
        known = families.union(*(account.standings for account in self.accounts.values()))
        self._units = {family: unit for family, unit in self._units.items() if family in known}

    def _quota(self, key: KeyState, account: AccountState, lane: Lane, now: float) -> Quota:
        quota = account.quota(lane.family, key.provider, now)
        if not quota.buckets and not quota.answers:
            for learned in self._recalled.pop((account.name, lane.family), ()):
                self._recall(quota, learned, now)
        configured = limits_for(self.settings[key.name].limits, lane.model)
        if configured is not None:
            quota.concurrent = configured.concurrent or quota.concurrent
            if not quota.buckets:
                configure(quota, configured, now)
        return quota

    def recall(self, values: Iterable[Learned], *, now: float, wall: float) -> None:
        """Start from what was learned before; `wall` is what wall-clock time is ahead of monotonic time.

        What names a key that was called by its place, such as `key-1`, is left out: it may have been another.
        """
        self._wall = wall
        for value in values:
            if isinstance(value, LearnedLimit):
                if not is_made_up(value.account.removeprefix("key:")):
                    self._recalled.setdefault((value.account, value.family), []).append(value)
                continue
            key = self.keys.get(value.key)
            if key is not None and not key.declared_account and not is_made_up(key.name):
                for decision in self.kinship.restore(value.key, value.account):
                    self.move(self.keys[decision.key], decision.account, now)

    @staticmethod
    def limits_of(account: AccountState, quota: Quota, *, now: float, wall: float) -> list[LearnedLimit]:
        """What is known of the limits of an account for a model family, to be recalled later."""
        quota.saved_at = now
        return [
            LearnedLimit(
                account=account.name,
                family=quota.family,
                dimension=bucket.dimension,
                period=bucket.period,
                limit=bucket.limit,
                burst=bucket.capacity,
                level=bucket.level_at(now) + bucket.held,
                at=now + wall,
                guessed=bucket.guessed,
            )
            for bucket in quota.buckets
        ]

    def _recall(self, quota: Quota, learned: LearnedLimit, now: float) -> None:
        bucket = Bucket(
            learned.dimension, learned.period, learned.limit, now, level=learned.level, guessed=learned.guessed
        )
        bucket.shrink(min(learned.burst, learned.limit))
        bucket.at = min(learned.at - self._wall, now)
        quota.add(bucket)
        bucket.refill(now)

    def move(self, key: KeyState, name: str, now: float) -> None:
        """A key turns out to belong to the account of that name."""
        account = self.accounts.setdefault(name, AccountState(name))
        old = key.account
        if account is old:
            return
        key.account = account
        account.members.append(key)
        old.members.remove(key)
        if not old.members:  # nobody is left there who could use what is known of it
            account.absorb(old)
            self.accounts.pop(old.name, None)
        for lane in self._lanes.values():
            lane.remove(key, old, key.host)
            if key.name in lane.members:
                lane.add(key, account, key.host, self._quota(key, account, lane, now), self._rng)
        for asked in [asked for asked in self._by_name if asked[2] in (old.name, account.name)]:
            del self._by_name[asked]  # who asks for one of the two accounts next finds its keys anew

    def unfit(self, request: RouteRequest, most: int) -> dict[str, Obstacle]:
        """The keys that can never serve a call, and why; the first `most` of them."""
        found = ((key.name, mismatch(key, request)) for key in self.keys.values())
        return dict(islice(((name, (why, inf)) for name, why in found if why is not None), most))

    def set_apart(self, account: AccountState, quota: Quota, provider: str, now: float, *, apart: bool) -> None:
        """Long prompts turn out to have limits of their own, or not to have them after all."""
        family = quota.family.removesuffix(LONG) + LONG
        if apart:
            account.apart.add(family)
        else:
            account.apart.discard(family)
            account.quotas.pop(family, None)
        for lane in self._lanes.values():
            for candidate in lane.candidates_of(account) if lane.family == family else ():
                candidate.quota = account.quota(family, provider, now)

    def share_limit(self, account: AccountState, family: str, with_family: str, provider: str, now: float) -> None:
        """Two model families of an account turn out to share one limit."""
        account.shared[family] = with_family
        account.quotas.pop(family, None)
        for lane in self._lanes.values():
            for candidate in lane.candidates.values():
                if candidate.account is account and lane.family == family:
                    candidate.quota = account.quota(family, provider, now)

    def reopen(self, *, account: AccountState | None = None, host: HostState | None = None) -> None:
        """Something has changed for an account or a host: look at it anew."""
        self.changed = True
        for lane in self._lanes.values():
            for candidate in lane.candidates_of(account) if account is not None else lane.candidates.values():
                if (host is None or candidate.host is host) and candidate.quota.debtor is None:
                    lane.open(candidate)

    def open(self, account: AccountState) -> None:
        """Nobody waits for this account any more: whoever comes may."""
        for lane in self._lanes.values():
            for candidate in lane.candidates_of(account):
                lane.open(candidate)

    def forget_leases(self) -> None:
        """In the child of a fork no lease is out and nobody waits, whatever the parent's calls are doing."""
        self._lanes.clear()
        self._by_name.clear()
        self._places = 0
        self.changed = False
        for state in self.keys.values():
            state.in_flight, state.canary = 0, False
        for account in self.accounts.values():
            account.canary = False
            for standing in account.standings.values():
                standing.in_flight = 0
            for quota in account.quotas.values():
                quota.forget_leases()


def limits_for(limits: Mapping[str, Limits], model: str | None) -> Limits | None:
    """The configured limits for a model: of the first pattern that fits it."""
    return next((found for pattern, found in limits.items() if fnmatchcase(model or "", pattern)), None)


def configure(quota: Quota, limits: Limits, now: float) -> None:
    """Start from configured limits; what the provider's answers say is taken over them."""
    for dimension, period, limit in (
        (Dimension.REQUESTS, MINUTE, limits.rpm),
        (Dimension.TOKENS, MINUTE, limits.tpm),
        (Dimension.REQUESTS, DAY, limits.rpd),
        (Dimension.TOKENS, DAY, limits.tpd),
    ):
        if limit is not None:
            quota.add(Bucket(dimension, period, limit, now))
