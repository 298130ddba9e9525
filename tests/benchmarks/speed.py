"""What routing costs a call: `RoutedOpenAI` beside plain `AsyncOpenAI`, paired in one run.

    python tests/benchmarks/speed.py [--short] [--instructions] [--aiohttp | --money]

All clients make the same calls over loopback and without TLS. The provider is a process of its own that does as
little as it can (`upstream.py`), so that what is measured is all that a caller's process spends: SDK, HTTP, router,
and the ledger's thread, which writes to a real file. Pools have 1, 10 and 1,000 keys, each of an account of its own,
which is learned from the answers.

    CPU             of a call, in short blocks of calls, the clients in turn; a ratio is formed within each round
    first event     from the call to the first event of a stream, of a provider that takes so long for it
    memory          at its highest, of a call that is in flight with 999 others; Python's own, as tracemalloc counts
    instructions    of a call, with `--instructions` (it needs valgrind): of two numbers of calls, each in a fork of one
                    process, the difference divided

CPU is the median over rounds, and on a machine that is shared even that is good to some percent only. Instructions are
exact to a fraction of a percent, slow, and blind to what the kernel does. The machine that valgrind simulates is some
fifty times slower, so that the ledger's thread wakes for nearly every call where it has dozens to write otherwise.
`--aiohttp` measures the SDK's aiohttp client too, beside the SDK's default. `--money` measures what it costs to keep
books: ten keys without a ledger, with one, and with one budget and three that each call is charged to.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient
from openai.types.chat import ChatCompletionMessageParam
from tenacity import AsyncRetrying

from keyrouter_openai import Budget, Key, RoutedOpenAI

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 4},
]
POOLS = (1, 10, 1000)
IN_FLIGHT = (1, 32, 256)
TIMEOUT = openai.Timeout(600.0)
"""Also for connecting: a thousand connections at once take long on a machine that is busy."""
BLOCK = 128
"""Calls in a block, or as many as are in flight if those are more."""
DELAYS = (0.0, 0.1)
"""Seconds that the provider takes for the first event: none at all, and what is fast for a model."""


@dataclass(frozen=True)
class Setup:
    """A client to be measured: of a pool of so many keys, or the plain SDK (0)."""

    keys: int = 0
    aiohttp: bool = False
    ledger: bool = True
    budgets: int = 0

    @property
    def name(self) -> str:
        parts = [f"{self.keys:,} keys" if self.keys else "SDK"]
        parts += ["aiohttp"] * self.aiohttp + ["no ledger"] * (not self.ledger)
        return ", ".join([*parts, f"budgets: {self.budgets}"] if self.budgets else parts)

    def client(self, url: str, folder: Path) -> AsyncOpenAI:
        """Such a client, with a ledger of its own in the folder if it is routed."""
        shared: Any = {
            "base_url": url,
            "timeout": TIMEOUT,
            "http_client": DefaultAioHttpClient() if self.aiohttp else None,
        }
        if not self.keys:
            return AsyncOpenAI(api_key="sk-00000000", **shared)
        keys = [Key(name=f"key-{n}", secret=f"sk-{n:08}") for n in range(self.keys)]
        budgets = [Budget(usd=1_000_000, name=f"budget-{n}") for n in range(self.budgets)]
        ledger = folder / f"{self.name}.db" if self.ledger else None
        return RoutedOpenAI(keys=keys, ledger=ledger, budgets=budgets, **shared)


PLAIN = Setup()
MONEY = (Setup(10, ledger=False), Setup(10), Setup(10, budgets=1), Setup(10, budgets=3))
"""Ever more books to keep."""


@contextmanager
def provider() -> Generator[str]:
    """The cheap provider, in a process of its own; its address."""
    command = [sys.executable, str(Path(__file__).with_name("upstream.py"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def one_call(client: AsyncOpenAI, *, stream: bool) -> None:
    if stream:
        async for _ in await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True):
            pass
    else:
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


async def make_calls(client: AsyncOpenAI, calls: int, *, stream: bool, in_flight: int) -> None:
    """Make so many calls, so many at a time; all of them are in the ledger, if there is one, when this returns."""

    async def caller() -> None:
        for _ in range(calls // in_flight):
            await one_call(client, stream=stream)

    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(caller)
    if isinstance(client, RoutedOpenAI) and client.router.ledger is not None:
        client.router.ledger.flush()


async def cpu_of(work: Callable[[], Awaitable[None]]) -> float:
    """CPU seconds that this process spends on `work`."""
    gc.collect()
    start = time.process_time()
    await work()
    return time.process_time() - start


class Paired:
    """Figures of several setups, taken in rounds in which each has its turn."""

    def __init__(self, setups: Sequence[Setup]) -> None:
        self._setups = setups
        self._found: dict[Setup, list[float]] = {setup: [] for setup in setups}

    async def run(self, rounds: int, measure: Callable[[Setup], Awaitable[float]]) -> None:
        """One round more than is counted: in the first, connections are made and caches filled."""
        for number in range(rounds + 1):
            first = number % len(self._setups)
            for setup in (*self._setups[first:], *self._setups[:first]):
                found = await measure(setup)
                if number:
                    self._found[setup].append(found)

    def median(self, setup: Setup) -> float:
        return median(self._found[setup])

    def ratio(self, setup: Setup, base: Setup = PLAIN) -> float:
        return median(a / b for a, b in zip(self._found[setup], self._found[base], strict=True))


async def warm_up(clients: dict[Setup, AsyncOpenAI]) -> None:
    """Have each key of each pool used, so that what it has to learn is known."""
    for setup, client in clients.items():
        await make_calls(client, max(setup.keys, 30), stream=False, in_flight=10)


async def time_calls(url: str, folder: Path, setups: Sequence[Setup], rounds: int, in_flight: Sequence[int]) -> None:
    """Time each client on each kind of call, and print CPU per call and ratios."""
    clients = {setup: setup.client(f"{url}/v1", folder) for setup in setups}
    await warm_up(clients)
    print(f"\nCPU per call in ms, median of {rounds} rounds; beside it the ratio to the plain SDK")
    print_row("answer", "in flight", *(setup.name for setup in setups))
    for stream in (False, True):
        for width in in_flight:
            block = max(BLOCK, width)

            async def measure(setup: Setup, stream: bool = stream, width: int = width, block: int = block) -> float:
                work = partial(make_calls, clients[setup], block, stream=stream, in_flight=width)
                return await cpu_of(work) / block * 1000

            paired = Paired(setups)
            await paired.run(rounds, measure)
            cells = [f"{paired.median(setup):.3f} {paired.ratio(setup):.3f}" for setup in setups]
            print_row(kind_of(stream), str(width), *cells)
    for client in clients.values():
        await client.close()


async def time_first_events(url: str, folder: Path, setups: Sequence[Setup], rounds: int) -> None:
    """Time streams up to their first event, and print milliseconds and ratios."""
    print(f"\nmilliseconds to the first event of a stream, median of {rounds}; beside it the ratio to the plain SDK")
    print_row("provider", "takes", *(setup.name for setup in setups))
    for delay in DELAYS:
        clients = {setup: setup.client(f"{url}/after/{delay}/v1", folder) for setup in setups}
        await warm_up(clients)

        async def measure(setup: Setup, clients: dict[Setup, AsyncOpenAI] = clients) -> float:
            start = time.perf_counter()
            answer = await clients[setup].chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
            events = aiter(answer)
            await anext(events)
            seconds = time.perf_counter() - start
            async for _ in events:
                pass
            return seconds * 1000

        paired = Paired(setups)
        await paired.run(rounds, measure)
        cells = [f"{paired.median(setup):.2f} {paired.ratio(setup):.3f}" for setup in setups]
        print_row("", f"{delay * 1000:.0f} ms", *cells)
        for client in clients.values():
            await client.close()


async def memory_of_calls(setup: Setup, url: str, folder: Path, held: int) -> float:
    """Kilobytes of memory that a call takes, at most, while it is in flight with many others."""
    async with setup.client(f"{url}/all/{held}/v1", folder) as client:
        work = partial(make_calls, client, held, stream=False, in_flight=held)
        await work()
        gc.collect()
        tracemalloc.start()
        try:
            await work()
            return tracemalloc.get_traced_memory()[1] / held / 1000
        finally:
            tracemalloc.stop()


async def weigh_calls(url: str, folder: Path, setups: Sequence[Setup], held: int) -> None:
    print(f"\nkilobytes per call with {held:,} in flight; beside it the ratio to the plain SDK")
    print_row("", "", *(setup.name for setup in setups))
    found = [await memory_of_calls(setup, url, folder, held) for setup in setups]
    print_row("", "", *(f"{kilobytes:.1f} {kilobytes / found[0]:.3f}" for kilobytes in found))


@dataclass(frozen=True)
class Counted:
    """Calls whose instructions are counted, in a process of their own."""

    setup: Setup
    stream: bool
    in_flight: int

    @property
    def amounts(self) -> tuple[int, int]:
        """How many calls to make: those that fill caches and open connections, and some more."""
        few = max(30, self.setup.keys, self.in_flight)
        return few, few + max(200, self.in_flight)


def print_instructions(url: str, setups: Sequence[Setup], in_flight: Sequence[int]) -> None:
    print("\nthousands of instructions per call; beside it the ratio to the plain SDK")
    print_row("answer", "in flight", *(setup.name for setup in setups))
    kinds = [(stream, width) for stream in (False, True) for width in in_flight]
    found = count_instructions(url, [Counted(setup, *kind) for kind in kinds for setup in setups])
    for stream, width in kinds:
        counts = [found[Counted(setup, stream, width)] for setup in setups]
        print_row(kind_of(stream), str(width), *(f"{count / 1000:.0f} {count / counts[0]:.3f}" for count in counts))


def count_instructions(url: str, cases: Sequence[Counted]) -> dict[Counted, float]:
    """Instructions per call. Valgrind starts once, since that takes longest: each number of calls is a fork."""
    forks = [[astuple(case.setup), case.stream, case.in_flight, calls] for case in cases for calls in case.amounts]
    command = [
        *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
        *(sys.executable, __file__, "--count", url, json.dumps(forks)),
    ]
    # Hashes of strings differ from process to process, and with them the work of dicts.
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
    by_process = {
        pid: int(count.replace(",", "")) for pid, count in re.findall(r"==(\d+)== I\s+refs:\s+([\d,]+)", done.stderr)
    }
    counts = iter([by_process[pid] for pid in done.stdout.split()])
    return {case: (-next(counts) + next(counts)) / (case.amounts[1] - case.amounts[0]) for case in cases}


def count_here(url: str, forks: list[list[Any]]) -> None:
    """The process that valgrind runs: it makes calls in one fork after another, and prints their ids."""
    for setup, stream, in_flight, calls in forks:
        pid = os.fork()
        if not pid:
            try:
                anyio.run(calls_of_fork, Setup(*setup), f"{url}/v1", stream, in_flight, calls)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(pid, flush=True)


async def calls_of_fork(setup: Setup, url: str, stream: bool, in_flight: int, calls: int) -> None:
    with TemporaryDirectory() as folder:
        client = setup.client(url, Path(folder))
        await make_calls(client, calls, stream=stream, in_flight=in_flight)
        await client.close()


async def time_tenacity(rounds: int) -> None:
    """Print what tenacity's loop adds to a call that needs one more attempt: a copy of the policy, and one turn."""
    policy = AsyncRetrying()

    async def attempt() -> None:
        pass

    async def by_hand() -> None:
        for _ in range(1000):
            await attempt()

    async def by_tenacity() -> None:
        for _ in range(1000):
            await policy.copy(
                before=lambda _: None, retry=lambda _: False, wait=lambda _: 0.0, stop=lambda _: False, reraise=True
            )(attempt)

    extra = [await cpu_of(by_tenacity) - await cpu_of(by_hand) for _ in range(rounds)]
    print(f"\ntenacity, on a call that needs one more attempt: {median(extra) * 1000:.0f} µs")


def kind_of(stream: bool) -> str:
    return "stream" if stream else "whole"


def print_row(*cells: str) -> None:
    print(cells[0].rjust(8), cells[1].rjust(10), *(cell.rjust(20) for cell in cells[2:]), flush=True)


async def measure_all(url: str, folder: Path, setups: Sequence[Setup], short: bool) -> None:
    in_flight = IN_FLIGHT[:2] if short else IN_FLIGHT
    await time_calls(url, folder, setups, 3 if short else 31, in_flight)
    await time_first_events(url, folder, setups, 7 if short else 201)
    await weigh_calls(url, folder, setups, 100 if short else 1_000)
    await time_tenacity(3 if short else 31)


def main() -> None:
    parser = argparse.ArgumentParser(description="what RoutedOpenAI costs beside plain AsyncOpenAI")
    parser.add_argument(
        "--short", action="store_true", help="fewer rounds, at most 100 calls in flight, pools of at most 10"
    )
    parser.add_argument("--instructions", action="store_true", help="count instructions too, with valgrind")
    parser.add_argument("--aiohttp", action="store_true", help="measure the SDK's aiohttp client too")
    parser.add_argument("--money", action="store_true", help="measure ledger and budgets, in place of pools")
    parser.add_argument("--count", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        url, forks = options.count
        count_here(url, json.loads(forks))
        return
    setups = [PLAIN, *(MONEY if options.money else map(Setup, POOLS[:2] if options.short else POOLS))]
    if options.aiohttp:
        setups += [Setup(0, True), Setup(10, True)]
    print(f"openai {openai.__version__}, Python {sys.version.split()[0]}")
    with provider() as url, TemporaryDirectory() as folder:
        anyio.run(measure_all, url, Path(folder), setups, options.short)
        if options.instructions:
            print_instructions(url, setups, IN_FLIGHT[:2] if options.short else IN_FLIGHT)


if __name__ == "__main__":
    main()
