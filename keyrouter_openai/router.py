"""The one hand that changes routing state: it gives out leases and learns from what became of them.

`acquire` and `settle` take microseconds: no I/O, and a lock that is never held across an await. Both clients
and all threads share one router.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from logging import DEBUG
from math import inf, isfinite
from random import Random
from weakref import WeakSet

from pydantic import SecretStr

from .clock import SYSTEM_CLOCK
from .core import pace
from .core.health import HEALTHY
from .core.model import Fault, Outcome, RouteRequest
from .core.select import Choice, History, Refusal, could_serve, is_open, select
from .core.state import AccountState, HostState, KeyState, PoolState, model_family
from .errors import ConfigError, VaultError
from .events import Event, LedgerTrouble, NoKey
from .keys import Key
from .learning import Learner
from .lease import Lease, attempt_ended, attempt_of, attempt_started
from .protocols import Clock, EventSink, Recorder, Vault
from .providers import PROVIDERS
from .sinks.log import log_event, logger
from .status import AccountStatus, KeyStatus, PoolStatus, account_state, key_state, parked_families
from .vaults.loader import SecretLoader


class Router:
    """Chooses a key for each attempt, and learns from each outcome.

    Args:
        keys: the pool's keys; at least one.
        pool: its name, in the ledger and in events.
        vault: where the secrets rest of keys that carry none.
        ledger: where attempts are recorded; None keeps no record.
        clock: time, and how to sleep.
        rng: chance, for jitter and ties.
        sdk_credential: the SDK puts the credential of the only key on each request itself.

    Raises:
        ConfigError: no key, or two of one name.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        *,
        pool: str = "default",
        vault: Vault | None = None,
        ledger: Recorder | None = None,
        clock: Clock = SYSTEM_CLOCK,
        rng: Random | None = None,
        sdk_credential: bool = False,
    ) -> None:
        self.pool = pool
        self.sdk_credential = sdk_credential
        self.ledger = ledger
        self.clock = clock
        self.rng = rng or Random()
        self._vault = vault
        self._vault_secrets = SecretLoader(vault, pool) if vault is not None else None
        self._sinks: list[EventSink] = []
        self._begin()
        self._keys: dict[str, Key] = {}
        self._pool = PoolState()
        self._learner = Learner(pool, self._pool, clock, self.rng)
        self.reload(keys)
        if ledger is not None and ledger.on_trouble is None:
            ledger.on_trouble = partial(self._tell_trouble, str(ledger.path))
        _routers.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._returns: deque[Callable[[], list[Event]]] = deque()
        """Leases on their way back; see `_take_back`."""

    def reload(self, keys: Sequence[Key]) -> None:
        """Replace the pool's keys whole.

        What is known of keys that stay is kept, but for one with another secret or address, which starts anew; so
        do all whose secret rests in the vault, where it may have been replaced. Leases that are out go on.
        """
        names = [key.name for key in keys]
        if not names:
            raise ConfigError(f"pool {self.pool!r} has no keys: add one with `keyrouter-openai keys add NAME`")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"pool {self.pool!r} has two keys named {twice[0]!r}: give each its own name")
        seen: dict[object, str] = {}
        for key in keys:
            credential = (key.secret, key.provider, key.base_url)
            if key.secret is not None and (other := seen.setdefault(credential, key.name)) != key.name:
                raise ConfigError(f"keys {other!r} and {key.name!r} have the same secret: leave one of them out")
        with self._lock:
            self._pool.keys = {key.name: self._state_of(key) for key in keys}
            self._keys = {key.name: key for key in keys}
        self._take_back()
        if self._vault_secrets is not None:
            for name in names:
                self._vault_secrets.forget(name)

    @property
    def keys(self) -> tuple[Key, ...]:
        """The pool's keys."""
        return tuple(self._keys.values())

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
        return len(self._keys) == 1

    def on_event(self, callback: EventSink) -> None:
        """Call `callback` with every event from now on. What it raises is logged and harms nothing."""
        self._sinks.append(callback)

    def _state_of(self, key: Key) -> KeyState:
        """The state of a key: what is known of one of that name, with the settings of the new."""
        address = key.base_url or PROVIDERS[key.provider].base_url or key.provider
        host = self._pool.hosts.setdefault(address, HostState(address))
        name = key.account or f"key:{key.name}"
        account = self._pool.accounts.setdefault(name, AccountState(name))
        old = self._keys.get(key.name)
        same = old is not None and (old.secret, old.base_url, old.provider) == (key.secret, key.base_url, key.provider)
        if old is None or not same:
            state = KeyState(key.name, key.provider, account, host)
        else:
            state = self._pool.keys[key.name]
            if key.account is not None or old.account is not None:
                state.account = account
            if key.secret is None:
                state.health, state.vault_until = HEALTHY, -inf
        state.declared_account = key.account is not None
        state.weight, state.models, state.enabled = key.weight, key.models, key.enabled
        return state

    # -- leases

    def acquire(self, request: RouteRequest, history: History, *, number: int, max_wait: float) -> Lease | Refusal:
        """Take the best key for the next attempt of a call, to start within `max_wait` seconds, or say why not.

        `number` counts the attempts of the call from 1. The lease must be settled or released, whatever happens.
        """
        now = self.clock.monotonic()
        with self._lock:
            choice = select(
                self._pool.keys.values(),
                request,
                history,
                now=now,
                latest=now + max_wait,
                rng=self.rng,
                trusting=self.is_single,
            )
            lease = self._lease(choice, request, number) if isinstance(choice, Choice) else None
        self._take_back()
        if lease is not None:
            return lease
        assert isinstance(choice, Refusal)
        retry_after = choice.first_return - now if isfinite(choice.first_return) else None
        reasons = {name: reason for name, (reason, _) in choice.obstacles.items()}
        self._emit(NoKey(self.clock.time(), self.pool, request.id, retry_after, reasons))
        return choice

    def _lease(self, choice: Choice, request: RouteRequest, number: int) -> Lease:
        state, start = choice.key, choice.start
        state.in_flight += 1
        state.last_used = start
        account = state.account
        if account.paces and (current := account.paces.get(family := model_family(request.model))) is not None:
            account.paces[family] = pace.started(current, start)
        lease = Lease(request, number, self._keys[state.name], start, state, account)
        if state.health.probation is not None and not state.canary:
            state.canary = lease.decides_key = True
        if account.probation is not None and not account.canary:
            account.canary = lease.decides_account = True
        return lease

    def is_open(self, lease: Lease) -> bool:
        """Whether a lease that waited for its start may go now: nothing came between."""
        with self._lock:
            now = self.clock.monotonic()
            found = self.is_single or is_open(
                lease.state,
                lease.request,
                now,
                decides_key=lease.decides_key,
                decides_account=lease.decides_account,
            )
        self._take_back()
        return found

    def started(self, lease: Lease) -> None:
        """Tell event sinks that the attempt is about to be sent."""
        if self._wants_attempts():
            self._emit(attempt_started(lease, self.pool, self.clock.time()))

    def proved(self, lease: Lease) -> None:
        """A stream has brought its first content, which decides for the key and account that were on probation."""
        if lease.decides_key or lease.decides_account:
            self._take_back(lambda: self._learner.prove(lease))

    def unreadable(self, lease: Lease) -> None:
        """Give back a lease whose key's secret could not be read; the key is left alone for a while."""
        self._take_back(lambda: self._learner.learn(lease, Outcome(Fault.VAULT)) if self._give_back(lease) else [])

    def stop_asking_usage(self, lease: Lease) -> None:
        """This host refuses streams that ask for their usage: ask no more."""
        lease.state.host.takes_stream_options = False

    def release(self, lease: Lease) -> None:
        """Give back a lease of which nothing was sent, with its place among those that wait."""
        self._take_back(lambda: self._give_back_unused(lease))

    def abandon(self, settle: Callable[[], None]) -> None:
        """Have `settle` called at the next opportunity; for finalizers, which may run in any place."""
        self._returns.append(lambda: settle() or [])

    def settle(self, lease: Lease, outcome: Outcome, *, started_at: float, waited_s: float) -> None:
        """Learn from an attempt, record it and tell about it. A lease is settled once; later calls do nothing.

        `started_at` is wall-clock time, `waited_s` the seconds that the call had waited for capacity.
        """
        if outcome.fault is Fault.KEY_REFUSED and self._vault_secrets is not None:
            self._vault_secrets.forget(lease.key.name)  # it may have been replaced since it was read
        self._take_back(lambda: self._settle(lease, outcome, started_at, waited_s))

    def _take_back(self, work: Callable[[], list[Event]] | None = None) -> None:
        """Do what is to be done with leases that come back, under the lock, one after another.

        The lock is never waited for: streams are closed by the garbage collector too, which may run in this very
        thread while it holds the lock. Whoever holds it does the work that was left when it lets go.
        """
        if work is not None:
            self._returns.append(work)
        while self._returns and self._lock.acquire(blocking=False):
            events: list[Event] = []
            try:
                events = self._returns.popleft()()
            except IndexError:
                pass  # another thread was quicker
            finally:
                self._lock.release()
            for event in events:
                self._emit(event)

    def _settle(self, lease: Lease, outcome: Outcome, started_at: float, waited_s: float) -> list[Event]:
        if not self._give_back(lease):
            return []
        events = self._learner.learn(lease, outcome)
        if self.ledger is not None:
            self.ledger.record(attempt_of(lease, outcome, pool=self.pool, started_at=started_at, waited_s=waited_s))
        if self._wants_attempts():
            events.append(attempt_ended(lease, outcome, self.pool, self.clock.time()))
        return events

    def _give_back(self, lease: Lease) -> bool:
        if lease.settled:
            return False
        lease.settled = True
        lease.state.in_flight -= 1
        if lease.decides_key:
            lease.state.canary = False
        if lease.decides_account:
            lease.account.canary = False
        return True

    def _give_back_unused(self, lease: Lease) -> list[Event]:
        family = model_family(lease.request.model)
        current = lease.account.paces.get(family)
        if self._give_back(lease) and current is not None:
            lease.account.paces[family] = pace.given_back(current, self.clock.monotonic())
        return []

    # -- telling

    def status(self) -> PoolStatus:
        """The pool at this moment."""
        self._take_back()
        with self._lock:
            now = self.clock.monotonic()
            keys = [(state, *key_state(state, now)) for state in self._pool.keys.values()]
            accounts = {state.account.name: state.account for state in self._pool.keys.values()}
            return PoolStatus(
                pool=self.pool,
                at=self.clock.time(),
                in_flight=sum(state.in_flight for state in self._pool.keys.values()),
                keys=tuple(
                    KeyStatus(
                        k.name,
                        k.provider,
                        k.account.name,
                        state,
                        reason,
                        self._known_wall(until, now),
                        k.in_flight,
                    )
                    for k, state, reason, until in keys
                ),
                accounts=tuple(self._account_status(account, now) for account in accounts.values()),
            )

    def _account_status(self, account: AccountState, now: float) -> AccountStatus:
        state, until = account_state(account, now)
        members = tuple(s.name for s in self._pool.keys.values() if s.account is account)
        parked = {f: self.clock.time() + t - now for f, t in parked_families(account.paces, now).items()}
        return AccountStatus(account.name, members, state, self._known_wall(until, now), parked)

    def check_wishes(self, key: str | None, account: str | None) -> None:
        """Raise ConfigError if the pool has no such key or account: waiting would not bring it."""
        if key is not None and key not in self._keys:
            raise ConfigError(f"pool {self.pool!r} has no key {key!r}: it has {', '.join(self._keys)}")
        accounts = {state.account.name for state in self._pool.keys.values()}
        if account is not None and account not in accounts:
            raise ConfigError(f"pool {self.pool!r} has no account {account!r}: it has {', '.join(sorted(accounts))}")

    def accounts_for(self, request: RouteRequest) -> int:
        """How many accounts might serve this call at some time."""
        return len(could_serve(self._pool.keys.values(), request))

    def flush(self) -> None:
        """Wait, for some seconds at most, until all attempts so far are in the ledger."""
        self._take_back()
        if self.ledger is not None:
            self.ledger.flush()

    def _tell_trouble(self, path: str, problem: str, waiting: int) -> None:
        self._emit(LedgerTrouble(self.clock.time(), self.pool, path, problem, waiting))

    def _known_wall(self, monotonic: float, now: float) -> float | None:
        return self.clock.time() + monotonic - now if isfinite(monotonic) else None

    def _wants_attempts(self) -> bool:
        return bool(self._sinks) or logger.isEnabledFor(DEBUG)

    def _emit(self, event: Event) -> None:
        log_event(event)
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:  # noqa: BLE001  a user's callback may raise anything, and must harm no call
                logger.exception("an event callback failed")

    def _after_fork(self) -> None:
        """In the child no lease is out, whatever the parent's calls are doing, and chance goes its own way."""
        self._begin()
        self.rng.seed()
        for state in self._pool.keys.values():
            state.in_flight = 0
            state.canary = state.account.canary = False
        if self._vault is not None:
            self._vault_secrets = SecretLoader(self._vault, self.pool)


_routers: WeakSet[Router] = WeakSet()


def _after_fork_in_child() -> None:
    for router in list(_routers):
        router._after_fork()  # pyright: ignore[reportPrivateUsage]


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
