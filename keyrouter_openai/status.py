"""What `Router.status()` answers: the pool at one moment, as frozen values that turn into JSON with `asdict`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from .core.budget import Share
from .core.forecast import Forecast, Subject
from .core.model import Fault
from .core.state import AccountState, KeyState
from .pool import Pool


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key. `until` is wall-clock time, or None where nobody knows or nothing is to wait for."""

    name: str
    provider: str
    account: str
    state: str
    """`available`, `throttled`, `exhausted`, `suspect`, `invalid` or `disabled`."""
    reason: str
    until: float | None
    in_flight: int


@dataclass(frozen=True, slots=True)
class BucketStatus:
    """One limit: units granted per `period` seconds, and what the router believes to be left of it now."""

    family: str
    dimension: str
    period: float
    limit: float
    level: float
    guessed: bool
    """No provider named the limit: it is what went well, and the router tries for more."""


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One quota domain: its keys, its state, each model family that is parked, until when (wall clock), its limits."""

    name: str
    keys: tuple[str, ...]
    state: str
    until: float | None
    parked: dict[str, float]
    buckets: tuple[BucketStatus, ...]


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """One budget in its present window. Amounts are US dollars, times wall-clock time."""

    name: str
    scope: str
    per: str
    action: str
    usd: float
    """What it allows."""
    spent_usd: float | None
    """By all processes, as far as this one knows: that of others is some 0.2 s old while calls are made. None before
    the ledger was first asked, which this does too."""
    reserved_usd: float
    """For calls that are under way in this process."""
    since: float
    until: float | None
    """None if it never ends."""
    reached: bool
    """In this window more was spent than it allows (`warn`), or a call was refused (`block`)."""


@dataclass(frozen=True, slots=True)
class ForecastStatus:
    """When a limit with a period of an hour or more, or a budget, will be used up at the present pace.

    That of a limit is up to a minute old. There is none in the first minute, and none where the pool has but one key.
    """

    subject: Subject
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The whole pool. `in_flight` counts the attempts that are out."""

    pool: str
    at: float
    in_flight: int
    keys: tuple[KeyStatus, ...]
    accounts: tuple[AccountStatus, ...]
    budgets: tuple[BudgetStatus, ...] = ()
    forecasts: tuple[ForecastStatus, ...] = ()

    def key(self, name: str) -> KeyStatus:
        """The status of one key; KeyError if the pool has none of that name."""
        return {k.name: k for k in self.keys}[name]

    def account(self, name: str) -> AccountStatus:
        """The status of one account; KeyError if the pool has none of that name."""
        return {a.name: a for a in self.accounts}[name]


def account_state(account: AccountState, now: float) -> tuple[str, float]:
    """The state of an account and until when, in monotonic seconds (inf: nobody knows)."""
    if account.probation is not None:
        closed = account.cause is Fault.ACCOUNT_CLOSED
        return "invalid" if closed else "exhausted", account.probation.due
    until = max((quota.parked_until for quota in account.quotas.values()), default=-inf)
    return ("throttled", until) if until > now else ("available", -inf)


def key_state(key: KeyState, now: float) -> tuple[str, str, float]:
    """The state of a key, why, and until when in monotonic seconds."""
    if not key.enabled:
        return "disabled", "disabled by a person", inf
    if key.health.probation is not None:
        return "invalid", "rejected by the provider", key.health.probation.due
    state, until = account_state(key.account, now)
    if key.account.probation is not None:
        return state, f"account {key.account.why}", until
    if key.vault_until > now:
        return "invalid", "its secret cannot be read", key.vault_until
    if key.health.suspect:
        return "suspect", "rejected once by the provider", -inf
    if state == "throttled":
        return state, "rate limit of its account", until
    paused = max((breaker.opened_until for breaker in key.host.breakers.values()), default=-inf)
    if paused > now:
        return "throttled", "its provider is failing or asked to pause", paused
    return "available", "", -inf


def pool_status(
    name: str,
    pool: Pool,
    now: float,
    wall: float,
    shares: Sequence[Share] = (),
    forecasts: tuple[ForecastStatus, ...] = (),
) -> PoolStatus:
    """The whole pool at monotonic time `now`; `wall` is what wall-clock time is ahead of that."""
    reached = [share for share in shares if share.refuses]
    accounts = {state.account.name: state.account for state in pool.keys.values()}
    return PoolStatus(
        pool=name,
        at=now + wall,
        in_flight=sum(state.in_flight for state in pool.keys.values()),
        keys=tuple(_key_status(state, reached, now, wall) for state in pool.keys.values()),
        accounts=tuple(_account_status(account, pool, now, wall) for account in accounts.values()),
        budgets=tuple(_budget_status(share) for share in shares),
        forecasts=forecasts,
    )


def _key_status(key: KeyState, reached: Sequence[Share], now: float, wall: float) -> KeyStatus:
    state, reason, until = key_state(key, now)
    for share in reached if state not in ("disabled", "invalid", "exhausted") else ():
        if (share.rule.kind, share.rule.value) in (("key", key.name), ("account", key.account.name)):
            state, reason, until = "exhausted", f"budget {share.rule.name!r} is reached", share.window.end - wall
    return KeyStatus(key.name, key.provider, key.account.name, state, reason, _known(until + wall), key.in_flight)


def _account_status(account: AccountState, pool: Pool, now: float, wall: float) -> AccountStatus:
    state, until = account_state(account, now)
    members = tuple(key.name for key in account.members)
    parked = {f: quota.parked_until + wall for f, quota in account.quotas.items() if quota.parked_until > now}
    buckets: list[BucketStatus] = []
    for family, quota in account.quotas.items():
        for bucket in quota.buckets:
            level = bucket.level_at(now)
            dimension = bucket.dimension.value
            buckets.append(BucketStatus(family, dimension, bucket.period, bucket.limit, level, bucket.guessed))
    return AccountStatus(account.name, members, state, _known(until + wall), parked, tuple(buckets))


def _budget_status(share: Share) -> BudgetStatus:
    rule, window = share.rule, share.window
    return BudgetStatus(
        name=rule.name,
        scope=rule.scope,
        per=rule.per,
        action="block" if rule.blocks else "warn",
        usd=rule.microusd / 1e6,
        spent_usd=share.surely_spent / 1e6 if share.looked else None,
        reserved_usd=share.reserved / 1e6,
        since=float(window.start),
        until=_known(window.end),
        reached=share.reached,
    )


def _known(wall_time: float) -> float | None:
    return wall_time if isfinite(wall_time) else None
