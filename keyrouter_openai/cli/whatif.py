"""Traffic on a pool, in virtual time and through the router itself: what `simulate` measures.

The provider is a simulated one with the limits that the pool's accounts have, and a cache of prompts for each account.
It answers all that the limits allow; faults on record, such as a provider's failures, do not come again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from pydantic import SecretStr

from keyrouter_openai.core.affinity import LIFETIMES, UNSTATED
from keyrouter_openai.core.memory import LearnedLimit
from keyrouter_openai.core.model import MINUTE, Usage
from keyrouter_openai.core.price import Price, cost
from keyrouter_openai.core.state import model_family
from keyrouter_openai.keys import Key
from keyrouter_openai.prices import Prices
from keyrouter_openai.router import Router
from keyrouter_openai.testing import Latency, SimAccount
from keyrouter_openai.testing.virtual import EPOCH, VirtualCall, VirtualProvider, VirtualTime, play
from keyrouter_openai.testing.virtual_client import RoutedCaller

from .setting import DIMENSIONS, Setting

LATENCY = Latency(first_byte=0.5, sigma=0.5, tokens_per_second=100)
"""Of all accounts alike."""

_DIALECTS: dict[str, Literal["azure", "groq", "anthropic"]] = {
    "azure": "azure",
    "groq": "groq",
    "anthropic": "anthropic",
}
"""How providers show their limits, where it is not as OpenAI does."""


@dataclass(frozen=True, slots=True)
class Played:
    """What became of the traffic. Times are virtual seconds."""

    calls: int
    answered: int
    refused: int
    """Calls that found no capacity in time."""
    tokens: int
    """Of prompts and answers of all calls."""
    tokens_answered: int
    wait_p50_s: float | None
    wait_p95_s: float | None
    """From a call's arrival until the request left that was answered."""
    requests: int
    wasted: int
    """Requests that the provider refused."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompts that were answered."""
    cost_microusd: int | None
    """Of the answers that have a price; None where none has one."""
    unpriced: Mapping[str, int]
    """Answers that have no price, by model and provider."""
    answered_by: Mapping[str, int]
    """Answers of each account."""

    @property
    def goodput(self) -> float:
        """The share of the calls that were answered."""
        return self.answered / self.calls

    @property
    def token_goodput(self) -> float:
        """The share of the tokens that were answered."""
        return self.tokens_answered / self.tokens if self.tokens else 1.0

    @property
    def cached(self) -> float | None:
        """The share of the answered prompts that came from a cache."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else None

    @property
    def cost_usd(self) -> float | None:
        """US dollars for all answers; None unless all have a price."""
        return None if self.cost_microusd is None or self.unpriced else self.cost_microusd / 1e6

    @property
    def cost_per_1000_usd(self) -> float | None:
        """US dollars for each thousand answers; None unless all have a price."""
        return None if self.cost_usd is None or not self.answered else 1000 * self.cost_usd / self.answered


def play_on(setting: Setting, calls: Sequence[VirtualCall], *, max_wait: float, seed: int, prices: Prices) -> Played:
    """Play the calls on a pool. Blocks for some seconds for each 10,000 calls.

    Args:
        max_wait: seconds that a call may wait for capacity.
        seed: of latencies and of the router's own chance.
        prices: of the answers.
    """
    time, calls = VirtualTime(), [replace(call) for call in calls]
    models = sorted({call.model for call in calls})
    accounts = [_account(setting, name, models) for name in setting.accounts]
    provider = VirtualProvider(time, accounts, LATENCY, Random(seed))
    keys = {
        key.name: key.model_copy(update={"account": name, "secret": SecretStr(_secret(key))})
        for name, members in setting.accounts.items()
        for key in members
    }
    price_list = {(name, model): prices.load(key, model) for name, key in keys.items() for model in models}
    router = Router(list(keys.values()), clock=time, rng=Random(seed), objective=setting.objective)
    router.recall(_known(accounts))
    logger = logging.getLogger("keyrouter_openai")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # that limits are reached is told in the end
    try:
        play(time, calls, RoutedCaller(time, provider, router, patience=max_wait).call)
    finally:
        logger.setLevel(level)
    return _summed_up(calls, provider, keys, price_list)


def _account(setting: Setting, name: str, models: Sequence[str]) -> SimAccount:
    keys = setting.accounts[name]
    provider = keys[0].provider
    kept, gone = LIFETIMES.get(provider, UNSTATED)
    return SimAccount(
        name,
        keys=[_secret(key) for key in keys],
        headers=_DIALECTS.get(provider, "openai"),
        shared={model: model_family(model) for model in models},
        by_model={model_family(model): setting.limits(name, model) for model in models},
        cache=gone > 0.0,
        cache_ttl_s=(kept + gone) / 2 or MINUTE,
    )


def _secret(key: Key) -> str:
    return f"simulated-{key.name}"


def _known(accounts: Iterable[SimAccount]) -> list[LearnedLimit]:
    """The accounts' limits as a router would have learned them, with nothing used up."""
    return [
        LearnedLimit(account.name, family, *DIMENSIONS[name], limit, limit, limit, EPOCH)
        for account in accounts
        for family, limits in account.by_model.items()
        for name, limit in limits.items()
    ]


def _summed_up(
    calls: Sequence[VirtualCall],
    provider: VirtualProvider,
    keys: Mapping[str, Key],
    prices: Mapping[tuple[str, str], Price | None],
) -> Played:
    answered = [call for call in calls if call.served]
    waits = sorted(call.sent_at - call.at for call in answered)
    spent: list[int] = []
    unpriced = Counter[str]()
    for call in answered:
        usage = Usage(prompt=call.prompt_tokens, completion=call.completion_tokens, cached=call.cached_tokens)
        price = prices[call.key, call.model]
        microusd = None if price is None else cost(price, usage)
        if microusd is None:
            unpriced[f"{call.model} at {keys[call.key].provider}"] += 1
        else:
            spent.append(microusd)
    return Played(
        calls=len(calls),
        answered=len(answered),
        refused=len(calls) - len(answered),
        tokens=sum(map(_tokens, calls)),
        tokens_answered=sum(map(_tokens, answered)),
        wait_p50_s=_quantile(waits, 0.50),
        wait_p95_s=_quantile(waits, 0.95),
        requests=len(provider.statuses),
        wasted=sum(status != 200 for status in provider.statuses),
        prompt_tokens=sum(call.prompt_tokens for call in answered),
        cached_tokens=sum(call.cached_tokens for call in answered),
        cost_microusd=sum(spent) if spent or not unpriced else None,
        unpriced=dict(unpriced),
        answered_by=dict(Counter(str(keys[call.key].account) for call in answered)),
    )


def _tokens(call: VirtualCall) -> int:
    return call.prompt_tokens + call.completion_tokens


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
