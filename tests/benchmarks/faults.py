"""What becomes of calls when things go wrong: one key, a round robin by hand, and `RoutedOpenAI`, in one run.

    python tests/benchmarks/faults.py [--calls N] [--fault NAME] [--json]

Each client makes the same calls, whole and streamed in turn, to a simulator of its own with two keys in each of
three accounts, while one fault is in force. `ok` is the share of calls that got the whole of their own answer.
`sent` is how many requests the provider got for each of these, or for each call, in brackets, if none did. `cut` is
the share of calls that ended as if all was well, with half an answer or none.

    one key      plain `AsyncOpenAI` with the first key of the first account and the SDK's own two retries
    round robin  as people write it by hand: each try takes the next key of all, any error leads to another try,
                 up to three, with a tenth of a second between them; the SDK's own retries are off. A stream is
                 begun again too, which is right for who collects it and wrong for who shows it as it comes
    routed       `RoutedOpenAI` with all keys
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import cycle
from typing import Literal

import anyio
import openai
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam

from keyrouter_openai import Key, RoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount

CALLERS = 6
"""Calls in flight at once."""
TRIES = 3
PAUSE = 0.1
ROWS_AT_ONCE = 12
TIMEOUT = 1.0
"""Seconds for an answer, in the row in which there is none."""
PATIENCE = 20.0
"""The same in all others, where it bounds how long a call may wait."""

Ask = Callable[[str, bool], Awaitable[str]]
"""Makes one call with a prompt, streamed or not; the text of its answer."""


@dataclass(frozen=True)
class Row:
    """One fault of the simulator, and whom it strikes."""

    name: str
    fault: str
    strikes: Literal["first key", "first account", "everyone", "every fifth", "first calls", "address"]
    events: int | None = None
    """Events with content before the fault; None: it is no fault of streams alone."""


TABLE = (
    Row("rate limit", "rate_limit", "first account"),
    Row("quota used up", "quota_exhausted", "first account"),
    Row("spend limit", "spend_limit_project", "first account"),
    Row("402 no balance", "payment_required", "first account"),
    Row("account deactivated", "account_deactivated", "first account"),
    Row("key revoked", "key_revoked", "first key"),
    Row("403 scope", "missing_scope", "first key"),
    Row("403 model", "model_forbidden", "first account"),
    Row("404 model", "model_missing", "first account"),
    Row("above the whole limit", "request_too_large", "first account"),
    Row("400 bad request", "bad_request", "everyone"),
    Row("context too long", "context_too_long", "everyone"),
    Row("content policy", "content_policy", "everyone"),
    Row("409 conflict", "conflict", "everyone"),
    Row("413 too large", "too_large_body", "everyone"),
    Row("422 unprocessable", "unprocessable", "everyone"),
    Row("500", "server_error", "every fifth"),
    Row("502 page", "bad_gateway", "every fifth"),
    Row("503 overloaded", "unavailable", "first calls"),
    Row("504 page", "gateway_timeout", "every fifth"),
    Row("529 overloaded", "overloaded", "first calls"),
    Row("429 front end", "front_end", "first calls"),
    Row("connection refused", "", "address"),
    Row("connection reset", "reset", "every fifth"),
    Row("connection closed", "disconnect", "every fifth"),
    Row("no answer in time", "hang", "first account"),
    Row("error in a 200", "error_in_200", "first account"),
    Row("stream: early error", "stream_error", "first account", events=0),
    Row("stream: early end", "stream_end", "first account", events=0),
    Row("stream: early cut", "stream_cut", "first account", events=0),
    Row("stream: late error", "stream_error", "every fifth", events=2),
    Row("stream: late end", "stream_end", "every fifth", events=2),
    Row("stream: late cut", "stream_cut", "every fifth", events=2),
)


@dataclass
class Score:
    """What a client made of its calls."""

    calls: int
    succeeded: int = 0
    cut: int = 0
    sent: int = 0

    def __str__(self) -> str:
        per = f"{self.sent / self.succeeded:.2f} " if self.succeeded else f"({self.sent / self.calls:.2f})"
        cut = f"{self.cut / self.calls:.0%}" if self.cut else ""
        return f"{self.succeeded / self.calls:>6.0%} {per:>7} {cut:>4}"


def start(row: Row, sim: ProviderSimulator, calls: int) -> None:
    """Put the fault in force."""
    events = row.events or 0
    if row.strikes == "first key":
        sim.fail(row.fault, key="A/key-1", wait=0.05, events=events)
    elif row.strikes == "first account":
        sim.fail(row.fault, account="A", wait=0.05, events=events)
    elif row.strikes == "everyone":
        sim.fail(row.fault)
    elif row.strikes == "first calls":
        sim.fail(row.fault, times=calls, wait=0.05)
    elif row.strikes == "every fifth":
        for place in range(calls * TRIES):
            sim.fail(row.fault, times=1, after=4 * place, events=events)


def addresses(row: Row, sim: ProviderSimulator) -> dict[str, str]:
    """Where each key is sent, by label."""
    nobody = "http://127.0.0.1:9/v1"  # the discard port, where nothing listens
    dead = row.strikes == "address"
    return {label: nobody if dead and label.startswith("A/") else sim.url for label in sim.keys}


async def ask(client: AsyncOpenAI, prompt: str, stream: bool) -> str:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": prompt}]
    if not stream:
        whole = await client.chat.completions.create(model="gpt-4o", messages=messages)
        return (whole.choices[0].message.content or "") if whole.choices else ""  # none in an error inside a 200
    chunks = await client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])


def timeout_of(row: Row) -> float:
    return TIMEOUT if row.fault == "hang" else PATIENCE


@asynccontextmanager
async def one_key(row: Row, sim: ProviderSimulator) -> AsyncGenerator[Ask]:
    url, secret = addresses(row, sim)["A/key-1"], sim.keys["A/key-1"]
    async with AsyncOpenAI(base_url=url, api_key=secret, timeout=timeout_of(row)) as client:
        yield lambda prompt, stream: ask(client, prompt, stream)


@asynccontextmanager
async def round_robin(row: Row, sim: ProviderSimulator) -> AsyncGenerator[Ask]:
    urls = addresses(row, sim)
    clients = [
        AsyncOpenAI(base_url=urls[label], api_key=secret, timeout=timeout_of(row), max_retries=0)
        for label, secret in sim.keys.items()
    ]
    turns = cycle(clients)

    async def ask_in_turn(prompt: str, stream: bool) -> str:
        for tries_left in range(TRIES - 1, -1, -1):
            try:
                return await ask(next(turns), prompt, stream)
            except openai.APIError:
                if not tries_left:
                    raise
            await anyio.sleep(PAUSE)
        raise AssertionError

    yield ask_in_turn
    for client in clients:
        await client.close()


@asynccontextmanager
async def routed(row: Row, sim: ProviderSimulator) -> AsyncGenerator[Ask]:
    urls = addresses(row, sim)
    keys = [
        Key(name=label.replace("/", "-"), secret=secret, base_url=urls[label]) for label, secret in sim.keys.items()
    ]
    async with RoutedOpenAI(keys=keys, ledger=None, timeout=timeout_of(row)) as client:
        yield lambda prompt, stream: ask(client, prompt, stream)


CLIENTS = {"one key": one_key, "round robin": round_robin, "routed": routed}


async def score(row: Row, name: str, calls: int) -> Score:
    """Make all calls of one client under one fault."""
    result = Score(calls)

    async def caller(ask: Ask, place: int) -> None:
        for call in range(place, calls, CALLERS):
            prompt = f"this is call {call}, and it wants its own answer"
            try:
                text = await ask(prompt, row.events is not None or call // CALLERS % 2 == 1)
            except openai.APIError:
                continue
            result.succeeded += text == prompt
            result.cut += text != prompt

    with ProviderSimulator([SimAccount(account, keys=2) for account in "ABC"]) as sim:
        start(row, sim, calls)
        async with CLIENTS[name](row, sim) as ask, anyio.create_task_group() as callers:
            for place in range(CALLERS):
                callers.start_soon(caller, ask, place)
        result.sent = len(sim.calls)
    return result


async def play(rows: list[Row], calls: int) -> dict[str, dict[str, Score]]:
    """All rows, some of them side by side: most of the time is spent waiting."""
    results: dict[str, dict[str, Score]] = {row.name: {} for row in rows}
    room = anyio.CapacityLimiter(ROWS_AT_ONCE)

    async def play_row(row: Row, name: str) -> None:
        async with room:
            results[row.name][name] = await score(row, name, calls)

    async with anyio.create_task_group() as tasks:
        for row in rows:
            for name in CLIENTS:
                tasks.start_soon(play_row, row, name)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="calls under faults: one key, round robin, RoutedOpenAI")
    logging.getLogger("keyrouter_openai").setLevel(logging.ERROR)  # that keys fail here is the point
    parser.add_argument("--calls", type=int, default=24, help="calls of each client under each fault (default 24)")
    parser.add_argument("--fault", help="only rows whose name contains this")
    parser.add_argument("--json", action="store_true", help="print counts as JSON")
    options = parser.parse_args()
    rows = [row for row in TABLE if options.fault is None or options.fault in row.name]
    if not rows or options.calls < 1:
        parser.error(f"nothing to do: --calls wants 1 or more, --fault a part of one of {[row.name for row in TABLE]}")
    results = anyio.run(play, rows, options.calls)
    if options.json:
        print(json.dumps({row: {k: asdict(v) for k, v in scores.items()} for row, scores in results.items()}, indent=2))
        return
    print(f"{options.calls} calls under each fault".ljust(46) + " ".join(f"{name:>21}" for name in CLIENTS))
    print(" " * 46 + " ".join(f"{'ok':>8} {'sent':>7} {'cut':>4}" for _ in CLIENTS))
    for row in rows:
        cells = " ".join(f"{results[row.name][name]!s:>21}" for name in CLIENTS)
        print(f"{row.name:<24}{row.strikes:<22}{cells}")


if __name__ == "__main__":
    main()
