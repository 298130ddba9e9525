"""Choosing a key: which can serve, from when, and which of them is best. Reads state, changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from random import Random

from .model import Fault, RouteRequest
from .pace import start_time
from .state import HostState, KeyState, model_family
from .verdict import POLICIES, Scope

CANARY_WAIT = 1.0
"""Seconds after which a call looks again whether the canary that is out has succeeded."""
SPREAD = 0.5
"""Seconds over which the calls are spread that wait for a provider to end its pause."""

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
    denied = [key for key in able if _is_denied(key, request, now)]
    if len(denied) < len(able):
        able = [key for key in able if key not in denied] if denied else able
        obstacles |= {key.name: ("lacks the scope, model or region", inf) for key in denied}

    best: Choice | None = None
    best_rank = (inf, True, inf, inf, inf)
    for key in able:
        start = now if trusting else _start(key, request, family, now)
        tried = key.account.name in history.tried
        rank = (start, tried, key.in_flight / key.weight, key.last_used, rng.random())
        if rank < best_rank:
            best, best_rank = Choice(key, start), rank
    if best is not None and best.start <= latest:
        paused = paused_until(best.key.host, request) > now and not trusting
        return Choice(best.key, best.start + rng.uniform(0.0, SPREAD)) if paused else best
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
    if key.health.probation is not None and now < key.health.probation.due:
        return "rejected by the provider", key.health.probation.due
    account = key.account
    if account.probation is not None and now < account.probation.due:
        return f"account {account.why}", account.probation.due
    if key.vault_until > now:
        return "its secret cannot be read", key.vault_until
    if (known := account.too_large.get(family)) is not None and now < known.until and request.size() >= known.size:
        return "the request exceeds its account's whole limit", inf
    return None


def _is_denied(key: KeyState, request: RouteRequest, now: float) -> bool:
    if not key.denied:
        return key.host.refused_until > now
    return (
        key.denied.get(request.endpoint, -inf) > now
        or (request.model is not None and key.denied.get(request.model, -inf) > now)
        or key.host.refused_until > now
    )


def _start(key: KeyState, request: RouteRequest, family: str, now: float) -> float:
    start = now
    account = key.account
    if account.paces:
        start = start_time(account.pace(family), now)
    start = max(start, paused_until(key.host, request))
    if (account.probation is not None and account.canary) or (key.health.probation is not None and key.canary):
        start = max(start, now + CANARY_WAIT)
    return start


def paused_until(host: HostState, request: RouteRequest) -> float:
    """Until when the provider asked to leave this model alone, or all of its host."""
    if not host.paused_until:
        return -inf
    return max(host.paused_until.get("", -inf), host.paused_until.get(host_scope(request), -inf))


def host_scope(request: RouteRequest) -> str:
    """What of a host an overload concerns: the model, or the endpoint where there is none."""
    return request.model or request.endpoint


def is_open(key: KeyState, request: RouteRequest, now: float, *, decides_key: bool, decides_account: bool) -> bool:
    """Whether a key that was chosen for a later start may be used, now that its time has come.

    `decides_key` and `decides_account` say that the call is the canary whose outcome decides.
    """
    account = key.account
    return (
        key.enabled
        and (key.health.probation is None or decides_key)
        and (account.probation is None or decides_account)
        and account.pace(model_family(request.model)).parked_until <= now
        and paused_until(key.host, request) <= now
    )
