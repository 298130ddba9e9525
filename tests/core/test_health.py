from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.health import (
    FIRST_PAUSE,
    HEALTHY,
    LONGEST_PAUSE,
    KeyHealth,
    is_provider_incident,
    out_of_service,
    refused,
    undecided,
)


def test_the_first_canary_comes_after_fifteen_minutes() -> None:
    assert out_of_service(None, 100.0).due == 100.0 + 15 * 60


def test_pauses_double_up_to_a_day() -> None:
    probation, now, pauses = None, 0.0, list[float]()
    for _ in range(10):
        probation = out_of_service(probation, now)
        pauses.append(probation.due - now)
        now = probation.due
    assert pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_named_return_is_taken_but_looked_at_daily() -> None:
    assert out_of_service(None, 0.0, 60.0).due == 60.0
    assert out_of_service(None, 0.0, 20 * 86400.0).due == LONGEST_PAUSE


def test_an_undecided_canary_keeps_the_pause_that_was_reached() -> None:
    probation = out_of_service(out_of_service(None, 0.0), 1000.0)
    assert undecided(probation, 5000.0).pause == probation.pause
    assert 5000.0 < undecided(probation, 5000.0).due < 5000.0 + FIRST_PAUSE


def test_one_refusal_makes_a_key_suspect_and_a_second_invalid() -> None:
    once = refused(HEALTHY, 10.0)
    assert once.suspect
    assert once.probation is None
    twice = refused(once, 20.0)
    assert not twice.suspect
    assert twice.probation is not None
    assert twice.probation.due == 20.0 + FIRST_PAUSE


def test_all_keys_refused_within_seconds_is_an_incident() -> None:
    keys = [refused(HEALTHY, t) for t in (100.0, 103.0, 109.0)]
    assert is_provider_incident(keys, 109.0)
    assert not is_provider_incident([*keys, HEALTHY], 109.0)
    assert not is_provider_incident(keys[:1], 100.0), "one key alone says nothing"
    assert not is_provider_incident([refused(HEALTHY, 50.0), refused(HEALTHY, 100.0)], 100.0)


def test_a_key_that_was_invalid_long_before_takes_no_part() -> None:
    invalid = refused(refused(HEALTHY, 1.0), 2.0)
    assert is_provider_incident([invalid, refused(HEALTHY, 100.0), refused(HEALTHY, 101.0)], 101.0)
    assert not is_provider_incident([invalid, refused(HEALTHY, 100.0)], 101.0)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_every_state_has_a_way_back(gaps: list[float]) -> None:
    """However often it failed, the next canary is due within a day."""
    health, now = KeyHealth(), 0.0
    for gap in gaps:
        now += gap
        health = refused(health, now)
        if health.probation is not None:
            assert now < health.probation.due <= now + LONGEST_PAUSE
