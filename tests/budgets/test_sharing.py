"""One budget for many clients, processes and starts, with whatever becomes of them."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from keyrouter_openai import Budget, BudgetExceeded, Key, Ledger, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator

from .support import CENT, MODEL, ask, billed, keys_of, messages, new_client, spent


def test_clients_that_share_a_ledger_share_a_budget_and_those_that_are_dropped_keep_nothing_of_it(
    sim: ProviderSimulator, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "usage.db")

    def ask_once(client: SyncRoutedOpenAI, cap: int = 100) -> SyncRoutedOpenAI:
        create: Any = client.chat.completions.create
        create(model=MODEL, messages=messages(), max_tokens=cap)
        ledger.flush()
        return client

    def new() -> SyncRoutedOpenAI:
        return SyncRoutedOpenAI(keys=keys_of(sim), budgets=[Budget(usd=1)], ledger=ledger, timeout=60.0)

    with ask_once(new()), ask_once(new()) as second:
        ask_once(second)
        spent = second.router.status().budgets[0].spent_usd
        assert spent is not None
        assert spent <= billed(sim) / 1e6
    for _ in range(20):
        ask_once(new())
        gc.collect()
    with new() as client:
        ask_once(client, cap=80_000)  # 0.80 of the 0.96 that are left
    ledger.close()


async def test_a_budget_outlives_the_process_and_counts_what_was_spent_before_it(sim: ProviderSimulator) -> None:
    async with new_client(sim) as client:
        await ask(client)
    async with new_client(sim, Budget(usd=0.004, per="total")) as client:
        await ask(client)
        with pytest.raises(BudgetExceeded):
            await ask(client)
    async with new_client(sim, Budget(usd=0.0045, per="total")) as client:
        with pytest.raises(BudgetExceeded, match=r"0\.001250 of 0\.004500"):
            await ask(client)
        await ask(client, "word " * 20)
    with closing(sqlite3.connect(client.ledger.path)) as connection:
        assert connection.execute("select sum(microusd) from allowances").fetchone() == (0,)


async def test_calls_go_on_while_another_program_keeps_the_ledger_locked(
    sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_client(sim, Budget(usd=0.01)) as client:
        await ask(client)
        await anyio.to_thread.run_sync(client.ledger.flush)
        with closing(sqlite3.connect(client.ledger.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(BudgetExceeded):
                for _ in range(20):
                    await ask(client)
            other.execute("rollback")
        await client.close()
        assert billed(sim) <= CENT
        assert spent(client.ledger.path) == {"default/pool/day/UTC": billed(sim), "rows": billed(sim)}


_PROGRAM = """
import random, sys
import anyio
from keyrouter_openai import Budget, BudgetExceeded, Key, RoutedOpenAI

url, secret, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def one(client, rng):
    size = rng.randint(1, 120)
    try:
        with anyio.move_on_after(0.02 if rng.random() < 0.05 else 60):
            made = await client.chat.completions.create(model="gpt-4o", max_tokens=size * 10, stream=rng.random() < 0.3,
                                                        messages=[{"role": "user", "content": "word " * size * 10}])
            if not hasattr(made, "choices"):
                async for _ in made:
                    if rng.random() < 0.01:
                        break
                await made.close()
    except BudgetExceeded:
        pass

async def main():
    rng = random.Random(seed)
    async with RoutedOpenAI(keys=[Key(name="a", secret=secret, base_url=url)], budgets=[Budget(usd=0.2)]) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        limiter = anyio.CapacityLimiter(8)
        async def limited():
            async with limiter:
                await one(client, rng)
        async with anyio.create_task_group() as group:
            for _ in range(80):
                group.start_soon(limited)

anyio.run(main)
"""


def test_processes_share_a_budget_and_one_that_is_killed_leaves_no_hole(sim: ProviderSimulator, tmp_path: Path) -> None:
    secret = sim.keys["A/key-1"]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, sim.url, secret, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for seed in range(3)
    ]
    try:
        for program in programs:
            assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        for program in programs:
            assert program.stdin is not None
            program.stdin.write(b"\n")
            program.stdin.flush()
        while sim.count() < 10:
            pass
        programs[0].kill()
        assert [program.wait(120) for program in programs[1:]] == [0, 0]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    with SyncRoutedOpenAI(keys=[Key(name="a", secret=secret, base_url=sim.url)], budgets=[Budget(usd=0.2)]) as client:
        create: Any = client.chat.completions.create
        with pytest.raises(BudgetExceeded):
            for _ in range(2000):
                create(model=MODEL, messages=messages("hi"), max_tokens=10)
    assert billed(sim) <= 0.2e6
    found = spent(tmp_path / "usage.db")
    assert found["rows"] == found["default/pool/day/UTC"] >= 0.199e6


@pytest.mark.parametrize("close_first", [True, False], ids=["closed, then spent", "spent, then closed"])
def test_a_ledger_that_is_closed_amid_use_gives_nothing_away_that_is_still_spent(
    sim: ProviderSimulator, tmp_path: Path, *, close_first: bool
) -> None:
    path = tmp_path / "usage.db"
    clients = [SyncRoutedOpenAI(keys=keys_of(sim), budgets=[Budget(usd=0.05)], ledger=Ledger(path)) for _ in range(2)]

    def spend(client: SyncRoutedOpenAI) -> None:
        create: Any = client.chat.completions.create
        with pytest.raises(BudgetExceeded):
            for _ in range(100):
                create(model=MODEL, messages=messages(), max_tokens=100)

    first, second = clients
    create: Any = first.chat.completions.create
    create(model=MODEL, messages=messages(), max_tokens=100)  # its process gets more than that costs
    if close_first:
        first.ledger.close()
    spend(second)
    first.ledger.close()
    spend(first)
    spend(second)
    for client in clients:
        client.close()
        client.ledger.close()
    found = spent(path)
    assert 0.048e6 <= found["rows"] == found["default/pool/day/UTC"] == billed(sim) <= 0.05e6
    assert [file.name for file in tmp_path.iterdir() if "journal-" in file.name] == []


_FORKING = """
import os, sys
from keyrouter_openai import Budget, BudgetExceeded, Key, SyncRoutedOpenAI

def ask(words, **more):
    messages = [{"role": "user", "content": "word " * words}]
    return client.chat.completions.create(model="gpt-4o", max_tokens=100, messages=messages, **more)

client = SyncRoutedOpenAI(keys=[Key(name="a", secret=sys.argv[2], base_url=sys.argv[1])], budgets=[Budget(usd=0.1)])
ask(200)  # there is an allowance, of which most is left
stream = ask(200, stream=True)
next(stream)  # and something is reserved
child = os.fork()
if child:
    stream.close()
refused = False
while not refused:
    try:
        ask(100)
    except BudgetExceeded:
        refused = True
if child:
    assert os.waitpid(child, 0)[1] == 0
client.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_parent_and_child_of_a_fork_share_a_budget(sim: ProviderSimulator, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _FORKING, sim.url, sim.keys["A/key-1"]], check=True, timeout=60)
    found = spent(tmp_path / "usage.db")
    assert billed(sim) <= found["rows"] == found["default/pool/day/UTC"] <= 0.1e6
    assert found["rows"] >= 0.096e6
    with closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        assert connection.execute("select coalesce(sum(microusd), 0) from allowances").fetchone() == (0,)
