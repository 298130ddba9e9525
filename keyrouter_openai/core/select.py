"""Choosing a key: which can serve, from when, and which of them is best. Reads state, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from random import Random

from .health import Probation
from .model import Fault, RouteRequest
from .pace import start_time
from .state import AccountState, KeyState, model_family
from .verdict import POLICIES, Scope

_Obstacle = tuple[str, float]
"""Why a key cannot serve, and until when."""


@dataclass(slots=True)
class History:
    """What one call has been through: where it must not go again, and where it would rather not."""

    keys: dict[str, Fault] = field(default_factory=dict[str, Fault])
    accounts: dict[str, Fault] = field(default_factory=dict[str, Fault])
    hosts: dict[str, Fault] = field(default_factory=dict[str, Fault])
    tried: set[str] = field(default_factory=set[str])
    """Accounts already tried, whatever came of it."""

    def add(self, key: str, account: str, host: str, fault: Fault) -> None:
        """Remember an attempt that ended in `fault`."""
        self.tried.add(account)
        match POLICIES[fault].avoid:
            case Scope.KEY:
                self.keys[key] = fault
            case Scope.ACCOUNT:
                self.accounts[account] = fault
            case Scope.HOST:
                self.hosts[host] = fault
            case Scope.NOTHING:
                pass


@dataclass(frozen=True, slots=True)
class Choice:
    """The key to use, from monotonic time `start` on."""

    key: KeyState
    start: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """No key can serve in time: for each key why, and until when (monotonic time, inf where nobody knows)."""

    obstacles: dict[str, _Obstacle]
    first_return: float


def select(
    keys: Iterable[KeyState],
    request: RouteRequest,
    history: History,
    *,
    now: float,
    latest: float,
    rng: Random,
    trusting: bool = False,
) -> Choice | Refusal:
    """The best key that can start by `latest` (monotonic seconds), or why there is none.

    Among keys that can serve, the earliest start comes first, then accounts that this call has not tried,
    then least in flight relative to weight, then least recently used; ties are broken at random. A remembered
    missing scope, model or region steers away but never blocks: if all keys lack it, the provider's own
    answer counts. `trusting` ignores all that earlier answers taught, as is right for a pool of a single key.
    """
    family = model_family(request.model)
    able: list[KeyState] = []
    obstacles: dict[str, _Obstacle] = {}
    for key in keys:
        obstacle = _obstacle(key, request, history, family, now, trusting=trusting)
        if obstacle is None:
            able.append(key)
        else:
            obstacles[key.name] = obstacle
    if any(key.denied or key.host.refused_until > now for key in able):
        able = [key for key in able if not _is_denied(key, request, now)] or able

    best: Choice | None = None
    best_rank = (inf, True, inf, inf, inf)
    for key in able:
        start = now if trusting else _start(key, request, family, now)
        tried = key.account.name in history.tried
        rank = (start, tried, key.in_flight / key.weight, key.last_used, rng.random())
        if rank < best_rank:
            best, best_rank = Choice(key, start), rank
    if best is not None and best.start <= latest:
        return best
    obstacles |= {key.name: ("throttled", _start(key, request, family, now)) for key in able}
    return Refusal(obstacles, min((until for _, until in obstacles.values()), default=inf))


def could_serve(keys: Iterable[KeyState], request: RouteRequest) -> set[str]:
    """The accounts that might serve this call at some time: they bound its attempts."""
    return {key.account.name for key in keys if _mismatch(key, request) is None}


def _mismatch(key: KeyState, request: RouteRequest) -> str | None:
    """Why this key can never serve this call, or None."""
    if not key.enabled:
        return "disabled"
    if request.key is not None and request.key != key.name:
        return "not the key asked for"
    if request.account is not None and request.account != key.account.name:
        return "not of the account asked for"
    if not key.serves(request.model):
        return "its models do not include the one asked for"
    return None


def _obstacle(
    key: KeyState, request: RouteRequest, history: History, family: str, now: float, *, trusting: bool
) -> _Obstacle | None:
    if (mismatch := _mismatch(key, request)) is not None:
        return mismatch, inf
    if history.keys or history.accounts or history.hosts:
        account, host = key.account.name, key.host.name
        fault = history.keys.get(key.name) or history.accounts.get(account) or history.hosts.get(host)
        if fault is not None:
            return f"already failed in this call: {fault}", inf
    if trusting:
        return None
    if key.health.probation is not None and not _is_due(key.health.probation, key, now):
        return "rejected by the provider", key.health.probation.due
    if key.health.suspect and key.canary:
        return "suspect, being tried by another call", inf
    account = key.account
    if account.probation is not None and not _is_due(account.probation, account, now):
        return f"account {account.cause}", account.probation.due
    if key.vault_until > now:
        return "its secret cannot be read", key.vault_until
    if account.too_large and request.size() >= account.too_large.get(family, inf):
        return "the request exceeds its account's whole limit", inf
    return None


def _is_due(probation: Probation, holder: KeyState | AccountState, now: float) -> bool:
    """Whether this call may be the canary."""
    return now >= probation.due and not holder.canary


def _is_denied(key: KeyState, request: RouteRequest, now: float) -> bool:
    return (
        key.denied.get(request.endpoint, -inf) > now
        or (request.model is not None and key.denied.get(request.model, -inf) > now)
        or key.host.refused_until > now
    )


def _start(key: KeyState, request: RouteRequest, family: str, now: float) -> float:
    start = now
    if key.account.paces:
        start = start_time(key.account.pace(family), now)
    if key.host.paused_until:
        paused = key.host.paused_until
        start = max(start, paused.get("", -inf), paused.get(request.model or "", -inf))
    return start
