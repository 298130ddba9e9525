"""Files of three accounts, used in shuffled calls by two processes that share one ledger.

    python tests/benchmarks/ownership.py [--short] [--files N] [--calls N] [--processes N]

First the files are made through the pool, so that the ledger knows whose they are. Then others are made past it: whose
those are must be found out. A look-up is a GET that nobody asked for, a search all look-ups of one process for one
file; `twice` counts the accounts that one process asked for one file more than once.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random

import openai

from keyrouter_openai import Key, RoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount

ACCOUNTS = ("a", "b", "c")
AT_ONCE = 8

Use = Callable[[openai.AsyncOpenAI, str], Awaitable[object]]


async def retrieve(client: openai.AsyncOpenAI, id: str) -> object:
    return await client.files.retrieve(id)


async def read(client: openai.AsyncOpenAI, id: str) -> object:
    return await client.files.content(id)


async def batch(client: openai.AsyncOpenAI, id: str) -> object:
    return await client.batches.create(completion_window="24h", endpoint="/v1/responses", input_file_id=id)


async def ask(client: openai.AsyncOpenAI, id: str) -> object:
    part = {"type": "input_file", "file_id": id}
    return await client.responses.create(model="gpt-4o", input=[{"role": "user", "content": [part]}])  # pyright: ignore[reportArgumentType]


async def store(client: openai.AsyncOpenAI, id: str) -> object:
    return await client.vector_stores.create(file_ids=[id])


USES: Mapping[str, Use] = {use.__name__: use for use in (retrieve, read, batch, ask, store)}


def pool(url: str, secrets: Mapping[str, str], ledger: Path) -> RoutedOpenAI:
    keys = [Key(name=account, account=account, secret=secret, base_url=url) for account, secret in secrets.items()]
    return RoutedOpenAI(keys=keys, ledger=ledger)


def work(url: str, ledger: Path, secrets: Mapping[str, str], calls: list[tuple[str, str]]) -> Counter[str]:
    """Make the calls, some at once; how many ended how."""

    async def run() -> Counter[str]:
        ends: Counter[str] = Counter()
        left = iter(calls)

        async def caller() -> None:
            for use, id in left:
                try:
                    await USES[use](client, id)
                except openai.APIStatusError as error:
                    ends[str(error.status_code)] += 1
                else:
                    ends["ok"] += 1

        async with pool(url, secrets, ledger) as client:
            await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
        return ends

    return asyncio.run(run())


async def make_files(clients: Mapping[str, openai.AsyncOpenAI], number: int) -> list[str]:
    """Files of all accounts in turn; their ids."""
    made = [
        await clients[ACCOUNTS[place % len(ACCOUNTS)]].files.create(file=(f"{place}", b"x"), purpose="batch")
        for place in range(number)
    ]
    return [file.id for file in made]


async def through_the_pool(url: str, secrets: Mapping[str, str], ledger: Path, number: int) -> list[str]:
    async with pool(url, secrets, ledger) as client:
        return await make_files({account: client.with_routing(account=account) for account in ACCOUNTS}, number)


async def past_it(url: str, secrets: Mapping[str, str], _: Path, number: int) -> list[str]:
    async with openai.AsyncOpenAI(base_url=url, api_key=secrets["a"]) as client:
        return await make_files({name: client.with_options(api_key=key) for name, key in secrets.items()}, number)


def look_ups(sim: ProviderSimulator, shares: list[list[tuple[str, str]]]) -> Counter[tuple[str, int, str | None]]:
    """How often each file was looked up, by process and account. Each process has its own key of each account."""
    gets: Counter[tuple[str, int, str | None]] = Counter()
    asked: Counter[tuple[str, int, str | None]] = Counter()
    for process, share in enumerate(shares):
        asked.update((id, process, None) for use, id in share if use == "retrieve")
    for call in sim.calls:
        path, process = call.path.removeprefix("/v1/files/"), int((call.key or "").partition("/key-")[2]) - 1
        if call.method == "GET" and "/" not in path:
            # All that are asked for are answered, the last of a search included: so only these are taken off.
            gets[path, process, call.account if call.status != 200 else None] += 1
    return gets - asked


def measure(processes: Executor, sim: ProviderSimulator, ledger: Path, shares: list[list[tuple[str, str]]]) -> str:
    sim.reset_counts()
    secrets = [secrets_of(sim, process) for process in range(len(shares))]
    ends = sum(processes.map(partial(work, sim.url, ledger), secrets, shares), Counter[str]())
    looked = look_ups(sim, shares)
    searches = len({(id, process) for id, process, _ in looked})
    twice = sum(count > 1 for count in looked.values())
    numbers = (ends.total(), ends["ok"], ends["404"], ends.total() - ends["ok"], looked.total(), searches, twice)
    return "".join(f"{number:10}" for number in numbers)


def secrets_of(sim: ProviderSimulator, process: int) -> dict[str, str]:
    """By account, the key of a process."""
    return {account: sim.keys[f"{account}/key-{process + 1}"] for account in ACCOUNTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a tenth of the files and calls")
    parser.add_argument("--files", type=int, default=60)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.short:
        arguments.files, arguments.calls = arguments.files // 10, arguments.calls // 10
    names = ("calls", "ok", "404", "failed", "look-ups", "searches", "twice")
    print(f"{f'{arguments.files} files made':24}" + "".join(f"{name:>10}" for name in names))
    with (
        tempfile.TemporaryDirectory() as folder,
        ProviderSimulator([SimAccount(account, keys=arguments.processes) for account in ACCOUNTS]) as sim,
        ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as processes,
    ):
        ledger, rng = Path(folder) / "ledger.db", Random(1)
        for label, make in (("through the pool", through_the_pool), ("past it", past_it)):
            ids = asyncio.run(make(sim.url, secrets_of(sim, 0), ledger, arguments.files))
            calls = [(rng.choice(list(USES)), rng.choice(ids)) for _ in range(arguments.calls)]
            shares = [calls[place :: arguments.processes] for place in range(arguments.processes)]
            print(f"{label:24}{measure(processes, sim, ledger, shares)}")


if __name__ == "__main__":
    main()
