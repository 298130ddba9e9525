"""One load, three clients: what the demo measures. `demo` says it in words.

Each client has a process of its own with a provider of its own, all alike, so that none is slowed by the
work of the others' and none uses up the others' limits.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from math import ceil
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from time import time
from typing import Any, cast

import anyio
from openai import AsyncOpenAI

from keyrouter_openai import Key, Ledger, RoutedOpenAI, Router
from keyrouter_openai.core.model import Fault
from keyrouter_openai.events import Event, KeyStateChanged
from keyrouter_openai.status import KeyStatus
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount
from keyrouter_openai.testing.load import Load
from keyrouter_openai.testing.replay import Result, play

MODEL = "gpt-4o-mini"
MAX_RETRIES = 2
"""The SDK's own default."""
LATENCY = Latency(first_byte=0.4, sigma=0.5, tokens_per_second=150)

SHARES = {"large": 0.32, "medium": 0.23, "small": 0.15, "prepaid": 0.18, "leaver": 0.12}
"""The accounts, and each one's share of the pool's limits."""
TWO_KEYS, DRY, REVOKED = "large", "prepaid", "leaver"
HEADROOM = 1.3
"""The pool's tokens per minute, relative to the load's long-run mean; of the accounts that last, 0.91."""
REQUESTS_HEADROOM = 3.0
"""Requests per minute likewise: with most models the tokens are what runs out."""
MAX_WAIT = 4.0
"""Seconds that a routed call may wait for capacity."""
PATIENCE = 5.0
"""Seconds after the load's end at which calls that are still out are given up."""


class Side(StrEnum):
    """Who plays the load."""

    ONE_KEY = "one key"
    ROUND_ROBIN = "round robin"
    ROUTED = "RoutedOpenAI"


@dataclass(frozen=True, slots=True)
class Contest:
    """What is played. The provider lives `speed` times as fast as real time; `load` is as fast already."""

    load: Load
    speed: float
    seed: int

    @property
    def accounts(self) -> list[SimAccount]:
        """The provider's accounts."""
        return [
            SimAccount(
                name,
                keys=2 if name == TWO_KEYS else 1,
                rpm=ceil(REQUESTS_HEADROOM * share * self.load.calls_per_minute),
                tpm=ceil(HEADROOM * share * self.load.tokens_per_minute),
                organization=name,
                project="default",
            )
            for name, share in SHARES.items()
        ]


@dataclass(frozen=True, slots=True)
class SideReport:
    """What a side came to. Times are in seconds from when a call was due, as they passed."""

    side: Side
    calls: int
    succeeded: int
    failed: dict[str, int]
    """By kind of error."""
    sent: int
    """Requests that reached the provider."""
    wasted: int
    """Those of them that it did not answer with a 200."""
    p50_s: float | None
    p99_s: float | None
    """Of the calls that succeeded."""
    longest_s: float
    """Until the last answer or error."""
    sent_to_revoked: int
    """Requests with the revoked key after it was revoked."""
    sent_to_dry: int
    """Requests to the dry account after it ran dry."""
    latest_s: float
    """The longest that a call was sent after it was due, for want of computing power."""

    @property
    def sent_per_answer(self) -> float | None:
        """Requests sent for each call that succeeded."""
        return self.sent / self.succeeded if self.succeeded else None


@dataclass(frozen=True, slots=True)
class KeyReport:
    """What became of one of the router's keys, by its status and its ledger."""

    key: str
    account: str
    state: str
    reason: str
    calls: int
    succeeded: int
    tokens: int
    refused: dict[str, int]
    """By outcome."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a process has to say at its end; the keys are the routed side's."""

    side: SideReport
    keys: tuple[KeyReport, ...] = ()


Message = Result | KeyStateChanged | Report
"""What a process tells while it plays."""


class Broken(Exception):
    """A process ended before it had reported."""


def run(contest: Contest, watch: Callable[[Side, Result | KeyStateChanged], None]) -> list[Report]:
    """Let all sides play at the same time, each in a process; `watch` hears of each call and of lost keys.

    Raises:
        Broken: a process failed.
    """
    context = multiprocessing.get_context("spawn")
    sides: dict[Connection, Side] = {}
    processes: list[SpawnProcess] = []
    with TemporaryDirectory(prefix="keyrouter-demo-") as folder:
        try:
            for side in Side:
                ours, theirs = context.Pipe()
                process = context.Process(target=_main, args=(side, contest, Path(folder), theirs), daemon=True)
                process.start()
                theirs.close()
                sides[ours] = side
                processes.append(process)
            return _follow(sides, watch)
        except (EOFError, ConnectionError):
            raise Broken("one of its processes ended early; what it said is above") from None
        finally:
            for process in processes:
                process.terminate()
                process.join()


def _follow(sides: dict[Connection, Side], watch: Callable[[Side, Result | KeyStateChanged], None]) -> list[Report]:
    for connection in sides:
        connection.recv()  # it is ready
    for connection in sides:
        connection.send(None)  # go
    reports: dict[Side, Report] = {}
    while len(reports) < len(sides):
        for connection in wait([c for c, side in sides.items() if side not in reports]):
            side = sides[cast("Connection", connection)]
            message: Message = cast("Connection", connection).recv()
            if isinstance(message, Report):
                reports[side] = message
            else:
                watch(side, message)
    return [reports[side] for side in Side]


def _main(side: Side, contest: Contest, folder: Path, parent: Connection) -> None:
    """A process: plays one side."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    logging.getLogger("keyrouter_openai").addHandler(logging.NullHandler())
    for name in list(os.environ):  # a user's own organisation or proxy has no place here
        if name.startswith("OPENAI_") or name.upper().endswith("_PROXY"):
            del os.environ[name]
    parent.send(anyio.run(_play, side, contest, folder, parent))


async def _play(side: Side, contest: Contest, folder: Path, parent: Connection) -> Report:
    with ProviderSimulator(contest.accounts, latency=LATENCY, seed=contest.seed, time_scale=contest.speed) as sim:
        if side is Side.ROUTED:
            return await _play_routed(contest, sim, folder / "ledger.db", parent)
        secrets = list(sim.keys.values())
        async with AsyncOpenAI(base_url=sim.url, api_key=secrets[0], max_retries=MAX_RETRIES) as client:
            used = secrets[:1] if side is Side.ONE_KEY else secrets
            clients = cycle([client.with_options(api_key=secret) for secret in used])
            return Report(await _measure(side, contest, sim, lambda: next(clients), parent))


async def _play_routed(contest: Contest, sim: ProviderSimulator, path: Path, parent: Connection) -> Report:
    keys = [Key(name=label.replace("/key", ""), secret=secret, base_url=sim.url) for label, secret in sim.keys.items()]
    router = Router(keys, ledger=Ledger(path), rng=Random(contest.seed))

    def tell(event: Event) -> None:
        if isinstance(event, KeyStateChanged) and event.new in ("exhausted", "invalid"):
            parent.send(event)

    router.on_event(tell)
    async with RoutedOpenAI(router=router, max_wait=MAX_WAIT) as client:
        side = await _measure(Side.ROUTED, contest, sim, lambda: client, parent)
    try:
        return Report(side, tuple(_key_report(key, client.ledger) for key in router.status().keys))
    finally:
        client.ledger.close()


async def _measure(
    side: Side, contest: Contest, sim: ProviderSimulator, client: Callable[[], AsyncOpenAI], parent: Connection
) -> SideReport:
    """Play the load with the client that each call is given, while the provider takes away a key and a credit."""
    times: dict[str, float] = {}
    results: list[Result] = []

    async def ask(prompt: str, most: int) -> str | None:
        messages: Any = [{"role": "user", "content": prompt}]
        answer = await client().chat.completions.create(model=MODEL, messages=messages, max_tokens=most)
        return answer.choices[0].message.content

    async def take_away() -> None:
        await anyio.sleep(contest.load.seconds / 3)
        sim.revoke(f"{REVOKED}/key-1")
        times[REVOKED] = time()
        await anyio.sleep(contest.load.seconds / 6)
        sim.set_credit(DRY, calls=0)
        times[DRY] = time()

    parent.send(None)
    parent.recv()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_away)
        results = await play(contest.load, ask, patience=PATIENCE, done=parent.send)
    answered = sorted(result.seconds for result in results if result.error is None)
    calls = sim.calls
    return SideReport(
        side,
        calls=len(results),
        succeeded=len(answered),
        failed=dict(Counter(result.error for result in results if result.error is not None).most_common()),
        sent=len(calls),
        wasted=sum(call.status != 200 for call in calls),
        p50_s=_quantile(answered, 0.50),
        p99_s=_quantile(answered, 0.99),
        longest_s=max(result.seconds for result in results),
        sent_to_revoked=sum(call.account == REVOKED and call.at >= times[REVOKED] for call in calls),
        sent_to_dry=sum(call.account == DRY and call.at >= times[DRY] for call in calls),
        latest_s=max(result.late for result in results),
    )


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None


def _key_report(key: KeyStatus, ledger: Ledger) -> KeyReport:
    attempts = ledger.attempts(key=key.name)
    outcomes = Counter(str(attempt["outcome"]) for attempt in attempts)
    return KeyReport(
        key.name,
        key.account,
        key.state,
        key.reason,
        calls=len(attempts),
        succeeded=outcomes.pop(Fault.NONE, 0),
        tokens=sum((attempt["prompt_tokens"] or 0) + (attempt["completion_tokens"] or 0) for attempt in attempts),
        refused=dict(outcomes.most_common()),
    )
