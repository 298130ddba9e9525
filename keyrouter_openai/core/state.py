"""The routing state of one pool: plain records, read by `core.select` and written by `Router` alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from math import inf
from re import compile as regex

from .breaker import Breaker
from .health import HEALTHY, KeyHealth, Probation
from .model import Fault, RouteRequest
from .price import Price
from .quota import Quota
from .standing import Standing

LONG = " (long context)"
"""What the name of a family ends with for prompts so long that some models have other limits for them."""


@dataclass(slots=True)
class AccountState:
    """A quota domain. All times are monotonic seconds."""

    name: str
    members: list[KeyState] = field(default_factory=list["KeyState"])
    """Its keys."""
    probation: Probation | None = None
    cause: Fault = Fault.NONE
    """Why it is on probation."""
    canary: bool = False
    """A call is out that will decide the probation."""
    quotas: dict[str, Quota] = field(default_factory=dict[str, Quota])
    """By model family."""
    standings: dict[str, Standing] = field(default_factory=dict[str, Standing])
    """By model family."""
    apart: set[str] = field(default_factory=set[str])
    """Families of long prompts that have limits of their own."""
    shared: dict[str, str] = field(default_factory=dict[str, str])
    """Families whose limit is that of another: which."""

    @property
    def why(self) -> str:
        """Why it is on probation, in words."""
        return "closed by the provider" if self.cause is Fault.ACCOUNT_CLOSED else "out of credit or quota"

    def quota(self, family: str, provider: str, now: float) -> Quota:
        """Its limits for a model family. Long prompts share those of the others until they are seen not to."""
        if family.endswith(LONG) and family not in self.apart:
            family = family.removesuffix(LONG)
        family = self.shared.get(family, family)
        found = self.quotas.get(family)
        if found is None:
            found = self.quotas[family] = Quota(family, provider, now)
        return found

    def standing(self, family: str) -> Standing:
        """What is known of its service of a model family."""
        found = self.standings.get(family)
        if found is None:
            found = self.standings[family] = Standing()
        return found

    def forget_families(self, used: set[str]) -> None:
        """Drop what is kept for model families that are not in use and of which nothing was learned."""
        self.quotas = {f: q for f, q in self.quotas.items() if f in used or q.in_flight or q.is_learned}
        self.standings = {f: s for f, s in self.standings.items() if f in used or s.in_flight or f in self.quotas}

    def absorb(self, other: AccountState) -> None:
        """Take over what was learned of a key's own account, which turns out to be this one."""
        for family, known in other.quotas.items():
            if (own := self.quotas.get(family)) is None:
                self.quotas[family] = known
            else:
                own.absorb(known)
        if self.probation is None and other.probation is not None:
            self.probation, self.cause = other.probation, other.cause


@dataclass(slots=True)
class HostState:
    """A provider's address."""

    name: str
    breakers: dict[str, Breaker] = field(default_factory=dict[str, Breaker])
    """By model family, or by endpoint for calls without a model; `""` for all of the host. Made when one fails."""
    takes_stream_options: bool = True
    """It has not refused a stream for the usage that the router asked for."""
    refused_until: float = -inf
    """Until when it is remembered that this provider does not serve our network address."""

    def breakers_for(self, request: RouteRequest) -> list[Breaker]:
        """Those that concern a call."""
        names = ("", scope_of(request))
        return [self.breakers[name] for name in names if name in self.breakers]


@dataclass(slots=True)
class KeyState:
    """One key of the pool."""

    name: str
    provider: str
    account: AccountState
    host: HostState
    weight: float = 1.0
    quality: float = 0.5
    price_multiplier: float = 1.0
    price_of: Callable[[str | None], Price | None] = lambda model: None
    """Its price for a model, if that is known by now."""
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
    rank: float = 0.0
    """Calls served relative to its weight."""
    announced: str = "available"
    """The state last told to event sinks."""

    @property
    def is_plain(self) -> bool:
        """Whether nothing at all is held against it."""
        return (
            self.health is HEALTHY
            and not self.denied
            and self.enabled
            and self.vault_until == -inf
            and self.host.refused_until == -inf
        )

    def serves(self, model: str | None) -> bool:
        """Whether its `models` patterns let it serve this model."""
        return self.models is None or model is None or _matches(self.models, model)


def scope_of(request: RouteRequest) -> str:
    """What of a host an overload concerns: the model family, or the endpoint where there is no model."""
    return model_family(request.model) or request.endpoint


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
