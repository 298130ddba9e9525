"""What a usage costs at the prices of a model."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.model import Usage
from keyrouter_openai.core.price import NO_PRICE, cost, own_price, priced

CHAT = priced("test", {"prompt": Decimal(2), "cached": Decimal("0.5"), "completion": Decimal(8)})
REALTIME = priced(
    "test",
    {
        "prompt": Decimal(4),
        "cached": Decimal("0.4"),
        "completion": Decimal(16),
        "audio": Decimal(32),
        "cached_audio": Decimal("0.3"),
        "audio_answer": Decimal(64),
    },
)


@pytest.mark.parametrize(
    ("usage", "microusd"),
    [
        (Usage(), 0),
        (Usage(100), 200),
        (Usage(100, 10), 280),
        (Usage(100, 10, cached=40), 60 * 2 + 20 + 80),
        (Usage(100, 10, cached=100), 50 + 80),
        (Usage(100, 10, cache_written=30, reasoning=10, audio=5, image_answer=3), 280),  # parts without a price
    ],
)
def test_a_part_without_a_price_costs_what_the_whole_does(usage: Usage, microusd: int) -> None:
    assert cost(CHAT, usage) == microusd


def test_tokens_that_are_two_things_at_once_are_charged_once() -> None:
    usage = Usage(prompt=100, cached=50, audio=40, cached_audio=30, completion=10, audio_answer=10)
    text, cached_text, audio, cached_audio = 40 * 4, 20 * Decimal("0.4"), 10 * 32, 30 * Decimal("0.3")
    assert cost(REALTIME, usage) == text + cached_text + audio + cached_audio + 10 * 64


def test_a_long_prompt_costs_more_for_all_of_it() -> None:
    longer = {100: {"prompt": Decimal(4), "completion": Decimal(16)}, 200: {"prompt": Decimal(5)}}
    price = priced("test", {"prompt": Decimal(2), "completion": Decimal(8)}, longer=longer)
    assert cost(price, Usage(100, 1)) == 208
    assert cost(price, Usage(101, 1)) == 404 + 16
    assert cost(price, Usage(201)) == 1005
    assert cost(price, Usage(400, longest_prompt=90)) == 800  # a session of several answers


def test_a_recording_costs_by_its_length() -> None:
    price = priced("test", {}, hour=Decimal(111_000), least_seconds=10)
    assert cost(price, Usage(seconds=3600)) == 111_000
    assert cost(price, Usage(seconds=2)) == cost(price, Usage(seconds=10)) == 308
    assert cost(priced("test", {}, hour=Decimal(111_000)), Usage(seconds=3)) == 92  # 92.5, to the even one


def test_what_has_no_price_is_not_known() -> None:
    assert cost(NO_PRICE, Usage(1)) is None
    assert cost(priced("test", {"prompt": Decimal(1)}), Usage(5, 1)) is None
    assert cost(priced("test", {"prompt": Decimal(1)}), Usage(5)) == 5
    assert cost(CHAT, Usage(5, 1, web_searches=1)) is None
    assert cost(CHAT, Usage(seconds=5)) is None


def test_a_half_is_rounded_to_the_even_one_and_only_at_the_end() -> None:
    price = priced("test", {"prompt": Decimal("0.5"), "completion": Decimal("0.25")})
    assert [cost(price, Usage(prompt)) for prompt in (1, 2, 3, 5)] == [0, 1, 2, 2]
    assert cost(price, Usage(1, 2)) == 1


def test_a_discount_applies_to_all_prices() -> None:
    price = priced("test", {"prompt": Decimal(2)}, hour=Decimal(3600), request=Decimal(10), multiplier=0.1)
    assert cost(price, Usage(100)) == 21
    assert cost(price, Usage(seconds=100)) == 11


@given(*(st.integers(0, 10**7) for _ in range(4)))
def test_the_sum_is_exact_whatever_precision_the_program_has_set(prompt: int, completion: int, a: int, b: int) -> None:
    price = own_price({"input": "0.150", "cached": 0.075, "output": Decimal("0.6")}, multiplier=0.93)
    usage = Usage(prompt, completion, cached=min(prompt, a), reasoning=min(completion, b))
    # In millionths of a micro-dollar.
    exact = 93 * (1500 * (usage.prompt - usage.cached) + 750 * usage.cached + 6000 * usage.completion)
    with localcontext() as context:
        context.prec = 3
        found = cost(price, usage)
    assert found is not None
    assert abs(found * 10**6 - exact) <= 500_000


def test_prices_of_ones_own_are_taken_as_they_are_written() -> None:
    price = own_price({"input": 0.1, "output": "0.3", "hour": 0.36, "cache_written_1h": Decimal("0.2")})
    assert dict(price.rates) == {
        "prompt": Decimal("0.1"),
        "cache_written_1h": Decimal("0.1"),
        "completion": Decimal("0.3"),
    }
    assert price.per_hour == 360_000
    assert price.source == "user"


@pytest.mark.parametrize(
    "bad",
    [None, 1, {}, {"input": None}, {"input": True}, {"input": "NaN"}, {"input": float("inf")}, {"input": -1}, {1: 2}],
)
def test_what_is_no_price(bad: object) -> None:
    with pytest.raises(ValueError, match=r"give US dollars|has no price"):
        own_price(bad)
