"""Calls that come, wait and end in any order, and from many threads: nothing is lost and nobody is forgotten."""

from __future__ import annotations

import threading
from collections import Counter
from random import Random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from keyrouter_openai import Key, Router
from keyrouter_openai.clock import ThreadSignal
from keyrouter_openai.core.model import Dimension, Estimate, Fault, Outcome, RouteRequest
from keyrouter_openai.core.queue import Turn
from keyrouter_openai.core.select import History
from keyrouter_openai.keys import Limits
from keyrouter_openai.lease import Lease
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.account import Admitted
from keyrouter_openai.testing.model import SimProvider

from .world import Caller, World, few


class Anything(RuleBasedStateMachine):
    """Calls come, wait, leave and end in any way and order, while keys, accounts and limits come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            [
                SimAccount("A", keys=2, rpm=60, tpm=6_000),
                SimAccount("B", rpm=30, tpm=20_000),
                SimAccount("C", rpm=120, concurrent=2),
                SimAccount("D", keys=2, rpm=90),
            ],
            answer_s=None,
        )
        self.world.keys = [
            key.model_copy(update={"account": None, "limits": {}}) if key.account == "D" else key
            for key in self.world.keys
        ]
        self.world.router.reload(self.world.keys)

    @property
    def out(self) -> list[Caller]:
        return [caller for caller in self.world.callers if isinstance(caller.held, Lease) and not caller.done]

    def pick(self, callers: list[Caller], place: int) -> Caller:
        return callers[place % len(callers)]

    @rule(
        count=st.integers(1, 20),
        tokens=st.sampled_from([10, 500, 2_000, 5_000, 10_000]),
        wait=st.sampled_from([0.0, 5.0, 30.0]),
        wish=st.sampled_from(
            [{}, {}, {}, {"account": "A"}, {"key": "B-1"}, {"key": "D-2"}, {"tenant": "t"}, {"urgent": False}]
        ),
        model=st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "o3"]),
    )
    def ask(self, count: int, tokens: int, wait: float, wish: dict[str, Any], model: str) -> None:
        for _ in range(count):
            self.world.ask(tokens, wait=wait, model=model, **wish)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 7.0, 40.0]))
    def pass_(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    @precondition(lambda self: self.world.waiting)
    @rule(place=st.integers(0, 100), count=st.integers(1, 5))
    def leave(self, place: int, count: int) -> None:
        for _ in range(min(count, len(self.world.waiting))):
            self.world.leave(self.pick(self.world.waiting, place))

    @precondition(lambda self: self.out)
    @rule(place=st.integers(0, 100), heard=st.booleans(), count=st.integers(1, 10))
    def serve(self, place: int, heard: bool, count: int) -> None:
        for _ in range(min(count, len(self.out))):
            caller = self.pick(self.out, place)
            self.world.send(caller)
            lease = caller.held
            assert isinstance(lease, Lease)
            if heard and isinstance(caller.sent, Admitted):
                self.world.router.heard(lease, caller.sent.readings)
            self.world.answer(caller)

    @precondition(lambda self: self.out)
    @rule(place=st.integers(0, 100))
    def release(self, place: int) -> None:
        caller = self.pick(self.out, place)
        assert isinstance(caller.held, Lease)
        caller.done = True
        self.world.router.release(caller.held)

    @precondition(lambda self: self.out)
    @rule(
        place=st.integers(0, 100),
        outcome=st.sampled_from(
            [
                Outcome(Fault.RATE_LIMIT, 429, wait=3.0),
                Outcome(Fault.RATE_LIMIT, 429),
                Outcome(Fault.EXHAUSTED, 429),
                Outcome(Fault.KEY_REFUSED, 401),
                Outcome(Fault.SERVER_ERROR, 500),
                Outcome(Fault.OVERLOADED, 529, wait=2.0),
                Outcome(Fault.TOO_LARGE, 429),
                Outcome(Fault.ABANDONED, 200),
                Outcome(Fault.NETWORK),
                Outcome(Fault.MODEL_MISSING, 404),
                Outcome(Fault.NONE, 200, organization="org-D", project="p"),
                Outcome(Fault.RATE_LIMIT, 429, wait=1.0, dimension=Dimension.REQUESTS, shared="gpt-4.1"),
            ]
        ),
    )
    def end(self, place: int, outcome: Outcome) -> None:
        self.world.settle(self.pick(self.out, place), outcome)

    @rule(which=st.sampled_from(["all", "without C", "without A-1"]))
    def reload(self, which: str) -> None:
        keys = [key for key in self.world.keys if which == "all" or not key.name.startswith(which[8:])]
        self.world.router.reload(keys)

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Whoever waits has been told when to look again, and has not passed its time."""
        self.world.look()
        for caller in self.world.waiting:
            assert isinstance(caller.held, Turn)
            assert self.world.clock.now < caller.held.look_at <= self.world.start + caller.deadline + 1e-6
            assert self.world.now <= caller.deadline
        assert 0 <= self.world.router.status().in_flight <= len(self.out)

    def teardown(self) -> None:
        for caller in self.world.waiting:
            self.world.leave(caller)
        for caller in self.out:
            self.world.settle(caller, Outcome(Fault.NONE, 200))
        self.world.check_nothing_is_out()


def test_in_any_order_nothing_is_lost_and_nobody_forgotten() -> None:
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Anything, settings=settings(few, max_examples=150, stateful_step_count=40, suppress_health_check=checks)
    )


def test_many_threads_lose_nothing() -> None:
    accounts = [SimAccount(f"A{n}", rpm=100_000, tpm=10_000_000, concurrent=4) for n in range(3)]
    provider = SimProvider(accounts, Random(1))
    keys = [
        Key(
            name=label.replace("/key-", "-"),
            secret=key.secret,
            account=key.account,
            limits={"*": Limits(rpm=100_000, tpm=10_000_000, concurrent=4)},
        )
        for label, key in provider.keys.items()
    ]
    router, served, most = Router(keys, rng=Random(1)), Counter[str](), Counter[str]()
    running, guard = Counter[str](), threading.Lock()

    def work(name: str) -> None:
        rng = Random(name)
        for _ in range(60):
            request = RouteRequest(name, "/x", "gpt-4o", estimate=lambda: Estimate(rng.randint(1, 50)))
            taken = router.acquire(request, History(), number=1, max_wait=30.0)
            if isinstance(taken, Turn):
                turn, signal = taken, ThreadSignal()
                turn.wake = signal.set
                if rng.random() < 0.1:
                    router.leave(turn)
                    continue
                granted = turn.granted
                while granted is None:
                    signal.wait(max(turn.look_at - router.clock.monotonic(), 0.0))
                    granted = router.look(turn)
                taken = granted
            assert isinstance(taken, Lease)
            account = taken.account.name
            with guard:
                running[account] += 1
                most[account] = max(most[account], running[account])
                served[account] += 1
            with guard:
                running[account] -= 1
            if rng.random() < 0.2:
                router.release(taken)
            else:
                router.settle(taken, Outcome(Fault.NONE, 200), started_at=0.0, waited_s=0.0)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert not any(thread.is_alive() for thread in threads)
    assert max(most.values()) <= 4
    assert router.status().in_flight == 0
    free = [router.acquire(RouteRequest("r", "/x", "gpt-4o"), History(), number=1, max_wait=0.0) for _ in range(13)]
    assert sum(isinstance(taken, Lease) for taken in free) == 12
