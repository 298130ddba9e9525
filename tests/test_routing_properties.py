"""What holds whatever happens: nothing granted that is not there, nothing lost, nobody forgotten, nobody starved.

The `Router` is driven directly, with a clock that the test turns, and `SimProvider` is the truth.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrouter_openai import Key, Router
from keyrouter_openai.core.model import Fault, Outcome, RouteRequest
from keyrouter_openai.core.queue import Turn
from keyrouter_openai.core.select import History
from keyrouter_openai.keys import Limits
from keyrouter_openai.lease import Lease
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.model import Latency
from keyrouter_openai.testing.virtual import VirtualCall, VirtualProvider, VirtualTime, play
from keyrouter_openai.testing.virtual_client import RoutedCaller

from .world import SEEDS, Caller, World, few

# -- never more than there is


@settings(few, max_examples=6)
@given(SEEDS)
def test_where_limits_are_known_nothing_is_refused(seed: int) -> None:
    rng = Random(seed)
    accounts = [
        SimAccount(f"A{n}", keys=rng.randint(1, 3), rpm=rng.choice([60, 120, 300]), tpm=rng.choice([30_000, 90_000]))
        for n in range(rng.randint(2, 4))
    ]
    world = World(accounts, seed=seed, answer_s=rng.choice([0.0, 0.5, 4.0]))
    rate = sum(account.rpm or 0 for account in accounts) / 60
    world.arrive(1.5 * rate, 120.0, lambda: world.ask(rng.choice([50, 100, 300, 1500])))
    world.run(160.0)
    assert world.statuses[429] == 0
    assert all(caller.done for caller in world.callers)
    world.check_nothing_is_out()


def test_limits_for_each_day_are_kept_too() -> None:
    world = World([SimAccount("A", rpm=600, rpd=100), SimAccount("B", rpm=600, rpd=200)])
    world.arrive(10.0, 60.0, lambda: world.ask(wait=5.0))
    world.run(70.0)
    assert world.statuses[429] == 0
    assert 290 <= world.statuses[200] <= 301


def test_no_more_calls_at_a_time_than_are_allowed() -> None:
    world = World([SimAccount("A", keys=2, concurrent=3), SimAccount("B", concurrent=2)], answer_s=2.0)
    callers = [world.ask(wait=60.0) for _ in range(40)]
    world.run(60.0)
    assert world.statuses == {200: 40}
    assert all(caller.done for caller in callers)
    assert max(caller.waited for caller in callers) <= 2.0 * 8
    world.check_nothing_is_out()


def refused_and_served(accounts: Sequence[SimAccount], *, load: float, known: bool, seed: int) -> tuple[int, float]:
    """Over a network that takes its time: the 429s after the first minute, and the share of capacity that was used."""
    time = VirtualTime()
    provider = VirtualProvider(time, accounts, Latency(0.5, 0.5), Random(seed))
    keys = [
        Key(
            name=label.replace("/key-", "-"),
            secret=key.secret,
            account=key.account,
            limits={"*": Limits(rpm=provider.books.account(key.account).rpm)} if known else {},
        )
        for label, key in provider.books.keys.items()
    ]
    router, rng = Router(keys, clock=time, rng=Random(seed + 1)), Random(seed + 2)
    caller = RoutedCaller(time, provider, router, patience=20.0)
    rate = sum(account.rpm or 0 for account in accounts) / 60
    calls: list[VirtualCall] = []
    at = 0.0
    while (at := at + rng.expovariate(load * rate)) < 180.0:
        calls.append(VirtualCall(at, 10, 10))
    play(time, calls, caller.call)
    late = [status for came_at, status in zip(provider.came_at, provider.statuses, strict=True) if came_at > 60.0]
    served = sum(call.served and 60.0 < call.sent_at <= 180.0 for call in calls)
    return late.count(429), served / (120.0 * rate * min(load, 1.0))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("load", [0.7, 1.3])
def test_over_a_real_network_next_to_nothing_is_refused(load: float, known: bool, seed: int) -> None:
    accounts = [SimAccount("A", rpm=500), SimAccount("B", rpm=300), SimAccount("C", rpm=100)]
    refused, used = refused_and_served(accounts, load=load, known=known, seed=seed)
    assert refused <= 4
    assert used >= 0.94


@pytest.mark.parametrize(
    "what", [{"headers": "azure"}, {"headers": "none"}, {"header_lag_s": 1.0}, {"slice_s": 6.0}], ids=str
)
def test_whatever_the_headers_say_or_leave_out(what: dict[str, Any]) -> None:
    accounts = [SimAccount(name, rpm=rpm, **what) for name, rpm in (("A", 500), ("B", 300), ("C", 100))]
    refused, used = refused_and_served(accounts, load=1.3, known=False, seed=1)
    assert refused <= (100 if what == {"headers": "none"} else 20)
    assert used >= (0.85 if what == {"headers": "none"} else 0.94)


# -- nobody is forgotten


def test_one_who_waits_behind_a_large_call_goes_when_that_leaves() -> None:
    world = World([SimAccount("A", tpm=60_000), SimAccount("B", tpm=60_000)])
    world.fill_up(tokens=1000)
    large = [world.ask(19_000) for _ in range(2)]
    small = world.ask(100, model="gpt-4o-2024-08-06")
    world.run(3.0)
    assert all(caller.waits for caller in (*large, small))
    for caller in large:
        world.leave(caller)
    world.run(4.0)
    assert small.started_at == pytest.approx(3.0)


def test_what_is_settled_while_the_lock_is_held_wakes_those_that_wait() -> None:
    """Another thread settles just then; nothing else may ever happen."""
    for method in ("may_retry", "status"):
        world = World([SimAccount("A", concurrent=1), SimAccount("B", concurrent=1)], answer_s=1e9)
        out = [world.ask(wait=60.0) for _ in range(2)]
        waits = world.ask(wait=60.0)
        real, asked = world.clock.monotonic, 0

        def monotonic(real: Callable[[], float] = real, world: World = world, out: list[Caller] = out) -> float:
            nonlocal asked
            asked += 1
            if asked == 1:
                world.settle(out[0], Outcome(Fault.NONE, 200))
            return real()

        world.clock.monotonic = monotonic
        held = out[1].held
        assert isinstance(held, Lease)
        if method == "status":
            world.router.status()
        else:
            world.router.may_retry(held)
        assert isinstance(waits.held, Turn) and isinstance(waits.held.granted, Lease), method


@pytest.mark.parametrize("count", [12, 60])
def test_calls_that_wait_for_one_account_hold_up_no_others(count: int) -> None:
    world = World([SimAccount("A", rpm=60), SimAccount("B", rpm=60)])
    world.fill_up(account="A")
    pinned = [world.ask(wait=15.0, account="A") for _ in range(count)]
    assert pinned[0].waits
    assert world.ask().started_at == 0.0


def test_calls_too_large_for_the_small_accounts_hold_up_no_others() -> None:
    world = World([SimAccount("A", tpm=100_000), SimAccount("B", tpm=2_000), SimAccount("C", tpm=2_000)])
    world.ask(99_000)
    large = [world.ask(20_000, wait=1000.0) for _ in range(12)]
    assert large[0].waits
    assert world.ask(100).started_at == 0.0
    world.run(1000.0)
    assert [caller.waited for caller in large] == sorted(caller.waited for caller in large)


def test_in_a_large_pool_one_who_waits_for_a_key_holds_up_no_others() -> None:
    world = World([SimAccount(f"A{n}", rpm=60) for n in range(80)])
    parked = world.ask(wait=0.0, account="A1")
    assert isinstance(parked.held, Lease)
    world.run(0.0)
    refused = world.router.acquire(RouteRequest("r", "/x", "gpt-4o", account="A1"), History(), number=1, max_wait=0.0)
    assert isinstance(refused, Lease)
    world.router.settle(refused, Outcome(Fault.RATE_LIMIT, 429, wait=15.0), started_at=0.0, waited_s=0.0)
    assert world.ask(account="A1", wait=20.0).waits
    assert world.ask(wait=5.0).started_at == 0.0


def test_those_that_wait_are_placed_anew_when_the_pool_is_replaced() -> None:
    world = World([SimAccount("A", rpm=60), SimAccount("B", rpm=60)])
    world.fill_up()
    waiting = [world.ask() for _ in range(6)]
    world.router.reload(world.keys)
    world.run(10.0)
    assert [round(caller.waited, 1) for caller in waiting] == sorted(round(caller.waited, 1) for caller in waiting)
    assert all(caller.done and caller.waited <= 4.0 for caller in waiting)
    assert world.statuses[429] == 0
    world.check_nothing_is_out()


def test_a_child_process_has_all_accounts_to_itself() -> None:
    world = World([SimAccount("A", rpm=60, concurrent=1), SimAccount("B", rpm=60, concurrent=1)], answer_s=1e9)
    for _ in range(2):
        world.ask()
    for _ in range(3):
        world.ask(wait=60.0)
    child = os.fork()
    if child == 0:
        os._exit(sum(world.ask(wait=0.0).started_at is not None for _ in range(3)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


# -- nobody is starved


@pytest.mark.parametrize("models", [("gpt-4o", "gpt-4o"), ("gpt-4o", "gpt-4o-2024-08-06")])
def test_a_large_call_among_a_flood_of_small_ones_and_small_ones_behind_large(models: tuple[str, str]) -> None:
    world = World([SimAccount("A", tpm=60_000), SimAccount("B", tpm=60_000)])
    world.fill_up(tokens=1000)
    small: list[Caller] = []
    large: list[Caller] = []
    world.arrive(40.0, 60.0, lambda: small.append(world.ask(100, wait=60.0, model=models[0])) or small[-1])
    world.at(5.0, lambda: large.append(world.ask(10_000, wait=60.0, model=models[1])))
    world.run(120.0)
    # Small calls before it: 5 s of them at twice the rate at most, then its own 10 s of one account.
    assert large[0].waited <= 25.0
    assert max(caller.waited for caller in small if caller.started_at) <= 60.0
    around = [caller.waited for caller in small if caller.started_at and 5.0 < caller.asked_at < 15.0]
    assert around and max(around) <= 30.0
    assert world.statuses[429] == 0


@pytest.mark.parametrize("restricted", [False, True])
def test_models_that_share_a_limit_take_turns(restricted: bool) -> None:
    """Whether the same keys serve both models or not."""
    world = World([SimAccount("A", rpm=60), SimAccount("B", rpm=60)])
    if restricted:
        other = world.keys[1].model_copy(update={"models": ("gpt-4o",)})
        world.router.reload([world.keys[0], other])
    world.fill_up()
    flood = [world.ask(wait=1000.0) for _ in range(100)]
    late = [world.ask(wait=1000.0, model="gpt-4o-2024-08-06")]
    world.arrive(3.0, 60.0, lambda: flood.append(world.ask(wait=1000.0)) or flood[-1])
    world.run(200.0)
    assert late[0].waited <= 60.0


def test_batch_work_goes_after_interactive_calls() -> None:
    world = World([SimAccount("A", rpm=60), SimAccount("B", rpm=60)])
    world.fill_up()
    batch = [world.ask(wait=100.0, urgent=False) for _ in range(20)]
    interactive = [world.ask(wait=100.0) for _ in range(20)]
    world.run(100.0)
    started = [caller.started_at or 0.0 for caller in batch[2:]]  # two had capacity reserved before
    assert max(caller.started_at or 0.0 for caller in interactive) <= min(started)


@settings(few, max_examples=4)
@given(SEEDS, st.sampled_from([(1.0, 1.0), (1.0, 3.0), (2.0, 5.0)]))
def test_tenants_get_capacity_by_weight(seed: int, weights: tuple[float, float]) -> None:
    shares = dict(zip("xy", weights, strict=True))
    world = World([SimAccount("A", rpm=240), SimAccount("B", rpm=120)], seed=seed, tenant_weights=shares)
    world.fill_up()
    for tenant in shares:
        for _ in range(500):
            world.ask(wait=1000.0, tenant=tenant)
    world.run(30.0)
    counts = Counter(caller.request.tenant for caller in world.callers if caller.started_at and caller.waited)
    total = counts.total()
    assert total == pytest.approx(6 * 30, abs=4)
    for tenant, weight in shares.items():
        assert counts[tenant] == pytest.approx(total * weight / sum(weights), abs=3)


def test_a_light_tenant_does_not_feel_the_flood_of_another() -> None:
    world = World([SimAccount("A", rpm=600), SimAccount("B", rpm=600)])
    world.fill_up()
    light: list[Caller] = []
    world.arrive(100.0, 30.0, lambda: world.ask(tenant="flood"))
    world.arrive(2.0, 30.0, lambda: light.append(world.ask(tenant="light")) or light[-1])
    world.run(60.0)
    assert all(caller.started_at is not None for caller in light)
    assert max(caller.waited for caller in light) <= 0.5
    served = sum(1 for caller in world.callers if caller.started_at and caller.asked_at)
    assert served >= 0.97 * 20 * 30
