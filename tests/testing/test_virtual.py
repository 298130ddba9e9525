"""Virtual time, and callers and a provider in it."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from keyrouter_openai import Key
from keyrouter_openai.router import Router
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.model import Latency
from keyrouter_openai.testing.virtual import Answer, Steps, VirtualCall, VirtualProvider, VirtualTime, play
from keyrouter_openai.testing.virtual_client import RoutedCaller

LATENCY = Latency(first_byte=0.5, sigma=0.3, tokens_per_second=100.0)


def calls_of(count: int, *, every: float = 0.1, tokens: int = 100) -> list[VirtualCall]:
    return [VirtualCall(place * every, tokens, 50, stream=place % 2 == 0) for place in range(count)]


def played(
    accounts: Sequence[SimAccount],
    calls: list[VirtualCall],
    *,
    seed: int = 1,
    patience: float = 20.0,
    as_text: bool = False,
    revoked: Sequence[str] = (),
) -> VirtualProvider:
    """Play `calls`, on which the results are, with a router that knows nothing but the keys."""
    time, rng = VirtualTime(), Random(seed)
    provider = VirtualProvider(time, accounts, LATENCY, rng)
    for label in revoked:
        provider.books.revoke(label)
    keys = [Key(name=label.replace("/", "."), secret=key.secret) for label, key in provider.books.keys.items()]
    router = Router(keys, clock=time, rng=Random(seed))
    play(time, calls, RoutedCaller(time, provider, router, patience=patience, as_text=as_text).call)
    return provider


def results(calls: Sequence[VirtualCall]) -> list[tuple[float, float]]:
    return [(call.sent_at, call.ended_at) for call in calls if call.served]


# -- time


def test_steps_go_on_in_the_order_of_their_times() -> None:
    time, seen = VirtualTime(), list[tuple[str, float]]()

    def steps(name: str, *times: float) -> Steps:
        for at in times:
            yield at
            seen.append((name, time.monotonic()))

    time.start(steps("a", 2.0, 3.0))
    time.start(steps("b", 1.0, 3.0))
    time.run()
    assert seen == [("b", 1.0), ("a", 2.0), ("b", 3.0), ("a", 3.0)], "of two at one time, who said so first"


def test_who_is_woken_goes_on_at_once_and_only_once() -> None:
    time, seen = VirtualTime(), list[float]()

    def sleeper() -> Steps:
        yield 10.0
        seen.append(time.now)
        yield 20.0
        seen.append(time.now)

    process = time.start(sleeper())

    def waker() -> Steps:
        yield 3.0
        process.wake()

    time.start(waker())
    time.run()
    assert seen == [3.0, 20.0]


def test_a_wake_up_in_ones_own_step_is_not_lost() -> None:
    time, seen = VirtualTime(), list[float]()

    def steps() -> Steps:
        assert time.current is not None
        time.current.wake()
        yield 10.0
        seen.append(time.now)

    time.start(steps())
    time.run()
    assert seen == [0.0]


def test_time_that_stands_still_is_an_error() -> None:
    time = VirtualTime()

    def restless() -> Steps:
        while True:
            yield time.now

    time.start(restless())
    with pytest.raises(RuntimeError, match="time stands still"):
        time.run()


# -- the provider


def ask(account: SimAccount, call: VirtualCall) -> tuple[Answer, list[float], float]:
    """The answer to one call, when its headers were heard, and when it was over."""
    time, heard, answers = VirtualTime(), list[float](), list[Answer]()
    provider = VirtualProvider(time, [account], Latency(first_byte=0.5, tokens_per_second=100.0), Random(1))

    def caller() -> Steps:
        secret = provider.books.key(f"{account.name}/key-1").secret
        answers.append((yield from provider.attempt(secret, call, lambda _: heard.append(time.now))))

    time.start(caller())
    time.run()
    return answers[0], heard, time.now


def test_headers_come_with_the_first_byte_of_a_stream_and_with_the_whole_of_a_plain_answer() -> None:
    _, heard, end = ask(SimAccount("a"), VirtualCall(0.0, 10, 100, stream=True))
    assert heard == [pytest.approx(0.53, abs=0.03)]
    assert end == pytest.approx(1.53, abs=0.03)
    answer, heard, end = ask(SimAccount("a"), VirtualCall(0.0, 10, 100))
    assert heard == []
    assert end == answer.first_byte_s == pytest.approx(1.53, abs=0.03)


def test_a_refusal_comes_back_without_the_time_of_a_model() -> None:
    answer, heard, end = ask(SimAccount("a", tpm=100), VirtualCall(0.0, 101, 1, stream=True))
    assert answer.refusal is not None
    assert answer.refusal.status == 429
    assert heard == []
    assert end == pytest.approx(0.03, abs=0.03)


def test_an_outage_has_its_own_error() -> None:
    time = VirtualTime()
    provider = VirtualProvider(time, [SimAccount("a")], LATENCY, Random(1))
    provider.error = "server_error"
    time.start(_drained(provider, "a/key-1"))
    time.run()
    assert list(provider.statuses) == [500]


def _drained(provider: VirtualProvider, label: str) -> Steps:
    yield from provider.attempt(provider.books.key(label).secret, VirtualCall(0.0, 1, 1))


# -- callers with a router


POOL = (SimAccount("big", keys=2, rpm=300, tpm=30_000), SimAccount("dry", credit_calls=0), SimAccount("left"))


def test_the_same_seed_gives_the_same_run() -> None:
    runs: list[list[tuple[float, float]]] = []
    for seed in (1, 1, 2):
        calls = calls_of(200)
        played(POOL, calls, seed=seed, revoked=["left/key-1"])
        runs.append(results(calls))
    assert runs[0] == runs[1] != runs[2]


def test_calls_are_served_in_spite_of_a_dry_account_and_a_revoked_key() -> None:
    calls = calls_of(200)
    provider = played(POOL, calls, revoked=["left/key-1"])
    assert all(call.served for call in calls)
    assert len(provider.statuses) < len(calls) + 20


def test_a_call_that_cannot_start_in_time_is_not_sent() -> None:
    calls = calls_of(100, every=0.01)
    played([SimAccount("a", keys=2, rpm=30)], calls, patience=5.0)
    assert 30 <= sum(call.served for call in calls) <= 33
    assert all(call.sent_at <= call.at + 5.0 for call in calls if call.served)


@pytest.mark.parametrize("headers", ["openai", "azure", "groq"])
def test_numbers_tell_the_router_what_the_text_of_headers_does(headers: Any) -> None:
    runs: list[list[tuple[float, float]]] = []
    for as_text in (False, True):
        calls = calls_of(150)
        account = SimAccount("a", keys=2, rpm=200, rpd=5000, tpm=20_000, headers=headers)
        played([account], calls, as_text=as_text)
        runs.append(results(calls))
    assert runs[0] == runs[1]


def test_with_one_key_a_call_is_tried_again_as_the_sdk_does() -> None:
    provider = played([SimAccount("a", credit_calls=0)], calls_of(2), patience=0.0)
    assert list(provider.statuses) == 6 * [429]
    calls = calls_of(3, every=0.0)
    played([SimAccount("a", rpm=2)], calls)
    assert max(call.sent_at for call in calls) == pytest.approx(30.0, abs=0.2), "after the time that the answer named"
    assert {call.key for call in calls} == {"a.key-1"}
