"""Callers in virtual time that drive a `Router` directly; `SimProvider` is the truth of what there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

from keyrouter_openai import Key, Router
from keyrouter_openai.core.model import DAY, Estimate, Fault, Outcome, RouteRequest
from keyrouter_openai.core.queue import Turn
from keyrouter_openai.core.select import History, Refusal
from keyrouter_openai.keys import Limits
from keyrouter_openai.lease import Lease
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.account import Admitted, Denied
from keyrouter_openai.testing.model import SimProvider

from .support import TurnedClock

SEEDS = st.integers(0, 2**32)
few = settings(derandomize=True, deadline=None, phases=[Phase.explicit, Phase.generate])
LOOKS = 25
"""Looks of one call at one time after which it is taken to go round in circles."""


@dataclass(eq=False)
class Caller:
    """A call, what it holds, and how it went."""

    request: RouteRequest
    tokens: int
    asked_at: float
    held: Lease | Turn | Refusal
    deadline: float
    woken: bool = False
    started_at: float | None = None
    done: bool = False
    sent: Admitted | Denied | None = None
    looks: Counter[float] = field(default_factory=Counter[float])

    @property
    def waits(self) -> bool:
        return isinstance(self.held, Turn)

    @property
    def waited(self) -> float:
        assert self.started_at is not None
        return self.started_at - self.asked_at


class World:
    """A router over a simulated provider, and callers in virtual time: each looks when it is woken or told to.

    Args:
        known: the accounts' limits are configured.
        answer_s: seconds that each answer takes; None leaves it to the test to `send` and `answer`.
        arguments: of the router.
    """

    def __init__(
        self,
        accounts: Sequence[SimAccount],
        *,
        seed: int = 1,
        known: bool = True,
        answer_s: float | None = 0.0,
        **arguments: Any,
    ) -> None:
        self.clock = TurnedClock()
        self.start = self.clock.now
        self.rng = Random(seed)
        self.provider = SimProvider(accounts, self.rng, epoch=self.clock.time() - self.clock.now)
        self.answer_s = answer_s
        self.keys = [
            Key(
                name=label.replace("/key-", "-"),
                secret=key.secret,
                account=key.account,
                limits={"*": self._limits(key.account)} if known else {},
            )
            for label, key in self.provider.keys.items()
        ]
        self.router = Router(self.keys, clock=self.clock, rng=Random(seed + 1), **arguments)
        self.callers: list[Caller] = []
        self._waiting: dict[Caller, None] = {}
        self.statuses: Counter[int] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def _limits(self, account: str) -> Limits:
        spec = self.provider.account(account)
        return Limits(rpm=spec.rpm, tpm=spec.tpm, rpd=spec.rpd, tpd=spec.tpd, concurrent=spec.concurrent)

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return self.clock.now - self.start

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Have something done at a time."""
        self._number += 1
        heappush(self._events, (when, self._number, act))

    def ask(self, tokens: int = 1, *, wait: float = 20.0, model: str = "gpt-4o", **wishes: Any) -> Caller:
        """Make a call of so many tokens."""
        request = RouteRequest("r", "/chat/completions", model, estimate=lambda: Estimate(tokens), **wishes)
        held = self.router.acquire(request, History(), number=1, max_wait=wait)
        caller = Caller(request, tokens, self.now, held, self.now + wait)
        self.callers.append(caller)
        if isinstance(held, Turn):

            def wake() -> None:
                caller.woken = True

            held.wake = wake
            self._waiting[caller] = None
            self._take(caller, held.granted)
        else:
            self._take(caller, held)
        return caller

    def _take(self, caller: Caller, granted: object) -> None:
        if granted is not None:
            self._waiting.pop(caller, None)
        if isinstance(granted, Refusal):
            caller.held, caller.done = granted, True
        elif isinstance(granted, Lease):
            caller.held, caller.started_at = granted, self.now
            assert self.now <= caller.deadline + 1e-9
            if self.answer_s is not None:
                self.send(caller)
                self.at(self.now + self.answer_s, lambda: self.answer(caller))

    def send(self, caller: Caller) -> None:
        """The call reaches the provider."""
        lease = caller.held
        assert isinstance(lease, Lease)
        label = lease.key.name.replace("-", "/key-")
        try:
            admitted = self.provider.admit(
                self.provider.key(label), caller.request.model or "", caller.tokens, self.now
            )
            self.provider.finish(admitted, self.now + (self.answer_s or 0.0))
            caller.sent = admitted
            self.statuses[200] += 1
        except Denied as denied:
            caller.sent = denied
            self.statuses[denied.status] += 1

    def answer(self, caller: Caller) -> None:
        """The provider's answer reaches the caller."""
        assert caller.sent is not None
        if isinstance(caller.sent, Denied):
            denied = caller.sent
            self.settle(
                caller,
                Outcome(
                    Fault.RATE_LIMIT,
                    429,
                    wait=denied.wait,
                    dimension=denied.dimension,
                    period=denied.period,
                    readings=denied.readings,
                ),
            )
        else:
            self.settle(caller, Outcome(Fault.NONE, 200, readings=caller.sent.readings))

    def settle(self, caller: Caller, outcome: Outcome) -> None:
        assert isinstance(caller.held, Lease)
        caller.done = True
        self.router.settle(caller.held, outcome, started_at=0.0, waited_s=0.0)

    def leave(self, caller: Caller) -> None:
        assert isinstance(caller.held, Turn)
        caller.done = True
        del self._waiting[caller]
        self.router.leave(caller.held)

    @property
    def waiting(self) -> list[Caller]:
        return list(self._waiting)

    def look(self) -> None:
        """All look that are woken or due, until nobody is."""
        again = True
        while again:
            again = False
            for caller in self.waiting:
                turn = caller.held
                assert isinstance(turn, Turn)
                if not (caller.woken or turn.look_at <= self.clock.now):
                    continue
                again, caller.woken = True, False
                caller.looks[self.now] += 1
                assert caller.looks[self.now] <= LOOKS, "it goes round in circles"
                self._take(caller, self.router.look(turn))

    def run(self, until: float) -> None:
        """Let time pass, from one thing that happens to the next."""
        while True:
            self.look()
            looks = [caller.held.look_at - self.start for caller in self.waiting if isinstance(caller.held, Turn)]
            due = min([*looks, *(event[0] for event in self._events[:1]), until])
            if due >= until and not (self._events and self._events[0][0] <= until):
                break
            self.clock.now = max(self.clock.now, self.start + due)
            while self._events and self._events[0][0] <= self.now + 1e-9:
                heappop(self._events)[2]()
        self.clock.now = max(self.clock.now, self.start + until)
        self.look()

    def arrive(self, rate: float, until: float, make: Callable[[], Caller]) -> None:
        """Have calls arrive at random, so many a second."""
        when = self.now
        while (when := when + self.rng.expovariate(rate)) < until:
            self.at(when, lambda: (make(), None)[1])

    def fill_up(self, **wishes: Any) -> None:
        """Use all that can be had now, and have it answered."""
        while self.ask(wait=0.0, **wishes).started_at is not None:
            pass
        self.run(self.now)

    def check_nothing_is_out(self) -> None:
        """Nobody waits and nothing is under way: nothing is reserved, and after a day all limits are full."""
        state = self.router._pool  # pyright: ignore[reportPrivateUsage]  nothing public shows what is reserved
        assert self.router.status().in_flight == 0
        quotas = [quota for account in state.accounts.values() for quota in account.quotas.values()]
        for quota in quotas:
            assert quota.debtor is None and quota.in_flight == 0
            for bucket in quota.buckets:
                assert bucket.held == pytest.approx(0.0, abs=1e-6)
                assert bucket.level_at(self.clock.now) <= bucket.capacity
                assert bucket.level_at(self.clock.now + 3 * DAY) == bucket.capacity
