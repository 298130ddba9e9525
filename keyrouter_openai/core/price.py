"""What an attempt costs: the prices of a model, and what they make of a usage.

A dollar for a million tokens is a micro-dollar for one, so prices are kept as published. Costs are rounded once, at
the end, to the nearest micro-dollar (a half to the even one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from math import inf
from typing import NamedTuple, cast

from .model import Usage

PROVIDER = "provider"
"""Source of a cost that the provider's own answer states."""
USER = "user"
"""Source of a cost by prices that the user has given."""
UNKNOWN = "unknown"
"""Source of a cost that is not known: no price was found, or none for all that was used."""

Rates = tuple[tuple[str, Decimal], ...]

_EXACT = Context(prec=60)
"""Not the thread's own, which a program may have set to a few digits."""
_NOTHING = Decimal(0)
_MILLION = Decimal(1_000_000)
_SECONDS_PER_HOUR = 3600

_WHOLES: dict[str, tuple[str, ...]] = {
    "prompt": (),
    "cached": ("prompt",),
    "cache_written": ("prompt",),
    "cache_written_1h": ("prompt", "cache_written"),
    "audio": ("prompt",),
    "image": ("prompt",),
    "cached_audio": ("prompt", "cached", "audio"),
    "cached_image": ("prompt", "cached", "image"),
    "completion": (),
    "reasoning": ("completion",),
    "audio_answer": ("completion",),
    "image_answer": ("completion",),
    "web_searches": (),
    "file_searches": (),
}
"""The fields of `Usage` that have a price for each, after those that they are a part of."""
_MUST_HAVE_PRICE = ("prompt", "completion", "seconds", "web_searches", "file_searches")
"""Those that are no part of another, whose price they could have."""

_OWN_NAMES = {"input": "prompt", "output": "completion"} | {name: name for name, wholes in _WHOLES.items() if wholes}
"""What the user's own prices are called."""


@dataclass(frozen=True, slots=True)
class Price:
    """The prices of one model, as `priced` makes them."""

    source: str
    """What the ledger shows as the source of the costs."""
    rates: Rates = ()
    """What each unit of a part costs, in micro-dollars, on top of what it costs as a part of something larger."""
    longer: tuple[tuple[int, Rates], ...] = ()
    """Rates that count in their place for prompts of more than so many tokens; the last that does counts."""
    per_hour: Decimal | None = None
    """Micro-dollars for an hour of a recording."""
    least_seconds: int = 0
    """Shorter recordings are charged as so many seconds."""
    per_request: Decimal = _NOTHING
    """Micro-dollars for each answer."""
    lacks: tuple[str, ...] = _MUST_HAVE_PRICE
    """What may be used and has no price."""


NO_PRICE = Price(UNKNOWN)


class Listing(NamedTuple):
    """A price, and the time for which it stands: seconds since the epoch, `until` not included."""

    price: Price
    since: float = -inf
    until: float = inf


def cost(price: Price, usage: Usage) -> int | None:
    """Micro-dollars for what was used; None where some of it has no price.

    Prices that depend on the length of the prompt are for a session those of its longest one.
    """
    for part in price.lacks:
        if getattr(usage, part):
            return None
    rates, total = price.rates, price.per_request
    prompt = usage.longest_prompt or usage.prompt
    for above, those in price.longer:
        if prompt > above:
            rates = those
    for part, rate in rates:
        if count := getattr(usage, part):
            total = _EXACT.fma(rate, count, total)
    if usage.seconds and price.per_hour is not None:
        seconds = Decimal(str(max(usage.seconds, price.least_seconds)))
        hourly = _EXACT.multiply(price.per_hour, seconds)
        total = _EXACT.add(total, _EXACT.divide(hourly, _SECONDS_PER_HOUR))
    return int(_EXACT.to_integral_value(total))


def priced(
    source: str,
    prices: Mapping[str, Decimal],
    *,
    longer: Mapping[int, Mapping[str, Decimal]] = {},
    hour: Decimal | None = None,
    least_seconds: int = 0,
    request: Decimal = _NOTHING,
    multiplier: float = 1.0,
) -> Price:
    """The price that these make: micro-dollars for one of each field of `Usage`, an hour, and an answer.

    A part without a price costs what the larger one does that it belongs to. `longer` has the prices for prompts of
    more tokens than its keys; the price of a `request`, of an `hour` and all others are multiplied by `multiplier`.
    """
    factor = Decimal(str(multiplier))
    known = {*prices} if hour is None else {*prices, "seconds"}
    return Price(
        source,
        _rates(prices, factor),
        longer=tuple((above, _rates(longer[above], factor)) for above in sorted(longer)),
        per_hour=None if hour is None else _EXACT.multiply(hour, factor),
        least_seconds=least_seconds,
        per_request=_EXACT.multiply(request, factor),
        lacks=tuple(part for part in _MUST_HAVE_PRICE if part not in known),
    )


def micro(usd: Decimal, per: int = 1) -> Decimal:
    """Micro-dollars for one, where so many US dollars are asked `per` so many."""
    return _EXACT.divide(_EXACT.multiply(usd, _MILLION), per)


def own_price(given: object, multiplier: float = 1.0) -> Price:
    """A price of the user's own: US dollars for a million `input`, `output`, `cached` ... tokens, or for an `hour`.

    Raises:
        ValueError: there is something else in it, or nothing.
    """
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{given!r}: give US dollars per million tokens, such as {{'input': 2.5, 'output': 10}}")
    prices: dict[str, Decimal] = {}
    hour: Decimal | None = None
    for name, value in cast("Mapping[object, object]", given).items():
        if name != "hour" and name not in _OWN_NAMES:
            raise ValueError(f"{name!r} has no price: use {', '.join(_OWN_NAMES)} or hour")
        amount = _amount(name, value)
        if name == "hour":
            hour = micro(amount)
        else:
            prices[_OWN_NAMES[str(name)]] = amount
    return priced(USER, prices, hour=hour, multiplier=multiplier)


def _amount(name: object, value: object) -> Decimal:
    if isinstance(value, int | float | str | Decimal) and not isinstance(value, bool):
        try:
            amount = Decimal(str(value))
        except ArithmeticError:
            amount = Decimal(-1)
        if amount.is_finite() and amount >= 0:
            return amount
    raise ValueError(f"{name}={value!r}: give US dollars, 0 or more")


def _rates(prices: Mapping[str, Decimal], factor: Decimal) -> Rates:
    """Each price less what its tokens cost already as parts of larger counts."""
    rates: dict[str, Decimal] = {}
    for part, wholes in _WHOLES.items():
        if (price := prices.get(part)) is not None:
            rates[part] = _EXACT.multiply(price, factor)
            for whole in wholes:
                rates[part] = _EXACT.subtract(rates[part], rates.get(whole, _NOTHING))
    return tuple(rates.items())
