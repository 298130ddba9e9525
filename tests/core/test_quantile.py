from __future__ import annotations

from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.quantile import Quantile


def p95() -> Quantile:
    return Quantile(0.95, least=20)


def test_it_is_unknown_until_enough_values_came() -> None:
    quantile = p95()
    for n in range(19):
        quantile.add(float(n))
        assert quantile.value is None
    quantile.add(19.0)
    assert quantile.value == 18.0, "of twenty, the nineteenth in order"


@pytest.mark.parametrize("median", [0.02, 1.0, 300.0])
def test_it_rests_where_so_many_values_lie_below(median: float) -> None:
    """Times to first byte are about log-normal; in one of milliseconds as well as in one of minutes."""
    rng, quantile = Random(1), p95()
    above = 0
    for n in range(20_000):
        value = median * rng.lognormvariate(0, 0.5)
        if n >= 1000:
            assert quantile.value is not None
            above += value > quantile.value
        quantile.add(value)
    assert above / 19_000 == pytest.approx(0.05, abs=0.005)


def test_at_a_constant_it_stays_near_by() -> None:
    quantile = p95()
    for _ in range(1000):
        quantile.add(2.0)
    assert quantile.value == pytest.approx(2.0, rel=0.1)


def test_it_follows_a_provider_that_becomes_slow_within_a_score_of_calls() -> None:
    quantile = p95()
    for _ in range(1000):
        quantile.add(1.0)
    calls = next(n for n in count(1) if quantile.add(5.0) or (quantile.value or 0.0) > 4.0)
    assert calls <= 20


def test_it_forgets_slow_times() -> None:
    quantile = p95()
    for _ in range(1000):
        quantile.add(5.0)
    for _ in range(400):
        quantile.add(1.0)
    assert quantile.value == pytest.approx(1.0, rel=0.15)


@given(st.lists(st.floats(1e-3, 1e6), min_size=20, max_size=300))
def test_it_stays_near_the_values(values: list[float]) -> None:
    quantile = p95()
    for value in values:
        quantile.add(value)
    assert quantile.value is not None
    assert 0.0 < quantile.value <= max(values) * 1.11
