"""Placement by size: what a pool serves whose accounts' limits are of different shape, as a share of the optimum.

    python tests/benchmarks/placement.py [--short] [--minutes 8] [--seed 1] [--loads 1.0,1.15,1.3]
                                         [--only NAME,...] [--pools 0,...]

Some accounts have many requests and few tokens, others the reverse. Where each call goes decides how many are
served. The optimum is that of the linear programme

    maximise t   subject to   sum over calls of x[call, account]                <= requests of each account
                              sum over calls of tokens[call] * x[call, account] <= tokens of each account
                              sum over accounts of x[call, account] = t         for each call, x >= 0

which is solved exactly (see `solve`): the share t of each call that the accounts can serve. Its dual prices say
what each call is worth; by duality no scheduler whatever serves calls of more worth than t of all, also if it picks
which to serve. Load 1.0 is what the limits' refill can serve of the scenario's mix. Limits are granted for the time
played, `PATIENCE` and the minute's worth that is there at first.

    at random    `Router` with an objective that draws lots among the accounts that can start a call
    least used   `Router` with an objective that takes the account that has been used least, relative to its limits
    routed       `Router`, with the limits of its accounts declared
    learning     `Router`, which is told nothing but the keys

`of optimum` is the worth of what was served as a share of the optimum's. `large` is the share of the largest tenth
of the calls that was served; `429s` are for each 1,000 calls; waits are seconds from a call's arrival until the
attempt left that was served.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from contestants import (
    PATIENCE,
    Caller,
    Contestant,
    Optimum,
    Scenario,
    World,
    learning,
    poisson,
    routed,
    router_of,
    run,
)
from keyrouter_openai.core.candidate import Candidate
from keyrouter_openai.core.model import MINUTE, RouteRequest
from keyrouter_openai.core.objectives import Objective
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.virtual import NETWORK_MOST, VirtualCall

LOADS = (1.0, 1.15, 1.3)
LARGEST = 30_000
"""Tokens: the tail of a lognormal distribution has no end."""
COMPLETION = 50
"""Tokens of an answer: what is charged is the larger prompt."""


class AtRandom:
    """Draws lots among the accounts."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        return self._rng.random()


class LeastUsed:
    """Calls all accounts equal: then the least used comes first."""

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        return 0.0


def at_random(world: World) -> Caller:
    return _ranked(world, AtRandom(world.seed))


def least_used(world: World) -> Caller:
    return _ranked(world, LeastUsed())


def _ranked(world: World, objective: Objective) -> Caller:
    return router_of(world, declared=True, objective=objective)


CONTESTANTS: dict[str, Contestant] = {
    "at random": at_random,
    "least used": least_used,
    "routed": routed,
    "learning": learning,
}


# -- what is played


def two_sizes(small: int, large: int, share: float) -> Callable[[Random], int]:
    """Sizes of two kinds, `share` of them large, each spread by a fifth."""
    return lambda rng: round((large if rng.random() < share else small) * rng.uniform(0.8, 1.2))


def lognormal(mean: int, sigma: float) -> Callable[[Random], int]:
    """Sizes of a lognormal distribution."""
    return lambda rng: min(max(COMPLETION, round(mean * rng.lognormvariate(-sigma * sigma / 2, sigma))), LARGEST)


@dataclass(frozen=True)
class Pool:
    """Accounts, and the sizes of the calls that are made to them."""

    name: str
    limits: Sequence[tuple[int, int]]
    """Requests and tokens per minute of each account."""
    size: Callable[[Random], int]

    @property
    def accounts(self) -> list[SimAccount]:
        return [SimAccount(f"account{n}", rpm=rpm, tpm=tpm) for n, (rpm, tpm) in enumerate(self.limits)]

    def calls(self, calls_per_second: float, seconds: float, seed: int) -> list[VirtualCall]:
        """Random arrivals (Poisson); every other call streams."""
        rng = Random(seed)
        arrivals = poisson(calls_per_second, seconds, rng)
        return [VirtualCall(at, self.size(rng), COMPLETION, stream=rng.random() < 0.5) for at in arrivals]

    def rate(self, seed: int) -> float:
        """Calls a second that the limits' refill can serve."""
        rng = Random(seed)
        sizes = [self.size(rng) for _ in range(SAMPLE)]
        return solve(sizes, self.limits).share * SAMPLE / MINUTE


SAMPLE = 5000
"""Calls from whose sizes it is worked out what load 1.0 is."""
EXACT, TINY = 1e-5, 1e-12
"""How near to the optimum the prices must prove to be; what counts as nothing beside sums of floats."""
POOLS = (
    Pool("two accounts, sizes of two kinds", [(1200, 200_000), (240, 1_200_000)], two_sizes(150, 5000, 0.17)),
    Pool("two accounts, lognormal", [(1200, 200_000), (240, 1_200_000)], lognormal(1000, 1.5)),
    Pool(
        "four accounts, sizes of two kinds",
        [(1500, 150_000), (600, 300_000), (300, 600_000), (120, 900_000)],
        two_sizes(150, 4000, 0.2),
    ),
    Pool(
        "four accounts, lognormal",
        [(1500, 150_000), (600, 300_000), (300, 600_000), (120, 900_000)],
        lognormal(800, 1.5),
    ),
    Pool(
        "three unlike accounts, lognormal",
        [(500, 200_000), (2000, 2_000_000), (3000, 300_000)],
        lognormal(450, 1.5),
    ),
    Pool("one shape, different sizes", [(600, 600_000), (300, 300_000), (150, 150_000)], lognormal(1000, 1.0)),
)


# -- the optimum


@dataclass(frozen=True)
class Solution:
    """The optimum of the linear programme, and the prices that prove it."""

    share: float
    """Of each call."""
    prices: Sequence[tuple[float, float]]
    """Of a request and of a token, at each account."""

    def worth(self, tokens: float) -> float:
        """What a call is worth: its price where it is cheapest. That of all calls is 1."""
        return min(request + token * tokens for request, token in self.prices)


def solve(sizes: Sequence[int], limits: Sequence[tuple[float, float]]) -> Solution:
    """The largest share of each call that accounts with these limits of requests and tokens can serve.

    A column of the programme is a way to send each call to one account. There are very many; the simplex method
    starts from none of them and adds whichever costs least at the prices of the moment (column generation),
    until that costs as much as it brings: then the prices prove the optimum.
    """
    counts = Counter(sizes)
    rows = range(2 * len(limits))
    amounts = [float(limit) for pair in limits for limit in pair]
    right = list(amounts)
    inverse = [[float(row == column) for column in rows] for row in rows]
    gains = [0.0] * len(rows)
    while True:
        prices = [sum(gain * row[n] for gain, row in zip(gains, inverse, strict=True)) for n in rows]
        column, gain = [0.0] * len(rows), 0.0
        lowest = min(rows, key=lambda n: prices[n] * amounts[n])
        if prices[lowest] * amounts[lowest] < -EXACT:
            column[lowest] = 1.0  # leave some of a limit unused
        else:
            pairs = [(max(prices[n], 0.0), max(prices[n + 1], 0.0)) for n in rows[::2]]
            gain, cost = 1.0, _cheapest(counts, pairs, column)
            if cost >= 1.0 - EXACT:
                bound = sum(r * rpm + t * tpm for (r, t), (rpm, tpm) in zip(pairs, limits, strict=True))
                return Solution(bound / cost, [(request / cost, token / cost) for request, token in pairs])
        _pivot(column, inverse, right, gains, gain)


def _cheapest(counts: Mapping[int, int], prices: Sequence[tuple[float, float]], column: list[float]) -> float:
    """Send each call to the account where it costs least; `column` gets what that takes of each limit."""
    cost = 0.0
    for size, count in counts.items():
        price, account = min((request + token * size, n) for n, (request, token) in enumerate(prices))
        cost += count * price
        column[2 * account] += count
        column[2 * account + 1] += count * size
    return cost


def _pivot(
    column: Sequence[float], inverse: list[list[float]], right: list[float], gains: list[float], gain: float
) -> None:
    """Take a column into the basis, whose inverse is given, for the one that it displaces first."""
    rows = range(len(right))
    entering = [sum(a * b for a, b in zip(row, column, strict=True)) for row in inverse]
    _, leaving = min((right[n] / entering[n], n) for n in rows if entering[n] > TINY)
    for n in rows:
        factor = entering[n] / entering[leaving]
        if n != leaving and factor:
            right[n] -= factor * right[leaving]
            inverse[n] = [a - factor * b for a, b in zip(inverse[n], inverse[leaving], strict=True)]
    right[leaving] /= entering[leaving]
    inverse[leaving] = [a / entering[leaving] for a in inverse[leaving]]
    gains[leaving] = gain


def optimum(calls: Sequence[VirtualCall], limits: Sequence[tuple[int, int]], seconds: float) -> Optimum:
    """A bound that no scheduler can exceed: what each call is worth, and how much of it can be served."""
    minutes = 1.0 + (seconds + PATIENCE + NETWORK_MOST) / MINUTE
    solution = solve([call.charge for call in calls], [(minutes * rpm, minutes * tpm) for rpm, tpm in limits])
    worth = [solution.worth(call.charge) for call in calls]
    return Optimum(worth, [min(solution.share, 1.0) * amount for amount in worth])


HEADINGS = (
    f"{'load':>5}  {'contestant':14}{'served':>9}{'large':>9}{'of optimum':>12}{'429s':>8}{'wait p50':>9}{'p99':>8}"
)


def play_load(pool: Pool, load: float, names: Sequence[str], rate: float, seconds: float, seed: int) -> None:
    """Let each contestant play one load."""
    make = partial(pool.calls, load * rate, seconds, seed)
    bound = optimum(make(), pool.limits, seconds)
    scenario = Scenario(pool.accounts, make, seed)
    for name in names:
        score = run(scenario, CONTESTANTS[name])
        print(
            f"{load:5.2f}  {name:14}{score.served:9.2%}{score.large:9.2%}{score.share_of(bound):12.2%}"
            f"{score.refused:8.1f}{score.wait(0.5):9.2f}{score.wait(0.99):8.2f}",
            flush=True,
        )
    print(f"{load:5.2f}  {'optimum':14}{bound.share:9.2%} of what each asked")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="two minutes, one load")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="contestants")
    parser.add_argument("--pools", default=",".join(map(str, range(len(POOLS)))), help="which pools, by number from 0")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - CONTESTANTS.keys():
        parser.error(f"no contestant {', '.join(sorted(unknown))}: there are {', '.join(CONTESTANTS)}")
    loads = [1.15] if options.short else [float(load) for load in options.loads.split(",")]
    seconds = MINUTE * (2.0 if options.short else options.minutes)
    for pool in [POOLS[int(n)] for n in options.pools.split(",")]:
        rate = pool.rate(options.seed)
        print(f"\n{pool.name}: load 1.00 is {rate:.1f} calls a second; seed {options.seed}\n{HEADINGS}")
        for load in loads:
            play_load(pool, load, options.only.split(","), rate, seconds, options.seed)


if __name__ == "__main__":
    main()
