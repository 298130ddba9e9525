"""Recorded traffic, in virtual time: bursts, prompts that begin alike, and a tenant that floods.

    python tests/benchmarks/traces.py --data FOLDER [--short] [--seed 1] [--trace azure|mooncake|claude|servegen]

The contestants are explained in `contestants.py`. All calls of a trace go to one model, so that they share its
limits, and every other one streams. The pool has the accounts of `goodput.py`, also those that serve none, and 1.3
times the tokens per minute that the trace asks for in the mean; times and tokens are as recorded.

    azure2023_A      the busiest minute, [645, 705) s
    mooncake_conv_A  arrivals come in ticks of 3 s: each is put at a random moment of its tick. With the router's eye
    claude_code_A    for prompt caches, and without: `cached` is the share of the prompt tokens that came from a
                     cache (kept for 5 minutes by each account), `most` what one cache for all accounts would give
    servegen_A       `client_id` is the tenant. One of them asks ten times as much as recorded, at moments of up to a
                     minute later. `others` is the share of the other tenants' calls that was served; Jain's index
                     is over the shares of each one's tokens that were served: 1 is equal, 1/n all for one. `one
                     queue` is the router where no call names its tenant
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from random import Random

from contestants import (
    CONTESTANTS,
    MEAN_CHARGE,
    MODEL,
    Contestant,
    Scenario,
    failover,
    learning,
    optimum,
    router_of,
    run,
    without_affinity,
)
from goodput import SHARES, accounts
from keyrouter_openai.core.model import MINUTE
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.cache import PromptCache
from keyrouter_openai.testing.virtual import BLOCK, VirtualCall

HEADROOM = 1.3
"""The pool's tokens per minute, relative to what the trace asks for in the mean."""
WINDOW = (645.0, 705.0)
TICK = 3.0
FLOODS, TIMES = "m-large/c140", 10
CACHE_TTL = 300.0

Row = Mapping[str, str]


def rows(folder: Path, name: str, rng: Random) -> Iterator[tuple[Row, VirtualCall]]:
    """The calls of a trace, with the lines of the file that they come from."""
    with gzip.open(folder / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            at, prompt, completion = (row[column] for column in ("arrival_s", "prompt_tokens", "completion_tokens"))
            yield row, VirtualCall(float(at), int(prompt), int(completion), MODEL, stream=rng.random() < 0.5)


def azure(folder: Path, seed: int) -> list[VirtualCall]:
    """All of the trace."""
    return [call for _, call in rows(folder, "azure2023_A", Random(seed))]


def busiest(folder: Path, seed: int) -> list[VirtualCall]:
    """Its busiest minute."""
    start, end = WINDOW
    return [replace(call, at=call.at - start) for call in azure(folder, seed) if start <= call.at < end]


def mooncake(folder: Path, seed: int) -> list[VirtualCall]:
    """Conversations with long prompts. The trace has an id for each block of a prompt, together with all before it."""
    rng = Random(seed)
    calls: list[VirtualCall] = []
    for row, call in rows(folder, "mooncake_conv_A", rng):
        prefixes = tuple(map(int, row["prefix_hashes"].split()))[: call.prompt_tokens // BLOCK]
        calls.append(replace(call, at=call.at + rng.uniform(0.0, TICK), prefixes=prefixes))
    return sorted(calls, key=lambda call: call.at)


def claude(folder: Path, seed: int) -> list[VirtualCall]:
    """Coding sessions. The trace tells how much of each prompt repeats the one before in its session."""
    calls: list[VirtualCall] = []
    before: dict[str, tuple[int, ...]] = {}
    fresh = 0
    for row, call in rows(folder, "claude_code_A", Random(seed)):
        blocks = call.prompt_tokens // BLOCK
        kept = before.get(row["session_id"], ())[: min(int(row["reusable_prefix_tokens"]) // BLOCK, blocks)]
        prefixes = (*kept, *range(fresh, fresh + blocks - len(kept)))
        fresh += blocks - len(kept)
        before[row["session_id"]] = prefixes
        calls.append(replace(call, prefixes=prefixes))
    return calls


def servegen(folder: Path, seed: int, *, flood: bool) -> list[VirtualCall]:
    """Twenty tenants, one of which may ask ten times as much."""
    rng = Random(seed)
    calls: list[VirtualCall] = []
    for row, call in rows(folder, "servegen_A", rng):
        calls.append(replace(call, tenant=row["client_id"]))
        if flood and row["client_id"] == FLOODS:
            calls += [replace(calls[-1], at=call.at + rng.uniform(0.0, MINUTE)) for _ in range(TIMES - 1)]
    return sorted(calls, key=lambda call: call.at)


def pool_for(calls: Sequence[VirtualCall]) -> list[SimAccount]:
    """Accounts of the right size for a trace."""
    tokens_per_second = sum(call.charge for call in calls) / calls[-1].at
    pool = accounts(HEADROOM * tokens_per_second / MEAN_CHARGE)
    return [replace(account, rpm=None, cache=True, cache_ttl_s=CACHE_TTL) for account in pool]


def scenario_of(
    pool: Sequence[SimAccount], make_calls: Callable[[], list[VirtualCall]], seed: int, short: bool
) -> Scenario:
    """A trace as it is played; a short one ends after its first two minutes."""
    made = make_calls
    if short:

        def made() -> list[VirtualCall]:
            return [call for call in make_calls() if call.at < 2 * MINUTE]

    return Scenario(pool, made, seed, revoked=["left/key-1"])


def play_burst(folder: Path, seed: int, short: bool) -> None:
    """What becomes of the busiest minute."""
    scenario = scenario_of(pool_for(azure(folder, seed)), partial(busiest, folder, seed), seed, short)
    bound = optimum(scenario.make_calls(), scenario.accounts[: len(SHARES)])
    print(f"azure2023_A {WINDOW}: {len(bound.asked)} calls, of which {bound.share:.1%} could be served (in tokens)")
    print(f"{'':14}{'served':>9}{'of optimum':>12}{'429s':>8}{'wait p50':>10}{'p99':>8}")
    for name, contestant in CONTESTANTS.items():
        score = run(scenario, contestant)
        waits = f"{score.wait(0.5):10.2f}{score.wait(0.99):8.2f}"
        print(f"{name:14}{score.served:9.2%}{score.share_of(bound):12.2%}{score.refused:8.1f}{waits}", flush=True)


def play_cached(name: str, make_calls: Callable[[], list[VirtualCall]], seed: int, short: bool) -> None:
    """How much comes from prompt caches, with affinity and without."""
    scenario = scenario_of(pool_for(make_calls()), make_calls, seed, short)
    calls = scenario.make_calls()
    cache = PromptCache(CACHE_TTL)
    most = sum(cache.use(call.prefixes, BLOCK, call.at) for call in calls) / sum(c.prompt_tokens for c in calls)
    bound = optimum(calls, scenario.accounts[: len(SHARES)])
    print(f"{name}: {len(calls)} calls, most {most:.1%} cached")
    print(f"{'':18}{'cached':>9}{'served':>9}{'of optimum':>12}{'429s':>8}{'wait p99':>10}")
    contestants: dict[str, Contestant] = {
        "failover": failover,
        "learning": learning,
        "  without affinity": without_affinity,
    }
    for label, contestant in contestants.items():
        score = run(scenario, contestant)
        served = f"{score.served:9.2%}{score.share_of(bound):12.2%}{score.refused:8.1f}{score.wait(0.99):10.2f}"
        print(f"{label:18}{score.cached:9.1%}{served}", flush=True)


def play_flood(folder: Path, seed: int, short: bool) -> None:
    """What one tenant's flood does to the others."""
    pool = pool_for(servegen(folder, seed, flood=False))
    print(f"servegen_A: {FLOODS} asks {TIMES} times as much")
    print(f"{'':18}{'others':>9}{'Jain':>8}{'wait p99':>10}{'answer p99':>12}{'flooder':>9}{'429s':>8}")
    contestants: dict[str, Contestant] = {
        "failover": failover,
        "one queue": partial(router_of, declared=False, tenants=False),
        "tenants": learning,
    }
    for name, contestant in contestants.items():
        for flood in (False, True):
            scenario = scenario_of(pool, partial(servegen, folder, seed, flood=flood), seed, short)
            score = run(scenario, contestant)
            others = [call for call in score.calls if call.tenant != FLOODS]
            served = sum(call.served for call in others) / len(others)
            flooder = [call.served for call in score.calls if call.tenant == FLOODS]
            print(
                f"{name + (', flood' if flood else ''):18}{served:9.2%}{jain(others):8.4f}"
                f"{quantile(others, lambda call: call.sent_at - call.at):10.2f}"
                f"{quantile(others, lambda call: call.ended_at - call.at):12.2f}"
                f"{sum(flooder) / max(len(flooder), 1):9.1%}{score.refused:8.1f}",
                flush=True,
            )


def jain(calls: Sequence[VirtualCall]) -> float:
    """Jain's index of fairness, over the share of each tenant's tokens that was served."""
    asked, got = Counter[str](), Counter[str]()
    for call in calls:
        asked[call.tenant] += call.charge
        got[call.tenant] += call.charge if call.served else 0
    shares = [got[tenant] / asked[tenant] for tenant in asked]
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares) or 1.0)


def quantile(calls: Sequence[VirtualCall], seconds: Callable[[VirtualCall], float]) -> float:
    """The 99th percentile over the served calls."""
    times = sorted(seconds(call) for call in calls if call.served)
    return times[int(0.99 * len(times))] if times else inf


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="where the traces are")
    parser.add_argument("--short", action="store_true", help="the first two minutes of each")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trace", choices=("azure", "mooncake", "claude", "servegen"), help="only this one")
    options = parser.parse_args()
    folder, seed, short = options.data, options.seed, options.short
    plays: dict[str, Callable[[], None]] = {
        "azure": partial(play_burst, folder, seed, short),
        "mooncake": partial(play_cached, "mooncake_conv_A", partial(mooncake, folder, seed), seed, short),
        "claude": partial(play_cached, "claude_code_A", partial(claude, folder, seed), seed, short),
        "servegen": partial(play_flood, folder, seed, short),
    }
    for name, play in plays.items():
        if options.trace in (None, name):
            play()


if __name__ == "__main__":
    main()
