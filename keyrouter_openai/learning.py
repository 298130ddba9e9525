"""What the router learns from each outcome: the standing of keys, accounts and hosts, and who shares limits.

`Router` calls this under its lock; nothing here waits, sends or writes.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from random import Random

from .core import health, pace
from .core.model import Fault, Outcome
from .core.select import host_scope
from .core.state import AccountState, KeyState, PoolState, TooLarge, model_family, remember
from .core.verdict import backoff
from .events import AccountLearned, AccountParked, Event, KeyStateChanged, ProviderParked, UnknownAnswer
from .lease import Lease
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
        family = model_family(lease.request.model)
        if fault is Fault.NONE:
            if (current := lease.account.paces.get(family)) is not None:
                lease.account.paces[family] = pace.served(current)
            if state.host.strikes:
                state.host.strikes.pop(host_scope(lease.request), None)
        else:
            if not outcome.known:
                status = outcome.status or 0
                events.append(UnknownAnswer(self._clock.time(), self._name, state.name, state.provider, status, fault))
            self._learn_fault(lease, outcome, family, now, events)
        if state.health.refusals and fault is not Fault.KEY_REFUSED:
            self._decide_key(lease, outcome, now)
        if lease.decides_account and _cause(outcome) not in (Fault.EXHAUSTED, Fault.ACCOUNT_CLOSED):
            self._decide_account(lease.account, outcome, now)
        if outcome.organization is not None and not state.declared_account:
            self._learn_account(state, outcome, events)
        if fault is not Fault.NONE or state.announced != "available":
            self._announce(now, events)
        return events

    def prove(self, lease: Lease) -> list[Event]:
        """A stream has brought its first content: its key and its account are good, long before it ends."""
        events: list[Event] = []
        if lease.decides_key:
            lease.state.health, lease.decides_key, lease.state.canary = health.HEALTHY, False, False
        if lease.decides_account:
            lease.account.probation, lease.account.cause = None, Fault.NONE
            lease.decides_account = lease.account.canary = False
        self._announce(self._clock.monotonic(), events)
        return events

    def _learn_fault(self, lease: Lease, outcome: Outcome, family: str, now: float, events: list[Event]) -> None:
        state, request = lease.state, lease.request
        account, fault = lease.account, _cause(outcome)
        match fault:
            case Fault.RATE_LIMIT:
                current = account.pace(family)
                account.paces = {f: p for f, p in account.paces.items() if not pace.is_forgotten(p, now)}
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
                self._too_large(account, family, request.size(), outcome.limit, now)
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
            case Fault.OVERLOADED:
                self._pause_host(lease, host_scope(request), outcome, now, events)
            case Fault.HOST_LIMIT:
                self._pause_host(lease, "", outcome, now, events)
            case _:
                pass  # the caller's, the network's or our own fault, or this one request's: no standing is lost

    @staticmethod
    def _too_large(account: AccountState, family: str, size: int, limit: int | None, now: float) -> None:
        """Remember the size, unless it is so small that images or a history kept elsewhere must be to blame."""
        if size < SMALL_REQUEST:
            return
        known = account.too_large.get(family)
        smallest = min(size, limit or size, known.size if known is not None and now < known.until else size)
        account.too_large[family] = TooLarge(smallest, now + SIZE_MEMORY)

    def _pause_host(self, lease: Lease, scope: str, outcome: Outcome, now: float, events: list[Event]) -> None:
        host = lease.state.host
        before = host.paused_until.get(scope, -inf)
        unnamed = FRONT_END_PAUSE
        if outcome.fault is Fault.OVERLOADED:
            host.strikes = {s: n for s, n in host.strikes.items() if s in host.paused_until}
            if lease.start >= before:  # answers to calls from before the pause are the same trouble, not a new one
                host.strikes[scope] = host.strikes.get(scope, 0) + 1
            unnamed = backoff(host.strikes.get(scope, 0) + 1, self._rng)
        until = now + (unnamed if outcome.wait is None else outcome.wait)
        if until > before:
            remember(host.paused_until, scope, until, now)
            wall = self._wall(until, now)
            events.append(ProviderParked(self._clock.time(), self._name, host.name, scope or None, outcome.fault, wall))

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
            until = now + FRONT_END_PAUSE
            remember(state.host.paused_until, "", until, now)
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
        organization, project = outcome.organization, outcome.project
        if project is None and organization == state.seen[0]:
            return  # some answers leave the project out: what was seen of it holds
        if state.seen == (organization, project):
            return
        state.seen = organization, project
        name = "/".join(part for part in state.seen if part)
        if name == state.account.name:
            return
        account = self._pool.accounts.setdefault(name, AccountState(name))
        account.absorb(state.account)
        state.account = account
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


def _cause(outcome: Outcome) -> Fault:
    """What there is to learn from: of a stream that broke, what its last event said."""
    return outcome.fault if outcome.cause is Fault.NONE else outcome.cause


def _answered(outcome: Outcome) -> bool:
    """Whether the provider began to serve this call, whatever became of it later."""
    return _cause(outcome) in _REACHED_QUOTA and outcome.status is not None


def _accepted_key(outcome: Outcome) -> bool:
    """Whether the answer shows that the credential itself was accepted."""
    return _answered(outcome) or _cause(outcome) in _ACCEPTED_KEY
