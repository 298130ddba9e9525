"""A clock that tests can turn, and one way to call both clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import openai

from keyrouter_openai import Key, Ledger, RoutedOpenAI, Router, SyncRoutedOpenAI
from keyrouter_openai.clock import Signal, ThreadSignal
from keyrouter_openai.events import Event
from keyrouter_openai.testing import ProviderSimulator

MESSAGES: list[Any] = [{"role": "user", "content": "The quick brown fox jumps over the lazy dog."}]
ECHO = MESSAGES[0]["content"]


class TurnedClock:
    """Time that passes only when someone sleeps, or the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_000_000_000.0

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    async def sleep(self, seconds: float, signal: Signal | None = None) -> None:
        self.sleep_sync(seconds)
        await (anyio.lowlevel.checkpoint() if signal is None else signal.wait(0.0))

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        if signal is not None and signal.wait(0.0):
            return
        self.slept.append(seconds)
        self.now += seconds


@dataclass
class Pool:
    """A simulated provider, a router over its keys, and what happened."""

    sim: ProviderSimulator
    router: Router
    ledger: Ledger
    clock: TurnedClock
    events: list[Event] = field(default_factory=list[Event])

    def client(self, **arguments: Any) -> RoutedOpenAI:
        return RoutedOpenAI(router=self.router, timeout=arguments.pop("timeout", 60.0), **arguments)

    def client_sync(self, **arguments: Any) -> SyncRoutedOpenAI:
        return SyncRoutedOpenAI(router=self.router, timeout=arguments.pop("timeout", 60.0), **arguments)

    def state(self, key: str) -> str:
        return self.router.status().key(key).state

    def rows(self) -> list[dict[str, Any]]:
        """The ledger's attempts, oldest first."""
        return self.ledger.attempts(newest_first=False)


def name_of(label: str) -> str:
    """The router's name for a simulated key: `A/key-1` is `A1`."""
    return label.replace("/key-", "")


def make_pool(sim: ProviderSimulator, path: Path, clock: TurnedClock, *, declared: bool = True) -> Pool:
    """A pool over all keys of the simulator, by default with its accounts declared."""
    keys = [
        Key(
            name=name_of(label),
            secret=secret,
            base_url=sim.url,
            account=label.partition("/")[0] if declared else None,
        )
        for label, secret in sim.keys.items()
    ]
    ledger = Ledger(path)
    router = Router(keys, ledger=ledger, clock=clock, rng=Random(1))
    pool = Pool(sim, router, ledger, clock)
    router.on_event(pool.events.append)
    return pool


@dataclass(frozen=True)
class Result:
    """What a caller got: the text so far, and the error it ended with, if any."""

    text: str = ""
    error: openai.OpenAIError | None = None
    origin: object = None


async def call(pool: Pool, *, sync: bool, stream: bool, client: Any = None, **arguments: Any) -> Result:
    """One chat completion by either client, plain or streamed; a client that is given is closed too."""
    arguments = {"model": "gpt-4o", "messages": MESSAGES, "stream": stream, **arguments}
    if not sync:
        return await _call_async(client or pool.client(), arguments)
    return await anyio.to_thread.run_sync(partial(_call_sync, client or pool.client_sync(), arguments))


async def _call_async(client: RoutedOpenAI, arguments: dict[str, Any]) -> Result:
    text: list[str] = []
    answer: Any = None
    create: Any = client.chat.completions.create
    try:
        answer = await create(**arguments)
        if not arguments["stream"]:
            return Result(answer.choices[0].message.content or "", None, answer)
        async for chunk in answer:
            text.extend(choice.delta.content or "" for choice in chunk.choices)
    except openai.OpenAIError as error:
        return Result("".join(text), error, answer)
    finally:
        await client.close()
    return Result("".join(text), None, answer)


def _call_sync(client: SyncRoutedOpenAI, arguments: dict[str, Any]) -> Result:
    text: list[str] = []
    answer: Any = None
    create: Any = client.chat.completions.create
    try:
        answer = create(**arguments)
        if not arguments["stream"]:
            return Result(answer.choices[0].message.content or "", None, answer)
        for chunk in answer:
            text.extend(choice.delta.content or "" for choice in chunk.choices)
    except openai.OpenAIError as error:
        return Result("".join(text), error, answer)
    finally:
        client.close()
    return Result("".join(text), None, answer)
