from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core import pace
from keyrouter_openai.core.pace import FREE, Pace


def test_an_account_that_was_never_refused_runs_free() -> None:
    assert pace.start_time(FREE, 10.0) == 10.0
    assert pace.started(FREE, 10.0) is FREE


def test_a_refusal_parks_until_the_named_time() -> None:
    parked = pace.refused(FREE, started_at=0.0, now=10.0, wait=7.0)
    assert pace.start_time(parked, 10.0) == 17.0
    assert pace.start_time(parked, 20.0) == 20.0


def test_a_refusal_that_names_no_time_parks_for_some_seconds() -> None:
    assert pace.start_time(pace.refused(FREE, started_at=0.0, now=0.0, wait=None), 0.0) == pace.UNNAMED_PARK


def test_calls_that_waited_return_one_after_another() -> None:
    parked = pace.refused(FREE, started_at=0.0, now=0.0, wait=1.0)
    starts: list[float] = []
    for _ in range(5):
        start = pace.start_time(parked, 0.5)
        starts.append(start)
        parked = pace.started(parked, start)
    gaps = [b - a for a, b in pairwise(starts)]
    assert starts[0] == 1.0
    assert gaps[0] == pace.FIRST_GAP
    assert all(0.9 * pace.FIRST_GAP < gap <= pace.FIRST_GAP for gap in gaps)


def test_the_gap_becomes_the_rate_that_was_served() -> None:
    """30 served in 10 seconds: one each third of a second."""
    state = pace.refused(FREE, started_at=0.0, now=1.0, wait=1.0)
    for _ in range(30):
        state = pace.served(state)
    state = pace.refused(state, started_at=9.0, now=10.0, wait=1.0)
    assert state.gap == pytest.approx(1 / 3)


def test_one_sample_moves_the_gap_by_so_much_at_most() -> None:
    first = pace.refused(FREE, started_at=0.0, now=1.0, wait=1.0)
    second = pace.refused(first, started_at=2.0, now=2.1, wait=60.0)
    assert second.gap == pytest.approx(2 * first.gap, rel=0.01)


def test_starts_that_were_given_away_are_not_given_again() -> None:
    """Calls that hold later starts keep them over a further refusal."""
    state = pace.refused(FREE, started_at=0.0, now=0.0, wait=1.0)
    for _ in range(40):
        state = pace.started(state, pace.start_time(state, 0.0))
    taken = state.next_start
    state = pace.refused(state, started_at=1.0, now=1.1, wait=1.0)
    assert pace.start_time(state, 1.1) >= taken


def test_the_gap_shrinks_while_all_goes_well() -> None:
    state = pace.refused(FREE, started_at=0.0, now=0.0, wait=1.0)
    later = pace.started(state, 1.0 + pace.HALF_LIFE)
    assert later.next_start == pytest.approx(1.0 + pace.HALF_LIFE + pace.FIRST_GAP / 2)


def test_refusals_of_calls_that_were_on_their_way_change_no_rate() -> None:
    first = pace.refused(FREE, started_at=0.0, now=1.0, wait=1.0)
    second = pace.refused(first, started_at=0.5, now=1.1, wait=5.0)
    assert second.gap == first.gap
    assert second.parked_until == 6.1


def test_after_a_quiet_minute_it_runs_free_again() -> None:
    state = pace.refused(FREE, started_at=0.0, now=1.0, wait=1.0)
    assert pace.started(state, 200.0) == FREE


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50), st.floats(0, 1000) | st.none()), max_size=30))
def test_a_cooldown_is_the_maximum_of_its_deadlines(refusals: list[tuple[float, float, float | None]]) -> None:
    state, now, latest = Pace(), 0.0, float("-inf")
    for elapsed, age, wait in refusals:
        now += elapsed
        state = pace.refused(state, started_at=now - age, now=now, wait=wait)
        latest = max(latest, now + (pace.UNNAMED_PARK if wait is None else wait))
        assert state.parked_until == latest
        assert pace.start_time(state, now) >= latest
        assert state.gap >= 0.0
