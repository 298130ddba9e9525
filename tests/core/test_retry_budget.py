from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.retry_budget import EARNED, FLOOR, MEMORY, REFILL, RetryBudget


def in_hand(budget: RetryBudget, now: float) -> int:
    """How many retries can be taken at once; takes them."""
    taken = 0
    while budget.withdraw(now):
        taken += 1
    return taken


def test_ten_are_in_hand_from_the_start() -> None:
    assert in_hand(RetryBudget(5.0), 5.0) == FLOOR


def test_a_quiet_pool_gets_them_back_slowly() -> None:
    budget = RetryBudget(0.0)
    in_hand(budget, 0.0)
    assert in_hand(budget, 5 / REFILL) == 5
    assert in_hand(budget, 1000 / REFILL) == FLOOR


def test_ten_calls_earn_one_retry() -> None:
    budget = RetryBudget(0.0)
    in_hand(budget, 0.0)
    for _ in range(int(50 / EARNED)):
        budget.deposit()
    assert in_hand(budget, 0.0) == 50


def test_in_an_outage_a_tenth_of_the_traffic_is_retried() -> None:
    """1,000 calls a second, each of which wants a retry as often as it may."""
    budget, retries = RetryBudget(0.0), 0
    for n in range(30_000):
        budget.deposit()
        retries += budget.withdraw(n / 1000)
    assert retries <= 30_000 * EARNED + FLOOR + 30 * REFILL
    assert retries >= 30_000 * EARNED * 0.99


@pytest.mark.parametrize("looks", [1, 3600])
def test_a_busy_hour_saves_up_seconds_of_traffic_and_no_more(looks: int) -> None:
    """However often it was asked meanwhile."""
    budget = RetryBudget(0.0)
    for n in range(3600):
        for _ in range(100):
            budget.deposit()
        if n % (3600 // looks) == 0:
            budget.withdraw(n + 1.0)
    assert in_hand(budget, 3600.0) == pytest.approx(FLOOR + 100 * EARNED * MEMORY, rel=0.15)


def test_what_was_saved_fades_when_the_traffic_stops() -> None:
    budget = RetryBudget(0.0)
    for _ in range(10_000):
        budget.deposit()
    assert in_hand(budget, 10 * MEMORY) <= FLOOR + 1000 * EARNED


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 50), st.integers(0, 10)), max_size=50))
def test_retries_never_exceed_what_was_earned(steps: list[tuple[float, int, int]]) -> None:
    budget, now, calls, retries = RetryBudget(0.0), 0.0, 0, 0
    for seconds, deposits, wanted in steps:
        now += seconds
        for _ in range(deposits):
            budget.deposit()
        calls += deposits
        retries += sum(budget.withdraw(now) for _ in range(wanted))
        assert retries <= FLOOR + EARNED * calls + REFILL * now + 1e-6
