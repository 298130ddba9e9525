"""The limits of one account: what is learned of them, what holds calls back, and that nothing reserved is lost."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyrouter_openai.core.buckets import Bucket
from keyrouter_openai.core.model import DAY, MINUTE, Dimension, Estimate, Fault, Outcome, Reading, Usage
from keyrouter_openai.core.quota import Quota, Reservation
from keyrouter_openai.testing import limits

quick = settings(derandomize=True, max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])


def make(provider: str = "openai", *, rpm: float | None = None, tpm: float | None = None) -> Quota:
    quota = Quota("gpt-4o", provider, 0.0)
    for dimension, limit in ((Dimension.REQUESTS, rpm), (Dimension.TOKENS, tpm)):
        if limit is not None:
            quota.add(Bucket(dimension, MINUTE, limit, 0.0))
    return quota


def send(quota: Quota, tokens: int, now: float) -> Reservation:
    quota.in_flight += 1
    return quota.take(quota.amounts(Estimate(tokens)), now)


def hear(quota: Quota, taken: Reservation, readings: Sequence[Reading], *, now: float, sent_at: float = 0.0) -> None:
    quota.answered()
    quota.in_flight -= 1
    quota.read(readings, taken, lambda: Estimate(100), sent_at=sent_at, now=now)


def refuse(quota: Quota, now: float, **outcome: Any) -> None:
    taken = send(quota, 100, now)
    quota.in_flight -= 1
    said = Outcome(Fault.RATE_LIMIT, 429, **outcome)
    quota.refuse(said, taken, Estimate(100), sent_at=now, now=now)


def first_start(quota: Quota, tokens: int, now: float) -> float:
    return quota.start(quota.amounts(Estimate(tokens)), now)


@quick
@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.one_of(st.none(), st.floats(0.0, 40.0))), min_size=1, max_size=8))
def test_a_cooldown_is_the_longest_of_its_deadlines(refusals: list[tuple[float, float | None]]) -> None:
    quota, now, latest = make(rpm=60_000.0), 0.0, 0.0
    for gap, wait in refusals:
        now += gap
        refuse(quota, now, wait=wait)
        latest = max(latest, now + (5.0 if wait is None else wait))
        assert quota.parked_until == latest
        assert first_start(quota, 1, now) >= latest or latest <= now


@quick
@given(st.integers(0, 2**32))
def test_in_whatever_order_calls_end_nothing_stays_reserved(seed: int) -> None:
    rng = Random(seed)
    quota, now = make("groq", rpm=100.0, tpm=10_000.0), 0.0
    out: list[Reservation] = []
    held: list[Reservation] = []
    for _ in range(150):
        now += rng.expovariate(2.0)
        match rng.randrange(6):
            case 0 | 1:
                out.append(send(quota, rng.randint(1, 500), now))
            case 2:
                held.append(quota.take(quota.amounts(Estimate(rng.randint(1, 500))), now))
                quota.hold(held[-1], 1.0)
            case 3 if held:
                taken = held.pop(rng.randrange(len(held)))
                quota.hold(taken, -1.0)
                if rng.random() < 0.5:
                    quota.give_back(taken)
                else:
                    quota.in_flight += 1
                    out.append(taken)
            case 4 if out:
                taken = out.pop(rng.randrange(len(out)))
                left = rng.randrange(10_000)
                hear(quota, taken, [Reading(Dimension.TOKENS, MINUTE, 10_000, left)], now=now, sent_at=now - 1.0)
                quota.settle(Usage(rng.randint(1, 400), rng.randint(1, 200)), taken, lambda: Estimate(100))
            case 5 if out:
                quota.in_flight -= 1
                said = Outcome(Fault.RATE_LIMIT, 429, wait=1.0, dimension=rng.choice(list(Dimension)[:2]))
                taken = out.pop(rng.randrange(len(out)))
                quota.refuse(said, taken, Estimate(100), sent_at=now - 1.0, now=now)
            case _:
                pass
    for taken in held:
        quota.hold(taken, -1.0)
        quota.give_back(taken)
    quota.in_flight -= len(out)
    assert quota.in_flight == 0
    for bucket in quota.buckets:
        assert bucket.held == pytest.approx(0.0, abs=1e-6)
        assert bucket.level_at(now + DAY) == bucket.capacity == bucket.limit


def test_the_first_answer_teaches_the_limits_and_counts_who_is_still_under_way() -> None:
    quota = make()
    sent = [send(quota, 100, 0.0) for _ in range(8)]
    shown = [
        Reading(Dimension.REQUESTS, None, 500.0, 499.0, 0.12),
        Reading(Dimension.TOKENS, None, 30_000.0, 29_900.0, 0.2),
    ]
    hear(quota, sent[0], shown, now=0.1)
    levels = {bucket.dimension: bucket.level_at(0.1) for bucket in quota.buckets}
    assert levels == {Dimension.REQUESTS: 492.0, Dimension.TOKENS: 29_200.0}
    assert [bucket.period for bucket in quota.buckets] == [MINUTE, MINUTE]


def test_an_unknown_account_is_not_stormed_but_opens_soon() -> None:
    quota, started, now = make(), 0, 0.0
    while now < 3.0 and started < 1000:
        now = first_start(quota, 100, now)
        send(quota, 100, now)
        started += 1
        if now == 0.0:
            assert started <= 8
    assert started == 1000


def test_once_nothing_is_said_of_limits_nothing_holds_calls_back() -> None:
    quota = make()
    for _ in range(4):
        hear(quota, send(quota, 100, 0.0), [], now=0.1)
    for _ in range(100):
        assert first_start(quota, 100, 0.1) == 0.1
        send(quota, 100, 0.1)


def test_limits_for_several_periods_are_told_apart() -> None:
    quota = make()
    named = [Reading(Dimension.REQUESTS, MINUTE, 60.0, 59.0), Reading(Dimension.REQUESTS, DAY, 1000.0, 500.0)]
    hear(quota, send(quota, 1, 0.0), named, now=0.0)
    hear(quota, send(quota, 1, 0.0), [Reading(Dimension.REQUESTS, DAY, 1000.0, 0.0)], now=0.0)
    assert [(bucket.period, round(bucket.level_at(0.0))) for bucket in quota.buckets] == [(MINUTE, 58), (DAY, 0)]
    assert first_start(quota, 1, 0.0) > 80.0


def test_a_limit_that_a_refusal_names_is_kept_from_then_on() -> None:
    quota = make()
    refuse(quota, 0.0, wait=6.0, dimension=Dimension.REQUESTS, period=DAY, limit=200)
    (bucket,) = quota.buckets
    assert (bucket.dimension, bucket.period, bucket.limit) == (Dimension.REQUESTS, DAY, 200)
    assert first_start(quota, 1, 0.0) >= 6.0


def test_of_a_refused_call_the_tokens_are_given_back_and_the_request_is_not() -> None:
    quota = make(rpm=100.0, tpm=10_000.0)
    for named in (Dimension.REQUESTS, Dimension.TOKENS):
        before = [bucket.level_at(0.0) for bucket in quota.buckets]
        refuse(quota, 0.0, wait=0.001, dimension=named)
        after = [bucket.level_at(0.0) for bucket in quota.buckets]
        spent = [old - new for old, new in zip(before, after, strict=True)]
        if named is Dimension.REQUESTS:
            assert spent[1] == 0.0
        else:
            assert spent[0] == 1.0


def test_what_was_not_used_is_given_back_where_the_provider_does_so() -> None:
    quota = make("groq", tpm=10_000.0)
    taken = quota.take(quota.amounts(Estimate(100, 4000)), 0.0)
    quota.settle(Usage(100, 50), taken, lambda: Estimate(100, 4000))
    assert quota.buckets[0].level_at(0.0) == 10_000.0 - 150.0
    assert quota.amounts(Estimate(100, 4000))[0] < 4100.0


@pytest.mark.parametrize("running", [0, 1, 2, 3])
def test_no_more_at_a_time_than_the_account_serves(running: int) -> None:
    quota = make()
    quota.concurrent, quota.known = 2, True
    for _ in range(running):
        send(quota, 1, 0.0)
    assert (first_start(quota, 1, 0.0) == 0.0) == (running < 2)


def test_what_exceeds_the_whole_limit_never_starts() -> None:
    assert first_start(make(tpm=1000.0), 1001, 0.0) == inf


@pytest.mark.parametrize("limit", [60, 600])
def test_without_a_word_on_limits_the_rate_is_found(limit: int) -> None:
    """Refusals alone: few of them, and most of what there is."""
    quota, now, served, refused = make(), 0.0, 0, 0
    truth = limits.Bucket(Dimension.REQUESTS, MINUTE, limit, capacity=limit, per_second=limit / MINUTE)
    while now < 600.0:
        start = first_start(quota, 100, now)
        if start > now:
            now = min(start, now + 0.05)
            continue
        taken = send(quota, 100, now)
        wait = truth.wait_for(1.0, now)
        if now >= 300.0:
            served, refused = served + (not wait), refused + bool(wait)
        if wait:
            truth.drain(1.0, now)
            quota.answered()
            quota.in_flight -= 1
            said = Outcome(Fault.RATE_LIMIT, 429, wait=wait)
            quota.refuse(said, taken, Estimate(100), sent_at=now, now=now)
        else:
            truth.take(1.0, now)
            hear(quota, taken, [], now=now, sent_at=now)
        now += 1e-3
    assert served >= 0.85 * limit * 5
    assert refused <= 0.05 * served
