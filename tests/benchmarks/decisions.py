"""What one decision costs: CPU of `Router` beside that of a plain `AsyncOpenAI` call, paired in one run.

    python tests/benchmarks/decisions.py [--short]

The plain call is a short chat, over loopback and without TLS, to a provider in a process of its own. The router
decides for that same chat in this process, in virtual time and with 64 calls in flight. Its pools have 1 to 10,000
keys, each an account of its own or ten to an account; it is told nothing of accounts and limits, and has learned
both from answers before it is timed. The answers are those of `SimProvider`, with limits of requests and tokens.

    acquire     a lease for one call: its description, the estimate of its tokens, the choice, the reservation
    + settle    and what the answer teaches of limits, account and usage
    + parsing   and those limits read from the answer's raw headers, of which there are 20
    waiting     every account is at its limit: a place in the queue is taken and left again

Each is in percent of the plain call's CPU: the median over rounds in which both were timed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from time import process_time

import anyio
import openai

from keyrouter_openai import Key
from keyrouter_openai.core.limits import read_limits
from keyrouter_openai.core.model import Dimension, Fault, Outcome, Reading, RouteRequest, Usage
from keyrouter_openai.core.queue import Turn
from keyrouter_openai.core.select import History
from keyrouter_openai.lease import Lease
from keyrouter_openai.options import Tokens
from keyrouter_openai.router import Router
from keyrouter_openai.testing.model import Denied, SimAccount, SimProvider
from keyrouter_openai.testing.virtual import VirtualTime
from speed import MESSAGES, PLAIN, cpu_of, make_calls, provider

SIZES = (1, 10, 100, 1_000, 10_000)
KEYS_EACH = (1, 10)
"""Keys in an account."""
PLAIN_CALLS = 64
IN_FLIGHT = 64
BATCHES = 4
"""Of decisions, for each figure, in a round."""
PLENTY, SCARCE = 30_000, 2
"""Requests a minute of an account, with a thousand tokens for each: what is never used up, and what soon is."""
ANSWER_S = 0.3
"""Virtual seconds until answers come, when the next calls go out."""
MISSES = 100
"""Calls in a row that find nothing, after which nothing is left."""
LONG_S = 1e6
"""Virtual seconds; no call has to wait as long."""
FIGURES = ("acquire", "+ settle", "+ parsing", "waiting")
BOUNDS = {"acquire": 0.7, "+ settle": 2.0}
"""Percent of a plain call that these may cost with ten keys."""
GROWTH = 3.0
"""What 10,000 keys may cost, in multiples of what 100 do."""
MODEL, ENDPOINT = "gpt-4o", "/chat/completions"
BODY = {"model": MODEL, "messages": MESSAGES}
USAGE = Usage(prompt=60, completion=20)
OTHER_HEADERS = (
    (b"date", b"Tue, 03 Mar 2026 12:00:00 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", b"1024"),
    (b"connection", b"keep-alive"),
    (b"access-control-expose-headers", b"X-Request-ID"),
    (b"openai-processing-ms", b"412"),
    (b"openai-version", b"2020-10-01"),
    (b"openai-project", b"proj_5fK2mL"),
    (b"x-request-id", b"req_0f9d6a5b4c3e2d1f"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains; preload"),
    (b"cf-cache-status", b"DYNAMIC"),
    (b"x-content-type-options", b"nosniff"),
    (b"server", b"cloudflare"),
    (b"cf-ray", b"8f1c2d3e4f5a6b7c-FRA"),
)
"""What OpenAI sends besides."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back for a lease: its outcome, and the raw headers that say the same of limits."""

    lease: Lease
    outcome: Outcome
    headers: list[tuple[bytes, bytes]]


class Pool:
    """A router and the provider that it has keys for, in virtual time."""

    def __init__(self, keys: int, keys_each: int, rpm: int) -> None:
        specs = [SimAccount(f"a{n}", keys=keys_each, rpm=rpm, tpm=rpm * 1000) for n in range(keys // keys_each)]
        self._provider = SimProvider(specs, Random(1))
        self._sim_keys = {sim_key.label.replace("/", "."): sim_key for sim_key in self._provider.keys.values()}
        self._time = VirtualTime()
        keys_given = [Key(name=name, secret=sim_key.secret) for name, sim_key in self._sim_keys.items()]
        self.router = Router(keys_given, clock=self._time, rng=Random(2))

    def learn(self) -> None:
        """Make calls until each key has had an answer."""
        missing = set(self._sim_keys)
        while missing:
            answers = self.answers(self.acquire())
            self.settle(answers, parse=False)
            missing.difference_update(answer.lease.key.name for answer in answers)

    def drain(self) -> None:
        """Make calls one after another until every account is at its limit: of a large pool the router sees a part."""
        missed = 0
        while missed < MISSES:
            taken = self.router.acquire(request(), History(), number=1, max_wait=LONG_S)
            if isinstance(taken, Lease):
                self.settle(self.answers([taken]), parse=False)
                missed = 0
                continue
            missed += 1
            if isinstance(taken, Turn):
                self.router.leave(taken)

    def acquire(self) -> list[Lease]:
        """Leases for as many calls as are in flight, each of which can go at once."""
        leases: list[Lease] = []
        for _ in range(IN_FLIGHT):
            taken = self.router.acquire(request(), History(), number=1, max_wait=0.0)
            assert isinstance(taken, Lease), taken
            leases.append(taken)
        return leases

    def answers(self, leases: Sequence[Lease]) -> list[Answer]:
        """What the provider answers to each."""
        return [self._answer(lease) for lease in leases]

    def _answer(self, lease: Lease) -> Answer:
        sim_key = self._sim_keys[lease.key.name]
        try:
            admitted = self._provider.admit(sim_key, MODEL, USAGE.prompt + USAGE.completion, self._time.now)
        except Denied as denied:  # before it is known which keys share an account
            return Answer(lease, refusal(sim_key.account, denied), [])
        headers = [(name.encode(), value.encode()) for name, value in admitted.headers.items()]
        return Answer(lease, outcome(sim_key.account, admitted.readings), [*OTHER_HEADERS, *headers])

    def settle(self, answers: Sequence[Answer], *, parse: bool) -> None:
        """Have the router learn from answers."""
        at = self._time.time()
        for answer in answers:
            if parse:
                read_limits(answer.headers, provider="openai", now=at)
            self.router.settle(answer.lease, answer.outcome, started_at=at, waited_s=0.0)

    def wait_and_leave(self) -> None:
        """Queue up as many calls as are in flight, hardly any of which can go, and take them all out again."""
        turns: list[Turn] = []
        for _ in range(IN_FLIGHT):
            taken = self.router.acquire(request(), History(), number=1, max_wait=LONG_S)
            if isinstance(taken, Turn):
                turns.append(taken)
            elif isinstance(taken, Lease):
                self.router.release(taken)
        assert len(turns) > IN_FLIGHT // 2, "the pool has hardly a call that waits"
        for turn in turns:
            self.router.leave(turn)

    def time_batch(self, *, parse: bool) -> tuple[float, float]:
        """CPU seconds of as many leases as are in flight, taken and settled."""
        start = process_time()
        leases = self.acquire()
        acquired = process_time() - start
        answers = self.answers(leases)
        self._time.now += ANSWER_S
        start = process_time()
        self.settle(answers, parse=parse)
        return acquired, process_time() - start


def request() -> RouteRequest:
    """One call, as `options.describe` describes it."""
    size = Tokens(BODY, ENDPOINT)
    return RouteRequest("r1", ENDPOINT, MODEL, estimate=size.estimate, prefixes=size.prefixes)


def outcome(account: str, readings: Sequence[Reading]) -> Outcome:
    """A call that was served."""
    return Outcome(
        Fault.NONE,
        200,
        readings=readings,
        usage=USAGE,
        served_model=MODEL,
        first_byte_s=ANSWER_S,
        seconds=ANSWER_S,
        organization=account,
    )


def refusal(account: str, denied: Denied) -> Outcome:
    """A call that was over a limit."""
    return Outcome(
        Fault.RATE_LIMIT,
        denied.status,
        wait=denied.wait,
        dimension=denied.dimension,
        period=denied.period,
        readings=denied.readings,
        organization=account,
    )


class Size:
    """Two pools of one size, one with plenty left and one at its limits, and what decisions in them took."""

    def __init__(self, keys: int, keys_each: int) -> None:
        self.keys = keys
        self.accounts = keys // keys_each
        self._idle = Pool(keys, keys_each, PLENTY)
        self._idle.learn()
        self._busy = Pool(keys, keys_each, SCARCE) if keys > 1 else None
        """None for a single key: its calls never queue, as they do not with the SDK."""
        if self._busy is not None:
            self._busy.drain()
        self.spent: dict[str, list[float]] = {figure: [] for figure in FIGURES}
        """CPU seconds of one decision, by figure and round."""

    def time_round(self) -> None:
        """Add one round to `spent`."""
        plain = [self._idle.time_batch(parse=False) for _ in range(BATCHES)]
        parsed = [self._idle.time_batch(parse=True) for _ in range(BATCHES)]
        acquired = sum(seconds for seconds, _ in plain)
        self._add("acquire", acquired)
        self._add("+ settle", acquired + sum(seconds for _, seconds in plain))
        self._add("+ parsing", sum(map(sum, parsed)))
        if self._busy is not None:
            start = process_time()
            for _ in range(BATCHES):
                self._busy.wait_and_leave()
            self._add("waiting", process_time() - start)

    def _add(self, figure: str, seconds: float) -> None:
        self.spent[figure].append(seconds / (BATCHES * IN_FLIGHT))


async def time_all(url: str, sizes: Sequence[Size], rounds: int) -> list[float]:
    """Time plain calls and the decisions of every size in turn; CPU seconds of one plain call, by round."""
    calls: list[float] = []
    async with PLAIN.client(f"{url}/v1", Path()) as client:
        call = partial(make_calls, client, PLAIN_CALLS, stream=False, in_flight=1)
        await call()  # connections are made and caches filled
        for _ in range(rounds):
            calls.append(await cpu_of(call) / PLAIN_CALLS)
            for size in sizes:
                size.time_round()
    return calls


def print_costs(sizes: Sequence[Size], calls: Sequence[float]) -> None:
    print(f"one plain call takes {median(calls) * 1e6:.0f} us of CPU; decisions in us, and in percent of that")
    print(f"{'keys':>7}{'accounts':>10}" + "".join(f"{figure:>18}" for figure in FIGURES))
    for size in sizes:
        cells = [cell(size, figure, calls) for figure in FIGURES]
        print(f"{size.keys:7,}{size.accounts:10,}" + "".join(cells))


def cell(size: Size, figure: str, calls: Sequence[float]) -> str:
    if not size.spent[figure]:
        return f"{'-':>18}"
    return f"{median(size.spent[figure]) * 1e6:9.1f}{percent(size, figure, calls):8.2f}%"


def percent(size: Size, figure: str, calls: Sequence[float]) -> float:
    """What a decision costs in percent of a plain call."""
    return median(100 * ours / plain for ours, plain in zip(size.spent[figure], calls, strict=True))


def print_bounds(sizes: Sequence[Size], calls: Sequence[float]) -> None:
    """Set the figures beside what they may be."""
    print("\nat 10 keys, each an account of its own")
    ten = next(size for size in sizes if size.keys == size.accounts == 10)
    for figure, most in BOUNDS.items():
        print(f"{figure:14}{percent(ten, figure, calls):8.2f}%   at most {most} %")
    print("\nfrom 100 to 10,000 keys, one and ten to an account")
    for figure in FIGURES:
        took = {
            (size.keys, size.keys // size.accounts): median(size.spent[figure]) for size in sizes if size.spent[figure]
        }
        growth = [took[10_000, each] / took[100, each] for each in KEYS_EACH]
        print(f"{figure:14}" + "".join(f"{times:8.2f}x" for times in growth) + f"   at most {GROWTH} x")


def print_memory(keys: int) -> None:
    """Print what a pool takes, with every key an account of its own: as told by Python's allocator."""
    readings = (
        Reading(Dimension.REQUESTS, None, PLENTY, PLENTY - 1.0, 0.002),
        Reading(Dimension.TOKENS, None, PLENTY * 1000, PLENTY * 1000 - 80.0, 0.002),
    )
    gc.collect()
    tracemalloc.start()
    given = [Key(name=f"k{number}", secret=f"sk-{number:048}") for number in range(keys)]
    of_keys, _ = tracemalloc.get_traced_memory()
    router = Router(given, clock=VirtualTime(), rng=Random(1))
    made, _ = tracemalloc.get_traced_memory()
    missing = {key.name for key in given}
    while missing:
        taken = router.acquire(request(), History(), number=1, max_wait=0.0)
        assert isinstance(taken, Lease), taken
        router.settle(taken, outcome(f"org-{taken.key.name}", readings), started_at=0.0, waited_s=0.0)
        missing.discard(taken.key.name)
    gc.collect()
    taught, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\nmemory of a pool of {keys:,} keys, in MiB")
    for what, size in (("the keys", of_keys), ("router, new", made - of_keys), ("all learned", taught - of_keys)):
        print(f"{what:14}{size / 2**20:8.1f}   {size / keys / 1024:.2f} KiB a key")


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU of the router's decisions beside a plain AsyncOpenAI call")
    parser.add_argument("--short", action="store_true", help="fewer rounds, and no pool beyond 1,000 keys")
    short = parser.parse_args().short
    counts = SIZES[:-1] if short else SIZES
    print(f"openai {openai.__version__}, Python {sys.version.split()[0]}")
    sizes = [Size(keys, each) for each in KEYS_EACH for keys in counts if keys >= each]
    with provider() as url:
        calls = anyio.run(time_all, url, sizes, 3 if short else 21)
    print_costs(sizes, calls)
    if not short:
        print_bounds(sizes, calls)
    print_memory(counts[-1])


if __name__ == "__main__":
    main()
