"""Which account's prompt cache is warm for which beginning of a prompt.

Providers keep their work on the beginning of a prompt for some minutes, for the account that sent it. A call
that begins alike is cheaper and faster there; every other account works it out anew.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

LENGTHS = tuple(step << doublings for doublings in range(10) for step in (1024, 1536))
"""Tokens at which the beginnings of a prompt are told apart.

The first is the least that OpenAI, Azure and Gemini cache (their guides on prompt caching). Each is up to half
as long again as the one before, so that at least two thirds of what two prompts share is seen.
"""

_SHRINK = 0.5**0.5
"""Length of a beginning as a share of the next longer one: each second one has half the length."""
_ACCOUNTS = 4
"""Accounts remembered for one beginning: those that were used last."""


class Lifetime(NamedTuple):
    """How long a prompt stays in the cache: `kept` seconds after its last use for sure, and never over `gone`."""

    kept: float
    gone: float


UNSTATED = Lifetime(0.0, 300.0)
"""For providers that name no time, such as Gemini (implicit caching), Mistral, and xAI ("evicted at any time")."""

LIFETIMES = {
    # Its guide on prompt caching: 5 to 10 minutes of inactivity; `prompt_cache_options.ttl`: 30 from GPT-5.6 on.
    "openai": Lifetime(300.0, 1800.0),
    # learn.microsoft.com, prompt caching: 5 to 10 minutes of inactivity, removed within an hour.
    "azure": Lifetime(300.0, 1800.0),
    # Its guide on OpenAI SDK compatibility: no prompt caching by that way.
    "anthropic": Lifetime(0.0, 0.0),
    # console.groq.com/docs/prompt-caching: 2 hours without use.
    "groq": Lifetime(7200.0, 7200.0),
    # api-docs.deepseek.com/guides/kv_cache: a few hours to a few days without use.
    "deepseek": Lifetime(7200.0, 86400.0),
    # inference-docs.cerebras.ai, prompt caching: 5 minutes guaranteed, up to 1 hour.
    "cerebras": Lifetime(300.0, 3600.0),
}


class _Use(NamedTuple):
    account: str
    at: float
    lifetime: Lifetime

    def warmth(self, now: float) -> float:
        """The probability that the provider still has it."""
        kept, gone = self.lifetime
        age = now - self.at
        if age <= kept:
            return 1.0
        return (gone - age) / (gone - kept) if age < gone else 0.0


class Warmth:
    """The accounts that lately had a prompt with a given beginning. Times are monotonic seconds.

    It holds a fixed number of beginnings (by default 50,000, at most some 300 bytes each) and drops those that
    were not used for longest. Nothing is forgotten when an account leaves: who asks ignores names it has not.
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self._capacity = capacity
        self._uses: OrderedDict[int, tuple[_Use, ...]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._uses)

    def used(self, prefixes: Sequence[int], account: str, provider: str, now: float) -> None:
        """A prompt with these beginnings (longest last) is sent to an account of a provider."""
        lifetime = LIFETIMES.get(provider, UNSTATED)
        if not lifetime.gone:
            return
        alone = (_Use(account, now, lifetime),)
        uses = self._uses
        for prefix in prefixes:
            before = uses.get(prefix)
            if before is None:
                uses[prefix] = alone
                continue
            others = before[1:] if before[0].account == account else [use for use in before if use.account != account]
            uses[prefix] = (*alone, *others[: _ACCOUNTS - 1])
            uses.move_to_end(prefix)
        while len(uses) > self._capacity:
            uses.popitem(last=False)

    def best(self, prefixes: Sequence[int], now: float) -> tuple[tuple[str, float], ...]:
        """The accounts to prefer for a prompt with these beginnings (longest last), best first.

        With each comes the share of the prompt that is expected to be in its cache: above 0, 1 at most. Of
        equals that is first which was used last.
        """
        shares: dict[str, float] = {}
        length = 1.0
        for prefix in reversed(prefixes):
            for use in self._uses.get(prefix, ()):
                known = shares.get(use.account, 0.0)
                if known < length and (share := length * use.warmth(now)) > known:
                    shares[use.account] = share
            length *= _SHRINK
        return tuple(sorted(shares.items(), key=itemgetter(1), reverse=True))
