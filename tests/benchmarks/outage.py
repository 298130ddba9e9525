"""A provider fails altogether for half a minute: what it gets to see, and how soon all is well again.

    python tests/benchmarks/outage.py [--short] [--seed 1] [--load 0.9]

In virtual time; the contestants are explained in `contestants.py`. Three accounts of one provider, six keys. After a
minute every call is answered with an error, for 30 s; then all is as before. `sent / call` is how many requests the
provider got in that time for each call that arrived in it. `answered` is the share of the calls of that time that
were served in the end, `later` that of the calls after it. `back after` is how many seconds after the outage the
first second began in which as many calls were served as usually arrive in one. `peak` is the busiest second of the
ten after it, in calls that usually arrive in one.
"""

from __future__ import annotations

import argparse
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial

from contestants import CONTESTANTS, Scenario, Score, Steps, World, made_up_calls, run
from goodput import RATE, SHARES, accounts

START, LENGTH, AFTER = 60.0, 30.0, 60.0
ERRORS = {"500": "server_error", "503": "unavailable"}
BACK = 0.9
"""Share of the usual number of calls in a second at which all is well again: arrivals are random."""


def outage(world: World, error: str) -> Steps:
    """The provider's failure."""
    yield START
    world.provider.error = error
    yield START + LENGTH
    world.provider.error = None


def in_second(times: Sequence[float], start: float) -> int:
    """How many of `times`, which are in order, are within a second from `start`."""
    return bisect_left(times, start + 1.0) - bisect_left(times, start)


def report(name: str, error: str, score: Score, per_second: float) -> str:
    """One row of the table."""
    end = START + LENGTH
    during, later = score.within(START, end), score.within(end, float("inf"))
    came = [at - end for at, _ in later.sent]
    served = [at - end for at, status in later.sent if status == 200]
    starts = [tenth / 10 for tenth in range(int(10 * AFTER))]
    back = next((start for start in starts if in_second(served, start) >= BACK * per_second), None)
    peak = max(in_second(came, start) for start in starts[:100]) / per_second
    return (
        f"{error:10}{name:14}{len(during.sent) / len(during.calls):11.2f}{during.served:10.1%}{later.served:9.1%}"
        f"{'never' if back is None else f'{back:.1f} s':>12}{peak:8.2f}{later.refused:8.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a tenth of the traffic, one error")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--load", type=float, default=0.9, help="1: what the accounts' limits refill")
    options = parser.parse_args()
    rate = RATE / 10 if options.short else RATE
    make_calls = partial(made_up_calls, options.load * rate, START + LENGTH + AFTER, options.seed)
    headings = f"{'sent / call':>11}{'answered':>10}{'later':>9}{'back after':>12}{'peak':>8}{'429s':>8}"
    print(f"{'error':10}{'contestant':14}{headings}")
    for error, name in list(ERRORS.items())[: 1 if options.short else None]:
        script = partial(outage, error=name)
        scenario = Scenario(accounts(rate)[: len(SHARES)], make_calls, options.seed, script=script)
        for contestant, play in CONTESTANTS.items():
            print(report(contestant, error, run(scenario, play), options.load * rate), flush=True)


if __name__ == "__main__":
    main()
