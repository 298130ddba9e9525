"""How large the calls of each model are, learned for what they may cost."""

from __future__ import annotations

from collections.abc import Mapping

from .budget import Outlay, most_usage, outlay_of
from .model import RouteRequest, Usage
from .price import Price
from .quantile import Quantile
from .state import model_family

LEARNED = 0.99
"""The share of a model's prompts and answers that are no longer than what is taken for the longest."""

_LEAST = 20
"""Calls of a model from which its longest are known."""
_MOST_FAMILIES = 1024


class _Size:
    """Of all calls of a model family but a few."""

    def __init__(self) -> None:
        self.prompt = Quantile(LEARNED, least=_LEAST)
        """Tokens for one of those that a prompt can have at most."""
        self.answer = Quantile(LEARNED, least=_LEAST)
        """Tokens of answers that had no cap."""


_UNKNOWN = _Size()


class Sizes:
    """What calls may use, by those of their model that were made before."""

    def __init__(self) -> None:
        self._families: dict[str, _Size] = {}

    def outlay(self, request: RouteRequest, body: Mapping[str, object], price: Price | None) -> Outlay:
        """What an attempt of a call may cost at that price."""
        if price is None:
            return Outlay()
        size, estimate = self._families.get(model_family(request.model), _UNKNOWN), request.estimate()
        most, ratio = most_usage(body, estimate, request, size.answer.value), size.prompt.value
        return outlay_of(price, most, estimate.prompt if ratio is None else ratio * most.prompt)

    def learn(self, request: RouteRequest, usage: Usage, outlay: Outlay) -> None:
        """An attempt has used so much."""
        family = model_family(request.model)
        if family not in self._families and len(self._families) >= _MOST_FAMILIES:
            self._families.clear()
        size = self._families.setdefault(family, _Size())
        if outlay.prompt:
            size.prompt.add(usage.prompt / outlay.prompt)
        if not request.estimate().answer:
            size.answer.add(usage.completion)
