"""Several processes spend one budget of ten dollars at once: how much of it does the provider bill in the end?

    python tests/benchmarks/budget.py [--short] [--seed 1] [--runs 1] [--at-once 250]

Four processes make 250 calls each, all at once or so many at a time, that cost $0.001 to $0.30: some hundred dollars in
all. `smooth`: all goes well. `rough`: of the calls 20 % are streams, of which some break off and some are dropped by
their readers; 2 % of the tasks are cancelled; and one process is killed with -9 when a third of the budget is spent.
`billed` is what the simulated provider bills, by its own count of tokens and list prices; `ledger` and `rows` are what
the ledger holds against the budget, and what its rows add up to: more than was billed, by what may have been. Ends with
1 if the provider has billed more than the budget, or, where it is ten dollars, less than 96 % of it.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import openai

from keyrouter_openai import Budget, BudgetExceeded, Key, Ledger, RoutedOpenAI
from keyrouter_openai.testing import Latency, ProviderSimulator

MODEL = "gpt-4"  # 30 and 60 US dollars per million tokens of input and output
MICROUSD_PER_TOKEN = 90
"""Of a call with as many tokens out as in."""
LEAST, MOST = 1_000, 300_000
"""Micro-dollars that calls cost."""


async def one(client: RoutedOpenAI, rng: random.Random, *, rough: bool) -> None:
    """One task; what becomes of it is its own matter."""
    tokens = rng.randint(LEAST, MOST) // MICROUSD_PER_TOKEN
    stream = rough and rng.random() < 0.2
    text = f"{rng.getrandbits(32):08x}" + "abc " * (tokens - 2)
    with anyio.move_on_after(rng.uniform(0.0, 0.1) if rough and rng.random() < 0.02 else 600):
        try:
            answer = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=tokens, stream=stream
            )
            if isinstance(answer, openai.AsyncStream):
                dropped = rng.random() < 0.05
                async for _ in answer:
                    if dropped:
                        break
                await answer.close()
        except (BudgetExceeded, openai.APIConnectionError):
            return


async def play(
    url: str, secret: str, path: str, seed: int, tasks: int, at_once: int, usd: float, *, rough: bool
) -> None:
    """What one process does."""
    rng = random.Random(seed)
    limiter = anyio.CapacityLimiter(at_once)
    key = Key(name="a", secret=secret, base_url=url)
    async with RoutedOpenAI(keys=[key], ledger=path, budgets=[Budget(usd=usd, per="total", name="ten")]) as client:
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)

        async def task() -> None:
            async with limiter:
                await one(client, rng, rough=rough)

        async with anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(task)


def contest(seed: int, processes: int, tasks: int, at_once: int, usd: float, *, rough: bool) -> bool:
    """One run, and its row of the table; whether the budget was spent, and not overrun."""
    rng, began = random.Random(seed), time.monotonic()
    latency = Latency(first_byte=0.05, sigma=0.5)
    with tempfile.TemporaryDirectory() as folder, ProviderSimulator(latency=latency, seed=seed) as sim:
        path = str(Path(folder) / "usage.db")
        (secret,) = sim.keys.values()
        if rough:
            for place in range(5, 10 * tasks, 16):
                sim.fail("stream_cut", times=1, after=place, events=rng.randint(1, 400))
        playing = [
            subprocess.Popen(
                [sys.executable, __file__, "--child", sim.url, secret, path, f"{seed}{number}"]
                + [f"{tasks}", f"{at_once}", f"{usd}"]
                + ["rough"] * rough,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for number in range(processes)
        ]
        for program in playing:
            assert program.stdout is not None
            program.stdout.readline()
        for program in playing:
            assert program.stdin is not None
            program.stdin.write(b"\n")
            program.stdin.flush()
        if rough:
            while sum(sim.bill().values()) < usd * 1e6 / 3:
                time.sleep(0.01)
            playing[0].kill()
        for program in playing:
            program.communicate()
        Ledger(path).attempts(limit=1)  # which takes in what the killed one has left
        billed, served = sum(sim.bill().values()) / 1e6, sim.count(status=200)
        with closing(sqlite3.connect(path)) as connection:
            ((ledger,),) = connection.execute("select spent_microusd from budget_windows")
            ((rows,),) = connection.execute("select sum(cost_microusd) from attempts")
    print(
        f"{'rough' if rough else 'smooth':8}{seed:5}{served:8}{billed:11.6f}{ledger / 1e6:11.6f}{rows / 1e6:11.6f}"
        f"{billed / usd:9.2%}{time.monotonic() - began:8.1f} s",
        flush=True,
    )
    return (0.96 * usd if usd == 10.0 else 0.0) <= billed <= usd


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="two processes, a tenth of the calls and dollars")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="so many seeds")
    parser.add_argument("--at-once", type=int, default=250, help="calls that a process has in flight")
    options = parser.parse_args()
    processes, tasks, usd = (2, 40, 2.0) if options.short else (4, 250, 10.0)
    print(f"{'':8}{'seed':>5}{'served':>8}{'billed':>11}{'ledger':>11}{'rows':>11}{'spent':>9}{'took':>10}")
    seeds = range(options.seed, options.seed + options.runs)
    fine = [
        contest(seed, processes, tasks, options.at_once, usd, rough=rough) for seed in seeds for rough in (False, True)
    ]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        url, secret, path, seed, tasks, at_once, usd, *rough = sys.argv[2:]
        settings = int(seed), int(tasks), int(at_once), float(usd)
        anyio.run(partial(play, url, secret, path, *settings, rough=bool(rough)))
    else:
        main()
