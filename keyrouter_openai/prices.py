"""What models cost, from the table of genai-prices or the user's own prices, looked up once for each model.

A thread loads the table when the first attempt starts; until that is done costs are not known, and the ledger fills
them in later (`price_late`). Then a price is found in 0.2 ms where a model is new, and else by one look into a dict.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from fnmatch import fnmatchcase
from time import time
from typing import NamedTuple, cast
from weakref import ref

from .core.model import Attempt, Outcome
from .core.price import NO_PRICE, PROVIDER, UNKNOWN, Listing, Price, cost, own_price
from .errors import ConfigError
from .keys import Key

PricesArgument = Mapping[str, Mapping[str, float | str | Decimal]]
"""By pattern of models: US dollars for a million `input`, `output`, `cached` ... tokens, or for an `hour` of audio."""

_MOST_KEPT = 4096
"""Prices kept: a program may ask for any number of models, also for such as do not exist."""


class Cost(NamedTuple):
    """What an attempt costs. `source` is None where that is not known yet, or nothing was used."""

    microusd: int | None
    source: str | None


class Prices:
    """The prices of the models that a pool's keys serve.

    Args:
        own: the user's own, which win over the table; the first pattern that matches counts.
        pool: the name of the pool.
        keys: its keys by name, for attempts that are priced late.
        on_unknown: called with the provider and the model, once for each, where a model was used that has no price.

    Raises:
        ConfigError: one of the user's own is no price.
    """

    def __init__(
        self,
        own: PricesArgument | None = None,
        *,
        pool: str = "",
        keys: Callable[[], Mapping[str, Key]] = dict[str, Key],
        on_unknown: Callable[[str, str], None] | None = None,
    ) -> None:
        self.own = _checked(own)
        """The user's own, as they were given."""
        self._pool = pool
        self._keys = keys
        self._on_unknown = on_unknown
        self._found: dict[tuple[object, ...], Listing] = {}
        self._told: set[tuple[str, str]] = set()
        self._late: dict[tuple[str, int], Key] = {}
        """With which key attempts were made that are still to be priced: other routers may have keys of that name."""
        _in_use.add(ref(self, _in_use.discard))

    def known(self, key: Key, model: str | None, tier: str | None = None) -> Price | None:
        """What a key pays now for the model that a caller asks for, or None if that is not known (yet).

        Never blocks. `tier` is a service tier, such as `flex`.
        """
        price = self._price(key, model, None, tier, time())
        return None if price is NO_PRICE else price

    def load(self, key: Key, model: str | None, tier: str | None = None) -> Price | None:
        """As `known`, but waits until the table is loaded: blocks for some 40 ms the first time."""
        _table.load()
        return self.known(key, model, tier)

    def cost(self, key: Key, model: str | None, outcome: Outcome | Attempt, at: float, *, quiet: bool = False) -> Cost:
        """What an attempt that started at `at` (seconds since the epoch) costs, as far as that is known. Never blocks.

        What the provider states counts; else the price of the model that it says has served, or else of the one
        that was asked for. `quiet` tells nobody where there is no price: nothing was used yet.
        """
        if isinstance(outcome, Outcome) and outcome.stated_microusd is not None:
            return Cost(outcome.stated_microusd, PROVIDER)
        usage = outcome.usage
        if usage is None:
            return Cost(None, None)
        name = outcome.served_model or model
        if name is None or (usage.estimated and not (usage.prompt or usage.completion or usage.seconds)):
            return Cost(None, UNKNOWN)
        price = self._price(key, model, outcome.served_model, outcome.service_tier, at)
        if price is None:
            return Cost(None, None)
        microusd = cost(price, usage)
        if microusd is not None:
            return Cost(microusd, price.source)
        if not quiet:
            self._tell(key.provider, name)
        return Cost(None, UNKNOWN)

    def expect(self, attempt: Attempt, key: Key) -> None:
        """An attempt goes to the ledger to be priced there."""
        if len(self._late) < _MOST_KEPT:
            self._late[attempt.request_id, attempt.number] = key

    def expected(self, attempt: Attempt) -> Key | None:
        """The key of an attempt that `expect` was told of; it is asked for once."""
        return self._late.pop((attempt.request_id, attempt.number), None)

    def key_of(self, attempt: Attempt) -> Key | None:
        """The key that an attempt was made with, if it is one of these."""
        return self._keys().get(attempt.key) if attempt.pool == self._pool else None

    def _price(self, key: Key, model: str | None, served: str | None, tier: str | None, at: float) -> Price | None:
        sent = model and key.model_map.get(model, model)
        sought = (key.provider, key.base_url, key.price_multiplier, model, sent, served, tier)
        listing = self._found.get(sought)
        if listing is None or not listing.since <= at < listing.until:
            listing = self._look_up(key, [name for name in (served, sent) if name], model, tier, at)
            if listing is None:
                return None
            if len(self._found) >= _MOST_KEPT:
                self._found.clear()
            self._found[sought] = listing
        return listing.price

    def _look_up(self, key: Key, names: list[str], asked: str | None, tier: str | None, at: float) -> Listing | None:
        """The price of what is called so, the first name first; None while the table is not loaded.

        A caller's name that the key's `model_map` replaces may be that of quite another model in the table.
        """
        for pattern, own in self.own.items():
            if any(fnmatchcase(name, pattern) for name in (*names, asked or "")):
                return Listing(own_price(own, key.price_multiplier))
        if _table.look_up is None:
            return None
        found = (_table.look_up(key, name, tier, at) for name in names)
        return next((listing for listing in found if listing is not None), Listing(NO_PRICE))

    def _tell(self, provider: str, model: str) -> None:
        if (provider, model) not in self._told and len(self._told) < _MOST_KEPT:
            self._told.add((provider, model))
            if self._on_unknown is not None:
                self._on_unknown(provider, model)


def price_late(attempt: Attempt) -> Attempt:
    """An attempt with its cost, for a ledger that is about to write it. Blocks until the table is loaded."""
    _table.load()
    in_use = [prices for reference in _in_use.copy() if (prices := reference()) is not None]
    for find in (Prices.expected, Prices.key_of):  # the second for those that a killed process has left
        for prices in in_use:
            if (key := find(prices, attempt)) is not None:
                microusd, source = prices.cost(key, attempt.model, attempt, attempt.at)
                return attempt._replace(cost_microusd=microusd, price_source=source)
    return attempt


def begin_loading() -> None:
    """Have a thread load the table, if it is not loaded yet."""
    _table.begin()


class _Table:
    """The table of prices, once for the process."""

    def __init__(self) -> None:
        self.look_up: Callable[[Key, str, str | None, float], Listing | None] | None = None
        """`price_table.look_up`, once it is loaded."""
        self._begun = False
        # Held over a fork too: of an import that is cut in two the child would wait for ever.
        self._loading = threading.Lock()
        if sys.platform != "win32":
            held = self._loading
            os.register_at_fork(before=held.acquire, after_in_parent=held.release, after_in_child=self._after_fork)

    def begin(self) -> None:
        if not self._begun:
            self._begun = True
            with suppress(RuntimeError):  # no thread is to be had: calls go on, and the ledger's own loads it
                threading.Thread(target=self.load, name="keyrouter_openai prices", daemon=True).start()

    def load(self) -> None:
        if self.look_up is None:
            with self._loading:
                from .price_table import look_up

                self.look_up = look_up

    def _after_fork(self) -> None:
        self._begun = self.look_up is not None
        self._loading.release()


_table = _Table()
_in_use: set[ref[Prices]] = set()


def _checked(own: PricesArgument | None) -> PricesArgument:
    # What users pass is checked here, whatever the annotations say.
    given = cast("object", {} if own is None else own)
    if not isinstance(given, Mapping):
        raise ConfigError(f"prices={own!r}: give a mapping, such as {{'my-model*': {{'input': 2.5, 'output': 10}}}}")
    checked: dict[str, Mapping[str, float | str | Decimal]] = {}
    for pattern, prices in cast("PricesArgument", given).items():
        if not isinstance(cast("object", pattern), str) or not pattern:
            raise ConfigError(f"prices: {pattern!r} is no pattern of models: give one, such as 'my-model*'")
        try:
            own_price(prices)
        except ValueError as error:
            raise ConfigError(f"prices of {pattern!r}: {error}") from None
        checked[pattern] = dict(prices)
    return checked
