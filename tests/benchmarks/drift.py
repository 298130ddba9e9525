"""Limits that are not what they were: another app, changed limits, headers that lie, lag or lack, wrong clocks.

    python tests/benchmarks/drift.py [--short] [--seed 1] [--case NAME]

In virtual time; the contestants are explained in `contestants.py`. Two accounts of equal limits and one key each;
another app has emptied both when it begins, and 1.2 times as much is asked as they refill, so that all of it is
wanted at any time. Each phase lasts four minutes. `429s` are for each 1,000 calls, `of what was left` is what was
served in the phase as a share of what the accounts refilled, less what the other app was to get. `found after` is
how many seconds after the start of the phase the first ten seconds began in which at least 95 % of what was left
was served and at most 4 calls in 1,000 were answered 429.

    second app     takes 40 % of the first account's limit from one moment to the next, then leaves
    limit halved   the first account's limits are halved, then doubled to what they were
    no headers     no answer shows any limit
    late headers   headers show the state of a second ago
    clock fast     headers name points in time, by a clock that is 5 minutes fast, or slow (Anthropic's form)
    low estimate   the router takes each call for 30 % smaller than the provider charges, or larger
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from contestants import (
    CONTESTANTS,
    MEAN_CHARGE,
    MODEL,
    Scenario,
    Score,
    Steps,
    World,
    made_up_calls,
    run,
)
from keyrouter_openai.core.model import MINUTE
from keyrouter_openai.testing import SimAccount

RATE = 60.0
"""Calls a second that both accounts together refill."""
LOAD = 1.2
TAKEN = 0.4
TICK = 0.1
"""Seconds between two calls of the other app."""
WINDOW = 10
ENOUGH, FEW = 0.95, 4.0
"""Share of what was left, and 429s for each 1,000 calls, at which the share has been found."""


@dataclass(frozen=True)
class Case:
    """What happens to whom. `left` is the share of all that the accounts refilled at first, in each phase."""

    left: Sequence[float]
    script: Callable[[World, float], Steps] | None = None
    headers: Literal["openai", "anthropic", "none"] = "openai"
    header_lag_s: float = 0.0
    clock_error: float = 0.0
    estimated: float = 1.0


def second_app(world: World, phase_s: float) -> Steps:
    """Another app on the first account, in the second phase of three."""
    tokens = TAKEN * (world.provider.books.account("first").tpm or 0) / MINUTE * TICK
    for tick in range(round(phase_s / TICK)):
        yield phase_s + tick * TICK
        world.provider.books.drain("first", MODEL, tokens=tokens, now=world.time.now)


def new_limits(world: World, phase_s: float) -> Steps:
    """The first account's limits are halved, then doubled."""
    books = world.provider.books
    spec = books.account("first")
    for phase, times in ((1, 0.5), (2, 1.0)):
        yield phase * phase_s
        rpm, tpm = round((spec.rpm or 0) * times), round((spec.tpm or 0) * times)
        books.set_limits("first", rpm=rpm, tpm=tpm, now=world.time.now)


CASES = {
    "second app": Case((1.0, 1.0 - TAKEN / 2, 1.0), second_app),
    "limit halved": Case((1.0, 0.75, 1.0), new_limits),
    "no headers": Case((1.0,), headers="none"),
    "late headers": Case((1.0,), header_lag_s=1.0),
    "clock fast": Case((1.0,), headers="anthropic", clock_error=300.0),
    "clock slow": Case((1.0,), headers="anthropic", clock_error=-300.0),
    "low estimate": Case((1.0,), estimated=0.7),
    "high estimate": Case((1.0,), estimated=1.3),
}


def opening(world: World, case: Case, phase_s: float) -> Steps:
    """Empty the accounts, and begin what happens later."""
    for name, spec in world.provider.books.accounts.items():
        world.provider.books.drain(name, MODEL, tokens=spec.tpm or 0, now=0.0)
    if case.script is not None:
        yield from case.script(world, phase_s)


def report(score: Score, start: float, end: float, per_second: float) -> str:
    """One phase of one contestant; `per_second` is how many tokens were left for it in each."""
    tokens, came, refused = Counter[int](), Counter[int](), Counter[int]()
    for call in score.calls:
        if call.served:
            tokens[int(call.sent_at - start)] += call.charge
        came[int(call.at - start)] += 1
    for at, status in score.sent:
        refused[int(at - start)] += status == 429

    def total(counter: Counter[int], first: int, seconds: int) -> int:
        return sum(counter[second] for second in range(first, first + seconds))

    seconds = int(end - start)
    found = next(
        (
            first
            for first in range(seconds - WINDOW)
            if total(tokens, first, WINDOW) >= ENOUGH * per_second * WINDOW
            and 1000 * total(refused, first, WINDOW) <= FEW * total(came, first, WINDOW)
        ),
        None,
    )
    calls = total(came, 0, seconds) or 1
    return (
        f"{1000 * total(refused, 0, seconds) / calls:8.1f}{total(tokens, 0, seconds) / (per_second * seconds):8.1%}"
        f"{'never' if found is None else f'{found} s':>8}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a sixth of the traffic, and phases of half a minute")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", choices=CASES, help="only this case")
    options = parser.parse_args()
    rate, phase_s = (RATE / 6, 30.0) if options.short else (RATE, 240.0)
    print("for each phase: 429s, of what was left, found after")
    for name, case in CASES.items():
        if options.case not in (None, name):
            continue
        calls = rate / 2 * MINUTE
        rpm, tpm = round(2 * calls), round(MEAN_CHARGE * calls)
        scenario = Scenario(
            [
                SimAccount(account, rpm=rpm, tpm=tpm, headers=case.headers, header_lag_s=case.header_lag_s)
                for account in ("first", "second")
            ],
            partial(made_up_calls, LOAD * rate, phase_s * len(case.left), options.seed),
            options.seed,
            script=partial(opening, case=case, phase_s=phase_s),
            clock_error=case.clock_error,
            estimated=case.estimated,
        )
        for contestant, play in CONTESTANTS.items():
            score = run(scenario, play)
            phases = [
                report(score, number * phase_s, (number + 1) * phase_s, left * rate * MEAN_CHARGE)
                for number, left in enumerate(case.left)
            ]
            print(f"{name:14}{contestant:14}" + " |".join(phases), flush=True)


if __name__ == "__main__":
    main()
