"""Many calls through one client while everything goes wrong: nothing is lost, and nothing is left behind.

    python tests/benchmarks/soak.py [--calls 200000]

The provider is a process of its own: three simulated hosts with six accounts each, and two keys in an account. Every
150 requests other faults of the failover table strike a host, and one of its accounts; the address of one more key
refuses connections throughout. 200 calls are in flight, one in four of them a stream.

Printed are the memory of this process as it goes, its slope after the first 20,000 calls, and what is left in the end:
tasks, threads, open files, leases, connections; and the rows of the ledger beside the requests that the hosts got.
Any of it that is not as it should be fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import openai
from anyio.lowlevel import checkpoint
from openai.types.chat import ChatCompletionMessageParam

from keyrouter_openai import Key, Ledger, NoKeyAvailable, RoutedOpenAI, Router
from keyrouter_openai.testing import ProviderSimulator, SimAccount

IN_FLIGHT = 200
HOSTS, ACCOUNTS, KEYS = 3, 6, 2
WARM_UP = 20_000
"""Calls after which memory is to be flat."""
SAMPLE_EVERY = 5_000
STEEPEST = 40.0
"""Bytes of memory for each call, at most: no object is so small, so nothing of a call is left."""
SPELL = 150
"""Requests that a host gets before other faults are in force."""
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1")
NOT_SENT = ("ConnectError", "ConnectTimeout")
"""Details of attempts that never reached a host."""

OF_CALLS = (
    *("bad_request", "context_too_long", "content_policy", "conflict", "unprocessable", "request_too_large"),
    *("server_error", "bad_gateway", "gateway_timeout", "unavailable", "overloaded", "front_end", "error_in_200"),
    *("reset", "disconnect", "garbage", "stream_error", "stream_failed", "stream_end", "stream_cut"),
)
"""Faults that strike some calls of a host."""
OF_ACCOUNTS = (
    *("rate_limit", "quota_exhausted", "payment_required", "spend_limit_project", "account_deactivated"),
    *("key_revoked", "missing_scope", "model_missing", "model_forbidden"),
)
"""Faults that strike one account of a host, of those at its beginning: the others stay well."""
HANG = "hang"
"""The fault that takes a caller's whole timeout; one call at a time."""


# -- the provider's process


def serve() -> None:
    """Print addresses and keys; make trouble until a line comes in; print how many requests each host got."""
    rng = Random(1)
    with ExitStack() as stack:
        hosts = [
            stack.enter_context(ProviderSimulator([SimAccount(name, keys=KEYS) for name in account_names(place)]))
            for place in range(HOSTS)
        ]
        print(json.dumps([{"url": host.url, "keys": host.keys} for host in hosts]), flush=True)
        over = threading.Event()
        trouble = threading.Thread(target=make_trouble, args=(hosts, rng, over))
        trouble.start()
        sys.stdin.readline()
        over.set()
        trouble.join()
        found = Counter(call.fault or "none" for host in hosts for call in host.calls)
        print(json.dumps({"requests": [len(host.calls) for host in hosts], "faults": found}), flush=True)


def make_trouble(hosts: Sequence[ProviderSimulator], rng: Random, over: threading.Event) -> None:
    due = [0] * len(hosts)
    for place in cycle(range(len(hosts))):
        if over.wait(0.05):
            break
        host = hosts[place]
        if len(host.calls) < due[place]:
            continue
        due[place] = len(host.calls) + SPELL
        host.heal()
        host.fail(rng.choice(OF_ACCOUNTS), account=rng.choice(account_names(place)[: ACCOUNTS // 2]), wait=0.1)
        for fault in rng.sample(OF_CALLS, 3):
            host.fail(fault, times=rng.randint(1, 3), wait=0.1, events=rng.choice((0, 0, 1)))
        host.fail(HANG, times=1)


def account_names(host: int) -> list[str]:
    return [f"host{host}-account{number}" for number in range(ACCOUNTS)]


# -- the caller's process


@dataclass
class Books:
    """What became of the calls, and what they took."""

    started: int = 0
    ended: Counter[str] = field(default_factory=Counter[str])
    samples: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Calls that have ended, and the bytes of memory then."""

    def sample(self) -> None:
        gc.collect()
        self.samples.append((self.ended.total(), resident()))

    def slope(self) -> float:
        """Bytes for each call after the first, by least squares."""
        late = [(calls, size) for calls, size in self.samples if calls >= WARM_UP]
        if len(late) < 3:
            return 0.0
        x, y = (sum(values) / len(late) for values in zip(*late, strict=True))
        return sum((a - x) * (b - y) for a, b in late) / sum((a - x) ** 2 for a, _ in late)


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def one_call(client: RoutedOpenAI, number: int) -> str:
    """Make one call; how it ended."""
    model, prompt = MODELS[number % 3], f"call {number} of many"
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    try:
        if number % 4:
            answer = await client.chat.completions.create(model=model, messages=messages)
            text = answer.choices[0].message.content
        else:
            stream = await client.chat.completions.create(model=model, messages=messages, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    except NoKeyAvailable:
        return "no key available"
    except openai.OpenAIError as error:
        return type(error).__name__
    return "answered" if text == prompt else "another's answer"


async def make_calls(client: RoutedOpenAI, calls: int, books: Books) -> None:
    async def caller() -> None:
        while books.started < calls:
            books.started += 1
            books.ended[await one_call(client, books.started)] += 1
            if books.ended.total() % SAMPLE_EVERY == 0:
                books.sample()
                print(f"{books.ended.total():>9,} calls  {resident() / 2**20:7.1f} MiB", flush=True)

    async with anyio.create_task_group() as tasks:
        for _ in range(IN_FLIGHT):
            tasks.start_soon(caller)


async def soak(hosts: list[dict[str, Any]], calls: int, ledger: Ledger, books: Books) -> dict[str, int]:
    """Make the calls; what they leave behind."""
    keys = [
        Key(name=label.replace("/", "-"), secret=secret, base_url=host["url"])
        for host in hosts
        for label, secret in host["keys"].items()
    ]
    keys.append(Key(name="unreachable", secret="sk-nowhere", base_url="http://127.0.0.1:9/v1"))
    files = open_files()
    router = Router(keys, ledger=ledger, rng=Random(2))
    timeout = openai.Timeout(60.0, read=5.0)
    async with RoutedOpenAI(router=router, timeout=timeout, max_wait=60.0) as client:
        await make_calls(client, calls, books)
    ledger.close()
    await checkpoint()
    return {
        "leases": sum(key.in_flight for key in router.status().keys),
        "tasks": len(asyncio.all_tasks()) - 1,
        "threads": sum(thread.name.startswith("keyrouter") for thread in threading.enumerate()),
        "open files": open_files() - files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="many calls while everything goes wrong")
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    logging.getLogger("keyrouter_openai").setLevel(logging.ERROR)
    command = [sys.executable, __file__, "--serve"]
    began = time.monotonic()
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as provider,
    ):
        assert provider.stdin is not None and provider.stdout is not None
        ledger = Ledger(Path(folder) / "usage.db")
        books = Books()
        left = asyncio.run(soak(json.loads(provider.stdout.readline()), options.calls, ledger, books))
        provider.stdin.write("\n")
        provider.stdin.flush()
        got = json.loads(provider.stdout.readline())
        rows = ledger.attempts()
    report(books, left, got, rows, time.monotonic() - began)


def report(books: Books, left: dict[str, int], got: dict[str, Any], rows: list[dict[str, Any]], seconds: float) -> None:
    """Print what was found, and fail if it is not as it should be."""
    sent = [row for row in rows if row["detail"] not in NOT_SENT]
    requests, slope = sum(got["requests"]), books.slope()
    print(f"\n{books.ended.total():,} calls in {seconds:.0f} s: {dict(books.ended.most_common())}")
    print(f"faults that the hosts made: {dict(sorted(got['faults'].items()))}")
    print(f"outcomes in the ledger: {dict(Counter(row['outcome'] for row in rows).most_common())}")
    print(f"memory after the first {WARM_UP:,} calls: {slope:+.1f} bytes for each")
    print(f"left behind: {left}")
    print(f"rows of attempts that were sent: {len(sent):,}; requests that the hosts got: {requests:,}")
    wrong = [
        *(name for name, count in left.items() if count),
        *["memory"] * (slope > STEEPEST),
        *["rows of the ledger"] * (len(sent) != requests),
        *["answers"] * bool(books.ended["another's answer"]),
    ]
    if wrong:
        sys.exit(f"not as it should be: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
