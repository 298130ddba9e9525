"""What the router learns from each outcome: the standing of keys, accounts and hosts, and who shares limits.

`Router` calls this under its lock; nothing here waits, sends or writes.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from random import Random
from typing import TYPE_CHECKING

from .core import health, pace
from .core.model import Fault, Outcome
from .core.state import AccountState, KeyState, PoolState, model_family
from .core.verdict import backoff
from .events import AccountLearned, AccountParked, Event, KeyStateChanged, ProviderParked, UnknownAnswer
from .protocols import Clock
from .status import key_state

if TYPE_CHECKING:
    from .router import Lease

VAULT_PAUSE = 60.0
"""Seconds for which a key is left alone whose secret the vault could not give."""
FRONT_END_PAUSE = 10.0
"""Seconds to leave a host alone whose front end refused us without naming a time."""

_REACHED_QUOTA = (Fault.NONE, Fault.STREAM_BROKEN, Fault.ABANDONED)
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

    def __init__(self, name: str, pool: PoolState, clock: Clock, rng: Random) -> None:
        self._name = name
        self._pool = pool
        self._clock = clock
        self._rng = rng

    def learn(self, lease: Lease, outcome: Outcome) -> list[Event]:
        """Take in what an attempt came to."""
        events: list[Event] = []
        now = self._clock.monotonic()
        state, fault = lease.state, outcome.fault
        if outcome.organization is not None:
            self._learn_account(state, outcome, events)
        family = model_family(lease.request.model)
        if fault is Fault.NONE:
            if (current := state.account.paces.get(family)) is not None:
                state.account.paces[family] = pace.served(current)
            if state.host.strikes:
                state.host.strikes.pop(lease.request.model or "", None)
        else:
            if not outcome.known:
                status = outcome.status or 0
                events.append(UnknownAnswer(self._clock.time(), self._name, state.name, state.provider, status, fault))
            self._learn_fault(lease, outcome, family, now, events)
        if state.health.refusals and fault is not Fault.KEY_REFUSED:
            self._decide_key(lease, outcome, now)
        if lease.decides_account and fault not in (Fault.EXHAUSTED, Fault.ACCOUNT_CLOSED):
            self._decide_account(lease.account, outcome, now)
        if fault is not Fault.NONE or state.announced != "available":
            self._announce(now, events)
        return events

    def _learn_fault(self, lease: Lease, outcome: Outcome, family: str, now: float, events: list[Event]) -> None:
        state, request = lease.state, lease.request
        account, fault = state.account, outcome.fault
        match fault:
            case Fault.RATE_LIMIT:
                current = account.pace(family)
                account.paces[family] = after = pace.refused(
                    current, started_at=lease.start, now=now, wait=outcome.wait
                )
                if after.parked_until > current.parked_until:
                    until = self._wall(after.parked_until, now)
                    events.append(AccountParked(self._clock.time(), self._name, account.name, family, fault, until))
            case Fault.EXHAUSTED | Fault.ACCOUNT_CLOSED:
                if account.probation is None or lease.decides_account:
                    account.probation = health.out_of_service(account.probation, now, outcome.wait)
                    account.cause = fault
                    until = self._wall(account.probation.due, now)
                    events.append(AccountParked(self._clock.time(), self._name, account.name, None, fault, until))
            case Fault.TOO_LARGE:
                account.too_large[family] = min(request.size(), account.too_large.get(family, request.size()))
            case Fault.KEY_REFUSED:
                self._refused(lease, now, events)
            case Fault.NOT_PERMITTED:
                state.denied[request.endpoint] = now + health.MEMORY
            case Fault.MODEL_MISSING:
                state.denied[request.model or request.endpoint] = now + health.MEMORY
            case Fault.VAULT:
                state.vault_until = now + VAULT_PAUSE
            case Fault.NOT_HERE:
                state.host.refused_until = now + health.MEMORY
            case Fault.OVERLOADED:
                self._pause_host(lease, request.model or "", outcome, now, events)
            case Fault.HOST_LIMIT:
                self._pause_host(lease, "", outcome, now, events)
            case _:
                pass  # the caller's, the network's or our own fault, or this one request's: no standing is lost

    def _pause_host(self, lease: Lease, model: str, outcome: Outcome, now: float, events: list[Event]) -> None:
        host = lease.state.host
        before = host.paused_until.get(model, -inf)
        strikes = host.strikes.get(model, 0)
        if lease.start >= before:  # answers to calls from before the pause are the same trouble, not a new one
            strikes = host.strikes[model] = strikes + 1
        unnamed = FRONT_END_PAUSE if outcome.fault is Fault.HOST_LIMIT else backoff(strikes + 1, self._rng)
        until = now + (unnamed if outcome.wait is None else outcome.wait)
        if until > before:
            host.paused_until[model] = until
            wall = self._wall(until, now)
            events.append(ProviderParked(self._clock.time(), self._name, host.name, model or None, outcome.fault, wall))

    def _refused(self, lease: Lease, now: float, events: list[Event]) -> None:
        state = lease.state
        if lease.start > state.health.refused_at:  # the second refusal must be a new one, not one of a burst
            state.health = health.refused(state.health, now)
        peers = [s for s in self._pool.keys.values() if s.enabled and s.host is state.host]
        if health.is_provider_incident((s.health for s in peers), now):
            for peer in peers:
                if now - peer.health.refused_at <= health.INCIDENT_WINDOW:
                    peer.health = health.HEALTHY
            until = now + FRONT_END_PAUSE
            state.host.paused_until[""] = max(until, state.host.paused_until.get("", -inf))
            wall = self._wall(until, now)
            events.append(
                ProviderParked(self._clock.time(), self._name, state.host.name, None, Fault.KEY_REFUSED, wall)
            )

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

    def _learn_account(self, state: KeyState, outcome: Outcome, events: list[Event]) -> None:
        seen = (outcome.organization, outcome.project)
        if state.seen == seen or state.declared_account:
            return
        state.seen = seen
        name = "/".join(part for part in seen if part)
        old = state.account
        if name == old.name:
            return
        new = self._pool.accounts.setdefault(name, AccountState(name))
        for family, known in old.paces.items():
            if known.parked_until > new.pace(family).parked_until:
                new.paces[family] = known
        new.probation = new.probation or old.probation
        state.account = new
        evidence = "openai-organization and openai-project headers"
        events.append(AccountLearned(self._clock.time(), self._name, state.name, name, evidence))

    def _announce(self, now: float, events: list[Event]) -> None:
        """Tell of every key whose state, as users see it, is another than when last told."""
        for state in self._pool.keys.values():
            name, reason, _ = key_state(state, now)
            if name != state.announced:
                old, state.announced = state.announced, name
                events.append(
                    KeyStateChanged(self._clock.time(), self._name, state.name, state.account.name, old, name, reason)
                )

    def _wall(self, monotonic: float, now: float) -> float:
        return self._clock.time() + monotonic - now


def _answered(outcome: Outcome) -> bool:
    """Whether the provider began to serve this call, whatever became of it later."""
    return outcome.fault in _REACHED_QUOTA and outcome.status is not None


def _accepted_key(outcome: Outcome) -> bool:
    """Whether the answer shows that the credential itself was accepted."""
    return _answered(outcome) or outcome.fault in _ACCEPTED_KEY
