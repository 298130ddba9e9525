"""What the accounts are ranked by, and where that can be said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Any

import openai
import pytest

from keyrouter_openai import Key, Limits, RoutedOpenAI, Router, SyncRoutedOpenAI, routing
from keyrouter_openai.core.candidate import Candidate
from keyrouter_openai.core.model import Estimate, Fault, Outcome, RouteRequest, Usage
from keyrouter_openai.core.select import History
from keyrouter_openai.lease import Lease
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount
from keyrouter_openai.testing.virtual import VirtualTime

from .support import MESSAGES

pytestmark = pytest.mark.anyio

CALLS = 6


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("cheap"), SimAccount("good")]) as running:
        yield running


def key_of(sim: ProviderSimulator, account: str, **settings: Any) -> Key:
    secret: Any = sim.keys[f"{account}/key-1"]
    return Key(name=account, secret=secret, base_url=sim.url, account=account, **settings)


def keys_of(sim: ProviderSimulator) -> list[Key]:
    return [key_of(sim, "cheap", price_multiplier=0.5, quality=0.2), key_of(sim, "good", quality=0.9)]


async def ask(client: RoutedOpenAI, calls: int = CALLS) -> None:
    for _ in range(calls):
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


Said = Callable[[list[Key]], tuple[RoutedOpenAI, AbstractContextManager[None]]]

PLACES: dict[str, Said] = {
    "to the client": lambda keys: (RoutedOpenAI(keys=keys, objective="quality"), nullcontext()),
    "to the router": lambda keys: (RoutedOpenAI(router=Router(keys, objective="quality")), nullcontext()),
    "to a copy": lambda keys: (RoutedOpenAI(keys=keys, objective="cost").copy(objective="quality"), nullcontext()),
    "to a copy of a copy": lambda keys: (RoutedOpenAI(keys=keys).copy(objective="quality").copy(), nullcontext()),
    "in with_routing": lambda keys: (
        RoutedOpenAI(keys=keys, objective="cost").with_routing(objective="quality"),
        nullcontext(),
    ),
    "for a block": lambda keys: (RoutedOpenAI(keys=keys, objective="cost"), routing(objective="quality")),
}


@pytest.mark.parametrize("said", PLACES.values(), ids=PLACES)
async def test_an_objective_can_be_said(sim: ProviderSimulator, said: Said) -> None:
    client, block = said(keys_of(sim))
    async with client:
        with block:
            await ask(client)
    assert sim.by_key() == {"cheap/key-1": 0, "good/key-1": CALLS}


async def test_the_environment_names_the_objective_of_clients_that_are_told_none(
    sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYROUTER_OBJECTIVE", "cost")
    async with RoutedOpenAI(keys=keys_of(sim)) as client:
        await ask(client)
    assert sim.by_key() == {"cheap/key-1": CALLS, "good/key-1": 0}


def test_the_sync_client_takes_an_objective_too(sim: ProviderSimulator) -> None:
    with SyncRoutedOpenAI(keys=keys_of(sim), objective="cost") as client:
        for _ in range(CALLS):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert sim.by_key() == {"cheap/key-1": CALLS, "good/key-1": 0}


async def test_by_default_all_are_used_by_weight(sim: ProviderSimulator) -> None:
    async with RoutedOpenAI(keys=[key_of(sim, "cheap", weight=3), key_of(sim, "good")]) as client:
        await ask(client, 40)
    assert sim.count(account="cheap") == pytest.approx(30, abs=4)


async def test_reliability_avoids_an_account_that_has_failed(sim: ProviderSimulator) -> None:
    async with RoutedOpenAI(keys=keys_of(sim), objective="reliability") as client:
        sim.fail("server_error", account="good", times=1)
        with pytest.raises(openai.InternalServerError), routing(account="good", max_attempts=1):
            await ask(client)
        sim.reset_counts()
        await ask(client)
    assert sim.by_key() == {"cheap/key-1": CALLS, "good/key-1": 0}


async def test_latency_prefers_the_account_that_answers_sooner(sim: ProviderSimulator) -> None:
    with ProviderSimulator([SimAccount("slow")], latency=Latency(first_byte=0.3)) as other:
        keys = [key_of(sim, "good"), key_of(other, "slow")]
        async with RoutedOpenAI(keys=keys, objective="latency") as client:
            await ask(client)
        assert other.count() == 1, "each is tried once"
    assert sim.count() == CALLS - 1


class Backup:
    """Goes to one account only where no other can start the call now."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.asked_for: set[str | None] = set()

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        self.asked_for.add(request.model)
        return 1.0 if candidate.name == self.account else 0.0


async def test_an_objective_of_the_callers_own(sim: ProviderSimulator) -> None:
    mine = Backup("good")
    keys = [key_of(sim, "cheap", limits={"*": Limits(rpm=4)}), key_of(sim, "good")]
    async with RoutedOpenAI(keys=keys, objective=mine) as client:
        await ask(client)
    assert mine.asked_for == {"gpt-4o"}
    assert 3 <= sim.count(account="cheap") <= 4
    assert sim.count(status=200) == CALLS


def test_cost_counts_what_usually_comes_from_a_cache() -> None:
    """A tenth of the price for what is cached is worth more than a lower price for all of it."""
    clock = VirtualTime()
    keys = [
        Key(name="caches", secret="sk-1", account="caches", price_multiplier=1.0),
        Key(name="forgets", secret="sk-2", account="forgets", provider="anthropic", price_multiplier=0.6),
    ]
    prices = {"m": {"input": 2, "cached": 0.2, "output": 8}}
    router = Router(keys, objective="cost", prices=prices, clock=clock, rng=Random(1))

    def serve(prompt: int, cached: int) -> str:
        request = RouteRequest("", "/chat/completions", "m", estimate=lambda: Estimate(prompt, 10))
        lease = router.acquire(request, History(), number=1, max_wait=0.0)
        assert isinstance(lease, Lease)
        usage = Usage(prompt=prompt, completion=10, cached=cached if lease.key.name == "caches" else 0)
        router.settle(lease, Outcome(Fault.NONE, 200, usage=usage), started_at=clock.time(), waited_s=0.0)
        return lease.key.name

    assert {serve(10_000, 9_000) for _ in range(50)} == {"caches"}
    assert serve(1000, 0) == "forgets", "what is too short for any cache"
    for _ in range(100):
        serve(10_000, 0)
    assert serve(10_000, 0) == "forgets", "where prompts begin anew, the lower price counts"


def test_cost_of_what_has_no_price_goes_by_the_multiplier_after_all_that_has_one() -> None:
    keys = [
        Key(name="dear", secret="sk-1", account="dear", price_multiplier=2.0),
        Key(name="cheap", secret="sk-2", account="cheap", price_multiplier=0.5),
        Key(name="priced", secret="sk-3", account="priced", model_map={"m": "known"}, price_multiplier=9.0),
    ]
    router = Router(keys, objective="cost", prices={"known": {"input": 2, "output": 8}}, rng=Random(1))

    def chosen(**wishes: Any) -> str:
        request = RouteRequest("", "/chat/completions", "m", estimate=lambda: Estimate(100, 10), **wishes)
        lease = router.acquire(request, History(), number=1, max_wait=0.0)
        assert isinstance(lease, Lease)
        router.release(lease)
        return lease.key.name

    assert chosen() == "priced"
    router.reload(keys[:2])
    assert chosen() == "cheap"
