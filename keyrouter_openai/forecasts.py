"""What of a router's accounts and budgets runs dry, and when: their use is counted as attempts end, and told ahead.

`Router` calls this under its lock; nothing here waits, sends or writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite

from .core.buckets import Bucket
from .core.budget import Share
from .core.forecast import HOUR, SLOT, DayPattern, Forecast, Meter, Pace, Subject
from .core.model import Dimension, Fault, Outcome
from .core.quota import Quota
from .events import Event, ExhaustionPredicted
from .lease import Lease
from .pool import Pool
from .status import ForecastStatus

LIKELY, UNLIKELY = 0.8, 0.2
"""It is told that something will run dry when it is so likely, and again only after it was so unlikely."""
LOOKS = 8
"""Limits likely to run dry that are looked at again at a time, also if they are not used."""
PAUSES = (SLOT, 60.0)
"""Least and most seconds from one forecast to the next."""
PATIENCE = 0.05
"""Share of the time until something may run dry after which the next is made."""

_MICRO = 1_000_000


class _Watch:
    """One limit or budget whose use is counted."""

    __slots__ = ("due", "forecast", "pace", "since", "subject", "told", "used")

    def __init__(self, subject: Subject, now: float) -> None:
        self.subject = subject
        self.pace = Pace()
        self.used = 0.0
        """Since the present slot began."""
        self.since = now
        """When that was, in monotonic seconds."""
        self.told = False
        """That it will run dry."""
        self.forecast: Forecast | None = None
        self.due = -inf
        """When the next is to be made."""

    def catch_up(self, now: float, wall: float, pattern: DayPattern) -> None:
        """Close the slots that are over."""
        slots = int((now - self.since) // SLOT)
        if slots > 0:
            seconds = slots * SLOT
            self.pace.add(self.used, slots, pattern.between(wall - seconds, wall) / seconds)
            self.used = 0.0
            self.since += seconds


class _BudgetWatch(_Watch):
    """A budget, whose use is what its spending has grown by."""

    __slots__ = ("spent",)

    def __init__(self, subject: Subject, now: float, spent: int) -> None:
        super().__init__(subject, now)
        self.spent = spent

    def read(self, share: Share) -> Meter:
        """What is spent now; another window begins at nothing."""
        spent = share.surely_spent
        self.used += (spent - self.spent if spent >= self.spent else spent) / _MICRO
        self.spent = spent
        end = share.window.end
        return Meter(share.rule.microusd / _MICRO, spent / _MICRO, end if isfinite(end) else None)


class _QuotaWatch:
    """The limits with long periods of one account and model family, by their places among its buckets."""

    __slots__ = ("due", "version", "watches")

    def __init__(self, version: int, watches: dict[int, _Watch], now: float) -> None:
        self.version = version
        self.watches = watches
        self.due = now + SLOT if watches else inf


class Forecasts:
    """The forecasts of one pool.

    Args:
        name: the pool's name, for events.
        pool: its accounts.
        shares: what is known of each budget now.
    """

    def __init__(self, name: str, pool: Pool, shares: Callable[[], Sequence[Share]]) -> None:
        self._name = name
        self._pool = pool
        self._shares = shares
        self._pattern = DayPattern()
        """Of the pool's calls: tokens and money are taken to follow them."""
        self._calls = 0
        self._due = -inf
        self._quotas: dict[Quota, _QuotaWatch] = {}
        self._many = 1
        """So many of these that those of accounts which are gone may be among them."""
        self._budgets: dict[str, _BudgetWatch] = {}
        self._scarce: dict[Quota, None] = {}
        """Those that are likely to run dry; the first was looked at the longest ago."""

    def recall(self, calls_by_hour: Iterable[tuple[float, float]]) -> None:
        """Learn the pattern of the day from hours on record: the start of each (seconds since the epoch), its calls."""
        self._pattern.recall(calls_by_hour)

    def settled(self, lease: Lease, outcome: Outcome, now: float, wall: float) -> list[Event]:
        """Count what an attempt has used; every few seconds, look ahead. `wall` is wall-clock time at `now`."""
        self._calls += 1
        events: list[Event] = []
        if lease.reservation.amounts:  # else it has no limits, or is the only key, whose limits nobody counts
            self._count(lease, outcome, now, wall, events)
        if now >= self._due:
            self._look_around(now, wall, events)
        return events

    def _count(self, lease: Lease, outcome: Outcome, now: float, wall: float, events: list[Event]) -> None:
        quota = lease.quota
        found = self._quotas.get(quota)
        if found is None or found.version != quota.limits_at:
            found = self._watch(lease, found, now)
        if now >= found.due:
            self._look_at(quota, found, now, wall, events)
        for place, watch in found.watches.items():
            watch.used += _charged(lease, outcome, place)

    def current(self, now: float, wall: float) -> tuple[ForecastStatus, ...]:
        """All forecasts there are, budgets first."""
        for watch in self._budgets.values():
            watch.due = now
        self._look_at_budgets(now, wall)
        self._prune()
        watches: list[_Watch] = list(self._budgets.values())
        for quota, found in self._quotas.items():
            for place, watch in found.watches.items():
                if now >= watch.due and found.version == quota.limits_at:
                    self._foretell(watch, _meter(quota.buckets[place], now, wall), now, wall)
                watches.append(watch)
        return tuple(ForecastStatus(watch.subject, watch.forecast) for watch in watches if watch.forecast is not None)

    def _watch(self, lease: Lease, known: _QuotaWatch | None, now: float) -> _QuotaWatch:
        """Watch an account's limits for a model family: they were not known, or have changed."""
        quota = lease.quota
        if known is None and len(self._quotas) >= self._many:
            self._prune()
            self._many = 2 * len(self._quotas) + 1
        before = {watch.subject: watch for watch in known.watches.values()} if known else {}
        watches: dict[int, _Watch] = {}
        for place, bucket in enumerate(quota.buckets):
            if bucket.period >= HOUR:
                dimension = bucket.dimension.value
                subject = Subject("account", lease.account.name, dimension, quota.family, bucket.period)
                watches[place] = before.get(subject) or _Watch(subject, now)
        found = self._quotas[quota] = _QuotaWatch(quota.limits_at, watches, now)
        return found

    def _prune(self) -> None:
        """Forget the limits of accounts that are gone."""
        present = {quota for account in self._pool.accounts.values() for quota in account.quotas.values()}
        for quota in [quota for quota in self._quotas if quota not in present]:
            del self._quotas[quota]
            self._scarce.pop(quota, None)

    def _look_at(self, quota: Quota, found: _QuotaWatch, now: float, wall: float, events: list[Event]) -> None:
        found.due = now + SLOT
        quota.scarcity = 0.0
        for place, watch in found.watches.items():
            self._foretell(watch, _meter(quota.buckets[place], now, wall), now, wall)
            self._tell(watch, wall, events)
            if watch.forecast is not None:
                quota.scarcity = max(quota.scarcity, watch.forecast.likelihood)
        self._scarce.pop(quota, None)
        if quota.scarcity >= UNLIKELY:
            self._scarce[quota] = None

    def _look_around(self, now: float, wall: float, events: list[Event]) -> None:
        """Look at what attempts of other accounts may have changed, and at those that get few for their scarcity."""
        self._due = now + SLOT
        self._pattern.add(wall, self._calls)
        self._calls = 0
        self._look_at_budgets(now, wall)
        for watch in self._budgets.values():
            self._tell(watch, wall, events)
        for quota in list(self._scarce)[:LOOKS]:
            found = self._quotas[quota]
            if now >= found.due and found.version == quota.limits_at:
                self._look_at(quota, found, now, wall, events)

    def _look_at_budgets(self, now: float, wall: float) -> None:
        for share in self._shares():
            if not share.looked:  # what was spent before is not known yet
                continue
            rule = share.rule
            watch = self._budgets.get(rule.id)
            if watch is None:
                subject = Subject("budget", rule.name, "usd")
                watch = self._budgets[rule.id] = _BudgetWatch(subject, now, share.surely_spent)
            self._foretell(watch, watch.read(share), now, wall)

    def _foretell(self, watch: _Watch, meter: Meter, now: float, wall: float) -> None:
        watch.catch_up(now, wall, self._pattern)
        if now >= watch.due and watch.pace.is_known:
            watch.forecast = watch.pace.forecast(meter, wall, self._pattern)
            earliest = inf if watch.forecast.earliest is None else watch.forecast.earliest
            least, most = PAUSES
            watch.due = now + min(max(PATIENCE * (earliest - wall), least), most)

    def _tell(self, watch: _Watch, wall: float, events: list[Event]) -> None:
        forecast = watch.forecast
        if forecast is None:
            return
        if watch.told:
            watch.told = forecast.likelihood > UNLIKELY
        elif forecast.likelihood >= LIKELY:
            watch.told = True
            if forecast.left > 0.0:
                events.append(ExhaustionPredicted(wall, self._name, watch.subject, forecast))


def _meter(bucket: Bucket, now: float, wall: float) -> Meter:
    """A bucket refills as it is used: it is full again after its period, if nothing more is taken."""
    return Meter(bucket.limit, bucket.capacity - bucket.level_at(now), wall + bucket.period, bucket.net)


def _charged(lease: Lease, outcome: Outcome, place: int) -> float:
    """What an attempt has taken from a bucket in the end."""
    quota = lease.quota
    dimension = quota.buckets[place].dimension
    if dimension is Dimension.REQUESTS:
        return 1.0
    if outcome.fault is Fault.RATE_LIMIT:  # refused requests are counted, their tokens are not
        return 0.0
    if quota.charges.settles and outcome.usage is not None:
        return quota.charges.after(outcome.usage, dimension)
    taken = lease.reservation
    if taken.buckets is quota.buckets and place < len(taken.amounts):
        return taken.amounts[place]
    return quota.charges.before(lease.request.estimate(), dimension)
