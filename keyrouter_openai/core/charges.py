"""How providers count a request against the limits of tokens: before it runs, and when its usage is known."""

from __future__ import annotations

from dataclasses import dataclass

from .model import Dimension, Estimate, Usage

_REQUESTS, _INPUT, _OUTPUT = Dimension.REQUESTS, Dimension.INPUT, Dimension.OUTPUT


@dataclass(frozen=True, slots=True)
class Charges:
    """One provider's way of counting. The defaults are those of most: prompt and cap, settled by actual usage."""

    larger: bool = False
    """`tokens` is charged with the larger of prompt and cap, not with both."""
    cap: bool = True
    """The cap of the answer is charged before it runs."""
    answer: bool = True
    """The answer counts as `tokens` at all."""
    cached: bool = True
    """What was read from the prompt cache counts."""
    settles: bool = True
    """Afterwards the actual usage counts; False: what was charged first stays."""

    def before(self, estimate: Estimate, dimension: Dimension) -> int:
        """What a request takes from a limit before it runs."""
        cap = estimate.answer if self.cap else 0
        if dimension is _REQUESTS or dimension is Dimension.CONCURRENT:
            return 1
        if dimension is _INPUT:
            return estimate.prompt
        if dimension is _OUTPUT:
            return cap
        return max(estimate.prompt, cap) if self.larger else estimate.prompt + cap

    def after(self, usage: Usage, dimension: Dimension) -> int:
        """What it has taken in the end, where the provider `settles`."""
        prompt = usage.prompt if self.cached else max(usage.prompt - usage.cached, 0)
        if dimension is _REQUESTS:
            return 1
        if dimension is _INPUT:
            return prompt
        if dimension is _OUTPUT:
            return usage.completion
        return prompt + usage.completion if self.answer else prompt


_USUAL = Charges()
_CHARGES: dict[str, Charges] = {
    # Charged with max(max_tokens, an estimate from the characters), says its rate-limit guide; nothing of a return.
    "openai": Charges(larger=True, settles=False),
    # "prompt text and count, the max_tokens parameter setting, the best_of parameter setting" (its quota page).
    "azure": Charges(settles=False),
    # max_tokens does not count, nor do cache reads for most models (its rate-limit page).
    "anthropic": Charges(cap=False, cached=False),
    # Its limits are of input tokens alone (its rate-limit page).
    "gemini": Charges(cap=False, answer=False),
    # Cached tokens are given back when the request is done (its page on prompt caching).
    "groq": Charges(cached=False),
}


def charges(provider: str) -> Charges:
    """How a provider counts; of one that is not known, how most do."""
    return _CHARGES.get(provider, _USUAL)
