"""What the benchmarks in virtual time share: the contestants, the optimum, and how a run is scored.

    one key      the first key with the official SDK's retries: two, after the time that the provider names, else
                 after 0.5 s and 1 s with jitter
    round robin  each call takes the next key, and keeps it for the SDK's retries
    failover     each attempt takes the next key that is not cooling down: after a 429 a key rests for as long as
                 `retry-after` says, else 60 s; after a 401 it is out. When all rest, the call waits for the first.
                 After as many attempts as there are keys the call fails
    routed       `Router`, with the limits and accounts of its keys declared
    learning     `Router`, which is told nothing but the keys

All make the same calls to a provider of their own, alike to the last random number that they do not cause
themselves, and none sends an attempt later than `PATIENCE` after the call arrived. The router's estimate of a
call's tokens is what the provider charges for it, unless a scenario says otherwise.
"""

from __future__ import annotations

import logging
import time as wall
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil, inf
from random import Random

from keyrouter_openai import Key
from keyrouter_openai.core.model import MINUTE, Estimate, RouteRequest
from keyrouter_openai.core.objectives import Objective
from keyrouter_openai.keys import Limits
from keyrouter_openai.providers import PROVIDERS
from keyrouter_openai.router import Router
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.account import Denied
from keyrouter_openai.testing.model import Latency
from keyrouter_openai.testing.virtual import (
    NETWORK_MOST,
    Steps,
    VirtualCall,
    VirtualProvider,
    VirtualTime,
    play,
)
from keyrouter_openai.testing.virtual_client import RoutedCaller

PATIENCE = 20.0
"""Seconds after its arrival at which a call is given up."""
LATENCY = Latency(first_byte=0.4, sigma=0.5, tokens_per_second=150)
COOLDOWN = 60.0


@dataclass
class World:
    """One contestant's own time and provider."""

    time: VirtualTime
    provider: VirtualProvider
    seed: int
    as_text: bool
    """Whether headers are read as text: only then do the dates in them matter."""
    estimated: float
    """The router's estimate of a call's tokens, as a share of what the provider charges."""

    @property
    def secrets(self) -> list[str]:
        """The secrets of all keys, in the order of the accounts."""
        return [key.secret for key in self.provider.books.keys.values()]

    def score(self, calls: list[VirtualCall], wall_s: float) -> Score:
        """What came of the calls, now that they are over."""
        return Score(calls, list(zip(self.provider.came_at, self.provider.statuses, strict=True)), wall_s)


Caller = Callable[[VirtualCall], Steps]
Contestant = Callable[[World], Caller]


def sdk_attempts(world: World, secret: str, call: VirtualCall, rng: Random) -> Steps:
    """A call as the official SDK makes it with one key."""
    for retry in range(3):
        sent_at = world.time.now
        answer = yield from world.provider.attempt(secret, call)
        if answer.refusal is None:
            call.sent_at, call.ended_at, call.cached_tokens = sent_at, world.time.now, answer.cached_tokens
            return
        if answer.refusal.status not in (408, 409, 429, 500, 502, 503, 504):
            return
        pause = named_wait(answer.refusal, exact=True) or min(0.5 * 2**retry, 8.0) * rng.uniform(0.75, 1.0)
        if world.time.now + pause > call.at + PATIENCE:
            return
        yield world.time.now + pause


def named_wait(refusal: Denied, *, exact: bool) -> float | None:
    """Seconds that an answer asks to wait, if it does so as the SDK heeds it; `exact` reads `retry-after-ms`, too."""
    named = refusal.wait or 0.0
    return (named if exact else ceil(named)) if 0.0 < named <= 60.0 else None


def one_key(world: World) -> Caller:
    rng = Random(world.seed)
    return lambda call: sdk_attempts(world, world.secrets[0], call, rng)


def round_robin(world: World) -> Caller:
    rng, secrets = Random(world.seed), cycle(world.secrets)
    return lambda call: sdk_attempts(world, next(secrets), call, rng)


def failover(world: World) -> Caller:
    rests_until = dict.fromkeys(world.secrets, 0.0)
    turns = cycle(world.secrets)

    def make(call: VirtualCall) -> Steps:
        attempts = 0
        while attempts < len(rests_until):
            now = world.time.now
            if now > call.at + PATIENCE:
                return
            secret = next((s for s, _ in zip(turns, rests_until, strict=False) if rests_until[s] <= now), None)
            if secret is None:
                yield min(*rests_until.values(), call.at + 2 * PATIENCE)
                continue
            answer = yield from world.provider.attempt(secret, call)
            if answer.refusal is None:
                call.sent_at, call.ended_at, call.cached_tokens = now, world.time.now, answer.cached_tokens
                return
            attempts += 1
            status = answer.refusal.status
            if status == 401:
                rests_until[secret] = inf
            elif status == 429:
                pause = named_wait(answer.refusal, exact=False) or COOLDOWN
                rests_until[secret] = max(rests_until[secret], world.time.now + pause)

    return make


def routed(world: World) -> Caller:
    """The router, told accounts and limits."""
    return router_of(world, declared=True)


def learning(world: World) -> Caller:
    """The router, told the keys alone."""
    return router_of(world, declared=False)


def without_affinity(world: World) -> Caller:
    """As `learning`, but the router does not look at how prompts begin."""
    return router_of(world, declared=False, affinity=False)


def router_of(
    world: World,
    *,
    declared: bool,
    affinity: bool = True,
    tenants: bool = True,
    objective: str | Objective = "fairness",
) -> Caller:
    """A caller with a router: whether it is told accounts and limits, how prompts begin, and who calls."""
    books = world.provider.books
    keys: list[Key] = []
    for label, key in books.keys.items():
        name, spec = label.replace("/", "."), books.account(key.account)
        provider = spec.headers if spec.headers in PROVIDERS and spec.headers != "azure" else "openai"
        if declared:
            limits = {"*": Limits(rpm=spec.rpm, tpm=spec.tpm)}
            keys.append(Key(name=name, secret=key.secret, provider=provider, account=key.account, limits=limits))
        else:
            keys.append(Key(name=name, secret=key.secret, provider=provider))
    router = Router(keys, clock=world.time, rng=Random(world.seed), objective=objective)

    def describe(call: VirtualCall) -> RouteRequest:
        request, share = call.describe(), world.estimated
        estimate = Estimate(round(share * call.prompt_tokens), round(share * call.completion_tokens))
        prefixes = request.prefixes if affinity else tuple
        return request._replace(estimate=lambda: estimate, prefixes=prefixes, tenant=call.tenant if tenants else "")

    caller = RoutedCaller(world.time, world.provider, router, patience=PATIENCE, as_text=world.as_text)
    if affinity and tenants and world.estimated == 1.0:
        return caller.call
    return lambda call: caller.call(call, describe(call))


CONTESTANTS: dict[str, Contestant] = {
    "one key": one_key,
    "round robin": round_robin,
    "failover": failover,
    "routed": routed,
    "learning": learning,
}


# -- what is played


def poisson(calls_per_second: float, seconds: float, rng: Random) -> Iterator[float]:
    """Times of arrival of callers who know nothing of each other."""
    at = rng.expovariate(calls_per_second)
    while at < seconds:
        yield at
        at += rng.expovariate(calls_per_second)


MODEL = "gpt-4o"
MEAN_PROMPT, MEAN_COMPLETION = 750, 75
"""Tokens; the sizes of the Azure LLM inference trace of 2023, halved (see `testing.load`)."""
MEAN_CHARGE = 757.0
"""Mean of the larger of the two, which is what the limits are charged (lognormal sizes, by drawing a million)."""


def made_up_calls(calls_per_second: float, seconds: float, seed: int) -> list[VirtualCall]:
    """Random arrivals (Poisson) of lognormal sizes; every other call streams."""
    rng = Random(seed)

    def size(mean: int) -> int:
        return max(1, round(mean * rng.lognormvariate(-0.5, 1.0)))

    return [
        VirtualCall(at, size(MEAN_PROMPT), size(MEAN_COMPLETION), MODEL, stream=rng.random() < 0.5)
        for at in poisson(calls_per_second, seconds, rng)
    ]


Script = Callable[[World], Steps]
"""What happens to the provider while the calls come."""


@dataclass(frozen=True)
class Scenario:
    """Calls, and the provider that they meet.

    `make_calls` makes them anew for each contestant, since a run writes its results on them. `revoked` are labels
    of keys that the provider rejects.
    """

    accounts: Sequence[SimAccount]
    make_calls: Callable[[], list[VirtualCall]]
    seed: int = 0
    revoked: Sequence[str] = ()
    script: Script | None = None
    clock_error: float = 0.0
    """Seconds by which the provider's clock is ahead of the callers'."""
    estimated: float = 1.0
    """The router's estimate of a call's tokens, as a share of what the provider charges."""
    latency: Latency = LATENCY


@dataclass
class Score:
    """What a contestant made of a scenario."""

    calls: list[VirtualCall]
    sent: list[tuple[float, int]]
    """Time and status of each request that came to the provider."""
    wall_s: float

    def within(self, start: float, end: float) -> Score:
        """The same for the calls that arrived, and the requests that came, from `start` up to `end`."""
        calls = [call for call in self.calls if start <= call.at < end]
        return Score(calls, [item for item in self.sent if start <= item[0] < end], self.wall_s)

    def share_of(self, bound: Optimum) -> float:
        """What was served, as a share of the optimum for the same calls, in the units of the limit that binds."""
        got = sum(asked for asked, call in zip(bound.asked, self.calls, strict=True) if call.served)
        return got / (sum(bound.granted) or 1.0)

    @property
    def served(self) -> float:
        """Share of the calls that were served."""
        return sum(call.served for call in self.calls) / max(len(self.calls), 1)

    @property
    def large(self) -> float:
        """Share of the largest tenth of the calls that was served."""
        largest = sorted(self.calls, key=lambda call: call.charge)[-max(len(self.calls) // 10, 1) :]
        return sum(call.served for call in largest) / len(largest)

    @property
    def refused(self) -> float:
        """Answers of status 429 for each 1,000 calls."""
        return 1000 * sum(status == 429 for _, status in self.sent) / max(len(self.calls), 1)

    @property
    def cached(self) -> float:
        """Share of the prompt tokens of the served calls that came from the provider's cache."""
        served = [call for call in self.calls if call.served]
        return sum(call.cached_tokens for call in served) / max(sum(call.prompt_tokens for call in served), 1)

    def wait(self, quantile: float) -> float:
        """Seconds from arrival until the attempt left that was served: this quantile over the served calls."""
        waits = sorted(call.sent_at - call.at for call in self.calls if call.served)
        return waits[min(int(quantile * len(waits)), len(waits) - 1)] if waits else inf


def world_of(scenario: Scenario, time: VirtualTime) -> World:
    """A scenario's provider, at its start."""
    rng = Random(scenario.seed)
    provider = VirtualProvider(time, scenario.accounts, scenario.latency, rng, clock_error=scenario.clock_error)
    for label in scenario.revoked:
        provider.books.revoke(label)
    return World(time, provider, scenario.seed, scenario.clock_error != 0.0, scenario.estimated)


def run(scenario: Scenario, contestant: Contestant) -> Score:
    """Let a contestant play a scenario."""
    world, calls = world_of(scenario, VirtualTime()), scenario.make_calls()
    caller = contestant(world)
    if scenario.script is not None:
        world.time.start(scenario.script(world))
    logger = logging.getLogger("keyrouter_openai")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that keys fail here is the point
    start = wall.perf_counter()
    try:
        play(world.time, calls, caller)
    finally:
        logger.setLevel(level)
    return world.score(calls, wall.perf_counter() - start)


# -- the optimum


@dataclass(frozen=True)
class Optimum:
    """What an all-knowing scheduler could be granted: for each call what it asks of the limit that binds, and gets."""

    asked: Sequence[float]
    granted: Sequence[float]

    @property
    def share(self) -> float:
        return sum(self.granted) / (sum(self.asked) or 1.0)


def optimum(calls: Sequence[VirtualCall], accounts: Sequence[SimAccount]) -> Optimum:
    """A bound that no scheduler can exceed, in units of the limit that binds (requests or tokens of each minute).

    The buckets of all accounts are poured into one: with burst B = sum(limit) and refill R = sum(limit) / 60 s. It
    is full at first, calls may be cut as finely as is needed, and it serves them first come, first served; what is
    left of a call PATIENCE and the longest way to the provider after its arrival is dropped. As all are equally
    patient, no order is granted more. Of the two limits, the one that grants the smaller share of its calls binds.
    """
    bounds = (
        _fluid(calls, [1.0] * len(calls), [account.rpm for account in accounts]),
        _fluid(calls, [float(call.charge) for call in calls], [account.tpm for account in accounts]),
    )
    return min(bounds, key=lambda bound: bound.share)


def _fluid(calls: Sequence[VirtualCall], asked: Sequence[float], limits: Sequence[int | None]) -> Optimum:
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        return Optimum(asked, asked)
    burst, rate = float(sum(known)), sum(known) / MINUTE
    granted = [0.0] * len(calls)
    waiting: deque[int] = deque()
    level, now = burst, 0.0

    def serve(until: float) -> None:
        nonlocal level, now
        while waiting:
            first = waiting[0]
            missing = asked[first] - granted[first]
            last = min(until, calls[first].at + PATIENCE + NETWORK_MOST)
            got = min(level + rate * max(last - now, 0.0), missing)
            used = max(got - level, 0.0) / rate  # seconds
            level, now = max(level - got, 0.0), now + used
            granted[first] += got
            if got < missing and last == until:
                return
            waiting.popleft()
        level, now = min(level + rate * (until - now), burst), until

    for place, call in enumerate(calls):
        serve(call.at)
        waiting.append(place)
    serve(calls[-1].at + PATIENCE + 1.0 if calls else 0.0)
    return Optimum(asked, granted)
