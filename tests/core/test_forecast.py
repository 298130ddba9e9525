"""When something is used up at the present pace: estimates, intervals, and the pattern of the day."""

from __future__ import annotations

from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrouter_openai.core.forecast import HOUR, SLOT, DayPattern, Forecast, Meter, Pace
from keyrouter_openai.core.model import DAY

EVEN = DayPattern()


def pace_of(*amounts: float) -> Pace:
    pace = Pace()
    for amount in amounts:
        pace.add(amount)
    return pace


def look(pace: Pace, *, left: float, now: float = 0.0, resets_at: float | None = None, refill: float = 0.0) -> Forecast:
    return pace.forecast(Meter(1000.0 + left, 1000.0, resets_at, refill), now, EVEN)


def width(forecast: Forecast) -> float:
    assert forecast.earliest is not None
    assert forecast.latest is not None
    return forecast.latest / forecast.earliest


def test_what_is_used_evenly_runs_dry_when_the_straight_line_says() -> None:
    forecast = look(pace_of(*[5.0] * 200), left=500.0)
    assert forecast.at is not None
    assert forecast.at == pytest.approx(100 * SLOT, rel=0.01)
    assert forecast.earliest is not None
    assert forecast.latest is not None
    assert 0.9 * 100 * SLOT < forecast.earliest < forecast.at < forecast.latest < 1.1 * 100 * SLOT
    assert forecast.pace == pytest.approx(0.5, rel=0.01)
    assert forecast.likelihood > 0.99
    assert (forecast.limit, forecast.left) == (1500.0, 500.0)


def test_what_is_reset_before_is_not_within_the_window() -> None:
    forecast = look(pace_of(*[5.0] * 200), left=500.0, resets_at=500.0)
    assert (forecast.earliest, forecast.at, forecast.latest) == (None, None, None)
    assert forecast.likelihood < 0.01
    assert forecast.resets_at == 500.0


def test_a_reset_within_the_interval_leaves_its_end_open() -> None:
    rng = Random(1)
    pace = pace_of(*[rng.lognormvariate(0.0, 1.5) for _ in range(200)])
    free = look(pace, left=500.0)
    assert free.at is not None
    forecast = look(pace, left=500.0, resets_at=free.at + 1.0)
    assert (forecast.earliest, forecast.latest) == (pytest.approx(free.earliest), None)
    assert forecast.likelihood == pytest.approx(0.5, abs=0.02)


def test_what_is_used_up_is_certain() -> None:
    forecast = pace_of(*[5.0] * 10).forecast(Meter(100.0, 103.0, DAY), 7.0, EVEN)
    assert (forecast.earliest, forecast.at, forecast.latest) == (7.0, 7.0, 7.0)
    assert (forecast.left, forecast.likelihood) == (0.0, 1.0)


def test_what_is_not_used_never_runs_dry() -> None:
    forecast = look(pace_of(*[0.0] * 100), left=1.0)
    assert forecast.at is None
    assert forecast.likelihood == pytest.approx(0.0, abs=1e-6)


def test_what_comes_in_meanwhile_counts() -> None:
    pace = pace_of(*[5.0] * 200)  # 0.5 a second
    assert look(pace, left=500.0, refill=0.6).at is None
    assert look(pace, left=500.0, refill=0.25).at == pytest.approx(2 * 100 * SLOT, rel=0.05)


def test_the_present_counts_more_than_the_past_where_little_is_left() -> None:
    pace = pace_of(*[1.0] * 500, *[10.0] * 50)
    assert look(pace, left=100.0).at == pytest.approx(10 * SLOT, rel=0.15)
    naive = 100.0 / (1000.0 / 550) * SLOT
    assert naive > 5 * 10 * SLOT


def test_bursts_make_intervals_wide() -> None:
    rng = Random(1)
    bursts = [50.0 if rng.random() < 0.1 else 0.0 for _ in range(500)]
    assert width(look(pace_of(*bursts), left=500.0)) > 1.5
    assert width(look(pace_of(*[5.0] * 500), left=500.0)) < 1.1


def test_the_first_minute_says_little_of_the_day() -> None:
    soon, late = look(pace_of(*[5.0] * 6), left=50.0), look(pace_of(*[5.0] * 6), left=40_000.0)
    assert width(soon) < 1.5
    assert width(late) > 2.0


def test_nothing_is_known_at_first() -> None:
    assert not pace_of(*[1.0] * 5).is_known
    assert pace_of(*[1.0] * 6).is_known


@pytest.mark.parametrize("spread", [0.3, 1.2])
def test_the_truth_lies_within_as_often_as_is_stated(spread: float) -> None:
    rng = Random(3)
    within = cases = 0
    for _ in range(50):
        use = [rng.lognormvariate(0.0, spread) for _ in range(600)]
        left = sum(use[200 : rng.randrange(230, 500)])
        forecast, slots, used = look(pace_of(*use[:200]), left=left), 0, 0.0
        while used < left:
            used += use[200 + slots]
            slots += 1
        cases += 1
        within += (forecast.earliest or inf) <= slots * SLOT <= (forecast.latest or inf)
    assert 0.7 <= within / cases <= 0.97


def test_intervals_widen_where_the_truth_was_beyond_them() -> None:
    """Use that jumps from level to level, each the longer the rarer: most slots teach that little happens."""
    calm = [5.0 + 0.5 * (slot % 2) for slot in range(1000)]
    jumps = [amount * (3.0 if slot // 64 % 2 else 1.0) for slot, amount in enumerate(calm)]
    assert width(look(pace_of(*jumps), left=200.0)) > 1.3 * width(look(pace_of(*calm), left=200.0))


@pytest.mark.parametrize("silence", [7, 300, 3000])
def test_long_silence_counts_at_once_as_slot_by_slot(silence: int) -> None:
    at_once, one_by_one = pace_of(*[4.0, 6.0] * 300), pace_of(*[4.0, 6.0] * 300)
    at_once.add(5.0, silence)
    one_by_one.add(5.0)
    for _ in range(silence - 1):
        one_by_one.add(0.0)
    for left in (10.0, 1000.0):
        quick, slow = look(at_once, left=left), look(one_by_one, left=left)
        assert quick.pace == pytest.approx(slow.pace, rel=0.05)
        assert quick.likelihood == pytest.approx(slow.likelihood, abs=0.15)


@given(
    st.lists(st.tuples(st.floats(0.0, 1e12), st.integers(1, 10_000)), min_size=1, max_size=15),
    st.floats(0.0, 1e13),
    st.floats(0.0, 1e13),
    st.one_of(st.none(), st.floats(-DAY, 400 * DAY)),
    st.floats(0.0, 1e9),
)
@settings(deadline=None, max_examples=40)
def test_times_are_in_order_and_within_the_window(
    use: list[tuple[float, int]], limit: float, used: float, resets_in: float | None, refill: float
) -> None:
    now = 1.8e9
    pace = Pace()
    for amount, slots in use:
        pace.add(amount, slots)
    resets_at = None if resets_in is None else now + resets_in
    forecast = pace.forecast(Meter(limit, used, resets_at, refill), now, EVEN)
    assert 0.0 <= forecast.likelihood <= 1.0
    assert forecast.pace >= 0.0
    times = [inf if at is None else at for at in (now, forecast.earliest, forecast.at, forecast.latest)]
    assert times == sorted(times)
    if resets_at is not None:
        assert all(at == inf or at <= max(resets_at, now) + SLOT for at in times)
    assert (forecast.at is not None) == (forecast.likelihood >= 0.5)


def days(pattern: DayPattern, count: int, *, busy: tuple[int, int], start: float = 0.0) -> None:
    """Calls in some hours of each day alone."""
    for hour in range(24 * count):
        pattern.add(start + hour * HOUR, 100.0 if busy[0] <= hour % 24 < busy[1] else 0.0)


def test_the_hours_of_the_day_are_known_after_some_days() -> None:
    pattern = DayPattern()
    days(pattern, 8, busy=(8, 16))
    night, noon = pattern.between(0.0, HOUR), pattern.between(12 * HOUR, 13 * HOUR)
    assert night < 0.3 * HOUR
    assert noon > 2.0 * HOUR
    assert pattern.between(0.0, DAY) == pytest.approx(DAY)
    assert pattern.between(12 * HOUR, 12 * HOUR + 30 * DAY) == pytest.approx(30 * DAY)
    assert pattern.between(7.5 * HOUR, 8.5 * HOUR) == pytest.approx((night + noon) / 2)


def test_a_single_day_is_no_pattern() -> None:
    pattern = DayPattern()
    days(pattern, 1, busy=(8, 16))
    pattern.add(DAY + 2 * HOUR, 1.0)
    assert pattern.between(0.0, HOUR) == HOUR


def test_hours_on_record_count_and_the_last_need_not_be_over() -> None:
    pattern = DayPattern()
    pattern.recall([(day * DAY + hour * HOUR, 100.0) for day in range(8) for hour in range(8, 16)])
    known = pattern.between(12 * HOUR, 13 * HOUR)
    assert known > 2.0 * HOUR
    pattern.add(400 * DAY + 0.5 * HOUR, 3.0)  # the rest of an hour, of which nobody counted the first half
    pattern.add(400 * DAY + 1.5 * HOUR, 3.0)
    assert pattern.between(12 * HOUR, 13 * HOUR) == known


def test_a_clock_that_jumps_back_and_a_silence_of_years_do_no_harm() -> None:
    pattern = DayPattern()
    days(pattern, 3, busy=(8, 16), start=10 * DAY)
    pattern.add(9 * DAY, 50.0)
    pattern.add(4000 * DAY, 1.0)
    assert pattern.between(4000 * DAY, 4001 * DAY) == pytest.approx(DAY)


def test_the_pattern_tells_that_the_night_will_be_quiet() -> None:
    pattern, pace = DayPattern(), Pace()
    days(pattern, 10, busy=(8, 16))
    now = 10 * DAY + 16 * HOUR
    for slot in range(int(8 * HOUR / SLOT)):
        at = now - 8 * HOUR + slot * SLOT
        pace.add(9.0, weight=pattern.between(at, at + SLOT) / SLOT)
    evening = pace.forecast(Meter(20_000.0, 0.0, now + 8 * HOUR), now, pattern)
    day = pace.forecast(Meter(20_000.0, 0.0, now + DAY), now, pattern)
    assert evening.likelihood < 0.5 < day.likelihood
