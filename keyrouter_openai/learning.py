"""What the router learns from each outcome: the standing of keys, accounts and hosts, and who shares limits.

`Router` calls this under its lock; nothing here waits, sends or writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf
from random import Random

from .core import health
from .core.breaker import Breaker
from .core.model import Dimension, Fault, Outcome, Reading
from .core.state import LONG, AccountState, HostState, KeyState, model_family, remember, scope_of
from .core.verdict import POLICIES, Blame, Verdict
from .events import (
    AccountLearned,
    AccountParked,
    Event,
    KeyStateChanged,
    LimitsLearned,
    LimitsShared,
    ProviderParked,
    UnknownAnswer,
)
from .lease import Lease
from .pool import LONG_CONTEXT, Pool
from .protocols import Clock
from .status import key_state

VAULT_PAUSE = 60.0
"""Seconds for which a key is left alone whose secret the vault could not give."""
SMALL_REQUEST = 1000
"""Tokens: a smaller estimate does not explain why a request was refused as too large."""
SIZE_MEMORY = 3600.0
"""Seconds for which a size is not sent to an account again that was too large for it."""
FRONT_END_PAUSE = 10.0
"""Seconds to leave a host alone whose front end refused us without naming a time."""

FAILED = 9.0
"""Further calls for which one counts that failed: an account whose calls fail gets a tenth of its share of calls."""

_REACHED_QUOTA = (Fault.NONE, Fault.STREAM_BROKEN, Fault.ABANDONED)
_HOST_FAULTS = (Fault.OVERLOADED, Fault.SERVER_ERROR, Fault.NETWORK, Fault.HOST_LIMIT)
_ACCEPTED_KEY = (
    Fault.RATE_LIMIT,
    Fault.EXHAUSTED,
    Fault.REQUEST,
    Fault.TOO_LARGE,
    Fault.NOT_PERMITTED,
    Fault.MODEL_MISSING,
)


class Learner:
    """Changes the state of one pool by what attempts came to, and returns the events that tell of it."""

    def __init__(self, name: str, pool: Pool, clock: Clock, rng: Random) -> None:
        self._name = name
        self._pool = pool
        self._clock = clock
        self._rng = rng

    def read(self, lease: Lease, readings: Sequence[Reading]) -> list[Event]:
        """An answer has begun well: take in what its headers say of limits."""
        now = self._clock.monotonic()
        if lease.state.host.breakers:
            self._tell_breakers(lease, ok=True, now=now)
        events: list[Event] = []
        self._read(lease, readings, now, events)
        return events

    def _read(self, lease: Lease, readings: Sequence[Reading], now: float, events: list[Event]) -> None:
        """Some models have other limits for long prompts (OpenAI's rate-limit guide): their answers show others."""
        account, quota = lease.account, lease.quota
        if lease.request.estimate().prompt >= LONG_CONTEXT:
            ordinary = quota.family.removesuffix(LONG)
            known = account.quotas.get(ordinary)
            apart = known is not None and known.contradicts(readings)
            if apart != (ordinary + LONG in account.apart):
                self._pool.set_apart(account, quota, lease.state.provider, now, apart=apart)
                return
        version = quota.limits_at
        quota.read(readings, lease.reservation, lease.request.estimate, sent_at=lease.start, now=now)
        if quota.limits_at != version:
            limits = {f"{b.dimension.value} per {b.period:g} s": b.limit for b in quota.buckets}
            events.append(LimitsLearned(self._clock.time(), self._name, account.name, quota.family, limits))

    def unused(self, lease: Lease) -> None:
        """Nothing was sent with a lease."""
        if lease.state.host.breakers:
            self._tell_breakers(lease, ok=None, now=self._clock.monotonic())

    def learn(self, lease: Lease, outcome: Outcome) -> list[Event]:
        """Take in what an attempt came to."""
        events: list[Event] = []
        now = self._clock.monotonic()
        state, fault, quota = lease.state, outcome.fault, lease.quota
        if outcome.status is not None:
            quota.answered()
        if outcome.readings and not outcome.heard:
            self._read(lease, outcome.readings, now, events)
        if fault is Fault.NONE:
            if outcome.usage is not None:
                quota.settle(outcome.usage, lease.reservation, lease.request.estimate)
                lease.candidate.standing.read_prompt(outcome.usage.prompt, outcome.usage.cached)
            lease.candidate.standing.ended(ok=True, first_byte_s=outcome.first_byte_s, now=now)
            if state.host.breakers:
                self._tell_breakers(lease, ok=True, now=now)
        else:
            if not outcome.known:
                status = outcome.status or 0
                events.append(UnknownAnswer(self._clock.time(), self._name, state.name, state.provider, status, fault))
            self._learn_fault(lease, outcome, now, events)
        if state.health.refusals and fault is not Fault.KEY_REFUSED:
            self._decide_key(lease, outcome, now)
        if lease.decides_account and _cause(outcome) not in (Fault.EXHAUSTED, Fault.ACCOUNT_CLOSED):
            self._decide_account(lease.account, outcome, now)
        if lease.state.name in self._pool.keys:
            self._learn_accounts(lease, outcome, now, events)
        if fault is not Fault.NONE or state.announced != "available":
            self._pool.reopen(account=lease.account)
            self._announce([*lease.account.members, state], now, events)
        return events

    def prove(self, lease: Lease) -> list[Event]:
        """A stream has brought its first content: its key and its account are good, long before it ends."""
        events: list[Event] = []
        if lease.decides_key:
            lease.state.health, lease.decides_key, lease.state.canary = health.HEALTHY, False, False
        if lease.decides_account:
            lease.account.probation, lease.account.cause = None, Fault.NONE
            lease.decides_account = lease.account.canary = False
        self._pool.reopen(account=lease.account)
        self._announce(lease.account.members, self._clock.monotonic(), events)
        return events

    def _learn_fault(self, lease: Lease, outcome: Outcome, now: float, events: list[Event]) -> None:
        state, request = lease.state, lease.request
        account, fault = lease.account, _cause(outcome)
        lease.candidate.standing.ended(ok=_says_of_account(fault), first_byte_s=None, now=now)
        if POLICIES[fault].verdict is Verdict.RETRY and fault is not Fault.LOCAL:
            # Not its limits, which are known: it is to be spared for a while.
            self._pool.lane(request, now).served(lease.candidate, lease.reservation.amounts, FAILED)
        match fault:
            case Fault.RATE_LIMIT:
                self._rate_limited(lease, outcome, now, events)
            case Fault.EXHAUSTED | Fault.ACCOUNT_CLOSED:
                if account.probation is None or lease.decides_account:
                    account.probation = health.out_of_service(account.probation, now, outcome.wait)
                    account.cause = fault
                    until = self._wall(account.probation.due, now)
                    events.append(AccountParked(self._clock.time(), self._name, account.name, None, fault, until))
            case Fault.TOO_LARGE:
                self._too_large(lease, outcome, now)
            case Fault.KEY_REFUSED:
                self._refused(lease, now, events)
            case Fault.NOT_PERMITTED:
                remember(state.denied, request.endpoint, now + health.MEMORY, now)
            case Fault.MODEL_MISSING:
                remember(state.denied, request.model or request.endpoint, now + health.MEMORY, now)
            case Fault.VAULT:
                state.vault_until = now + VAULT_PAUSE
            case Fault.NOT_HERE:
                state.host.refused_until = now + health.MEMORY
            case Fault.OVERLOADED | Fault.SERVER_ERROR | Fault.NETWORK:
                self._host_failed(lease, "" if fault is Fault.NETWORK else scope_of(request), outcome, now, events)
            case Fault.HOST_LIMIT:
                self._host_failed(lease, "", outcome, now, events)
            case _:
                pass  # the caller's, or our own fault, or this one request's: no standing is lost
        if state.host.breakers and fault not in _HOST_FAULTS:
            self._tell_breakers(lease, ok=None, now=now)

    def _rate_limited(self, lease: Lease, outcome: Outcome, now: float, events: list[Event]) -> None:
        account, quota = lease.account, lease.quota
        before = quota.parked_until
        quota.refuse(outcome, lease.reservation, lease.request.estimate(), sent_at=lease.start, now=now)
        if quota.parked_until > before:
            until = self._wall(quota.parked_until, now)
            parked = AccountParked(self._clock.time(), self._name, account.name, quota.family, Fault.RATE_LIMIT, until)
            events.append(parked)
        if outcome.shared is not None:
            self._share_limit(lease, outcome.shared, now, events)

    @staticmethod
    def _too_large(lease: Lease, outcome: Outcome, now: float) -> None:
        """Remember the size, unless it is so small that images or a history kept elsewhere must be to blame."""
        size = lease.quota.charges.before(lease.request.estimate(), Dimension.TOKENS)
        if size >= SMALL_REQUEST:
            lease.quota.remember_too_large(min(size, outcome.limit or size), now + SIZE_MEMORY, now)

    def _share_limit(self, lease: Lease, model: str, now: float, events: list[Event]) -> None:
        family, other = lease.quota.family, model_family(model)
        if model.endswith("-long-context"):
            return  # its own limit, which the long lane has anyway
        if family != other and lease.account.shared.get(family) != other:
            self._pool.share_limit(lease.account, family, other, lease.state.provider, now)
            events.append(LimitsShared(self._clock.time(), self._name, lease.account.name, family, other))

    def _tell_breakers(self, lease: Lease, *, ok: bool | None, now: float) -> None:
        host = lease.state.host
        if lease.host_told:
            return
        lease.host_told = True
        for breaker in host.breakers_for(lease.request):
            was_closed = breaker.state == "closed"
            breaker.ended(ok, now, sent_at=lease.start, rng=self._rng)
            if not was_closed:
                self._pool.reopen(host=host)
        for name in [name for name, breaker in host.breakers.items() if breaker.is_over(now)]:
            del host.breakers[name]

    def _host_failed(self, lease: Lease, scope: str, outcome: Outcome, now: float, events: list[Event]) -> None:
        """A failure of the provider's: its breaker hears of it, and opens if that was one too many."""
        host = lease.state.host
        sent_at = -inf if lease.host_told else lease.start  # its success as a probe was told before it failed
        lease.host_told = True
        wait = outcome.wait if outcome.fault in (Fault.OVERLOADED, Fault.HOST_LIMIT) else None
        if outcome.fault is Fault.HOST_LIMIT and wait is None:
            wait = FRONT_END_PAUSE
        if scope not in host.breakers:
            host.breakers = {name: breaker for name, breaker in host.breakers.items() if not breaker.is_over(now)}
            host.breakers[scope] = Breaker(self._in_flight_to(host))
        for name, breaker in host.breakers.items():
            if name in ("", scope_of(lease.request)):
                before = breaker.opened_until
                mine = name == scope
                breaker.ended(False if mine else None, now, sent_at=sent_at, rng=self._rng, wait=wait if mine else None)
                if breaker.opened_until > max(before, now):
                    until = self._wall(breaker.opened_until, now)
                    events.append(
                        ProviderParked(self._clock.time(), self._name, host.name, name or None, outcome.fault, until)
                    )
                    self._announce(self._keys_at(host), now, events)
        self._pool.reopen(host=host)

    def _in_flight_to(self, host: HostState) -> int:
        return sum(key.in_flight for key in self._keys_at(host))

    def _refused(self, lease: Lease, now: float, events: list[Event]) -> None:
        state = lease.state
        if lease.start > state.health.refused_at:  # the second refusal must be a new one, not one of a burst
            state.health = health.refused(state.health, now)
        peers = [
            s for s in self._pool.keys.values() if s.enabled and s.host is state.host and s.account.probation is None
        ]
        if health.is_provider_incident((s.health for s in peers), now):
            for peer in peers:
                if now - peer.health.refused_at <= health.INCIDENT_WINDOW:
                    peer.health = health.HEALTHY
            breaker = state.host.breakers.setdefault("", Breaker(self._in_flight_to(state.host)))
            breaker.ended(None, now, sent_at=lease.start, rng=self._rng, wait=FRONT_END_PAUSE)
            wall = self._wall(breaker.opened_until, now)
            events.append(
                ProviderParked(self._clock.time(), self._name, state.host.name, None, Fault.KEY_REFUSED, wall)
            )
            self._announce(self._keys_at(state.host), now, events)

    def _decide_key(self, lease: Lease, outcome: Outcome, now: float) -> None:
        state = lease.state
        if _accepted_key(outcome) and lease.start > state.health.refused_at:
            state.health = health.HEALTHY
        elif lease.decides_key and state.health.probation is not None:
            state.health = replace(state.health, probation=health.undecided(state.health.probation, now))

    @staticmethod
    def _decide_account(account: AccountState, outcome: Outcome, now: float) -> None:
        if account.probation is None:
            return
        if _answered(outcome):
            account.probation, account.cause = None, Fault.NONE
        else:
            account.probation = health.undecided(account.probation, now)

    def _learn_accounts(self, lease: Lease, outcome: Outcome, now: float, events: list[Event]) -> None:
        """Who shares limits with whom, as far as this answer tells."""
        state, request = lease.state, lease.request

        def charge(dimension: Dimension) -> float:
            return lease.quota.charges.before(request.estimate(), dimension)

        at = self._clock.time()
        for decision in self._pool.kinship.observe(state.name, lease.quota.family, lease.start, charge, outcome):
            self._pool.move(self._pool.keys[decision.key], decision.account, now)
            events.append(AccountLearned(at, self._name, decision.key, decision.account, decision.why))
        # What it shows is of that account's limits.
        if state.account is not lease.account and outcome.readings and not outcome.heard:
            quota = state.account.quota(lease.quota.family, state.provider, now)
            quota.lower(outcome.readings, now)

    def _announce(self, keys: Iterable[KeyState], now: float, events: list[Event]) -> None:
        """Tell of every key whose state, as users see it, is another than when last told."""
        for state in keys:
            name, reason, _ = key_state(state, now)
            if name != state.announced:
                old, state.announced = state.announced, name
                events.append(
                    KeyStateChanged(self._clock.time(), self._name, state.name, state.account.name, old, name, reason)
                )

    def _keys_at(self, host: HostState) -> list[KeyState]:
        return [key for key in self._pool.keys.values() if key.host is host]

    def _wall(self, monotonic: float, now: float) -> float:
        return self._clock.time() + monotonic - now


def _cause(outcome: Outcome) -> Fault:
    """What there is to learn from: of a stream that broke, what its last event said."""
    return outcome.fault if outcome.cause is Fault.NONE else outcome.cause


def _says_of_account(fault: Fault) -> bool | None:
    """What a fault says of the reliability of an account: nothing, if it is the caller's or our own."""
    return None if POLICIES[fault].blame in (Blame.NOBODY, Blame.CALLER, Blame.OURSELVES) else False


def _answered(outcome: Outcome) -> bool:
    """Whether the provider began to serve this call, whatever became of it later."""
    return _cause(outcome) in _REACHED_QUOTA and outcome.status is not None


def _accepted_key(outcome: Outcome) -> bool:
    """Whether the answer shows that the credential itself was accepted."""
    return _answered(outcome) or _cause(outcome) in _ACCEPTED_KEY
