"""What a caller may say about the routing of a call, and what the router says about it afterwards."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, cast

from .core.model import Fault, Usage
from .core.objectives import Objective, find_objective
from .core.verdict import POLICIES
from .errors import ConfigError
from .prices import Cost

ALL_ACCOUNTS = "*"
"""In place of an account's name: all of them, one after another; for lists alone."""

HedgeAfter = float | Literal["p95"]
"""Seconds, or the 95th percentile of the time to an answer's headers for the model."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Wishes for the calls of one client or block. None leaves the choice where it was."""

    tags: Mapping[str, str] | None = None
    key: str | None = None
    account: str | None = None
    max_wait: float | None = None
    max_attempts: int | None = None
    objective: str | Objective | None = None
    hedge_after: HedgeAfter | None = None
    budget_tags: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        # What users pass is checked here, whatever the annotations say.
        wait = cast("object", self.max_wait)
        if wait is not None and not (isinstance(wait, int | float) and 0 <= wait < inf):
            raise ConfigError(f"max_wait={wait!r}: give seconds, 0 (never wait) or more")
        attempts = cast("object", self.max_attempts)
        if attempts is not None and not (isinstance(attempts, int) and attempts >= 1):
            raise ConfigError(f"max_attempts={attempts!r}: give a number of 1 or more")
        hedge = cast("object", self.hedge_after)
        if not (hedge in (None, "p95") or (isinstance(hedge, int | float) and 0 < hedge < inf)):
            raise ConfigError(f"hedge_after={hedge!r}: give seconds above 0, or 'p95'")
        for name, tags in (("tags", cast("object", self.tags)), ("budget_tags", cast("object", self.budget_tags))):
            if tags is not None and not isinstance(tags, Mapping):
                raise ConfigError(f"{name}={tags!r}: give a mapping, such as {{'feature': 'search'}}")
        priority = self.tags.get("priority", "interactive") if self.tags else "interactive"
        if priority not in ("interactive", "batch"):
            raise ConfigError(f"tag priority={priority!r}: use 'interactive' (the default) or 'batch'")
        if self.objective is not None:
            check_objective(self.objective)

    def over(self, base: Routing) -> Routing:
        """These wishes where they are given, and else those of `base`; tags are merged."""
        if self is NO_WISHES:
            return base
        return Routing(
            tags={**(base.tags or {}), **(self.tags or {})} or None,
            key=base.key if self.key is None else self.key,
            account=base.account if self.account is None else self.account,
            max_wait=base.max_wait if self.max_wait is None else self.max_wait,
            max_attempts=base.max_attempts if self.max_attempts is None else self.max_attempts,
            objective=base.objective if self.objective is None else self.objective,
            hedge_after=base.hedge_after if self.hedge_after is None else self.hedge_after,
            budget_tags={**(base.budget_tags or {}), **(self.budget_tags or {})} or None,
        )


NO_WISHES = Routing()


def check_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of tenants. Raises ConfigError where one is not above 0."""
    # What users pass is checked here, whatever the annotations say.
    if not isinstance(cast("object", weights), Mapping):
        raise ConfigError(f"tenant_weights={weights!r}: give a mapping, such as {{'t1': 2.0}}")
    for tenant, weight in weights.items():
        if not isinstance(cast("object", weight), int | float) or not 0.0 < weight < inf:
            raise ConfigError(f"tenant_weights: {tenant!r} has {weight!r}: give a number above 0")
    return {str(tenant): weight for tenant, weight in weights.items()}


def check_objective(objective: object) -> Objective | None:
    """The objective of that name, or the caller's own; None is fairness. Raises ConfigError if it is neither."""
    try:
        return find_objective(objective)
    except ValueError as error:
        raise ConfigError(str(error)) from None


_current: ContextVar[Routing] = ContextVar("keyrouter_openai_routing", default=NO_WISHES)


@contextmanager
def routing(
    *,
    tags: Mapping[str, str] | None = None,
    key: str | None = None,
    account: str | None = None,
    max_wait: float | None = None,
    max_attempts: int | None = None,
    objective: str | Objective | None = None,
    hedge_after: HedgeAfter | None = None,
    budget_tags: Mapping[str, str] | None = None,
) -> Generator[None]:
    """Route the calls made within this block as said, in this task or thread only.

    For code that does not hold the client; with the client at hand use `client.with_routing(...)`.

    Args:
        tags: recorded with each attempt in the ledger. Two of them mean something: calls of one `tenant` share
            capacity as one, and those of `priority` `batch` go after all others.
        key: the name of the only key that may serve.
        account: the name of the only account whose keys may serve. For lists of what accounts keep, such as
            `files.list()`, "*" is all of them: their pages come one account after another.
        max_wait: seconds that one call may wait for capacity in all.
        max_attempts: most attempts of one call.
        objective: how to rank accounts that can serve, in place of the client's.
        hedge_after: make a second attempt on another account if the headers of an answer take longer than so many
            seconds, or than the 95th percentile of its model ("p95"); see `hedging.runs_twice` for the calls.
        budget_tags: recorded as `tags` are, and for budgets of tags as good as these, but they mean nothing else: a
            `tenant` or a `priority` here has no say in who is served first.
    """
    wishes = Routing(tags, key, account, max_wait, max_attempts, objective, hedge_after, budget_tags)
    token = _current.set(wishes.over(_current.get()))
    try:
        yield
    finally:
        _current.reset(token)


def current_routing() -> Routing:
    """The wishes of the enclosing `routing(...)` blocks."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class RouteAttempt:
    """One attempt of a call. `status` is None where no answer came; `detail` is the provider's code.

    `cost_usd` is in US dollars, and None where it is not known or nothing was used.
    """

    key: str
    account: str
    outcome: Fault
    status: int | None
    detail: str
    seconds: float
    cost_usd: float | None = None


@dataclass(frozen=True, slots=True)
class TracedAttempt(RouteAttempt):
    """An attempt as a trace keeps it: what it costs may be known only later."""

    find_cost: Callable[[], Cost] | None = None
    """Tells that as far as it is known by then; None where nothing was used."""

    def shown(self, cost_usd: float | None) -> RouteAttempt:
        """The attempt as users see it."""
        return RouteAttempt(self.key, self.account, self.outcome, self.status, self.detail, self.seconds, cost_usd)


@dataclass(frozen=True, slots=True)
class Route:
    """How a call was served. `usage` is None until it is known: with streams, until their end.

    `cost_usd` is what all attempts cost, in US dollars: the sum of whole micro-dollars. It is None where some of it is
    not known; so it is while the prices are loaded, in the first second of a process (see `Prices.load`).
    """

    key: str
    account: str
    provider: str
    model: str | None
    attempts: tuple[RouteAttempt, ...]
    waited_s: float
    usage: Usage | None
    cost_usd: float | None


class Trace:
    """What is noted of a call while it runs; `route_of` makes a `Route` of it."""

    __slots__ = ("__weakref__", "account", "attempts", "key", "model", "provider", "usage", "waited_s")

    def __init__(self, model: str | None) -> None:
        self.attempts: list[TracedAttempt] = []
        self.key = self.account = self.provider = ""
        self.model = model
        self.usage: Usage | None = None
        self.waited_s = 0.0

    def route(self) -> Route:
        """The call as it stands now."""
        costs = [None if attempt.find_cost is None else attempt.find_cost().microusd for attempt in self.attempts]
        used = [cost for cost, attempt in zip(costs, self.attempts, strict=True) if attempt.find_cost is not None]
        known = [cost for cost in used if cost is not None]
        return Route(
            self.key,
            self.account,
            self.provider,
            self.model,
            tuple(attempt.shown(_usd(cost)) for attempt, cost in zip(self.attempts, costs, strict=True)),
            self.waited_s,
            self.usage,
            cost_usd=_usd(sum(known)) if used and len(known) == len(used) else None,
        )


def _usd(microusd: int | None) -> float | None:
    return None if microusd is None else microusd / 1_000_000


# By identity, since SDK models compare by value and cannot be hashed; entries go with their object.
_traces: dict[int, tuple[weakref.ref[Any], Trace]] = {}


def remember_route(result: object, trace: Trace) -> None:
    """Tie a call's trace to what the caller gets of it. Plain values (str, None) cannot be tied to anything."""
    key = id(result)
    try:
        _traces[key] = weakref.ref(result, lambda _: _traces.pop(key, None)), trace
    except TypeError:
        return


def annotate(error: BaseException, trace: Trace) -> None:
    """Note the attempts of a call on its error, and tie the call's trace to it."""
    for number, attempt in enumerate(trace.attempts, 1):
        status = "no answer" if attempt.status is None else f"status {attempt.status}"
        why = f" ({attempt.detail})" if attempt.detail else ""
        error.add_note(
            f"attempt {number}: key {attempt.key!r} of account {attempt.account!r}: {attempt.outcome}{why}, "
            f"the fault of {POLICIES[attempt.outcome].blame}, {status}, after {attempt.seconds:.2f} s"
        )
    remember_route(error, trace)


look_inside: list[Callable[[object], object]] = []
"""What finds the stream in helpers that wrap one, and None in all else; the seams of the SDK add to it."""


def route_of(result: object) -> Route:
    """How the call behind a response, stream, raw response or exception was routed.

    What the SDK makes of a stream when it is over, such as `get_final_response()`, has none: ask of the stream.

    Raises:
        ConfigError: the object did not come from a routed call.
    """
    found = _traces.get(id(result))
    if found is None or found[0]() is not result:
        for look in look_inside:
            if (inner := look(result)) is not None:
                return route_of(inner)
        raise ConfigError(f"no route is known of this {type(result).__name__}: it did not come from a routed call")
    return found[1].route()
