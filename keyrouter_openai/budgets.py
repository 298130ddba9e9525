"""Budgets, enforced: what an attempt may cost is reserved before it is sent, and settled when it has ended.

A process reserves from its own share of each budget, in memory. A share that does not suffice asks the ledger for more
(`ledger.allowances`), and what lies idle is given back. `Router` calls all of this under its lock; nothing here waits.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from itertools import count
from typing import cast
from weakref import ref

from .budget import Budget
from .core.budget import ASK_S, Outlay, Rule, Share, Shortage, Spending
from .core.model import Outcome
from .core.sizes import Sizes
from .errors import ConfigError
from .events import BudgetReached, Event
from .keys import Key
from .lease import Lease
from .ledger import allowances, before_exit
from .ledger.appender import recover
from .prices import Cost
from .protocols import Clock, Recorder

TICK_S = 0.2
"""Seconds between looks for what lies idle here, and into the ledger for what others have spent and given back."""
RECOVER_S = 1.0
"""Seconds between looks, while a call waits, whether a process was killed and what is set aside for it can be had."""
_MICRO = 1_000_000
_LEDGER_TROUBLE = (sqlite3.Error, OSError, ConfigError, CancelledError)


class Budgets:
    """All budgets of a router.

    Args:
        declared: what the user has said; none of them twice.
        pool: the router's.
        ledger: where budgets are shared and kept; None: they hold within this process, while it runs.
        clock: time, for windows.
        keys: the router's keys by name.
        later: has work done under the router's lock, now or soon, and tells the events that it returns.

    Raises:
        ConfigError: there is something else among them, two budgets are the same, or have one name.
    """

    def __init__(
        self,
        declared: Sequence[Budget],
        *,
        pool: str,
        ledger: Recorder | None,
        clock: Clock,
        keys: Callable[[], Mapping[str, Key]],
        later: Callable[[Callable[[], list[Event] | None]], None],
    ) -> None:
        given = cast("object", declared)  # what users pass is checked here, whatever the annotations say
        if not isinstance(given, Sequence) or not all(
            isinstance(each, Budget) for each in cast("Sequence[object]", given)
        ):
            raise ConfigError(f"budgets={declared!r}: give a list of them, such as [Budget(usd=50)]")
        self.declared = tuple(declared)
        self.rules = [budget.rule(pool) for budget in declared]
        ids = [rule.id for rule in self.rules]
        if twice := next((rule for rule in self.rules if ids.count(rule.id) > 1), None):
            raise ConfigError(f"budget {twice.name!r} is given twice: leave one out, or give each its own name")
        self._pool = pool
        self._ledger = ledger
        self._name = f"/{next(_numbers)}"
        """What tells its allowances from those of other routers of this process."""
        self._clock = clock
        self._keys = keys
        self._later = later
        self.sizes = Sizes()
        self._alike: tuple[Mapping[str, Key], dict[object, frozenset[str]]] = {}, {}
        """Keys whose calls cost the same, by what that depends on; worked out for these keys."""
        self.forget()
        _all.add(ref(self, _all.discard))

    def forget(self) -> None:
        """Begin anew, as in the child of a fork: what was reserved and granted is the parent's."""
        self._shares: dict[tuple[str, int], Share] = {}
        """By id of the budget and start of the window."""
        self._current: dict[str, Share] = {}
        """By id of the budget: the one that was used last."""
        self._asked: list[Share] = []
        """The shares for which the ledger is being asked."""
        self._asked_at = 0.0
        self._asking: list[Callable[[], None]] = []
        """Whom to wake when it answers."""
        self._declared = False
        self._cut_off = False
        """The ledger could not be asked the last time."""
        self._recover_at = 0.0
        self._keeper: threading.Thread | None = None

    # -- one attempt

    def reserve(self, lease: Lease, outlay: Outlay, wake: Callable[[], None] | None) -> Shortage | None:
        """Reserve the most that an attempt can cost in all budgets that it touches; or in none, and say why.

        `wake` is called, on any thread, when it is worth another try; see `leave`. Without it nothing is done about
        what is lacking.
        """
        if wake is not None:
            self.leave(wake)
        at = self._clock.time()
        request, key, account = lease.request, lease.key.name, lease.state.account.name
        shares = [self._share(rule, at) for rule in self.rules if rule.concerns(request, key, account)]
        blocking = [share for share in shares if share.rule.blocks]
        if outlay.likely is None:
            for share in blocking:
                if not share.rule.admits_unpriced:
                    return _shortage(share, None, final=True)
        amount = outlay.most
        short = [share for share in blocking if share.free < amount]
        if short:
            return _shortage(short[0], amount) if wake is None else self._lacking(short, amount, wake)
        for share in blocking:
            share.reserve(amount)
        lease.spending = Spending(shares, outlay)
        if any(not share.looked for share in shares):
            self._ask()
        return None

    def settle(self, lease: Lease, outcome: Outcome, cost: Cost) -> tuple[Cost, list[Event]]:
        """An attempt has ended, at this cost if that is known: what is charged, and what to tell."""
        spending = lease.spending
        if spending is None:
            return cost, []
        if outcome.usage is not None and not outcome.usage.estimated:
            self.sizes.learn(lease.request, outcome.usage, spending.outlay)
        charge = spending.charge(outcome, cost.microusd)
        if charge != cost.microusd:
            cost = Cost(charge, spending.outlay.source)
        return cost, self._charge(spending, charge or 0)

    def cancel(self, lease: Lease) -> None:
        """Give back what was reserved for an attempt that was not made."""
        if lease.spending is not None:
            self._charge(lease.spending, 0)
            lease.spending = None

    def leave(self, wake: Callable[[], None]) -> None:
        """A call waits no longer."""
        for share in self._shares.values():
            share.waiting.pop(wake, None)

    def alike(self, rule: Rule, key: Key) -> frozenset[str]:
        """The keys that a budget rules out for a call along with this one: those with which it would cost the same."""
        if rule.kind in ("key", "account"):
            return frozenset([key.name])
        keys = self._keys()
        if self._alike[0] is not keys:
            groups: dict[object, set[str]] = {}
            for each in keys.values():
                groups.setdefault(_costs_as(each), set()).add(each.name)
            self._alike = keys, {group: frozenset(names) for group, names in groups.items()}
        return self._alike[1].get(_costs_as(key), frozenset([key.name]))

    @property
    def keys(self) -> int:
        """How many keys the router has."""
        return len(self._keys())

    def close(self) -> None:
        """Give back all that is not reserved, soon: calls that follow ask anew."""
        self._later(partial(self.give_back, all=True))

    def shares(self) -> list[Share]:
        """What is known of each budget in its present window."""
        at = self._clock.time()
        shares = [self._share(rule, at) for rule in self.rules]
        if any(not share.looked for share in shares):
            self._ask()
        return shares

    def _share(self, rule: Rule, at: float) -> Share:
        """This process's share of a budget, in the window of a time."""
        share = self._current.get(rule.id)
        if share is not None and share.window.start <= at < share.window.end:
            return share
        window = rule.window(at)
        share = self._shares.get((rule.id, window.start))
        if share is None:
            share = self._shares[rule.id, window.start] = Share(
                rule, window, alone=self._ledger is None, holder=self._name
            )
        self._current[rule.id] = share
        return share

    def _lacking(self, short: Sequence[Share], amount: int, wake: Callable[[], None]) -> Shortage:
        """An attempt needs more than these shares have: refuse it, or see to it that they get more."""
        for share in short:
            if share.looked and share.surely_spent + amount > share.rule.microusd:
                if amount > share.rule.microusd:  # the call is too large; the budget serves others
                    return _shortage(share, amount, final=True)
                share.refuses = True
                if not share.reached:
                    self._later(partial(list[Event], [self._tell(share)]))
                return _shortage(share, amount, final=True)
        lent = self._asked and self._clock.monotonic() - self._asked_at >= ASK_S
        blocked = next((share for share in short if share.looked and share.left < amount - share.free), None)
        if self._ledger is None or (blocked is not None and not lent):
            blocked = blocked or short[0]
            blocked.waiting[wake] = amount
            self._keep()
            return _shortage(blocked, amount)
        for share in short:
            share.want(amount)
            if lent:
                share.lend()
        self._ask()
        self._asking.append(wake)
        if lent:
            wake()
        return _shortage(short[0], amount, asked=True)

    def _charge(self, spending: Spending, cost: int) -> list[Event]:
        events: list[Event] = []
        for share in spending.shares:
            share.settle(spending.outlay.most if share.rule.blocks else 0, cost)
            events += self._look_after(share)
        return events

    def _look_after(self, share: Share) -> list[Event]:
        """Something of a share has come back, or was spent: wake those whom it concerns, and say what is to be said."""
        if share.waiting:
            for wake in share.to_wake():
                wake()
        if share.rule.blocks or share.reached or share.surely_spent <= share.rule.microusd:
            return []
        return [self._tell(share)]

    def _tell(self, share: Share) -> BudgetReached:
        share.reached = True
        rule, end = share.rule, share.window.end
        return BudgetReached(
            self._clock.time(),
            self._pool,
            rule.name,
            "block" if rule.blocks else "warn",
            rule.microusd / _MICRO,
            share.surely_spent / _MICRO,
            None if end == float("inf") else end,
        )

    # -- the ledger

    def _ask(self) -> None:
        """Ask the ledger for what is wanted, and to see what was spent; one question at a time."""
        if self._ledger is None or self._asked:
            return
        asked = [share for share in self._shares.values() if share.wanted or share.waiting or share.stale]
        if not asked:
            return
        wishes = [allowances.Wish(share.rule, share.window, *share.wish()) for share in asked]
        self._asked, self._asked_at = asked, self._clock.monotonic()
        rules = () if self._declared else self.rules
        work = partial(_ask_ledger, holder=self._ledger.holder + self._name, wishes=wishes, rules=rules)
        self._declared = True
        self._ledger.run(work).add_done_callback(self._answered)

    def _answered(self, future: Future[list[allowances.Grant]]) -> None:
        self._later(partial(self._learn, self._asked, future))

    def _learn(self, asked: list[Share], future: Future[list[allowances.Grant]]) -> list[Event]:
        if asked is not self._asked:  # before a fork
            return []
        events: list[Event] = []
        self._asked = []
        try:
            grants = future.result()
        except _LEDGER_TROUBLE:
            self._declared, self._cut_off = False, True
            for share in asked:
                share.lend()
        else:
            self._cut_off = False
            for share, grant in zip(asked, grants, strict=True):
                share.learn(**grant._asdict())
        for share in asked:
            events += self._look_after(share)
        waking, self._asking = self._asking, []
        for wake in waking:
            wake()
        self._keep()
        return events

    def give_back(self, *, all: bool = False) -> None:
        """Give back to the ledger what lies idle here, or all that is not reserved."""
        if self._ledger is None or (self._cut_off and not all):
            return
        spared: list[tuple[Share, int]] = []
        for share in self._shares.values():
            share.used = share.used and not all
            if spare := share.spare():
                spared.append((share, spare))
        if spared:
            amounts = [(share.rule.id, share.window.start, spare) for share, spare in spared]
            work = partial(allowances.give_back, holder=self._ledger.holder + self._name, amounts=amounts)
            self._ledger.run(work).add_done_callback(partial(self._given_back, spared))

    def _given_back(self, spared: Sequence[tuple[Share, int]], future: Future[None]) -> None:
        """If it could not be given back, it is still there to be used."""
        if future.cancelled() or future.exception() is not None:
            self._later(partial(self._keep_spared, spared))

    def _keep_spared(self, spared: Sequence[tuple[Share, int]]) -> list[Event]:
        events: list[Event] = []
        for share, spare in spared:
            share.keep(spare)
            events += self._look_after(share)
        return events

    def _keep(self) -> None:
        """Have a thread look after the shares, for as long as there is anything in them."""
        if self._ledger is None or self._keeper is not None:
            return
        self._keeper = threading.Thread(
            target=_keep, args=[ref(self), self._ledger, self._name], name="keyrouter-budgets", daemon=True
        )
        with suppress(RuntimeError):  # the interpreter ends
            self._keeper.start()

    def tick(self) -> bool:
        """On the keeper's thread: give back what lies idle, ask for those that wait; whether to do it again."""
        self._later(self._tidy)
        if self._ledger is not None and self._anyone_waits and time.monotonic() >= self._recover_at:
            self._recover_at = time.monotonic() + RECOVER_S
            recover(self._ledger.path)  # what is waited for may have been set aside for a process that was killed
        return self._keeper is threading.current_thread()

    @property
    def _anyone_waits(self) -> bool:
        return any(share.waiting for share in self._shares.copy().values())

    def _tidy(self) -> list[Event]:
        at = self._clock.time()
        for place, share in list(self._shares.items()):
            if share.is_empty and not share.waiting and share.window.end <= at:
                del self._shares[place]
        self.give_back()
        self._ask()
        if not self._asked and all(share.is_empty for share in self._shares.values()):
            self._keeper = None
        return []


def _keep(budgets: ref[Budgets], ledger: Recorder, name: str) -> None:
    while True:
        time.sleep(TICK_S)
        found = budgets()
        if found is None:  # its router was dropped, and never closed
            ledger.flush()
            ledger.run(partial(allowances.release, holder=ledger.holder + name))
            return
        if not found.tick():
            return
        del found


def _ask_ledger(
    connection: sqlite3.Connection, *, holder: str, wishes: Sequence[allowances.Wish], rules: Sequence[Rule]
) -> list[allowances.Grant]:
    allowances.declare(connection, rules)
    return allowances.ask(connection, holder, wishes)


def _shortage(share: Share, need: int | None, *, asked: bool = False, final: bool = False) -> Shortage:
    left = max(share.rule.microusd - share.surely_spent, 0)
    return Shortage(share.rule, share.window, need, left, asked=asked, final=final)


def _costs_as(key: Key) -> object:
    return key.provider, key.base_url, key.price_multiplier, tuple(key.model_map.items())


_numbers = count()
_all: set[ref[Budgets]] = set()
"""Not a `WeakSet`, which cannot be gone through while another thread adds to it."""


def _give_all_back() -> None:
    """The process ends: others may have what it does not need any more."""
    for reference in _all.copy():
        if (budgets := reference()) is not None:
            budgets.close()


before_exit(_give_all_back)
