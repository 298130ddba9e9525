"""Whether a key can serve a call, and if not, why and until when. Reads state, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from .model import Fault, RouteRequest
from .state import AccountState, HostState, KeyState
from .verdict import POLICIES, Scope

CANARY_WAIT = 1.0
"""Seconds after which a call looks again whether the canary that is out has succeeded."""

Obstacle = tuple[str, float]
"""Why a key cannot serve, and until when (monotonic seconds, infinite where nobody knows)."""


_NO_FAULTS: Mapping[str, Fault] = {}


class History:
    """What one call has been through: where it must not go again, and where it would rather not."""

    __slots__ = ("accounts", "hosts", "keys", "tried")

    def __init__(self) -> None:
        # Most calls add nothing: what is empty is shared, and what is added makes a new one.
        self.keys: Mapping[str, Fault] = _NO_FAULTS
        self.accounts: Mapping[str, Fault] = _NO_FAULTS
        self.hosts: Mapping[str, Fault] = _NO_FAULTS
        self.tried: frozenset[str] = frozenset()
        """Accounts already tried, whatever came of it."""

    def add(self, key: str, account: str, host: str, fault: Fault) -> None:
        """Remember an attempt that ended in `fault`."""
        self.tried |= {account}
        match POLICIES[fault].avoid:
            case Scope.KEY:
                self.keys = {**self.keys, key: fault}
            case Scope.ACCOUNT:
                self.accounts = {**self.accounts, account: fault}
            case Scope.HOST:
                self.hosts = {**self.hosts, host: fault}
            case Scope.NOTHING:
                pass

    def forbids(self, key: KeyState) -> Fault | None:
        """The fault for which this call must not use a key again."""
        return (
            self.keys.get(key.name) or self.accounts.get(key.account.name) or self.hosts.get(key.host.name)
            if self.tried
            else None
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """No key can serve in time: for each key why, and until when (monotonic time, inf where nobody knows)."""

    obstacles: dict[str, Obstacle]
    first_return: float


def mismatch(key: KeyState, request: RouteRequest) -> str | None:
    """Why this key can never serve this call, or None."""
    if not key.enabled:
        return "disabled"
    if request.key is not None and request.key != key.name:
        return "not the key asked for"
    if request.account is not None and request.account != key.account.name:
        return f"not of the account that {f'owns {request.owned}' if request.owned else 'was asked for'}"
    if not key.serves(request.model):
        return "its models do not include the one asked for"
    return None


def obstacle(key: KeyState, request: RouteRequest, history: History, now: float) -> Obstacle | None:
    """Why this key cannot serve this call now, for a reason of its own or of the call, or None."""
    if (why := mismatch(key, request)) is not None:
        return why, inf
    if history.tried and (fault := history.forbids(key)) is not None:
        return f"already failed in this call: {fault}", inf
    if (probation := key.health.probation) is not None:
        if now < probation.due:
            return "rejected by the provider", probation.due
        if key.canary:
            return "rejected by the provider; one call is finding out whether it works again", now + CANARY_WAIT
    if key.vault_until > now:
        return "its secret cannot be read", key.vault_until
    return None


def is_denied(key: KeyState, request: RouteRequest, now: float) -> bool:
    """Whether this key is known to lack the scope, the model or the region.

    That steers away but never blocks: where all keys lack it, the provider's own answer counts.
    """
    if not key.denied:
        return key.host.refused_until > now
    return (
        key.denied.get(request.endpoint, -inf) > now
        or (request.model is not None and key.denied.get(request.model, -inf) > now)
        or key.host.refused_until > now
    )


def trouble(account: AccountState, host: HostState, request: RouteRequest, now: float) -> Obstacle | None:
    """Why no key of this account can serve this call now, or None. Its limits are another matter."""
    if (probation := account.probation) is not None:
        if now < probation.due:
            return f"account {account.why}", probation.due
        if account.canary:
            return f"account {account.why}; one call is finding out whether it works again", now + CANARY_WAIT
    if host.breakers:
        until = max((breaker.admits(now) for breaker in host.breakers_for(request)), default=now)
        if until > now:
            return "its provider is failing or asked to pause", until
    return None
