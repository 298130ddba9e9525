"""How much of a pool's capacity becomes answers: goodput against offered load, in virtual time.

    python tests/benchmarks/goodput.py [--short] [--minutes 10] [--seed 1] [--loads 0.3,...] [--thin 1]
                                       [--only NAME,...] [--litellm PYTHON] [--picture FILE.svg]

Eight keys: three accounts of different size with three, two and one keys, one whose credit is used up, and one key
that is revoked. Tokens are what runs out; load 1.0 is what the accounts' tokens per minute refill. The contestants
are explained in `contestants.py`. `large` is the share of the largest tenth of the calls that was served; `of
optimum` is what was served as a share of what an all-knowing scheduler could have had served (see
`contestants.optimum`), in tokens; `429s` are for each 1,000 calls; waits are seconds from a call's arrival until
the attempt left that was served. The first minute is shown apart from the rest.

The limits are sized for some 70 calls a second. `--rate 10000 --minutes 60` plays an hour of 10,000 a second, if
you have the time: the last line says how long each took. `--thin K` divides traffic and limits by K. Load and mean
waits for capacity stay what they are; but a call is K times as large a part of a limit, arrivals are relatively
more uneven (by the root of K), and fewer calls are in flight, so that less is in doubt when a header is read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contestants import CONTESTANTS, MEAN_CHARGE, Optimum, Scenario, Score, made_up_calls, optimum, run
from keyrouter_openai.core.model import MINUTE
from keyrouter_openai.testing import SimAccount
from litellm_rival import run_elsewhere
from picture import Chart, draw

LOADS = (0.3, 0.5, 0.7, 0.85, 1.0, 1.15, 1.3, 1.6)
SHARES = {"large": (3, 4 / 7), "medium": (2, 2 / 7), "small": (1, 1 / 7)}
"""The live accounts: how many keys, and which share of the pool's capacity."""
RATE = 70.0
"""Calls a second that the live accounts refill."""
REQUESTS_HEADROOM = 1.5
"""Requests per minute, relative to what the tokens per minute suffice for."""


def accounts(rate: float) -> list[SimAccount]:
    """The live accounts, which refill `rate` calls a second, and the two that serve none."""

    def account(name: str, keys: int, share: float, credit: int | None = None) -> SimAccount:
        calls = share * rate * MINUTE
        rpm, tpm = round(REQUESTS_HEADROOM * calls), round(MEAN_CHARGE * calls)
        return SimAccount(name, keys=keys, rpm=rpm, tpm=tpm, credit_calls=credit)

    live = [account(name, keys, share) for name, (keys, share) in SHARES.items()]
    return [*live, account("dry", 1, 1 / 7, credit=0), account("left", 1, 1 / 7)]


@dataclass(frozen=True)
class Row:
    """What one contestant made of one load."""

    load: float
    name: str
    score: Score
    bound: Optimum

    def __str__(self) -> str:
        score, first, rest = self.score, self.score.within(0.0, MINUTE), self.score.within(MINUTE, float("inf"))
        return (
            f"{self.load:5.2f}  {self.name:16}{score.served:9.2%}{score.large:9.2%}{score.share_of(self.bound):12.2%}"
            f"{score.refused:8.1f}{score.wait(0.5):9.2f}{score.wait(0.99):8.2f}"
            f"{first.served:11.2%}{first.refused:8.1f}{rest.served:10.2%}{rest.refused:8.1f}"
        )


HEADINGS = (
    f"{'load':>5}  {'contestant':16}{'served':>9}{'large':>9}{'of optimum':>12}{'429s':>8}{'wait p50':>9}{'p99':>8}"
    f"{'1st min.':>11}{'429s':>8}{'later':>10}{'429s':>8}"
)


def play_load(
    load: float, names: Sequence[str], rate: float, seconds: float, seed: int, litellm: str | None
) -> list[Row]:
    """Let each contestant play one load, and LiteLLM if there is an interpreter that has it."""
    pool = accounts(rate)
    calls = made_up_calls(load * rate, seconds, seed)
    bound = optimum(calls, pool[: len(SHARES)])
    scenario = Scenario(pool, partial(made_up_calls, load * rate, seconds, seed), seed, revoked=["left/key-1"])
    rows: list[Row] = []
    for name in names:
        rows.append(Row(load, name, run(scenario, CONTESTANTS[name]), bound))
        print(rows[-1], flush=True)
    if litellm is not None:
        for name, score in run_elsewhere(litellm, scenario).items():
            rows.append(Row(load, name, score, bound))
            print(rows[-1], flush=True)
    print(f"{load:5.2f}  {'optimum':16}{'':18}{bound.share:12.2%} of what was asked")
    return rows


def picture(rows: Sequence[Row]) -> str:
    """Goodput and refusals against offered load, as an SVG."""
    names = list(dict.fromkeys(row.name for row in rows))
    answered = {
        name: [
            (row.load, row.load * row.bound.share * row.score.share_of(row.bound)) for row in rows if row.name == name
        ]
        for name in reversed(names)
    }
    most = {"optimum": [(row.load, row.load * row.bound.share) for row in rows if row.name == names[0]]}
    refused = {name: [(row.load, row.score.refused) for row in rows if row.name == name] for name in reversed(names)}
    load = "offered load; 1 is what the limits refill"
    charts = [
        Chart("answered, in units of load", load, answered | most),
        Chart("429s for each 1,000 calls", load, refused),
    ]
    return draw(charts, "optimum")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="one minute and a bit, three loads")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument("--rate", type=float, default=RATE, help="calls a second that the limits refill")
    parser.add_argument("--thin", type=float, default=1.0, help="divide calls and limits by this")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants")
    parser.add_argument("--litellm", help="an interpreter that has litellm, which takes part, in real time")
    parser.add_argument("--picture", type=Path, help="draw goodput against load into this file")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - CONTESTANTS.keys():
        parser.error(f"no contestant {', '.join(sorted(unknown))}: there are {', '.join(CONTESTANTS)}")
    loads = [0.7, 1.3] if options.short else [float(load) for load in options.loads.split(",")]
    seconds = 90.0 if options.short else options.minutes * MINUTE
    rate = (10.0 if options.short else options.rate) / options.thin
    print(f"{seconds / MINUTE:g} minutes; load 1.00 is {rate:g} calls a second; seed {options.seed}")
    print(HEADINGS)
    names = options.only.split(",")
    rows = [row for load in loads for row in play_load(load, names, rate, seconds, options.seed, options.litellm)]
    for name in names:
        runs = [row.score for row in rows if row.name == name]
        speed = sum(len(score.calls) for score in runs) / sum(score.wall_s for score in runs)
        print(f"{name:16} {speed:8,.0f} calls simulated a second; an hour of 10,000 a second takes {1e4 / speed:.1f} h")
    if options.picture is not None:
        options.picture.write_text(picture(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
