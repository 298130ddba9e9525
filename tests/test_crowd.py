"""A thousand calls at once on one client, with faults: each gets its own answer, and the books agree."""

from __future__ import annotations

import gc
import json
import resource
from collections import defaultdict
from collections.abc import Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from keyrouter_openai import Key, Ledger, RoutedOpenAI, Router, SyncRoutedOpenAI, routing
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount

CALLS = 1000
STREAMS = CALLS // 2
BROKEN = len(range(0, 2 * STREAMS // 3, 40))
"""Streams that break after content."""
CANCELLED = CALLS // 20
THREADS = 32
MODEL = "gpt-4o"


def prompt_of(call: int) -> str:
    return f"call {call} wants {call * 7919}"


def ask_for(call: int) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": prompt_of(call)}]


@dataclass
class Answer:
    """What a call came to: its text so far, and how it broke off, if it did."""

    text: str = ""
    error: openai.APIConnectionError | None = None
    finished: bool = False


class Crowd:
    """The calls, the pool that serves them, and what they got."""

    def __init__(self, sim: ProviderSimulator, path: Path) -> None:
        self.sim = sim
        self.ledger = Ledger(path)
        secrets: dict[str, Any] = sim.keys
        keys = [
            Key(name=label.replace("/", "-"), secret=secret, base_url=sim.url, account=label[0])
            for label, secret in secrets.items()
        ]
        self.router = Router(keys, ledger=self.ledger)
        self.settings: dict[str, Any] = {"router": self.router, "max_attempts": 12, "timeout": 600}
        self.answers = [Answer() for _ in range(CALLS)]

    @contextmanager
    def making(self, call: int) -> Generator[Answer]:
        """Within this block the call is made, and marked in the ledger as this one."""
        answer = self.answers[call]
        with routing(tags={"call": str(call)}):
            try:
                yield answer
            except openai.APIConnectionError as error:
                answer.error = error
        answer.finished = True


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    """Room for a thousand connections, of which this process holds both ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """Eight keys in four accounts: one key revoked, one account over its limit, and faults here and there."""
    latency = Latency(first_byte=0.02, sigma=0.5, chunk=0.02)  # so that streams can be cancelled in their midst
    with ProviderSimulator([SimAccount(name, keys=2) for name in "ABCD"], latency=latency) as simulator:
        simulator.revoke("A/key-2")
        simulator.fail("rate_limit", account="B", times=40, wait=0.05)
        for place in range(0, 2 * STREAMS // 3, 40):  # spread out, so that no call meets one after the other
            simulator.fail("server_error", times=1, after=place)
            simulator.fail("reset", times=1, after=place)
            simulator.fail("stream_cut", times=1, after=place, events=0)
            simulator.fail("stream_cut", times=1, after=place, events=1)
        yield simulator


@pytest.fixture
def crowd(sim: ProviderSimulator, tmp_path: Path) -> Iterator[Crowd]:
    made = Crowd(sim, tmp_path / "usage.db")
    yield made
    made.ledger.close()


async def ask(
    client: RoutedOpenAI, crowd: Crowd, call: int, on_chunk: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
) -> None:
    with crowd.making(call) as answer:
        if call % 2:
            async for chunk in await client.chat.completions.create(model=MODEL, messages=ask_for(call), stream=True):
                answer.text += chunk.choices[0].delta.content or ""
                await on_chunk()
        else:
            whole = await client.chat.completions.create(model=MODEL, messages=ask_for(call))
            answer.text = whole.choices[0].message.content or ""


def ask_sync(client: SyncRoutedOpenAI, crowd: Crowd, call: int) -> None:
    with crowd.making(call) as answer:
        if call % 2:
            for chunk in client.chat.completions.create(model=MODEL, messages=ask_for(call), stream=True):
                answer.text += chunk.choices[0].delta.content or ""
        else:
            whole = client.chat.completions.create(model=MODEL, messages=ask_for(call))
            answer.text = whole.choices[0].message.content or ""


# -- what must hold


def check_answers(crowd: Crowd) -> None:
    """Each call that ran to its end has its own answer, or the start of it where its stream broke."""
    for call, answer in enumerate(crowd.answers):
        if answer.finished and answer.error is None:
            assert answer.text == prompt_of(call)
        elif answer.finished:
            assert answer.text
            assert prompt_of(call).startswith(answer.text)
    assert sum(answer.error is not None for answer in crowd.answers) <= BROKEN


def check_leases(crowd: Crowd) -> None:
    """Every lease was given back."""
    status = crowd.router.status()
    assert status.in_flight == 0
    assert [key.in_flight for key in status.keys] == [0] * 8


Exchange = tuple[str | None, int | None]
"""A key, and the status of its answer."""


def sent(crowd: Crowd) -> dict[int, list[Exchange]]:
    """What reached the provider, by call and in order."""
    numbers = {prompt_of(call): call for call in range(CALLS)}
    found: dict[int, list[Exchange]] = defaultdict(list)
    for call in crowd.sim.calls:
        number = numbers[json.loads(call.body)["messages"][0]["content"]]
        found[number].append((call.key and call.key.replace("/", "-"), call.status))
    return found


def recorded(crowd: Crowd) -> dict[int, list[dict[str, Any]]]:
    """The ledger's rows, by call and in the order of the attempts."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in crowd.ledger.attempts():
        found[int(row["tags"]["call"])].append(row)
    for rows in found.values():
        rows.sort(key=lambda row: row["number"])
        assert [row["number"] for row in rows] == list(range(1, len(rows) + 1))
    return found


def check_books(crowd: Crowd) -> None:
    """Of each call that ran to its end, exactly the attempts that reached the provider are in the ledger.

    So are those of a call that was cancelled. Its last attempt is `abandoned` where it was cut off, and that one
    may never have reached the provider: it has no status, and the provider may or may not know of it.
    """
    upstream, rows = sent(crowd), recorded(crowd)
    for call, answer in enumerate(crowd.answers):
        ours: list[Exchange] = [(row["key"], row["status"]) for row in rows[call]]
        theirs = upstream[call]
        if answer.finished:
            assert ours == theirs
            assert rows[call][-1]["outcome"] == ("ok" if answer.error is None else "stream_broken")
        elif rows[call] and rows[call][-1]["outcome"] == "abandoned":
            assert ours[:-1] == theirs[: len(ours) - 1]
            assert [key for key, _ in theirs[len(ours) - 1 :]] in ([], [ours[-1][0]])
        else:
            assert ours == theirs


# -- the crowds


async def test_a_thousand_calls_at_once(crowd: Crowd) -> None:
    async with RoutedOpenAI(**crowd.settings) as client, anyio.create_task_group() as tasks:
        for call in range(CALLS):
            tasks.start_soon(ask, client, crowd, call)
    assert all(answer.finished for answer in crowd.answers)
    assert sum(answer.error is not None for answer in crowd.answers) == BROKEN
    check_answers(crowd)
    check_leases(crowd)
    check_books(crowd)


async def cancel_some(crowd: Crowd) -> None:
    """Make all calls at once; at random moments, the same in every run, one of them is cancelled."""
    rng = Random(5)
    scopes = {call: anyio.CancelScope() for call in range(CALLS)}
    moments = set(rng.sample(range(2 * CALLS), CANCELLED))
    """After so many chunks and ends of calls another call is cancelled: the one whose chunk it was, or any other."""
    steps = count()

    async def ask_or_give_up(call: int) -> None:
        async def on_chunk() -> None:
            if next(steps) in moments:
                scopes[call].cancel()
            await anyio.lowlevel.checkpoint()

        with scopes[call]:
            await ask(client, crowd, call, on_chunk)
        del scopes[call]
        if next(steps) in moments and scopes:
            rng.choice([*scopes.values()]).cancel()

    async with RoutedOpenAI(**crowd.settings) as client, anyio.create_task_group() as tasks:
        for call in range(CALLS):
            tasks.start_soon(ask_or_give_up, call)


# The SDK leaves the generators of each stream to the garbage collector, of which trio warns.
@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thousand_calls_of_which_some_are_cancelled(crowd: Crowd, backend: str) -> None:
    anyio.run(cancel_some, crowd, backend=backend)
    # A stream that its reader dropped is a circle of references, by the SDK's making: until it is collected, the
    # connection is open and the lease is out.
    gc.collect()
    cancelled = [answer for answer in crowd.answers if not answer.finished]
    assert 0 < len(cancelled) <= CANCELLED
    assert any(answer.text for answer in cancelled)
    check_answers(crowd)
    check_leases(crowd)
    check_books(crowd)


def test_a_thousand_calls_of_many_threads(crowd: Crowd) -> None:
    with SyncRoutedOpenAI(**crowd.settings) as client, ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(ask_sync, client, crowd, call) for call in range(CALLS)]:
            done.result()
    assert all(answer.finished for answer in crowd.answers)
    assert sum(answer.error is not None for answer in crowd.answers) == BROKEN
    check_answers(crowd)
    check_leases(crowd)
    check_books(crowd)
