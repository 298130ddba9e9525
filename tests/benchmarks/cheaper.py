"""Cheaper by routing: what coding sessions cost at two providers of different price, by objective and affinity.

    python tests/benchmarks/cheaper.py --data FOLDER [--short] [--seed 1]

The calls are those of the trace claude_code_A, all to one model: sessions in which nearly all of a prompt repeats the
one before. Each provider grants `HEADROOM` times the tokens per minute that the trace asks for in the mean. The router
is told limits, accounts, prices, and the price multiplier of each key; its objective is `cost` or `fairness`, and with
affinity it looks at how prompts begin.

    for 1,000    US dollars for a thousand answers
    of best      the same, relative to the best possible
    cached       the share of the prompt tokens that came from a cache
    cheaper      the share of the answers that the provider with the lower list price gave

The best possible is a lower bound: for each session the cheapest way to divide its calls between the providers, by
dynamic programming over where the session was last at each, with what that leaves in the caches; the limits are
priced in (a Lagrangian relaxation, whose value is a bound at any prices; these are searched for). It is for
answering all calls in the order of their arrival, and knows them all beforehand.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from random import Random

from contestants import MODEL, Caller, Scenario, World, run
from keyrouter_openai import Key
from keyrouter_openai.core.model import MINUTE, Usage
from keyrouter_openai.core.price import Price, cost, own_price
from keyrouter_openai.keys import Limits
from keyrouter_openai.router import Router
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.cache import SHORTEST
from keyrouter_openai.testing.virtual import BLOCK, VirtualCall
from keyrouter_openai.testing.virtual_client import RoutedCaller
from traces import CACHE_TTL, claude

HEADROOM = 0.8
MAX_WAIT = 60.0
"""Seconds that a call may wait, as by default."""
SEARCHED = 16
"""Prices of a limit that are tried for the bound."""


PRICES = {"input": 2.5, "cached": 0.25, "output": 10}
"""US dollars for a million tokens, at a multiplier of 1."""


@dataclass(frozen=True)
class Provider:
    """What calls cost at a provider, relative to `PRICES`, and whether it caches prompts.

    Its name is one of `Key.provider`: by it the router knows how long prompts stay in the cache.
    """

    name: str
    multiplier: float
    caches: bool

    @property
    def price(self) -> Price:
        return own_price(PRICES, self.multiplier)


CASES = {
    "the cheaper provider caches prompts, too": (Provider("openai", 1.0, True), Provider("azure", 0.6, True)),
    "the provider with the lower list price has no cache": (
        Provider("openai", 1.0, True),
        Provider("anthropic", 0.6, False),
    ),
}
"""The second of each pair has the lower list price."""


def accounts_of(providers: Sequence[Provider], calls: Sequence[VirtualCall]) -> list[SimAccount]:
    """An account at each provider."""
    tpm = round(HEADROOM * MINUTE * sum(call.charge for call in calls) / calls[-1].at)
    return [
        SimAccount(each.name, tpm=tpm, cache=each.caches, cache_ttl_s=CACHE_TTL, headers="openai") for each in providers
    ]


def contestant(world: World, *, providers: Sequence[Provider], objective: str, affinity: bool) -> Caller:
    """The router with a key for each provider."""
    books = world.provider.books
    keys = [
        Key(
            name=each.name,
            secret=books.key(f"{each.name}/key-1").secret,
            provider=each.name,
            base_url="http://localhost",
            account=each.name,
            limits={"*": Limits(tpm=books.account(each.name).tpm)},
            price_multiplier=each.multiplier,
        )
        for each in providers
    ]
    router = Router(keys, clock=world.time, rng=Random(world.seed), objective=objective, prices={MODEL: PRICES})
    made = RoutedCaller(world.time, world.provider, router, patience=MAX_WAIT)
    return made.call if affinity else lambda call: made.call(call, call.describe()._replace(prefixes=tuple))


def play_case(providers: Sequence[Provider], calls: Sequence[VirtualCall], seed: int) -> None:
    """Print what the calls cost with each objective, with affinity and without, and what is possible."""
    accounts = accounts_of(providers, calls)
    best = bound(providers, accounts, calls) / len(calls)
    prices = {each.name: each.price for each in providers}
    print(f"{'':24}{'for 1,000':>11}{'of best':>9}{'answered':>10}{'cached':>8}{'cheaper':>9}{'wait p99':>10}")
    for objective in ("fairness", "cost"):
        for affinity in (True, False):
            plays = partial(contestant, providers=providers, objective=objective, affinity=affinity)
            score = run(Scenario(accounts, partial(copies, calls), seed), plays)
            answered = [call for call in score.calls if call.served]
            spent = sum(price(prices[call.key], call, call.cached_tokens) for call in answered) / len(answered)
            cheaper = sum(call.key == providers[-1].name for call in answered) / len(answered)
            label = f"{objective}, affinity {'on' if affinity else 'off'}"
            print(
                f"{label:24}{spent / 1000:11.2f}{spent / best:9.2f}{score.served:10.2%}{score.cached:8.1%}"
                f"{cheaper:9.1%}{score.wait(0.99):10.2f}",
                flush=True,
            )
    print(f"{'best possible':24}{best / 1000:11.2f}{1:9.2f}")


def copies(calls: Sequence[VirtualCall]) -> list[VirtualCall]:
    """The calls anew: a run writes its results on them."""
    return [replace(call) for call in calls]


def price(of: Price, call: VirtualCall, cached: int) -> int:
    """Micro-dollars for a call of which so many tokens come from a cache."""
    spent = cost(of, Usage(prompt=call.prompt_tokens, completion=call.completion_tokens, cached=cached))
    assert spent is not None, "these prices are for all that is used"
    return spent


# -- the best possible

Costs = Sequence[Sequence[float]]
"""Of each call of a session, by which of its calls was the last before it at the same provider; 0 for none."""


def bound(providers: Sequence[Provider], accounts: Sequence[SimAccount], calls: Sequence[VirtualCall]) -> float:
    """Micro-dollars below which nobody can answer all calls."""
    sessions: defaultdict[int, list[VirtualCall]] = defaultdict(list)
    for number, call in enumerate(calls, 1):
        sessions[call.prefixes[0] if call.prefixes else -number].append(call)
    minutes = 1.0 + (calls[-1].at + MAX_WAIT) / MINUTE
    granted = [minutes * (account.tpm or inf) for account in accounts]
    costs = [[costs_of(each, session) for each in providers] for session in sessions.values()]
    charges = [[call.charge for call in session] for session in sessions.values()]

    def value(prices: Sequence[float]) -> float:
        """The bound where each token at a provider costs so much more, which its limit gives back."""
        total = sum(
            cheapest([raised(of, charge, each) for of, each in zip(both, prices, strict=True)])
            for both, charge in zip(costs, charges, strict=True)
        )
        return total - sum(each * limit for each, limit in zip(prices, granted, strict=True))

    highest = max(float(of.price.rates[0][1]) for of in providers)
    tried = [highest * step / SEARCHED for step in range(SEARCHED + 1)]
    return max(value(pair) for each in tried for pair in ((each, 0.0), (0.0, each)))


def costs_of(provider: Provider, session: Sequence[VirtualCall]) -> Costs:
    """What each call of a session costs at a provider."""
    of, costs = provider.price, list[list[float]]()
    for place, call in enumerate(session):
        own = [float(price(of, call, 0))] * (place + 1)
        for before in range(place - 1, -1, -1):
            if provider.caches and call.at - session[before].at <= CACHE_TTL + MAX_WAIT:
                own[before + 1] = float(price(of, call, shared(call, session[before])))
        costs.append(own)
    return costs


def shared(one: VirtualCall, other: VirtualCall) -> int:
    """Tokens with which two prompts begin alike, where a cache would have them."""
    pairs = enumerate(zip(one.prefixes, other.prefixes, strict=False))
    blocks = next((place for place, (a, b) in pairs if a != b), min(len(one.prefixes), len(other.prefixes)))
    return blocks * BLOCK if blocks * BLOCK >= SHORTEST else 0


def raised(costs: Costs, charges: Sequence[int], price: float) -> Costs:
    """The costs where each token costs so much more."""
    return [[each + price * charge for each in own] for own, charge in zip(costs, charges, strict=True)]


def cheapest(costs: Sequence[Costs]) -> float:
    """The least that a session costs at two providers, call by call at either.

    `ends[n][m]` is the least for the calls so far, where the last of them went to provider n, and the last that went
    to the other one was the m-th; 0 is none.
    """
    ends = [[costs[0][0][0]], [costs[1][0][0]]]
    for place in range(1, len(costs[0])):
        stays = [[end + costs[n][place][place] for end in ends[n]] for n in (0, 1)]
        comes = [min(end + costs[n][place][last] for last, end in enumerate(ends[1 - n])) for n in (0, 1)]
        ends = [[*stays[n], comes[n]] for n in (0, 1)]
    return min(map(min, ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="where the traces are")
    parser.add_argument("--short", action="store_true", help="the first ten minutes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    calls = [call for call in claude(options.data, options.seed) if not options.short or call.at < 10 * MINUTE]
    print(f"claude_code_A: {len(calls)} calls; each provider grants {HEADROOM} times their tokens")
    for name, providers in CASES.items():
        print(f"\n{name}")
        play_case(providers, calls, options.seed)


if __name__ == "__main__":
    main()
