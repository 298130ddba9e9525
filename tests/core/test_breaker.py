from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.breaker import LONGEST_PAUSE, MEMORY, OPENS_AT, PATIENCE, Breaker

RNG = Random(1)


def answer(breaker: Breaker, ok: bool | None, now: float, *, sent_at: float | None = None) -> None:
    breaker.ended(ok, now, sent_at=now if sent_at is None else sent_at, rng=RNG)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(OPENS_AT):
        answer(breaker, False, now)
    assert breaker.state == "open"
    return breaker


def probing(successes: int = 0) -> tuple[Breaker, float]:
    """A breaker of which so many probes have succeeded, with as many on their way as it lets go."""
    breaker = opened()
    now = breaker.opened_until
    for n in range(successes + 1):
        if n > 0:
            answer(breaker, True, now)
        while breaker.admits(now) == now:
            breaker.sent(now)
    return breaker, now


@pytest.mark.parametrize("seconds_between", [0.0, 0.001, 1.0, 60.0])
def test_a_total_outage_opens_it_within_ten_failures_at_any_rate(seconds_between: float) -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(OPENS_AT):
        assert breaker.admits(now) == now
        now += seconds_between
        answer(breaker, False, now)
    assert breaker.state == "open"
    assert now < breaker.admits(now) <= now + LONGEST_PAUSE


@pytest.mark.parametrize("failing", [0.01, 0.1, 0.25])
def test_failures_among_successes_do_not_open_it(failing: float) -> None:
    breaker, rng = Breaker(), Random(7)
    for n in range(20_000):
        answer(breaker, rng.random() >= failing, n / 100)
        assert breaker.state == "closed"


def test_most_calls_failing_opens_it_soon() -> None:
    breaker, rng = Breaker(), Random(7)
    answers = next(n for n in count(1) if answer(breaker, rng.random() >= 0.9, n) or breaker.state == "open")
    assert answers < 30


def test_answers_that_tell_nothing_change_nothing() -> None:
    breaker = Breaker()
    for _ in range(100):
        answer(breaker, None, 0.0)
    assert breaker.state == "closed"
    assert breaker.is_over(0.0)


def test_a_named_wait_is_honoured_from_the_first_answer() -> None:
    breaker = Breaker()
    breaker.ended(False, 10.0, sent_at=9.0, rng=RNG, wait=30.0)
    assert breaker.state == "open"
    assert breaker.admits(10.0) == breaker.opened_until == 40.0
    breaker.ended(False, 11.0, sent_at=9.0, rng=RNG, wait=5.0)
    assert breaker.opened_until == 40.0, "the latest of the times that were named"
    breaker.ended(False, 12.0, sent_at=9.0, rng=RNG, wait=60.0)
    assert breaker.opened_until == 72.0


def test_after_its_pause_one_probe_goes_at_a_time() -> None:
    breaker = opened()
    now = breaker.opened_until
    assert breaker.admits(now) == now
    breaker.sent(now)
    assert breaker.state == "half-open"
    assert breaker.admits(now) > now


def test_a_probe_that_tells_nothing_lets_the_next_go() -> None:
    breaker, now = probing()
    answer(breaker, None, now)
    assert breaker.state == "half-open"
    assert breaker.admits(now) == now


def test_a_probe_without_an_answer_does_not_hold_up_the_rest() -> None:
    breaker, now = probing()
    assert breaker.admits(now) == breaker.admits(now + 1) == now + PATIENCE
    assert breaker.admits(now + PATIENCE) == now + PATIENCE
    breaker.sent(now + PATIENCE)
    assert breaker.admits(now + PATIENCE) == now + 2 * PATIENCE


def test_a_failed_probe_opens_it_again_for_longer_up_to_a_bound() -> None:
    breaker, longest = opened(), 0.0
    for _ in range(20):
        now = breaker.opened_until
        breaker.sent(now)
        answer(breaker, False, now)
        assert breaker.state == "open"
        longest = max(longest, breaker.opened_until - now)
    assert LONGEST_PAUSE / 2 < longest <= LONGEST_PAUSE


def test_pauses_are_jittered() -> None:
    assert len({opened().opened_until for _ in range(10)}) == 10


@pytest.mark.parametrize("ok", [True, False, None])
def test_calls_from_before_the_outage_are_no_probes(ok: bool | None) -> None:
    breaker, now = probing()
    for _ in range(50):
        answer(breaker, ok, now, sent_at=now - 1)
    assert breaker.state == "half-open"
    assert breaker.admits(now) > now, "its one probe is still out"


@pytest.mark.parametrize("ok", [True, False])
def test_calls_from_before_the_outage_end_no_pause(ok: bool) -> None:
    breaker = opened()
    until = breaker.opened_until
    for _ in range(50):
        answer(breaker, ok, until - 0.01, sent_at=0.0)
    assert (breaker.state, breaker.opened_until) == ("open", until)


def test_a_single_failure_does_not_undo_a_recovery() -> None:
    breaker, now = probing(successes=3)
    answer(breaker, False, now)
    assert breaker.state == "half-open"


def test_an_outage_that_returns_while_it_recovers_opens_it_again() -> None:
    breaker, now = probing(successes=3)
    failures = next(n for n in count(1) if answer(breaker, False, now) or breaker.state == "open")
    assert failures <= OPENS_AT


def test_calls_one_after_another_close_it_with_the_second_success() -> None:
    breaker = opened()
    now = breaker.opened_until
    for state in ("half-open", "closed"):
        breaker.sent(now)
        answer(breaker, True, now)
        assert breaker.state == state


def test_it_is_over_when_nothing_is_held_against_the_host() -> None:
    breaker = Breaker()
    answer(breaker, False, 0.0)
    assert not breaker.is_over(0.0)
    answer(breaker, True, 1.0)
    assert breaker.is_over(1.0)


def test_it_is_over_when_nobody_has_called_for_long() -> None:
    breaker = opened()
    assert not breaker.is_over(breaker.opened_until + MEMORY)
    assert breaker.is_over(breaker.opened_until + MEMORY + 1)


@dataclass
class World:
    """Calls that wait at a breaker for a host that fails until `recovers_at`, in virtual time."""

    recovers_at: float
    seconds: float = 1.0
    """How long an answer takes."""
    breaker: Breaker = field(default_factory=lambda: Breaker(usual=50))
    sent_at: list[float] = field(default_factory=list[float])
    served_at: list[float] = field(default_factory=list[float])

    def run(self, *, rate: float, until: float) -> World:
        """Offer `rate` calls a second; each tries until it is served, and waits where the breaker says so."""
        rng, now, waiting = Random(3), 0.0, 0
        events: list[tuple[float, int, str, float]] = [(n / rate, n, "offered", 0.0) for n in range(int(until * rate))]
        ids = count(len(events))
        while events and now < until:
            now, _, what, started = heappop(events)
            if what == "offered":
                waiting += 1
            elif what == "answered":
                ok = started >= self.recovers_at
                self.breaker.ended(ok, now, sent_at=started, rng=rng)
                self.served_at += [now] if ok else []
                waiting += not ok
            while waiting and self.breaker.admits(now) <= now:
                self.breaker.sent(now)
                self.sent_at.append(now)
                waiting -= 1
                seconds = self.seconds if now >= self.recovers_at else 0.05
                heappush(events, (now + seconds, next(ids), "answered", now))
            if waiting and (look_at := self.breaker.admits(now)) < inf:
                heappush(events, (look_at, next(ids), "look", 0.0))
        return self

    def sent_between(self, start: float, end: float) -> int:
        return sum(start <= at < end for at in self.sent_at)


def test_a_long_outage_is_probed_and_not_stormed() -> None:
    """30 s at 100 calls a second, each of which would try on and on."""
    world = World(recovers_at=30.0).run(rate=100, until=30.0)
    assert world.sent_between(1.0, 30.0) < 60
    assert world.sent_between(0.0, 30.0) < 100


@pytest.mark.parametrize("seconds", [0.05, 0.5])
def test_recovery_is_seen_within_two_seconds(seconds: float) -> None:
    world = World(recovers_at=10.0, seconds=seconds).run(rate=50, until=20.0)
    assert world.served_at[0] <= 12.0
    assert world.breaker.state == "closed"


def test_those_who_waited_do_not_return_as_a_herd() -> None:
    """500 wait when the host is back; answers take a second, so a second is a round."""
    world = World(recovers_at=10.0).run(rate=50, until=20.0)
    first = min(at for at in world.sent_at if at >= 10.0)
    rounds = [world.sent_between(first + n, first + n + 1) for n in range(4)]
    assert rounds[:2] == [1, 16]
    assert max(rounds) == 150, "three times as many as is usual"
    assert world.breaker.state == "closed"


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail", "none", "late", "wait"]), st.floats(0, 3)), max_size=200))
def test_whatever_happens_it_lets_calls_go_again(steps: list[tuple[str, float]]) -> None:
    """And never more at a time than its successes allow, but for one each two seconds."""
    breaker, now, rng = Breaker(), 0.0, Random(1)
    out: list[float] = []
    effects: dict[str, Callable[[], tuple[bool | None, float | None]]] = {
        "ok": lambda: (True, None),
        "fail": lambda: (False, None),
        "none": lambda: (None, None),
        "late": lambda: (True, None),
        "wait": lambda: (False, 1.0),
    }
    for what, seconds in steps:
        now += seconds
        if breaker.admits(now) <= now:
            breaker.sent(now)
            out.append(now)
        if out and what != "late":
            ok, wait = effects[what]()
            breaker.ended(ok, now, sent_at=out.pop(0), rng=rng, wait=wait)
        look_at = breaker.admits(now)
        assert look_at == now or now < look_at <= now + max(PATIENCE, LONGEST_PAUSE)
        assert breaker.admits(look_at) == look_at
