"""The table of prices of genai-prices. To import this takes some 40 ms: `prices` does so in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from math import inf

import genai_prices
from genai_prices.types import ModelInfo, ModelPrice, PriceCalculation, StartDateConstraint, TieredPrices

from .core.price import Listing, micro, priced
from .keys import Key

SOURCE = f"genai-prices {genai_prices.__version__}"

_NAMES = {"gemini": "google", "xai": "x-ai"}
"""Providers that the table calls otherwise."""
_FIELDS = {
    "prompt": "input_mtok",
    "cached": "cache_read_mtok",
    "cache_written": "cache_write_mtok",
    "cache_written_1h": "cache_write_1h_mtok",
    "audio": "input_audio_mtok",
    "image": "input_image_mtok",
    "cached_audio": "cache_audio_read_mtok",
    "cached_image": "cache_image_read_mtok",
    "completion": "output_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_answer": "output_audio_mtok",
    "image_answer": "output_image_mtok",
    "web_searches": "web_searches_kcount",
    "file_searches": "storage_searches_kcount",
}
"""Where the table has the price for each field of `Usage`: of a million tokens, or of a thousand searches."""
_SEARCHES = ("web_searches", "file_searches")
_GROQ_LEAST_SECONDS = 10
"""Groq charges each recording as ten seconds at least (its pricing page)."""


def look_up(key: Key, model: str, tier: str | None, at: float) -> Listing | None:
    """What this key pays for a model at that time, or None if the table does not have it.

    Where the key has an address that the table knows, that decides who serves it, and else its provider.
    """
    provider = {"provider_id": _NAMES.get(key.provider, key.provider)}
    places = [provider] if key.base_url is None else [{"provider_api_url": key.base_url}, provider]
    context = None if tier is None else {"processing" if tier == "batch" else "service_tier": tier}
    when = datetime.fromtimestamp(at, UTC)
    for place in places:
        try:
            found = genai_prices.calc_price(
                genai_prices.Usage(), model, genai_request_timestamp=when, price_context=context, **place
            )
        except LookupError:
            continue
        return _listing(found, at, key.price_multiplier)
    return None


def _listing(found: PriceCalculation, at: float, multiplier: float) -> Listing:
    prices = found.model_price
    hour = prices.input_audio_hours or prices.audio_hours
    request = prices.requests_kcount
    price = priced(
        SOURCE,
        _of_each(prices, 0),
        longer={start: _of_each(prices, start + 1) for start in _tier_starts(prices)},
        hour=None if hour is None else micro(_in_tier(hour, 0)),
        least_seconds=_GROQ_LEAST_SECONDS if found.provider.id == "groq" else 0,
        request=Decimal(0) if request is None else micro(_in_tier(request, 0), per=1000),
        multiplier=multiplier,
    )
    changes = [*_changes(found.model, at)]
    since = max((change for change in changes if change <= at), default=-inf)
    return Listing(price, since, min((change for change in changes if change > at), default=inf))


def _values(prices: ModelPrice) -> dict[str, Decimal | TieredPrices]:
    values = {part: getattr(prices, field) for part, field in _FIELDS.items()}
    return {part: value for part, value in values.items() if value is not None}


def _tier_starts(prices: ModelPrice) -> set[int]:
    """Lengths of prompts beyond which other prices count."""
    return {tier.start for value in _values(prices).values() if isinstance(value, TieredPrices) for tier in value.tiers}


def _of_each(prices: ModelPrice, prompt: int) -> dict[str, Decimal]:
    """Micro-dollars for one of each part, in a request with a prompt of so many tokens."""
    each = {part: _in_tier(value, prompt) for part, value in _values(prices).items()}
    return {part: micro(value, per=1000) if part in _SEARCHES else value for part, value in each.items()}


def _in_tier(value: Decimal | TieredPrices, prompt: int) -> Decimal:
    """The price for a prompt of so many tokens: that of the highest tier which it is beyond, for all its tokens."""
    if isinstance(value, Decimal):
        return value
    return next((tier.price for tier in reversed(value.tiers) if prompt > tier.start), value.base)


def _changes(model: ModelInfo, at: float) -> Iterator[float]:
    """Times around `at` when prices of this model may change: on a date, or each day at an hour."""
    today = datetime.fromtimestamp(at, UTC).date()
    days = [today + timedelta(days) for days in (-1, 0, 1)]
    listed = [] if isinstance(model.prices, ModelPrice) else model.prices
    for constraint in (entry.constraint for entry in (*listed, *(model.price_variants or ()))):
        if isinstance(constraint, StartDateConstraint):
            yield datetime.combine(constraint.start_date, time(), UTC).timestamp()
        elif constraint is not None:
            for hour in (constraint.start_time, constraint.end_time):
                yield from (datetime.combine(day, hour, hour.tzinfo or UTC).timestamp() for day in days)


genai_prices.calc_price(genai_prices.Usage(), "gpt-4o", provider_id="openai")  # the first one reads the data
