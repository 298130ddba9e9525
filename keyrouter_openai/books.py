"""What a pool's attempts cost and teach, on its way into the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .core.memory import Learned, LearnedAccount
from .core.model import Outcome
from .events import AccountLearned, Event
from .lease import Lease, attempt_of, outcome_if_killed
from .pool import Pool
from .prices import Cost, Prices, begin_loading
from .protocols import Clock, Recorder

if TYPE_CHECKING:
    from .budgets import Budgets

REMEMBERED_EVERY = 60.0
"""Seconds after which what is known of an account's limits is passed on to be kept, if it is in use."""


class Books:
    """Keeps the books of one router: with prices, budgets and a ledger, as far as there are any.

    All but `began` is called under the router's lock.
    """

    def __init__(
        self, name: str, pool: Pool, prices: Prices, budgets: Budgets | None, ledger: Recorder | None, clock: Clock
    ) -> None:
        self._name = name
        self._pool = pool
        self._prices = prices
        self._budgets = budgets
        self._ledger = ledger
        self._clock = clock

    def began(self, lease: Lease, started_at: float, waited_s: float) -> None:
        """An attempt is about to be sent: put on record what is to stand there if nothing more is heard of it."""
        begin_loading()
        if self._ledger is None:
            return
        outcome, spending = outcome_if_killed(lease), lease.spending
        if spending is None:
            cost = self._prices.cost(lease.key, lease.request.model, outcome, started_at, quiet=True)
        else:
            cost = Cost(spending.outlay.likely, spending.outlay.source)
        lease.begun = attempt_of(lease, outcome, cost, pool=self._name, started_at=started_at, waited_s=waited_s)
        self._ledger.began(lease.begun)

    def ended(self, lease: Lease, outcome: Outcome, started_at: float, waited_s: float) -> list[Event]:
        """An attempt is over: charge it to its budgets, and put it on record."""
        told: list[Event] = []
        cost = self._prices.cost(lease.key, lease.request.model, outcome, started_at)
        if self._budgets is not None:
            cost, told = self._budgets.settle(lease, outcome, cost)
        if self._ledger is not None:
            attempt = attempt_of(lease, outcome, cost, pool=self._name, started_at=started_at, waited_s=waited_s)
            if attempt.usage is not None and attempt.price_source is None:
                self._prices.expect(attempt, lease.key)
            self._ledger.record(attempt)
        return told

    def unused(self, lease: Lease) -> None:
        """Nothing was sent with this lease after all."""
        if self._budgets is not None:
            self._budgets.cancel(lease)
        if self._ledger is not None and lease.begun is not None:
            self._ledger.withdraw(lease.begun)

    def remember(self, lease: Lease, events: Iterable[Event]) -> None:
        """Pass on what an attempt has taught, so that the next start is not blind."""
        if self._ledger is None:
            return
        learned: list[Learned] = [
            LearnedAccount(event.key, event.account, event.evidence, event.at)
            for event in events
            if isinstance(event, AccountLearned)
        ]
        now = self._clock.monotonic()
        if lease.quota.buckets and now - lease.quota.saved_at >= REMEMBERED_EVERY:
            learned += self._pool.limits_of(lease.account, lease.quota, now=now, wall=self._clock.time() - now)
        if learned:
            self._ledger.remember(self._name, learned)

    def remember_all(self) -> None:
        """Pass on all that is known of limits."""
        if self._ledger is None:
            return
        now = self._clock.monotonic()
        learned: list[Learned] = []
        for account in self._pool.accounts.values():
            for quota in account.quotas.values():
                learned += self._pool.limits_of(account, quota, now=now, wall=self._clock.time() - now)
        self._ledger.remember(self._name, learned)
