"""The mirror of a provider's bucket, against the provider's own (`testing.limits.Bucket`) as the truth."""

from __future__ import annotations

from heapq import heappop, heappush
from math import inf
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from keyrouter_openai.core.buckets import Bucket, period_of
from keyrouter_openai.core.model import DAY, MINUTE, Dimension, Reading
from keyrouter_openai.testing import limits
from keyrouter_openai.testing.headers import DIALECTS

SEEDS = st.integers(0, 2**32)
quick = settings(derandomize=True, max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])


def truth_of(limit: int, period: float, dimension: Dimension, lag: float = 0.0) -> limits.Bucket:
    return limits.Bucket(dimension, period, limit, capacity=limit, per_second=limit / period, lag=lag)


def reading(limit: float, remaining: float, *, period: float = MINUTE) -> Reading:
    return Reading(Dimension.TOKENS, period, limit, remaining, (limit - remaining) * period / limit)


class Line:
    """A mirror, the truth, and calls under way between them."""

    def __init__(self, limit: int, rng: Random, *, lag: float = 0.0, dimension: Dimension = Dimension.TOKENS) -> None:
        self.rng = rng
        self.mirror = Bucket(dimension, MINUTE, limit, 0.0)
        self.truth = truth_of(limit, MINUTE, dimension, lag)
        self.now = 0.0
        self.refused = 0
        self.served = 0.0
        self.on_the_way = 0.0
        """Taken from the mirror, and not seen by the provider yet."""
        self.unseen = 0.0
        """The most that was on the way when a header was written."""
        self._agenda: list[tuple[float, int, float, float, float, Reading | None]] = []
        self._number = 0

    def _at(self, when: float, amount: float, mark: float, sent_at: float, seen: Reading | None) -> None:
        self._number += 1
        heappush(self._agenda, (when, self._number, amount, mark, sent_at, seen))

    def send(self, amount: float, delay: float) -> None:
        """Send a call now: it arrives after `delay`."""
        mark = self.mirror.take(amount, self.now)
        self.on_the_way += amount
        self._at(self.now + delay, amount, mark, self.now, None)

    def pass_(self, until: float, answer: float = 0.0) -> None:
        """Let time pass. Headers are written when a call arrives, and come with its answer, `answer` later at most."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, amount, mark, sent_at, seen = heappop(self._agenda)
            if seen is not None:
                self.mirror.correct(seen, amount=amount, sent_at=sent_at, mark=mark, now=self.now)
                continue
            self.on_the_way -= amount
            if wait := self.truth.wait_for(amount, self.now):
                self.refused += 1
                self.mirror.refuse(amount, wait, mark=self.mirror.taken, sent_at=sent_at, now=self.now, shown=None)
                continue
            self.truth.take(amount, self.now)
            self.served += amount
            shown = DIALECTS["groq"].read(self.truth, self.truth.shown(self.now), 0.0)
            self.unseen = max(self.unseen, self.on_the_way)
            self._at(self.now + self.rng.uniform(0.0, answer), amount, mark, sent_at, shown)
        self.now = until

    @property
    def left(self) -> float:
        return self.truth.level(self.now).level


@quick
@given(SEEDS, st.integers(100, 100_000), st.floats(0.3, 3.0))
def test_a_call_that_starts_when_it_may_is_never_refused(seed: int, limit: int, load: float) -> None:
    rng = Random(seed)
    line = Line(limit, rng)
    size = limit / 200
    until = 0.0
    for _ in range(300):
        amount = rng.uniform(0.1, 2.0) * size
        line.pass_(line.now + rng.expovariate(load * limit / MINUTE / size))
        line.pass_(line.mirror.start_for(amount, line.now))
        line.send(amount, 0.0)
        line.pass_(line.now)
        until = line.now
    assert line.refused == 0
    if load > 1.2:
        assert line.served >= 0.99 * limit / MINUTE * until


@quick
@given(SEEDS, st.sampled_from([0.0, 1.0]))
def test_answers_in_any_order_never_raise_the_level_above_the_truth(seed: int, lag: float) -> None:
    rng = Random(seed)
    line = Line(60_000, rng, lag=lag)
    for _ in range(200):
        amount = rng.uniform(100, 1500)
        if line.mirror.start_for(amount, line.now) <= line.now:
            line.send(amount, rng.uniform(0.0, 0.1))
        line.pass_(line.now + rng.expovariate(1.5), answer=5.0)
        late = line.mirror.rate * 0.1 + lag * (line.mirror.rate + 5000)  # what came in, or was taken, meanwhile
        assert line.mirror.level_at(line.now) <= line.left + line.unseen + late


def test_answers_to_slow_calls_do_not_hide_what_was_sent_meanwhile() -> None:
    """The bucket was full again before the burst: what would have come in since they were sent, overflowed."""
    bucket = Bucket(Dimension.TOKENS, MINUTE, 60_000.0, 0.0)
    slow = [bucket.take(100.0, 0.0) for _ in range(10)]
    for _ in range(50):
        bucket.take(1000.0, 59.0)
    for number, mark in enumerate(slow):
        now, shown = 59.5 + 0.5 * number, reading(60_000.0, 59_900.0 - 100.0 * number)
        bucket.correct(shown, amount=100.0, sent_at=0.0, mark=mark, now=now)
        assert bucket.level_at(now) <= 10_000.0 + 1000.0 * (now - 59.0) + 1.0


@quick
@given(SEEDS)
def test_full_again_in_the_end_whatever_was_taken_and_given_back(seed: int) -> None:
    rng = Random(seed)
    bucket, now = Bucket(Dimension.TOKENS, MINUTE, 1000.0, 0.0), 0.0
    out: list[tuple[float, float, float]] = []
    for _ in range(100):
        now += rng.expovariate(1.0)
        if out and rng.random() < 0.5:
            amount, mark, sent_at = out.pop(rng.randrange(len(out)))
            match rng.randrange(3):
                case 0:
                    bucket.give_back(amount)
                case 1:
                    left = float(rng.randrange(1000))
                    bucket.correct(reading(1000.0, left), amount=amount, sent_at=sent_at, mark=mark, now=now)
                case _:
                    bucket.refuse(amount, rng.uniform(0, 60), mark=bucket.taken, sent_at=sent_at, now=now, shown=None)
        else:
            amount = rng.uniform(1, 100)
            out.append((amount, bucket.take(amount, now), now))
        assert bucket.level_at(now) <= bucket.capacity <= bucket.limit
        assert 0.0 <= bucket.drain < bucket.rate
    assert bucket.level_at(now + 24 * 3600.0) == bucket.capacity == 1000.0


def test_more_than_the_whole_limit_never_starts_and_all_of_it_does() -> None:
    bucket = Bucket(Dimension.TOKENS, MINUTE, 1000.0, 0.0)
    assert bucket.start_for(1001.0, 0.0) == inf
    assert bucket.start_for(1000.0, 0.0) == 0.0
    bucket.take(500.0, 0.0)
    assert bucket.start_for(1000.0, 0.0) == pytest.approx(30.0)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_limit_that_changes_is_followed_and_what_was_used_stays_used(factor: float) -> None:
    bucket = Bucket(Dimension.TOKENS, MINUTE, 1000.0, 0.0)
    mark = bucket.take(400.0, 0.0)
    limit = 1000.0 * factor
    bucket.correct(reading(limit, limit - 400.0), amount=400.0, sent_at=0.0, mark=mark, now=0.0)
    assert (bucket.limit, bucket.capacity) == (limit, limit)
    assert bucket.level_at(0.0) == pytest.approx(limit - 400.0)
    assert bucket.level_at(1.0) == pytest.approx(limit - 400.0 + limit / MINUTE)


@pytest.mark.parametrize("latency", [0.1, 0.9, 5.0])
def test_what_was_charged_is_seen_however_long_the_answer_takes(latency: float) -> None:
    bucket = Bucket(Dimension.TOKENS, MINUTE, 60_000.0, 0.0)
    for start in (0.0, 20.0):  # the second comes alone, and after an answer that was read
        mark = bucket.take(6000.0, start)
        ratio = bucket.correct(
            reading(60_000.0, 54_000.0), amount=6000.0, sent_at=start, mark=mark, now=start + latency
        )
        assert ratio is None or ratio == pytest.approx(1.0, abs=0.1)


def test_charges_that_are_not_as_estimated_are_told() -> None:
    bucket = Bucket(Dimension.TOKENS, MINUTE, 60_000.0, 0.0)
    mark = bucket.take(1000.0, 0.0)
    bucket.correct(reading(60_000.0, 58_000.0), amount=1000.0, sent_at=0.0, mark=mark, now=0.01)
    mark = bucket.take(1000.0, 0.02)
    ratio = bucket.correct(reading(60_000.0, 56_020.0), amount=1000.0, sent_at=0.02, mark=mark, now=0.03)
    assert ratio == pytest.approx(2.0, abs=0.05)


def test_another_app_is_followed_and_the_share_is_taken_back_when_it_leaves() -> None:
    rng, amount = Random(1), 500.0
    line = Line(60_000, rng)
    counts: dict[str, list[int]] = {}
    for phase, drain, seconds in (("alone", 0.0, 120), ("shared", 0.4, 240), ("again", 0.0, 240)):
        served, refused, end = line.served, line.refused, line.now + seconds
        half = 0.0
        while line.now < end:
            for _ in range(3):
                if line.mirror.start_for(amount, line.now) <= line.now:
                    line.send(amount, rng.uniform(0.0, 0.03))
            line.pass_(line.now + 0.25, answer=1.0)
            line.truth.drain(drain * 1000 * 0.25, line.now)
            if line.now < end - seconds / 2:
                half = line.served
        counts[phase] = [round((line.served - half) / (seconds / 2)), line.refused - refused]
        assert line.served > served
    assert counts["alone"][0] >= 980 and counts["alone"][1] == 0
    assert 560 <= counts["shared"][0] <= 610 and counts["shared"][1] <= 15
    assert counts["again"][0] >= 970 and counts["again"][1] == 0


def test_what_others_took_is_forgotten_when_there_is_no_news() -> None:
    bucket = Bucket(Dimension.TOKENS, MINUTE, 60_000.0, 0.0)
    mark = bucket.take(100.0, 0.0)
    bucket.correct(reading(60_000.0, 5_000.0), amount=100.0, sent_at=0.0, mark=mark, now=0.1)
    mark = bucket.take(100.0, 2.0)
    bucket.correct(reading(60_000.0, 100.0), amount=100.0, sent_at=2.0, mark=mark, now=2.1)
    assert bucket.drain > 0.0
    bucket.refill(3600.0)
    assert bucket.drain < 1.0
    assert bucket.start_for(59_000.0, 3600.0) == 3600.0


# -- a limit that is a guess


def test_a_guess_grows_until_it_is_refused() -> None:
    bucket = Bucket(Dimension.REQUESTS, MINUTE, 60.0, 0.0, guessed=True)
    bucket.take(1.0, 10.0)
    grown = bucket.limit
    assert 60.0 < grown < 90.0
    bucket.refuse(1.0, 1.0, mark=bucket.taken, sent_at=10.0, now=10.1, shown=None)
    assert bucket.limit < grown


def test_a_guess_does_not_grow_beyond_all_measure_while_nobody_calls() -> None:
    bucket = Bucket(Dimension.REQUESTS, MINUTE, 240.0, 0.0, guessed=True)
    bucket.capacity = 8.0
    bucket.refill(8 * 3600.0)
    assert bucket.limit <= 2 * 240.0 and bucket.capacity <= 2 * 8.0


def test_a_real_reading_takes_the_place_of_a_guess_with_all_of_its_burst() -> None:
    bucket = Bucket(Dimension.REQUESTS, MINUTE, 240.0, 0.0, guessed=True)
    bucket.capacity = 8.0
    mark = bucket.take(1.0, 0.0)
    shown = Reading(Dimension.REQUESTS, MINUTE, 500.0, 499.0, 0.12)
    bucket.correct(shown, amount=1.0, sent_at=0.0, mark=mark, now=0.1)
    assert not bucket.guessed
    assert (bucket.limit, bucket.capacity) == (500.0, 500.0)
    assert bucket.start_for(400.0, 0.1) == 0.1


# -- slices


@quick
@given(SEEDS, st.sampled_from([1.0, 6.0, 10.0]))
def test_slices_shorter_than_the_period_are_learned(seed: int, slice_s: float) -> None:
    rng, limit = Random(seed), 600
    mirror = Bucket(Dimension.REQUESTS, MINUTE, limit, 0.0)
    burst = limit * slice_s / MINUTE
    truth = limits.Bucket(Dimension.REQUESTS, MINUTE, limit, capacity=burst, per_second=limit / MINUTE)
    now, late, served = 0.0, 0, 0
    while now < 120.0:
        if mirror.start_for(1.0, now) > now:
            now += 0.02
            continue
        mark = mirror.take(1.0, now)
        shown = DIALECTS["groq"].read(truth, truth.used(now), 0.0)
        if wait := truth.wait_for(1.0, now):
            truth.drain(1.0, now)
            late += now > 30.0
            mirror.refuse(1.0, wait, mark=mark, sent_at=now, now=now, shown=shown.remaining)
        else:
            truth.take(1.0, now)
            served += 1
            shown = DIALECTS["groq"].read(truth, truth.used(now), 0.0)
            mirror.correct(shown, amount=1.0, sent_at=now, mark=mark, now=now)
        now += rng.expovariate(30.0)
    assert mirror.capacity <= burst + 1.0
    assert late <= 0.01 * served
    assert served >= 0.95 * limit / MINUTE * 120.0


# -- the period of a limit


@quick
@given(SEEDS)
@pytest.mark.parametrize("dialect", ["openai", "azure"])
@pytest.mark.parametrize(
    ("dimension", "limit", "period"),
    [
        (Dimension.REQUESTS, 60, MINUTE),
        (Dimension.REQUESTS, 500, MINUTE),
        (Dimension.REQUESTS, 5_000, MINUTE),
        (Dimension.REQUESTS, 200, DAY),
        (Dimension.REQUESTS, 10_000, DAY),
        (Dimension.TOKENS, 30_000, MINUTE),
        (Dimension.TOKENS, 2_000_000, MINUTE),
    ],
)
def test_the_period_is_seen_from_the_refill(
    dialect: str, dimension: Dimension, limit: int, period: float, seed: int
) -> None:
    """Whatever else is in use: used requests are rounded up, and so is Azure's reset, to whole seconds."""
    rng = Random(seed)
    truth, now, known = truth_of(limit, period, dimension), 0.0, MINUTE
    for _ in range(60):
        now += rng.expovariate(limit / period) * rng.choice([0.1, 0.5, 1.0, 3.0])
        amount = 1.0 if dimension is Dimension.REQUESTS else rng.uniform(20, limit / 100)
        if truth.wait_for(amount, now):
            continue
        truth.take(amount, now)
        shown = DIALECTS[dialect].read(truth, truth.used(now), now)._replace(period=None)
        known = period_of(shown, known)
        if period == MINUTE or (shown.remaining is not None and limit - shown.remaining > 2):
            assert known == period


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "period"),
    [
        (5_000.0, 4_999.0, 0.012, MINUTE),
        (10_000.0, 9_999.0, 8.64, DAY),
        (200.0, 199.0, 432.0, DAY),
        (150_000.0, 149_984.0, 0.006, MINUTE),  # the example in OpenAI's guide
        (50.0, 25.0, 5.0, 10.0),
        (10.0, 5.0, 0.5, 1.0),
        (5_000.0, 5_000.0, 0.0, MINUTE),
    ],
)
def test_periods_of_single_readings(limit: float, remaining: float, reset: float, period: float) -> None:
    assert period_of(Reading(Dimension.REQUESTS, None, limit, remaining, reset)) == period


def test_a_period_that_is_named_is_taken() -> None:
    assert period_of(Reading(Dimension.TOKENS, DAY, 100.0, 50.0, 1.0)) == DAY
