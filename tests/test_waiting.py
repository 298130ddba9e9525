"""Calls for which there is no capacity now: who waits, how long, in which order, and what the headers teach of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from keyrouter_openai import Limits, NoKeyAvailable, RoutedOpenAI, SyncRoutedOpenAI, route_of
from keyrouter_openai.clock import Signal, ThreadSignal
from keyrouter_openai.testing import ProviderSimulator, SimAccount, respond

from .support import ECHO, MESSAGES, Pool, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio

both_clients = pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
both_loops = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


class HeldClock(TurnedClock):
    """Time that stands still: who sleeps is woken, or never wakes."""

    def __init__(self) -> None:
        super().__init__()
        self.thread_sleeps = threading.Event()

    async def sleep(self, seconds: float, signal: Signal | None = None) -> None:
        assert signal is not None
        await signal.wait(inf)

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        assert signal is not None
        self.thread_sleeps.set()
        signal.wait(60.0)


class InterruptedClock(TurnedClock):
    """Ctrl-C comes while the caller sleeps."""

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


Make = Callable[..., Pool]


@pytest.fixture
def make(cleanup: ExitStack, tmp_path: Path) -> Make:
    """Makes a pool over accounts, on a clock; a simulated account with two keys unless others are given."""

    def made(*accounts: SimAccount, clock: TurnedClock | None = None, declared: bool = True, **limits: int) -> Pool:
        clock = clock or TurnedClock()
        sim = cleanup.enter_context(ProviderSimulator(accounts or [SimAccount("A", keys=2)], clock=clock))
        pool = make_pool(sim, tmp_path / "ledger.db", clock, declared=declared)
        cleanup.callback(pool.ledger.close)
        if limits:
            pool.router.reload([key.model_copy(update={"limits": {"*": Limits(**limits)}}) for key in pool.router.keys])
        return pool

    return made


async def ask(client: RoutedOpenAI, text: str = ECHO) -> str | None:
    answer = await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content


async def wait_needed(pool: Pool) -> float | None:
    """Seconds that one more call would have to wait."""
    error = (await call(pool, sync=False, stream=False, client=pool.client(max_wait=0))).error
    assert isinstance(error, NoKeyAvailable)
    return error.retry_after


# How long


@both_clients
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "learned"])
async def test_a_call_waits_as_long_as_it_must_and_is_never_refused(
    make: Make, *, sync: bool, stream: bool, declared: bool
) -> None:
    """Six at once and one more every ten seconds, and each time a little more: some margin is left in a bucket."""
    pool = make(SimAccount("A", keys=2, rpm=6), declared=declared, **({"rpm": 6} if declared else {}))
    results = [await call(pool, sync=sync, stream=stream) for _ in range(9)]
    assert [result.text for result in results] == [ECHO] * 9
    assert pool.sim.count(status=429) == 0
    waited = [route_of(result.origin).waited_s for result in results]
    assert waited[:6] == pytest.approx([0.0] * 6, abs=1.0)
    assert waited[6:] == pytest.approx([10.5] * 3, abs=0.6)
    assert sum(pool.clock.slept) == pytest.approx(sum(waited))
    pool.router.flush()
    assert [row["waited_s"] for row in pool.rows()] == pytest.approx(waited)


@both_clients
@pytest.mark.parametrize("bound", [{"max_wait": 9.0}, {"max_wait": 0}, {"timeout": 9.0}])
async def test_no_call_waits_in_vain(make: Make, bound: dict[str, float], *, sync: bool) -> None:
    pool = make(SimAccount("A", keys=2, rpm=6), rpm=6)
    for _ in range(6):
        await call(pool, sync=sync, stream=False)
    pool.clock.slept.clear()
    client = pool.client_sync(**bound) if sync else pool.client(**bound)
    result = await call(pool, sync=sync, stream=False, client=client)
    assert isinstance(result.error, NoKeyAvailable)
    assert result.error.retry_after is not None
    assert result.error.retry_after == pytest.approx(10.0, abs=1.0)
    assert result.error.response.headers["retry-after"] in ("10", "11")
    assert pool.clock.slept == []
    assert pool.sim.count() == 6
    pool.clock.pass_(result.error.retry_after)
    assert (await call(pool, sync=sync, stream=False)).text == ECHO
    assert pool.clock.slept == [], "what was said was right"


async def test_the_timeout_of_a_single_call_bounds_its_wait(make: Make) -> None:
    pool = make(rpm=6)
    for _ in range(6):
        await call(pool, sync=False, stream=False)
    result = await call(pool, sync=False, stream=False, timeout=5.0)
    assert isinstance(result.error, NoKeyAvailable)
    assert (await call(pool, sync=False, stream=False, timeout=15.0)).text == ECHO


async def test_tokens_are_waited_for_as_requests_are(make: Make) -> None:
    pool = make(SimAccount("A", keys=2, tpm=6000), tpm=6000)
    for _ in range(2):
        assert (await call(pool, sync=False, stream=False, max_tokens=3000)).text == ECHO
    assert pool.clock.now == pytest.approx(1_000_000.0, abs=1.0), "there was enough"
    assert (await call(pool, sync=False, stream=False, max_tokens=1000)).text == ECHO
    assert sum(pool.clock.slept) == pytest.approx(10.0, abs=1.0)
    assert pool.sim.count(status=429) == 0


# Who leaves


@both_loops
async def test_a_cancelled_call_gives_back_its_place(make: Make, anyio_backend: str) -> None:
    pool = make(clock=HeldClock(), rpm=1)
    async with pool.client(max_wait=59.0, timeout=None) as client:
        assert await ask(client) == ECHO
        pool.clock.pass_(2.0)
        async with anyio.create_task_group() as group:
            group.start_soon(ask, client)
            await anyio.wait_all_tasks_blocked()
            assert await wait_needed(pool) == pytest.approx(118.0, abs=1.0)
            group.cancel_scope.cancel()
        assert await wait_needed(pool) == pytest.approx(58.0, abs=1.0)
    assert pool.sim.count() == 1


async def test_an_interrupted_call_gives_back_its_place(make: Make) -> None:
    pool = make(clock=InterruptedClock(), rpm=1)
    with pool.client_sync() as client:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        with pytest.raises(KeyboardInterrupt):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert await wait_needed(pool) == pytest.approx(60.0, abs=1.0)
    assert pool.sim.count() == 1


# Who is woken


@both_loops
async def test_a_call_that_waits_goes_as_soon_as_another_ends(make: Make, anyio_backend: str) -> None:
    pool = make(clock=HeldClock(), concurrent=1)
    answers: list[str | None] = []

    async def wait(client: RoutedOpenAI) -> None:
        answers.append(await ask(client))

    async with pool.client() as client:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                running = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
                group.start_soon(wait, client)
                await anyio.wait_all_tasks_blocked()
                assert (answers, pool.sim.count()) == ([], 1)
                await running.close()
    assert answers == [ECHO]


@both_clients
@both_loops
async def test_calls_that_wait_move_to_an_account_that_is_added(make: Make, anyio_backend: str, *, sync: bool) -> None:
    clock = HeldClock()
    pool = make(SimAccount("A", keys=2), SimAccount("B"), clock=clock)
    keys = pool.router.keys
    pool.router.reload([key for key in keys if key.account == "A"])
    pool.sim.fail("rate_limit", account="A", wait=50)
    await call(pool, sync=False, stream=False, client=pool.client(max_wait=0))
    texts: list[str] = []

    async def wait() -> None:
        texts.append((await call(pool, sync=sync, stream=False)).text)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await (anyio.to_thread.run_sync(clock.thread_sleeps.wait) if sync else anyio.wait_all_tasks_blocked())
            pool.router.reload(keys)
    assert texts == [ECHO]
    assert (pool.sim.count(account="A"), pool.sim.count(account="B")) == (1, 1)


def test_a_thread_that_waits_goes_as_soon_as_another_ends(make: Make) -> None:
    clock = HeldClock()
    pool = make(clock=clock, concurrent=1)
    with pool.client_sync() as client:
        create: Any = client.chat.completions.create
        running = create(model="gpt-4o", messages=MESSAGES, stream=True)
        waiting = threading.Thread(target=partial(create, model="gpt-4o", messages=MESSAGES), daemon=True)
        waiting.start()
        assert clock.thread_sleeps.wait(10)
        running.close()
        waiting.join(10)
        assert not waiting.is_alive()
    assert pool.sim.count(status=200) == 2


# In which order


async def served(pool: Pool, client: RoutedOpenAI, *groups: tuple[int, str, dict[str, str]]) -> str:
    """Calls come one after the other to an account that takes one at a time: the order in which they are served.

    Each group is so many calls with a letter and tags.
    """
    async with client, anyio.create_task_group() as tasks:
        running = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        for count, letter, tags in groups:
            for _ in range(count):
                tasks.start_soon(ask, client.with_routing(tags=tags), letter)
                await anyio.wait_all_tasks_blocked()
        await running.close()
    return "".join(json.loads(seen.body)["messages"][0]["content"] for seen in pool.sim.calls[1:])


@both_loops
async def test_interactive_calls_go_before_batch_work(make: Make, anyio_backend: str) -> None:
    """Who came first has been promised the next place; the others are in order."""
    pool = make(clock=HeldClock(), concurrent=1)
    assert await served(pool, pool.client(), (3, "b", {"priority": "batch"}), (3, "i", {})) == "biiibb"


@both_loops
async def test_tenants_share_what_there_is_and_a_flood_harms_itself(make: Make, anyio_backend: str) -> None:
    pool = make(clock=HeldClock(), concurrent=1)
    order = await served(pool, pool.client(), (8, "f", {"tenant": "flood"}), (2, "q", {"tenant": "quiet"}))
    assert order.rindex("q") < 6, order


@both_loops
async def test_a_tenant_with_twice_the_weight_is_served_twice_as_often(make: Make, anyio_backend: str) -> None:
    pool = make(concurrent=1)
    client = RoutedOpenAI(keys=pool.router.keys, tenant_weights={"big": 2}, ledger=None)
    order = await served(pool, client, (9, "b", {"tenant": "big"}), (8, "s", {"tenant": "small"}))
    assert order[1:10].count("b") == 6, order


# What is learned from headers

LIMITS = {
    "x-ratelimit-limit-requests": "777",
    "x-ratelimit-remaining-requests": "700",
    "x-ratelimit-reset-requests": "6s",
}


@both_clients
@pytest.mark.parametrize("status", [200, 400, 401, 404, 429, 500])
async def test_limits_are_read_from_answers_that_are_errors(make: Make, status: int, *, sync: bool) -> None:
    """Also from an error in the guise of a success."""
    pool = make(SimAccount("A"), SimAccount("B"))
    pool.sim.fail(respond(status, LIMITS, {"error": {"message": "no", "code": "server_error"}}), times=1)
    await call(pool, sync=sync, stream=False)
    buckets = [bucket for account in pool.router.status().accounts for bucket in account.buckets]
    assert [(bucket.dimension, bucket.period, bucket.limit) for bucket in buckets] == [("requests", 60.0, 777)]


def limits_known(client: RoutedOpenAI | SyncRoutedOpenAI) -> list[float]:
    return [bucket.limit for account in client.router.status().accounts for bucket in account.buckets]


async def test_limits_are_read_before_the_body_is(make: Make) -> None:
    pool = make(SimAccount("A", rpm=777), SimAccount("B", rpm=777))
    async with pool.client() as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert limits_known(client) == [777]
        await stream.close()
        streaming = client.embeddings.with_streaming_response.create(model="text-embedding-3-small", input="x")
        async with streaming:
            assert limits_known(client) == [777, 777]


def test_limits_are_read_before_the_body_is_by_the_sync_client_too(make: Make) -> None:
    pool = make(SimAccount("A", rpm=777), SimAccount("B", rpm=777))
    with pool.client_sync() as client:
        stream = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert limits_known(client) == [777]
        stream.close()
