"""The one hand that changes routing state: it gives out leases and learns from what became of them.

`acquire` and `settle` take microseconds: no I/O, and a lock that is never held across an await. Both clients
and all threads share one router.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from pydantic import SecretStr

from . import roster
from .allocate import Allocator
from .books import Books
from .clock import SYSTEM_CLOCK
from .core.memory import Learned
from .core.model import Fault, Outcome, Reading, RouteRequest
from .core.objectives import Objective
from .core.quantile import Quantile
from .core.queue import Turn
from .core.select import History, Refusal
from .errors import ConfigError, VaultError
from .events import Event, UnknownPrice
from .forecasts import Forecasts
from .keys import Key
from .learning import Learner
from .lease import Lease, attempt_ended, attempt_started
from .owners import Owners
from .pool import Pool
from .prices import Prices, PricesArgument, price_late
from .protocols import Clock, EventSink, Recorder, Vault
from .route import check_objective, check_weights
from .status import PoolStatus, pool_status
from .telling import Teller
from .vaults.loader import SecretLoader

if TYPE_CHECKING:
    from .budget import Budget
    from .budgets import Budgets
    from .core.budget import Outlay, Share, Shortage


class Router:
    """Chooses a key for each attempt, and learns from each outcome.

    Args:
        keys: the pool's keys; at least one.
        pool: its name, in the ledger and in events.
        vault: where the secrets rest of keys that carry none.
        ledger: where attempts are recorded; None keeps no record.
        objective: how to rank accounts that can serve: a name (`fairness`, `reliability`, `latency`, `cost`,
            `quality`), or a caller's own `Objective`.
        tenant_weights: shares of capacity under contention, by tenant; 1 where a tenant is not named.
        prices: prices of the user's own (see `RoutedOpenAI`).
        budgets: what may be spent.
        clock: time, and how to sleep.
        rng: chance, for jitter and ties.
        sdk_credential: the SDK puts the credential of the only key on each request itself.

    Raises:
        ConfigError: no key, two of one name, or an objective, weight, price or budget that makes no sense.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        pool: str = "default",
        vault: Vault | None = None,
        ledger: Recorder | None = None,
        objective: str | Objective = "fairness",
        tenant_weights: Mapping[str, float] = {},
        prices: PricesArgument | None = None,
        budgets: Sequence[Budget] = (),
        clock: Clock = SYSTEM_CLOCK,
        rng: Random | None = None,
        sdk_credential: bool = False,
    ) -> None:
        self.pool = pool
        self.sdk_credential = sdk_credential
        self.ledger = ledger
        self.clock = clock
        self.rng = rng or Random()
        self.header_times: dict[str, Quantile] = {}
        """By model family: seconds to the headers of an answer, for those who hedge by it."""
        self._vault = vault
        self._vault_secrets = SecretLoader(vault, pool) if vault is not None else None
        self._teller = Teller(pool, clock)
        self._begin()
        self.prices = Prices(prices, pool=pool, keys=lambda: self._pool.settings, on_unknown=self._tell_unknown_price)
        self._pool = Pool(self.rng, self.prices.known)
        self.owners = Owners(pool, self._pool, ledger, clock)
        ranking, weights = check_objective(objective), check_weights(tenant_weights)
        self._allocator = Allocator(self._pool, objective=ranking, weights=weights, clock=clock, rng=self.rng)
        self._learner = Learner(pool, self._pool, clock, self.rng)
        self.budgets: Budgets | None = None
        if budgets:
            from .budgets import Budgets

            self.budgets = Budgets(
                budgets,
                pool=pool,
                ledger=ledger,
                clock=clock,
                keys=lambda: self._pool.settings,
                later=self._take_back,
            )
        self._books = Books(pool, self._pool, self.prices, self.budgets, ledger, clock)
        self._forecasts = Forecasts(pool, self._pool, self._shares)
        self.reload(keys)
        if ledger is not None:
            ledger.on_trouble = ledger.on_trouble or partial(self._teller.trouble, str(ledger.path))
            ledger.pricing = ledger.pricing or price_late
            ledger.snapshot = partial(roster.snapshot, ledger)
        roster.enrol(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._ids = Random()
        self._returns: deque[Callable[[], list[Event] | None]] = deque()
        """Leases on their way back; see `_take_back`."""

    def reload(self, keys: Sequence[Key]) -> None:
        """Replace the pool's keys whole.

        What is known of keys that stay is kept, but for one with another secret or address, which starts anew; so
        do all whose secret rests in the vault, where it may have been replaced. Leases that are out go on.
        """
        names = [key.name for key in keys]
        if not names:
            raise ConfigError(f"pool {self.pool!r} has no keys: give some, or `keyrouter-openai keys add NAME`")
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ConfigError(f"pool {self.pool!r} has two keys named {twice[0]!r}: give each its own name")
        seen: dict[object, str] = {}
        for key in keys:
            credential = (key.secret, key.provider, key.base_url)
            if key.secret is not None and (other := seen.setdefault(credential, key.name)) != key.name:
                raise ConfigError(f"keys {other!r} and {key.name!r} have the same secret: leave one of them out")
        with self._lock:
            now = self.clock.monotonic()
            self._allocator.replace_turns(self._pool.replace(keys, now), now)
        self._take_back()
        if self._vault_secrets is not None:
            for name in names:
                self._vault_secrets.forget(name)

    def recall(self, values: Iterable[Learned], calls_by_hour: Iterable[tuple[float, float]] = ()) -> None:
        """Start from what earlier routers of this pool have learned of limits and accounts (see `Ledger.recall`).

        `calls_by_hour` are the calls on record, by the start of each hour in seconds since the epoch.
        """
        with self._lock:
            self._forecasts.recall(calls_by_hour)
            now = self.clock.monotonic()
            self._pool.recall(values, now=now, wall=self.clock.time() - now)
        self._take_back()

    @property
    def keys(self) -> tuple[Key, ...]:
        """The pool's keys."""
        return tuple(self._pool.settings.values())

    def cached_secret(self, key: Key) -> SecretStr | None:
        """The secret of a key if it is in memory. Never blocks."""
        if key.secret is not None or self._vault_secrets is None:
            return key.secret
        return self._vault_secrets.cached(key.name)

    @property
    def vault_secrets(self) -> SecretLoader:
        """The door to the secrets that rest in the vault.

        Raises:
            VaultError: this router was made without a vault.
        """
        if self._vault_secrets is None:
            raise VaultError(f"pool {self.pool!r} has no vault, and a key without a secret: give Key(secret=...)")
        return self._vault_secrets

    @property
    def is_single(self) -> bool:
        """Whether there is but one key: then nothing can be chosen, and it behaves as the SDK does."""
        return self._allocator.is_single

    def on_event(self, callback: EventSink) -> None:
        """Call `callback` with every event from now on. What it raises is logged and harms nothing."""
        self._teller.add(callback)

    # -- leases

    def new_id(self) -> str:
        """An id for a call, which no other process makes either."""
        return f"{self._ids.getrandbits(64):016x}"

    def acquire(
        self, request: RouteRequest, history: History, *, number: int, max_wait: float
    ) -> Lease | Turn | Refusal:
        """Take the best key for the next attempt of a call, or a turn that brings one within `max_wait` seconds.

        `number` counts the attempts of the call from 1. A lease is to be used at once, and must be settled or
        released, whatever happens; a turn must be looked at (`look`) until it is granted, or left.
        """
        now = self.clock.monotonic()
        with self._lock:
            taken = self._allocator.take(request, history, number=number, now=now, max_wait=max_wait)
        if self._returns:
            self._take_back()
        return taken

    def look(self, turn: Turn) -> Lease | Refusal | None:
        """What a call that waits has got by now; None: wait on until `turn.look_at`, or until woken."""
        now = self.clock.monotonic()
        with self._lock:
            self._allocator.look(turn, now)
        if self._returns:
            self._take_back()
        return turn.granted

    def leave(self, turn: Turn) -> None:
        """A call waits no longer: give back its place, or what it has got."""
        self._take_back(lambda: self._leave(turn))

    def spare(self, request: RouteRequest, history: History, *, number: int) -> Lease | None:
        """A lease for a second attempt beside one that is out, where an account has room to spare; else None."""
        with self._lock:
            spare = self._allocator.spare(request, history, number=number, now=self.clock.monotonic())
        self._take_back()
        return spare

    def afford(
        self, budgets: Budgets, lease: Lease, outlay: Outlay, wake: Callable[[], None] | None
    ) -> Shortage | None:
        """Reserve the most that an attempt can cost (see `Budgets.reserve`)."""
        with self._lock:
            short = budgets.reserve(lease, outlay, wake)
        self._take_back()
        return short

    def may_retry(self, lease: Lease) -> bool:
        """Whether a call may make one more attempt after one that failed on account of the provider or network.

        The pool's budget of retries bounds them; but where the provider's breaker is open, that bounds all calls.
        """
        with self._lock:
            breakers = lease.state.host.breakers_for(lease.request)
            guarded = any(breaker.state != "closed" for breaker in breakers)
            may = guarded or self._allocator.retries.withdraw(self.clock.monotonic())
        self._take_back()
        return may

    def heard(self, lease: Lease, readings: Sequence[Reading]) -> None:
        """The headers of an answer have come, long before its end: what they say of limits is most worth now."""
        self._take_back(lambda: self._learner.read(lease, readings))

    def started(self, lease: Lease, *, started_at: float, waited_s: float) -> None:
        """The attempt is about to be sent, at that wall-clock time; the call has waited so long for capacity."""
        self._books.began(lease, started_at, waited_s)
        if self._teller.wants_attempts:
            self._teller.tell(attempt_started(lease, self.pool, self.clock.time()))

    def proved(self, lease: Lease) -> None:
        """A stream has brought its first content, which decides for the key and account that were on probation."""
        if lease.decides_key or lease.decides_account:
            self._take_back(lambda: self._learner.prove(lease))

    def unreadable(self, lease: Lease) -> None:
        """Give back a lease whose key's secret could not be read; the key is left alone for a while."""
        self._take_back(lambda: self._unused(lease, Outcome(Fault.VAULT)))

    def stop_asking_usage(self, lease: Lease) -> None:
        """This host refuses streams that ask for their usage: ask no more."""
        lease.state.host.takes_stream_options = False

    def release(self, lease: Lease) -> None:
        """Give back a lease of which nothing was sent, with its place among those that wait."""
        self._take_back(lambda: self._unused(lease, None))

    def abandon(self, settle: Callable[[], None]) -> None:
        """Have `settle` called at the next opportunity; for finalizers, which may run in any place."""
        self._returns.append(settle)

    def settle(self, lease: Lease, outcome: Outcome, *, started_at: float, waited_s: float) -> None:
        """Learn from an attempt, record it and tell about it. A lease is settled once; later calls do nothing.

        `started_at` is wall-clock time, `waited_s` the seconds that the call had waited for capacity.
        """
        if outcome.fault is Fault.KEY_REFUSED and self._vault_secrets is not None:
            self._vault_secrets.forget(lease.key.name)  # it may have been replaced since it was read
        self._take_back(lambda: self._settle(lease, outcome, started_at, waited_s))

    def _take_back(self, work: Callable[[], list[Event] | None] | None = None) -> None:
        """Do what is to be done with leases that come back, under the lock, one after another.

        The lock is never waited for: streams are closed by the garbage collector too, which may run in this very
        thread while it holds the lock. Whoever holds it does the work that was left when it lets go.
        """
        if work is not None:
            self._returns.append(work)
        while self._returns and self._lock.acquire(blocking=False):
            events: list[Event] | None = None
            try:
                if self._returns:  # else another thread was quicker
                    events = self._returns.popleft()()
                    if self._allocator.anyone_waits:
                        self._allocator.go_on(self.clock.monotonic())
            finally:
                self._lock.release()
            for event in events or ():
                self._teller.tell(event)

    def _settle(self, lease: Lease, outcome: Outcome, started_at: float, waited_s: float) -> list[Event]:
        if not self._allocator.give_back(lease, self.clock.monotonic(), unused=False):
            return []
        events = self._learner.learn(lease, outcome)
        self._books.remember(lease, events)
        events += self._books.ended(lease, outcome, started_at, waited_s)
        events += self._forecasts.settled(lease, outcome, self.clock.monotonic(), self.clock.time())
        if self._teller.wants_attempts:
            events.append(attempt_ended(lease, outcome, self.pool, self.clock.time()))
        return events

    def _leave(self, turn: Turn) -> list[Event]:
        if isinstance(turn.granted, Lease):
            return self._unused(turn.granted, None)
        self._allocator.leave(turn)
        return []

    def _unused(self, lease: Lease, outcome: Outcome | None) -> list[Event]:
        if not self._allocator.give_back(lease, self.clock.monotonic(), unused=True):
            return []
        self._books.unused(lease)
        self._learner.unused(lease)
        return self._learner.learn(lease, outcome) if outcome is not None else []

    # -- telling

    def status(self) -> PoolStatus:
        """The pool at this moment."""
        self._take_back()
        with self._lock:
            now, wall = self.clock.monotonic(), self.clock.time()
            forecasts = self._forecasts.current(now, wall)
            status = pool_status(self.pool, self._pool, now, wall - now, self._shares(), forecasts)
        self._take_back()
        return status

    def _shares(self) -> Sequence[Share]:
        return self.budgets.shares() if self.budgets is not None else ()

    def check_wishes(self, key: str | None, account: str | None) -> None:
        """Raise ConfigError if the pool has no such key or account: waiting would not bring it."""
        if key is not None and key not in self._pool.keys:
            raise ConfigError(f"pool {self.pool!r} has no key {key!r}: it has {', '.join(self._pool.keys)}")
        accounts = self._pool.accounts
        if account is not None and account not in accounts:
            raise ConfigError(f"pool {self.pool!r} has no account {account!r}: it has {', '.join(sorted(accounts))}")

    def accounts_for(self, request: RouteRequest) -> int:
        """How many accounts might serve this call at some time."""
        with self._lock:
            accounts = self._pool.lane(request, self.clock.monotonic()).accounts
        self._take_back()
        return accounts

    def flush(self) -> None:
        """Wait, for some seconds at most, until all attempts so far are in the ledger."""
        self._take_back()
        if self.ledger is None:
            return
        with self._lock:
            self._books.remember_all()
        self._take_back()
        if self.budgets is not None:
            self.budgets.close()
        self.ledger.flush()

    def tell_refusal(self, request: RouteRequest, refusal: Refusal) -> None:
        """Tell event sinks that a call fails for want of a key."""
        self._teller.refusal(request, refusal)

    def _tell_unknown_price(self, provider: str, model: str) -> None:
        event = UnknownPrice(self.clock.time(), self.pool, provider, model)
        self._take_back(lambda: [event])

    def after_fork(self) -> None:
        """In the child no lease is out, whatever the parent's calls are doing, and chance goes its own way."""
        self._begin()
        self.rng.seed()
        self._allocator.forget_leases()
        self.owners.forget_searches()
        if self.budgets is not None:
            self.budgets.forget()
        if self._vault is not None:
            self._vault_secrets = SecretLoader(self._vault, self.pool)
