"""The routing state of one pool: plain records, read by `core.select` and written by `Router` alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from math import inf
from re import compile as regex

from .health import HEALTHY, KeyHealth, Probation
from .model import Fault
from .pace import FREE, Pace


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Requests of `size` tokens or more are not sent until `until` (monotonic seconds): limits may be raised."""

    size: int
    until: float


@dataclass(slots=True)
class AccountState:
    """A quota domain. All times are monotonic seconds."""

    name: str
    probation: Probation | None = None
    cause: Fault = Fault.NONE
    """Why it is on probation."""
    canary: bool = False
    """A call is out that will decide the probation."""
    paces: dict[str, Pace] = field(default_factory=dict[str, Pace])
    """By model family; a family that was never refused is not listed."""
    too_large: dict[str, TooLarge] = field(default_factory=dict[str, TooLarge])
    """By model family: the smallest request that is known to exceed the whole limit."""

    @property
    def why(self) -> str:
        """Why it is on probation, in words."""
        return "closed by the provider" if self.cause is Fault.ACCOUNT_CLOSED else "out of credit or quota"

    def pace(self, family: str) -> Pace:
        """Its pace for a model family."""
        return self.paces.get(family, FREE)

    def absorb(self, other: AccountState) -> None:
        """Take over what was learned of a key's own account, which turns out to be this one."""
        for family, known in other.paces.items():
            if known.parked_until > self.pace(family).parked_until:
                self.paces[family] = known
        self.too_large = {**other.too_large, **self.too_large}
        if self.probation is None and other.probation is not None:
            self.probation, self.cause = other.probation, other.cause


@dataclass(slots=True)
class HostState:
    """A provider's address. Model `""` stands for all models."""

    name: str
    paused_until: dict[str, float] = field(default_factory=dict[str, float])
    strikes: dict[str, int] = field(default_factory=dict[str, int])
    takes_stream_options: bool = True
    """It has not refused a stream for the usage that the router asked for."""
    refused_until: float = -inf
    """Until when it is remembered that this provider does not serve our network address."""


@dataclass(slots=True)
class KeyState:
    """One key of the pool."""

    name: str
    provider: str
    account: AccountState
    host: HostState
    weight: float = 1.0
    models: tuple[str, ...] | None = None
    enabled: bool = True
    declared_account: bool = False
    health: KeyHealth = HEALTHY
    canary: bool = False
    vault_until: float = -inf
    """Until when its secret is not asked for again, after the vault failed."""
    denied: dict[str, float] = field(default_factory=dict[str, float])
    """Endpoints and models that this key may not use, each until when that is remembered."""
    in_flight: int = 0
    last_used: float = -inf
    seen: tuple[str | None, str | None] = (None, None)
    """The organisation and project that its last answer named."""
    announced: str = "available"
    """The state last told to event sinks."""

    def serves(self, model: str | None) -> bool:
        """Whether its `models` patterns let it serve this model."""
        return self.models is None or model is None or _matches(self.models, model)


@dataclass(slots=True)
class PoolState:
    """All that is known of one pool."""

    keys: dict[str, KeyState] = field(default_factory=dict[str, KeyState])
    accounts: dict[str, AccountState] = field(default_factory=dict[str, AccountState])
    hosts: dict[str, HostState] = field(default_factory=dict[str, HostState])


def remember(memory: dict[str, float], name: str, until: float, now: float) -> None:
    """Note `name` until a time, and forget what is over: the names come from callers, and never end."""
    for old in [old for old, end in memory.items() if end <= now]:
        del memory[old]
    memory[name] = max(until, memory.get(name, -inf))


@lru_cache(maxsize=4096)
def _matches(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


_DATED = regex(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)$")


@lru_cache(maxsize=4096)
def model_family(model: str | None) -> str:
    """The name under which a model's limits are kept: without its date, and a fine-tune under its base.

    Providers limit by model and let snapshots of one model share (OpenAI's rate-limit guide). Without a model
    (files, batches) the family is the empty string.
    """
    if not model:
        return ""
    base = model.split(":")[1] if model.startswith("ft:") and model.count(":") else model
    return _DATED.sub("", base)
