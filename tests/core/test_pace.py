from __future__ import annotations

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
    gaps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    assert starts[0] == 1.0
    assert gaps == [pace.FIRST_GAP] * 4


def test_the_gap_becomes_the_rate_that_was_served() -> None:
    """20 served in 10 seconds: one each half second."""
    state = pace.refused(FREE, started_at=0.0, now=1.0, wait=1.0)
    for _ in range(20):
        state = pace.served(state)
    state = pace.refused(state, started_at=9.0, now=10.0, wait=1.0)
    assert state.gap == 0.5


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
