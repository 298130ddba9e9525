"""What routing costs a call: CPU of `RoutedOpenAI` beside plain `AsyncOpenAI`, paired in one run.

    python tests/benchmarks/overhead.py [--short] [--instructions]

Both clients make the same calls to one simulator, over loopback and without TLS. It runs in a process of its own,
so that what is measured is all that a caller's process spends: SDK, HTTP, router, and the ledger's thread.

CPU times are taken in short blocks of calls, the clients in turn, and a ratio is formed within each round: its
median over the rounds is printed. On a machine that is shared even that is good to some percent only.
`--instructions` counts instead of timing (it needs valgrind): two numbers of calls, each in a process of its own,
the difference divided. That is exact to a fraction of a percent, slow, and blind to what the kernel does: sockets
for both, and for the ledger the waking of its thread and the writing of its file.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import anyio
import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from tenacity import AsyncRetrying

from keyrouter_openai import Key, RoutedOpenAI

PLAIN, ROUTED, RECORDED = "plain SDK", "routed", "routed, ledger"
CLIENTS = (PLAIN, ROUTED, RECORDED)
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 4},
]
BLOCK = 64
"""Calls in a block."""
FEW, MANY = 30, 230
"""Calls of the two processes whose instructions are compared."""


@dataclass(frozen=True)
class Target:
    """The simulator: its address and the secrets of its keys."""

    url: str
    secrets: Sequence[str]


@contextmanager
def simulator() -> Generator[Target]:
    """A simulator in a process of its own, with two keys in each of three accounts."""
    command = [sys.executable, "-m", "keyrouter_openai.testing", "--port", "0", "--accounts", "3", "--keys", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(7)]
        try:
            yield Target(lines[0][-1], [line[-1] for line in lines[1:]])
        finally:
            process.terminate()


def make_client(kind: str, target: Target, folder: Path) -> AsyncOpenAI:
    """A client of one of `CLIENTS`."""
    if kind == PLAIN:
        return AsyncOpenAI(base_url=target.url, api_key=target.secrets[0])
    keys = [
        Key(name=f"key-{place}", secret=secret, account=f"account-{place // 2}")
        for place, secret in enumerate(target.secrets)
    ]
    return RoutedOpenAI(keys=keys, base_url=target.url, ledger=folder / "usage.db" if kind == RECORDED else None)


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
    if isinstance(client, RoutedOpenAI):
        client.router.flush()


async def cpu_of(work: Callable[[], Awaitable[None]]) -> float:
    """CPU seconds that this process spends on `work`."""
    gc.collect()
    start = time.process_time()
    await work()
    return time.process_time() - start


async def time_clients(target: Target, folder: Path, rounds: int) -> None:
    """Time each client on each kind of call, and print CPU per call and ratios."""
    clients = {kind: make_client(kind, target, folder) for kind in CLIENTS}
    print(f"CPU per call in ms, median of {rounds} rounds of {BLOCK} calls by each client")
    print_row("answer", "in flight", *CLIENTS, *(f"{kind} / plain" for kind in (ROUTED, RECORDED)))
    for stream in (False, True):
        for in_flight in (1, 32):
            spent: dict[str, list[float]] = {kind: [] for kind in CLIENTS}
            for number in range(rounds + 1):
                for kind in sorted(CLIENTS, key=lambda kind: (CLIENTS.index(kind) + number) % len(CLIENTS)):
                    work = partial(make_calls, clients[kind], BLOCK, stream=stream, in_flight=in_flight)
                    spent[kind].append(await cpu_of(work) / BLOCK * 1000)
            for times in spent.values():
                del times[0]  # connections are made and caches filled in the first round
            print_row(
                "stream" if stream else "whole",
                str(in_flight),
                *(f"{median(spent[kind]):.3f}" for kind in CLIENTS),
                *(f"{median_ratio(spent[kind], spent[PLAIN]):.3f}" for kind in (ROUTED, RECORDED)),
            )
    for client in clients.values():
        await client.close()


def median_ratio(ours: Sequence[float], plain: Sequence[float]) -> float:
    return median(a / b for a, b in zip(ours, plain, strict=True))


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


def count_instructions(target: Target, kind: str, *, stream: bool) -> float:
    """Instructions per call of one client, with one call in flight."""
    counts: list[int] = []
    for calls in (FEW, MANY):
        command = [
            *("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"),
            *(sys.executable, __file__, "--worker", kind, "--calls", str(calls), "--url", target.url),
            *(*(["--stream"] if stream else []), *target.secrets),
        ]
        # Hashes of strings differ from process to process, and with them the work of dicts.
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": "0"}
        )
        found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
        assert found is not None, done.stderr
        counts.append(int(found[1].replace(",", "")))
    return (counts[1] - counts[0]) / (MANY - FEW)


def print_instructions(target: Target) -> None:
    print(f"\ninstructions per call in thousands, one in flight: ({MANY} calls - {FEW} calls) / {MANY - FEW}")
    print_row("answer", "in flight", *CLIENTS, *(f"{kind} / plain" for kind in (ROUTED, RECORDED)))
    for stream in (False, True):
        counts = {kind: count_instructions(target, kind, stream=stream) for kind in CLIENTS}
        print_row(
            "stream" if stream else "whole",
            "1",
            *(f"{counts[kind] / 1000:.0f}" for kind in CLIENTS),
            *(f"{counts[kind] / counts[PLAIN]:.3f}" for kind in (ROUTED, RECORDED)),
        )


async def work(options: argparse.Namespace) -> None:
    """The process whose instructions are counted."""
    with TemporaryDirectory() as folder:
        async with make_client(options.worker, Target(options.url, options.secrets), Path(folder)) as client:
            await make_calls(client, options.calls, stream=options.stream, in_flight=1)


def print_row(*cells: str) -> None:
    print(
        " ".join(cell.rjust(width) for cell, width in zip(cells, (7, 10, 10, 10, 15, 15, 23), strict=True)), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of RoutedOpenAI beside plain AsyncOpenAI")
    parser.add_argument("--short", action="store_true", help="fewer rounds")
    parser.add_argument("--instructions", action="store_true", help="count instructions too, with valgrind")
    parser.add_argument("--worker", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("secrets", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        anyio.run(work, options)
        return
    rounds = 5 if options.short else 31
    print(f"openai {openai.__version__}, Python {sys.version.split()[0]}")
    with simulator() as target, TemporaryDirectory() as folder:
        anyio.run(time_clients, target, Path(folder), rounds)
        anyio.run(time_tenacity, rounds)
        if options.instructions:
            print_instructions(target)


if __name__ == "__main__":
    main()
