"""Event loops one after the other and side by side, threads, copies, and clients that nobody closes."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from openai import AsyncOpenAI

from keyrouter_openai import Ledger, RoutedOpenAI, SyncRoutedOpenAI
from keyrouter_openai.clock import Signal
from keyrouter_openai.testing import ProviderSimulator

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "The quick brown fox."}]}


connections_complain = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
"""Those of a loop that has ended do when they are collected; and a client is a cycle: so may its own. As in the SDK."""


def ask(client: SyncRoutedOpenAI) -> str | None:
    create: Any = client.chat.completions.create
    return create(**CHAT).choices[0].message.content


async def ask_async(client: AsyncOpenAI) -> None:
    await client.chat.completions.create(**CHAT)


def in_new_loops(client: AsyncOpenAI, times: int) -> list[str]:
    """What becomes of one call in each of several event loops, one after the other."""

    ends: list[str] = []
    for _ in range(times):
        try:
            asyncio.run(ask_async(client))
            ends.append("ok")
        except (RuntimeError, openai.OpenAIError) as error:
            ends.append(repr(error))
    return ends


@connections_complain
@pytest.mark.parametrize("keys", [1, 2])
def test_loops_one_after_the_other_serve_as_with_the_sdk(sim: ProviderSimulator, keys: int) -> None:
    secrets = list(sim.keys.values())
    client = RoutedOpenAI(keys=secrets[:keys])
    ends = in_new_loops(client, 4)
    assert ends == in_new_loops(AsyncOpenAI(api_key=secrets[0]), 4)
    outcomes = Counter(row["outcome"] for row in client.ledger.attempts())
    assert outcomes["ok"] == ends.count("ok") > 1
    assert outcomes.keys() <= {"ok", "local"}  # versions of the SDK that try again do so in vain at first
    status = client.router.status()
    assert status.in_flight == 0
    assert {key.state for key in status.keys} == {"available"}
    del client
    gc.collect()  # here, where the complaints are expected


def test_a_client_for_each_loop_shares_one_router(sim: ProviderSimulator) -> None:
    shared = RoutedOpenAI().router

    async def main() -> None:
        async with RoutedOpenAI(router=shared) as client:
            await asyncio.gather(*(ask_async(client) for _ in range(10)))

    threads = [threading.Thread(target=lambda: asyncio.run(main())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(main())
    assert sum(sim.by_key().values()) == sim.count(status=200) == 40
    assert shared.status().in_flight == 0


def test_threads_share_a_client(sim: ProviderSimulator) -> None:
    with SyncRoutedOpenAI() as client, ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, [client] * 80)) == {"The quick brown fox."}
        assert len(client.ledger.attempts()) == sim.count(status=200) == 80
        assert min(sim.by_key().values()) > 20


def test_a_signal_wakes_trio_where_it_is_a_guest_of_asyncio() -> None:
    async def guest() -> None:
        signal = Signal()
        threading.Thread(target=signal.set).start()
        with trio.fail_after(30):
            await signal.wait(3600)

    async def host() -> None:
        loop = asyncio.get_running_loop()
        end: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=end.set_result
        )
        (await end).unwrap()

    asyncio.run(host())


@pytest.mark.parametrize("door", [RoutedOpenAI, SyncRoutedOpenAI])
@pytest.mark.parametrize("copied", [pickle.dumps, copy.deepcopy])
def test_a_client_is_not_pickled(sim: ProviderSimulator, door: Any, copied: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=f"{door.__name__} can be neither pickled nor deep-copied.*make one in each"):
        copied(door())


@pytest.mark.parametrize("door", [RoutedOpenAI, SyncRoutedOpenAI])
def test_a_shallow_copy_is_the_clients_own(sim: ProviderSimulator, door: Any) -> None:
    client = door(timeout=5.0)
    copied = copy.copy(client)
    assert copied is not client
    assert copied.router is client.router
    assert copied.timeout == 5.0


@connections_complain
def test_a_client_that_nobody_closes_is_collected(sim: ProviderSimulator, tmp_path: Path) -> None:
    client = SyncRoutedOpenAI()
    ask(client)
    router = weakref.ref(client.router)
    client.ledger.close()
    del client
    gc.collect()
    assert router() is None
    assert len(Ledger(tmp_path / "usage.db").attempts()) == 1


@connections_complain
def test_an_async_client_that_nobody_closes_is_collected(sim: ProviderSimulator, tmp_path: Path) -> None:
    async def main() -> weakref.ref[Any]:
        client = RoutedOpenAI()
        await ask_async(client)
        client.ledger.close()
        return weakref.ref(client.router)

    router = asyncio.run(main())
    gc.collect()
    assert router() is None
    assert len(Ledger(tmp_path / "usage.db").attempts()) == 1


def test_ctrl_c_ends_a_sync_call_and_nothing_is_left(sim: ProviderSimulator) -> None:
    sim.fail("hang", times=1)
    client = SyncRoutedOpenAI()

    def interrupt() -> None:
        while not sim.calls:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    person = threading.Thread(target=interrupt)
    person.start()
    with pytest.raises(KeyboardInterrupt):
        ask(client)
    person.join()
    assert client.router.status().in_flight == 0
    assert ask(client) == "The quick brown fox."
    assert [row["outcome"] for row in client.ledger.attempts()] == ["ok", "abandoned"]
    client.close()
