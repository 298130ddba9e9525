"""What `Router.status()` answers: the pool at one moment, as frozen values that turn into JSON with `asdict`."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from .core.model import Fault
from .core.pace import Pace
from .core.state import AccountState, KeyState


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key. `until` is wall-clock time, or None where nobody knows or nothing is to wait for."""

    name: str
    provider: str
    account: str
    state: str
    """`available`, `throttled`, `exhausted`, `suspect`, `invalid` or `disabled`."""
    reason: str
    until: float | None
    in_flight: int


@dataclass(frozen=True, slots=True)
class AccountStatus:
    """One quota domain: its keys, its state, and each model family that is parked, until when (wall clock)."""

    name: str
    keys: tuple[str, ...]
    state: str
    until: float | None
    parked: dict[str, float]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The whole pool. `in_flight` counts leases that are out, those that wait for their start included."""

    pool: str
    at: float
    in_flight: int
    keys: tuple[KeyStatus, ...]
    accounts: tuple[AccountStatus, ...]

    def key(self, name: str) -> KeyStatus:
        """The status of one key; KeyError if the pool has none of that name."""
        return {k.name: k for k in self.keys}[name]

    def account(self, name: str) -> AccountStatus:
        """The status of one account; KeyError if the pool has none of that name."""
        return {a.name: a for a in self.accounts}[name]


def account_state(account: AccountState, now: float) -> tuple[str, float]:
    """The state of an account and until when, in monotonic seconds (inf: nobody knows)."""
    if account.probation is not None:
        closed = account.cause is Fault.ACCOUNT_CLOSED
        return "invalid" if closed else "exhausted", account.probation.due
    until = max((pace.parked_until for pace in account.paces.values()), default=-inf)
    return ("throttled", until) if until > now else ("available", -inf)


def key_state(key: KeyState, now: float) -> tuple[str, str, float]:
    """The state of a key, why, and until when in monotonic seconds."""
    if not key.enabled:
        return "disabled", "disabled by a person", inf
    if key.health.probation is not None:
        return "invalid", "rejected by the provider", key.health.probation.due
    state, until = account_state(key.account, now)
    if key.account.probation is not None:
        return state, f"account {key.account.why}", until
    if key.vault_until > now:
        return "invalid", "its secret cannot be read", key.vault_until
    if key.health.suspect:
        return "suspect", "rejected once by the provider", -inf
    if state == "throttled":
        return state, "rate limit of its account", until
    paused = max(key.host.paused_until.values(), default=-inf)
    if paused > now:
        return "throttled", "its provider asked to pause", paused
    return "available", "", -inf


def parked_families(paces: dict[str, Pace], now: float) -> dict[str, float]:
    """The model families that are parked at `now`, with the monotonic time of their return."""
    return {family: pace.parked_until for family, pace in paces.items() if pace.parked_until > now}
