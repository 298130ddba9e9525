"""A second attempt where the first is slow: which of them counts, what is on record, and which calls are left alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from keyrouter_openai import (
    Budget,
    ConfigError,
    Key,
    Ledger,
    Limits,
    RoutedOpenAI,
    Router,
    SyncRoutedOpenAI,
    route_of,
    routing,
)
from keyrouter_openai.events import AttemptStarted, Event
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount
from keyrouter_openai.testing.faults import Fault
from keyrouter_openai.testing.wire import Reply

from .support import ECHO, MESSAGES

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"]),
    # On trio the SDK's own stream iterators are left before their end: it stops reading at `[DONE]`.
    pytest.mark.filterwarnings("ignore:.*openai._streaming:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*aiter_bytes:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning"),
]

SOON = 0.02
"""Seconds after which the tests hedge."""
LATE = 0.3
"""Seconds that answers take where both attempts are to be out before the first answers."""


class Pool:
    """The accounts of a simulated provider, in real time."""

    def __init__(self, sim: ProviderSimulator, path: Path, **limits: int) -> None:
        self.sim = sim
        self.ledger = Ledger(path)
        keys = [
            Key(
                name=name,
                secret=sim.keys[f"{name}/key-1"],
                base_url=sim.url,
                account=name,
                limits={"*": Limits(**limits)},
            )
            for name in sim.accounts
        ]
        self.router = Router(keys, ledger=self.ledger)

    def client(self, **arguments: Any) -> RoutedOpenAI:
        settings: dict[str, Any] = {"timeout": 5.0, "hedge_after": SOON, **arguments}
        return RoutedOpenAI(router=self.router, **settings)

    async def ask(self, *, stream: bool = False, **settings: Any) -> tuple[str, Any]:
        """One chat completion with a client of its own: the text, and what its route is known by."""
        async with self.client(**settings) as client:
            return await ask(client, stream=stream)

    def outcomes(self) -> list[tuple[str, str]]:
        """Outcome and detail of all attempts on record; each that the provider saw is there once, and none is out."""
        self.router.flush()
        rows = self.ledger.attempts(newest_first=False)
        assert len({(row["request_id"], row["number"]) for row in rows}) == len(rows) == self.sim.count()
        assert self.router.status().in_flight == 0
        return sorted((row["outcome"], row["detail"]) for row in rows)


async def ask(client: RoutedOpenAI, *, stream: bool = False) -> tuple[str, Any]:
    create: Any = client.chat.completions.create
    answer = await create(model="gpt-4o", messages=MESSAGES, stream=stream)
    if not stream:
        return answer.choices[0].message.content, answer
    text = [choice.delta.content or "" async for chunk in answer for choice in chunk.choices]
    return "".join(text), answer


async def is_hedged(pool: Pool, call: Callable[[], Awaitable[Any]]) -> bool:
    """Whether a call is, whose attempts all hang; it is cancelled as soon as that is seen."""
    scope = anyio.CancelScope()

    def on_event(event: Event) -> None:
        if isinstance(event, AttemptStarted) and event.number == 2:
            scope.cancel()

    pool.router.on_event(on_event)
    with scope:
        await call()
    return scope.cancelled_caught


@pytest.fixture
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    """`@pytest.mark.parametrize("pool", [seconds], indirect=True)` sets the time that answers take."""
    seconds: float = getattr(request, "param", 0.0)
    with ProviderSimulator([SimAccount(name) for name in "ABC"], latency=Latency(first_byte=seconds)) as sim:
        made = Pool(sim, tmp_path / "ledger.db")
        yield made
        made.ledger.close()


slow = pytest.mark.parametrize("pool", [LATE], indirect=True)
HEDGED = ("abandoned", "hedged")
OK = ("ok", "")


@pytest.mark.parametrize("stream", [False, True])
async def test_another_account_answers_for_one_that_hangs(pool: Pool, *, stream: bool) -> None:
    pool.sim.fail("hang", times=1)
    text, answer = await pool.ask(stream=stream)
    assert text == ECHO
    assert pool.outcomes() == [HEDGED, OK]
    route = route_of(answer)
    assert [str(attempt.outcome) for attempt in route.attempts] == ["abandoned", "ok"]
    assert route.account == route.attempts[1].account != route.attempts[0].account
    assert route.usage is not None and not route.usage.estimated


@slow
@pytest.mark.parametrize("stream", [False, True])
async def test_without_retries_the_second_attempt_goes_on_where_the_first_fails(pool: Pool, *, stream: bool) -> None:
    pool.sim.fail(Fault("late", lambda _: Reply(500, delay=LATE / 2)), times=1)
    text, _ = await pool.ask(stream=stream, max_retries=0)
    assert text == ECHO
    assert [outcome for outcome, _ in pool.outcomes()] == ["ok", "server_error"]


@slow
@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_attempt_wins_over_a_second_that_is_slower(pool: Pool, *, stream: bool) -> None:
    pool.sim.fail("hang", times=1, after=1)
    text, answer = await pool.ask(stream=stream)
    assert text == ECHO
    assert pool.outcomes() == [HEDGED, OK]
    route = route_of(answer)
    (served,) = [attempt for attempt in route.attempts if str(attempt.outcome) == "ok"]
    assert route.account == served.account
    assert route.usage is not None and not route.usage.estimated


@slow
async def test_a_second_attempt_that_fails_leaves_the_first_alone(pool: Pool) -> None:
    pool.sim.fail("reset", times=1, after=1)
    text, answer = await pool.ask()
    assert text == ECHO
    assert len(route_of(answer).attempts) == 2
    assert [outcome for outcome, _ in pool.outcomes()] == ["network", "ok"]


async def test_where_both_fail_the_last_error_is_raised(pool: Pool) -> None:
    pool.sim.fail("hang", times=2)
    with pytest.raises(openai.APITimeoutError) as caught:
        await pool.ask(timeout=0.2, max_attempts=2)
    assert [outcome for outcome, _ in pool.outcomes()] == ["network", "network"]
    assert len(route_of(caught.value).attempts) == 2


async def test_where_both_fail_the_call_goes_on_as_ever(pool: Pool) -> None:
    pool.sim.fail("hang", times=2)
    text, answer = await pool.ask(timeout=0.2)
    assert text == ECHO
    assert [outcome for outcome, _ in pool.outcomes()] == ["network", "network", "ok"]
    assert len(route_of(answer).attempts) == 3


async def test_a_retry_is_hedged_if_the_first_attempt_was_not(pool: Pool) -> None:
    pool.sim.fail("server_error", times=1)
    pool.sim.fail("hang", times=1)
    text, _ = await pool.ask(hedge_after=LATE)
    assert text == ECHO
    assert [outcome for outcome, _ in pool.outcomes()] == ["abandoned", "ok", "server_error"]


async def test_a_caller_who_goes_cancels_both(pool: Pool) -> None:
    pool.sim.fail("hang")
    async with pool.client() as client:
        assert await is_hedged(pool, lambda: ask(client))
    assert pool.router.status().in_flight == 0
    pool.router.flush()
    assert [row["outcome"] for row in pool.ledger.attempts()] == ["abandoned"] * 2


@slow
async def test_it_takes_another_account_or_none(pool: Pool) -> None:
    with routing(account="A"):
        assert (await pool.ask())[0] == ECHO
    with routing(key="B"):
        assert (await pool.ask())[0] == ECHO
    assert pool.outcomes() == [OK, OK]


@pytest.mark.parametrize(("tokens", "hedged"), [(800, True), (920, False)])
async def test_the_last_tenth_of_a_limit_is_left_alone(tmp_path: Path, tokens: int, *, hedged: bool) -> None:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        pool = Pool(sim, tmp_path / "ledger.db", tpm=1000)
        async with pool.client(timeout=0.2, max_attempts=2) as client:
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=tokens)
            sim.fail("hang")  # the next call goes to the other account
            told: list[str] = []
            pool.router.on_event(lambda event: told.append(type(event).__name__))
            with suppress(openai.APITimeoutError):
                await ask(client)
            assert (told[:2] == ["AttemptStarted", "AttemptStarted"]) is hedged
        pool.ledger.close()


async def test_hedges_are_paid_from_the_retry_budget(pool: Pool) -> None:
    """Ten are in hand, and ten calls earn one more."""
    async with pool.client(timeout=1.0) as client:
        for _ in range(13):
            pool.sim.fail("hang", times=1)
            with suppress(openai.APITimeoutError):
                await ask(client)
    outcomes = pool.outcomes()
    assert 10 <= outcomes.count(HEDGED) <= 12
    assert outcomes.count(HEDGED) + outcomes.count(("network", "ReadTimeout")) == 13


async def test_p95_hedges_once_enough_is_known_of_the_model(pool: Pool) -> None:
    async with pool.client(hedge_after="p95", timeout=0.5) as client:
        for _ in range(19):
            await ask(client)
        pool.sim.fail("hang", times=1)
        await ask(client)
        assert [outcome for outcome, _ in pool.outcomes()] == ["network"] + ["ok"] * 20, "nineteen are too few"
        pool.sim.fail("hang", times=1)
        assert (await ask(client))[0] == ECHO
    assert HEDGED in pool.outcomes()


Call = Callable[[RoutedOpenAI], Any]
TWICE: list[Call] = [
    lambda c: c.chat.completions.create(model="gpt-4o", messages=MESSAGES),
    lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Hi"),
    lambda c: c.embeddings.create(model="text-embedding-3-small", input="Hi"),
    lambda c: c.models.list(),
    lambda c: c.responses.create(model="gpt-4o", input="Hi", store=False),
]
ONCE: list[Call] = [
    lambda c: c.chat.completions.create(model="gpt-4o", messages=MESSAGES, store=True),
    lambda c: c.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_body={"store": True}),
    lambda c: c.responses.create(model="gpt-4o", input="Hi"),
    lambda c: c.responses.create(model="gpt-4o", input="Hi", store=False, background=True),
    lambda c: c.responses.create(model="gpt-4o", input="Hi", store=False, previous_response_id="resp_1"),
    lambda c: c.responses.create(model="gpt-4o", input="Hi", store=False, tools=[{"type": "web_search"}]),
    lambda c: c.files.create(file=b"{}", purpose="batch"),
    lambda c: c.vector_stores.create(name="notes"),
]


@pytest.mark.parametrize("call", TWICE)
async def test_calls_that_leave_nothing_behind_are_hedged(pool: Pool, call: Call) -> None:
    pool.sim.fail("hang")
    async with pool.client() as client:
        assert await is_hedged(pool, lambda: call(client))


@pytest.mark.parametrize("call", ONCE)
async def test_calls_that_leave_something_behind_run_once(pool: Pool, call: Call) -> None:
    pool.sim.fail("hang")
    told: list[str] = []
    pool.router.on_event(lambda event: told.append(type(event).__name__))
    async with pool.client(timeout=0.2, max_attempts=2) as client:
        with pytest.raises(openai.APITimeoutError):
            await call(client)
    assert told[:2] == ["AttemptStarted", "AttemptEnded"], "no other was sent meanwhile"


@pytest.mark.parametrize("wrong", [0, -1.0, float("inf"), float("nan"), "p99"])
def test_a_wrong_setting_is_named(wrong: Any, anyio_backend: str) -> None:
    with pytest.raises(ConfigError, match="hedge_after"):
        RoutedOpenAI(keys=["sk-1", "sk-2"], hedge_after=wrong, ledger=None)


def test_the_sync_client_says_that_it_does_not_hedge(anyio_backend: str) -> None:
    client = SyncRoutedOpenAI(keys=["sk-1", "sk-2"], ledger=None)
    with pytest.raises(ConfigError, match="RoutedOpenAI"):
        client.with_routing(hedge_after=1.0).models.list()


async def test_a_second_attempt_that_a_budget_has_no_room_for_harms_no_call() -> None:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")], latency=Latency(first_byte=LATE)) as sim:
        keys = [Key(name=name[0], secret=key, base_url=sim.url, account=name[0]) for name, key in sim.keys.items()]
        budgets = [Budget(usd=0.004)]  # room for one attempt at a time
        async with RoutedOpenAI(keys=keys, budgets=budgets, hedge_after=SOON, ledger=None, timeout=5.0) as client:
            create: Any = client.chat.completions.create
            answer = await create(model="gpt-4o", max_tokens=250, messages=[{"role": "user", "content": "word " * 200}])
            assert answer.usage.total_tokens == 500
            assert sim.count() == 1
            assert client.router.status().in_flight == 0
