"""Budgets as users meet them: what may be spent is, no more, by whichever client, key, thread or process."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import openai
import pytest

from keyrouter_openai import (
    Budget,
    BudgetExceeded,
    ConfigError,
    Key,
    KeyRouterError,
    Ledger,
    RoutedOpenAI,
    Router,
    SyncRoutedOpenAI,
    routing,
)
from keyrouter_openai.events import BudgetReached, Event
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import TurnedClock

MODEL = "gpt-4o"  # 2.50 and 10 US dollars per million tokens of input and output
CENT = 10_000
TEXT = "word " * 200
"""The simulator counts a token for four characters, and echoes: 250 tokens in, as many out as the cap allows."""


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        yield sim


class WallClock(TurnedClock):
    """A clock whose wall-clock time is set by the test alone, as by a person."""

    def __init__(self, wall: float) -> None:
        super().__init__()
        self.wall = wall

    def time(self) -> float:
        return self.wall


def keys_of(sim: ProviderSimulator) -> list[Key]:
    return [
        Key(name=label[0].lower(), secret=secret, base_url=sim.url, account=label[0])
        for label, secret in sim.keys.items()
    ]


def new_client(sim: ProviderSimulator, *budgets: Budget, **arguments: Any) -> RoutedOpenAI:
    return RoutedOpenAI(keys=keys_of(sim), budgets=budgets, timeout=60.0, **arguments)


def messages(text: str = TEXT) -> list[Any]:
    return [{"role": "user", "content": text}]


async def ask(client: RoutedOpenAI, text: str = TEXT, **arguments: Any) -> Any:
    create: Any = client.chat.completions.create
    return await create(**{"model": MODEL, "max_tokens": 100, "messages": messages(text), **arguments})


def billed(sim: ProviderSimulator) -> int:
    """Micro-dollars that the provider bills."""
    return sum(sim.bill().values())


def spent(path: Path) -> dict[str, int]:
    """Micro-dollars that the ledger holds against each budget, and those of all rows."""
    with closing(sqlite3.connect(path)) as connection:
        windows = dict(connection.execute("select budget, sum(spent_microusd) from budget_windows group by 1"))
        rows = connection.execute("select coalesce(sum(cost_microusd), 0) from attempts").fetchone()[0]
        return {**windows, "rows": rows}


@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "memory"])
async def test_a_call_that_a_budget_does_not_allow_is_not_sent(sim: ProviderSimulator, with_ledger: bool) -> None:
    ledger: dict[str, Any] = {} if with_ledger else {"ledger": None}
    async with new_client(sim, Budget(usd=0.01, per="month", zone="Europe/Berlin", name="team"), **ledger) as client:
        with pytest.raises(BudgetExceeded, match=r"'team' has 0.010000 .* left until .* can cost 0.0\d+") as caught:
            await ask(client, max_tokens=5000)
        assert sim.count() == 0
        error = caught.value
        assert isinstance(error, openai.RateLimitError) and isinstance(error, KeyRouterError)
        assert (error.budget, error.left_usd, error.status_code, error.code) == ("team", 0.01, 429, "budget_exceeded")
        assert error.opens_at is not None and error.retry_after is not None
        assert (error.opens_at.day, error.opens_at.hour, str(error.opens_at.tzinfo)) == (1, 0, "Europe/Berlin")
        assert 0 < error.retry_after <= 31 * 86400 and int(error.response.headers["retry-after"]) >= error.retry_after
        await ask(client)
        assert sim.count(status=200) == 1


def test_threads_share_a_budget_too(sim: ProviderSimulator) -> None:
    with SyncRoutedOpenAI(keys=keys_of(sim), budgets=[Budget(usd=0.01)], timeout=60.0) as client:
        create: Any = client.chat.completions.create
        with pytest.raises(BudgetExceeded):
            for _ in range(20):
                create(model=MODEL, messages=messages(), max_tokens=100)
        assert 0.008 * 100 * CENT < billed(sim) <= CENT
        assert billed(sim) == round(
            client.ledger.summary()[0]["cost_usd"] * 1e6 + client.ledger.summary()[1]["cost_usd"] * 1e6
        )


def test_clients_that_share_a_ledger_share_a_budget_and_those_that_are_dropped_keep_nothing_of_it(
    sim: ProviderSimulator, tmp_path: Path
) -> None:
    ledger = Ledger(tmp_path / "usage.db")

    def ask_once(client: SyncRoutedOpenAI, cap: int = 100) -> SyncRoutedOpenAI:
        create: Any = client.chat.completions.create
        create(model=MODEL, messages=messages(), max_tokens=cap)
        ledger.flush()
        return client

    def new() -> SyncRoutedOpenAI:
        return SyncRoutedOpenAI(keys=keys_of(sim), budgets=[Budget(usd=1)], ledger=ledger, timeout=60.0)

    with ask_once(new()), ask_once(new()) as second:
        ask_once(second)
        spent = second.router.status().budgets[0].spent_usd
        assert spent is not None
        assert spent <= billed(sim) / 1e6
    for _ in range(20):
        ask_once(new())
        gc.collect()
    with new() as client:
        ask_once(client, cap=80_000)  # 0.80 of the 0.96 that are left
    ledger.close()


async def test_what_was_reserved_and_not_used_is_there_for_others(sim: ProviderSimulator) -> None:
    async with new_client(sim, Budget(usd=0.05)) as client:
        for _ in range(30):  # each may cost four cents, and costs a twentieth of one
            await ask(client, "hi " * 20, max_tokens=4000)
        assert billed(sim) < CENT
        (status,) = client.router.status().budgets
        assert (status.scope, status.reserved_usd, status.reached) == ("pool", 0.0, False)
        assert status.spent_usd == pytest.approx(billed(sim) / 1e6)


@pytest.mark.parametrize("with_ledger", [True, False], ids=["ledger", "memory"])
async def test_many_calls_at_once_spend_a_budget_up_and_not_over(sim: ProviderSimulator, with_ledger: bool) -> None:
    ledger: dict[str, Any] = {} if with_ledger else {"ledger": None}
    refused = 0
    async with new_client(sim, Budget(usd=0.10), **ledger) as client:

        async def one(size: int) -> None:
            nonlocal refused
            try:
                await ask(client, "word " * size, max_tokens=size)
            except BudgetExceeded:
                refused += 1

        async with anyio.create_task_group() as group:
            for number in range(120):
                group.start_soon(one, 10 + number * 3 % 200)
        assert refused > 0
        assert 0.096e6 <= billed(sim) <= 0.1e6
        if with_ledger:
            await client.close()
            found = spent(client.ledger.path)
            assert found["rows"] == found["default/pool/day/UTC"] == billed(sim)


async def test_a_call_waits_for_what_others_have_reserved_instead_of_being_refused(sim: ProviderSimulator) -> None:
    # Each call may cost 2.1 tenths of a cent: one at a time fits, though all three fit in the end.
    async with new_client(sim, Budget(usd=0.003)) as client:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(partial(ask, client, "hi " * 10, max_tokens=200))
        assert sim.count(status=200) == 3
        hasty = client.with_routing(max_wait=0)
        await ask(hasty, "hi " * 10, max_tokens=200)  # nobody else is under way


async def test_another_key_serves_where_the_budget_of_one_is_used_up(sim: ProviderSimulator) -> None:
    budgets = Budget(usd=0.004, scope="key:a", name="a-day"), Budget(usd=0.006, scope="account:B", per="total")
    async with new_client(sim, *budgets) as client:
        served = 0
        with pytest.raises(BudgetExceeded, match=r"'account:B per total'|'a-day'"):
            while served < 20:
                await ask(client)
                served += 1
        assert served == 5  # of 1.625 tenths of a cent each: two by a, three by B
        assert (sim.count(account="A"), sim.count(account="B")) == (2, 3)
        assert {key.name: key.state for key in client.router.status().keys} == {"a": "exhausted", "b": "exhausted"}
        status = client.router.status().key("a")
        assert status.reason == "budget 'a-day' is reached" and status.until is not None
        assert client.router.status().key("b").until is None


async def test_a_key_is_not_exhausted_by_a_call_that_was_too_large(sim: ProviderSimulator) -> None:
    budgets = Budget(usd=0.004, scope="key:a"), Budget(usd=0.004, scope="key:b")
    async with new_client(sim, *budgets) as client:
        events: list[Event] = []
        client.router.on_event(events.append)
        with pytest.raises(BudgetExceeded):
            await ask(client, max_tokens=100_000)  # a dollar
        assert not [event for event in events if isinstance(event, BudgetReached)]
        await ask(client)
        with pytest.raises(BudgetExceeded):
            await ask(client, max_tokens=200)  # fits in a budget, and then no more in what is left
            await ask(client, max_tokens=200)
            await ask(client, max_tokens=200)
        assert "exhausted" in {key.state for key in client.router.status().keys}
        for _ in range(2):
            await ask(client, "hi", max_tokens=1)  # both still serve
        assert {key.state for key in client.router.status().keys} == {"available"}


async def test_a_budget_may_be_for_a_tag_or_a_model(sim: ProviderSimulator) -> None:
    budgets = Budget(usd=0.001, scope="tag:team=ads"), Budget(usd=0.001, scope="model:gpt-4.1*", per="week")
    async with new_client(sim, *budgets) as client:
        await ask(client)
        with pytest.raises(BudgetExceeded, match="tag:team=ads"):
            await ask(client.with_routing(tags={"team": "ads"}))
        with routing(budget_tags={"team": "ads", "priority": "batch"}), pytest.raises(BudgetExceeded):
            await ask(client)
        with pytest.raises(BudgetExceeded, match=r"model:gpt-4.1\*"):
            await ask(client, model="gpt-4.1-mini", max_tokens=5000)
        await ask(client.with_routing(budget_tags={"team": "search"}))
        (row,) = client.ledger.attempts(limit=1)
        assert row["tags"] == {"team": "search"}


async def test_a_call_of_unknown_price_is_made_only_if_that_is_wished(sim: ProviderSimulator) -> None:
    async with new_client(sim, Budget(usd=1)) as client:
        with pytest.raises(BudgetExceeded, match=r"not known what model 'made-up' costs.*admit_unpriced") as caught:
            await ask(client, model="made-up")
        assert caught.value.retry_after is None and sim.count() == 0
        await client.moderations.create(input="free of charge")
        assert [model.id async for model in client.models.list()]
    prices = {"made-up": {"input": 1, "output": 2}}
    async with new_client(sim, Budget(usd=1), prices=prices, ledger=None) as client:
        await ask(client, model="made-up")
        assert client.router.status().budgets[0].spent_usd == (250 + 2 * 100) / 1e6
    async with new_client(sim, Budget(usd=1, admit_unpriced=True), Budget(usd=1, action="warn", per="week")) as client:
        await ask(client, model="made-up-too")


async def test_a_warning_is_given_once_and_nothing_is_blocked(sim: ProviderSimulator) -> None:
    events: list[Event] = []
    async with new_client(sim, Budget(usd=0.002, action="warn", name="soft")) as client:
        client.router.on_event(events.append)
        for _ in range(5):
            await ask(client)
    told = [event for event in events if isinstance(event, BudgetReached)]
    assert [(event.budget, event.action, event.usd) for event in told] == [("soft", "warn", 0.002)]
    assert told[0].spent_usd > 0.002 and told[0].until is not None


async def test_a_budget_outlives_the_process_and_counts_what_was_spent_before_it(sim: ProviderSimulator) -> None:
    async with new_client(sim) as client:
        await ask(client)
    async with new_client(sim, Budget(usd=0.004, per="total")) as client:
        await ask(client)
        with pytest.raises(BudgetExceeded):
            await ask(client)
    async with new_client(sim, Budget(usd=0.0045, per="total")) as client:
        with pytest.raises(BudgetExceeded, match=r"0\.001250 of 0\.004500"):
            await ask(client)
        await ask(client, "word " * 20)
    with closing(sqlite3.connect(client.ledger.path)) as connection:
        assert connection.execute("select sum(microusd) from allowances").fetchone() == (0,)


async def test_a_new_window_opens_and_a_clock_that_jumps_back_charges_the_earlier_one(sim: ProviderSimulator) -> None:
    clock = WallClock(datetime(2026, 3, 31, 23, 50, tzinfo=UTC).timestamp())
    router = Router(keys_of(sim), budgets=[Budget(usd=0.0045, per="month")], clock=clock)
    async with RoutedOpenAI(router=router) as client:
        await ask(client)
        await ask(client)
        with pytest.raises(BudgetExceeded) as caught:
            await ask(client)
        assert caught.value.retry_after == pytest.approx(600)
        clock.wall += 600
        await ask(client)
        (status,) = router.status().budgets
        assert status.since == datetime(2026, 4, 1, tzinfo=UTC).timestamp() and status.spent_usd == 0.001625
        clock.wall -= 3600
        with pytest.raises(BudgetExceeded):
            await ask(client)


async def test_failures_cost_nothing_and_what_may_have_been_billed_counts_in_full(sim: ProviderSimulator) -> None:
    budget = Budget(usd=1, per="total")
    async with new_client(sim, budget, max_retries=0) as client:

        def now_spent() -> float:
            return client.router.status().budgets[0].spent_usd or 0.0

        sim.fail("server_error", times=2)
        with pytest.raises(openai.InternalServerError):
            await (
                client.with_routing(max_attempts=2)
                .with_options(max_retries=0)
                .chat.completions.create(model=MODEL, messages=messages(), max_tokens=100)
            )
        assert now_spent() == 0.0
        stream = await ask(client, stream=True, max_tokens=1000)
        async for _ in stream:
            break
        await stream.close()
        most = 0.01 + 0.000625  # the cap of a thousand tokens, and a prompt of 250
        assert most < now_spent() < most + 0.0001
        sim.fail("stream_cut", events=3)
        with pytest.raises(openai.APIConnectionError):
            async for _ in await ask(client, stream=True, max_tokens=1000):
                pass
        assert 2 * most < now_spent() < 2 * (most + 0.0001)
        assert client.router.status().budgets[0].reserved_usd == 0.0
        await client.close()
        found = spent(client.ledger.path)
        assert found["rows"] == found["default/pool/total/UTC"] == round(now_spent() * 1e6) >= billed(sim)


async def test_calls_go_on_while_another_program_keeps_the_ledger_locked(
    sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_client(sim, Budget(usd=0.01)) as client:
        await ask(client)
        await anyio.to_thread.run_sync(client.ledger.flush)
        with closing(sqlite3.connect(client.ledger.path, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(BudgetExceeded):
                for _ in range(20):
                    await ask(client)
            other.execute("rollback")
        await client.close()
        assert billed(sim) <= CENT
        assert spent(client.ledger.path) == {"default/pool/day/UTC": billed(sim), "rows": billed(sim)}


_PROGRAM = """
import random, sys
import anyio
from keyrouter_openai import Budget, BudgetExceeded, Key, RoutedOpenAI

url, secret, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])

async def one(client, rng):
    size = rng.randint(1, 120)
    try:
        with anyio.move_on_after(0.02 if rng.random() < 0.05 else 60):
            made = await client.chat.completions.create(model="gpt-4o", max_tokens=size * 10, stream=rng.random() < 0.3,
                                                        messages=[{"role": "user", "content": "word " * size * 10}])
            if not hasattr(made, "choices"):
                async for _ in made:
                    if rng.random() < 0.01:
                        break
                await made.close()
    except BudgetExceeded:
        pass

async def main():
    rng = random.Random(seed)
    async with RoutedOpenAI(keys=[Key(name="a", secret=secret, base_url=url)], budgets=[Budget(usd=0.2)]) as client:
        print("ready", flush=True)
        sys.stdin.readline()
        limiter = anyio.CapacityLimiter(8)
        async def limited():
            async with limiter:
                await one(client, rng)
        async with anyio.create_task_group() as group:
            for _ in range(80):
                group.start_soon(limited)

anyio.run(main)
"""


def test_processes_share_a_budget_and_one_that_is_killed_leaves_no_hole(sim: ProviderSimulator, tmp_path: Path) -> None:
    secret = sim.keys["A/key-1"]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, sim.url, secret, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for seed in range(3)
    ]
    try:
        for program in programs:
            assert program.stdout is not None and program.stdout.readline() == b"ready\n"
        for program in programs:
            assert program.stdin is not None
            program.stdin.write(b"\n")
            program.stdin.flush()
        while sim.count() < 10:
            pass
        programs[0].kill()
        assert [program.wait(120) for program in programs[1:]] == [0, 0]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    with SyncRoutedOpenAI(keys=[Key(name="a", secret=secret, base_url=sim.url)], budgets=[Budget(usd=0.2)]) as client:
        create: Any = client.chat.completions.create
        with pytest.raises(BudgetExceeded):
            for _ in range(2000):
                create(model=MODEL, messages=messages("hi"), max_tokens=10)
    assert billed(sim) <= 0.2e6
    found = spent(tmp_path / "usage.db")
    assert found["rows"] == found["default/pool/day/UTC"] >= 0.199e6


def test_what_makes_no_sense_is_refused_by_name() -> None:
    for given, said in (
        ({"usd": 0}, "budget 'pool'.*usd"),
        ({"usd": 1, "scope": "key:"}, "scope 'key:' names nothing: use pool, key:NAME"),
        ({"usd": 1, "scope": "tag:team"}, "tag:NAME=VALUE"),
        ({"usd": 1, "zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus': use an IANA name"),
        ({"usd": 1, "per": "hour"}, "per: .*'day', 'week', 'month' or 'total'"),
        ({"usd": 1, "name": "a b"}, "'a b' is not a usable name for a budget"),
        ({"usd": 1, "currency": "EUR"}, "currency"),
    ):
        with pytest.raises(ConfigError, match=said):
            Budget(**given)  # pyright: ignore[reportArgumentType, reportCallIssue]
    key = Key(name="a", secret="sk-1")
    with pytest.raises(ConfigError, match="budget 'pool per day' is given twice"):
        RoutedOpenAI(keys=[key], budgets=[Budget(usd=1), Budget(usd=2)])
    for wrong in (Budget(usd=1), [{"usd": 1}], {"usd": 1}, "pool", 5):
        with pytest.raises(ConfigError, match=r"budgets=.*: give a list of them, such as \[Budget\(usd=50\)\]"):
            RoutedOpenAI(keys=[key], budgets=wrong)  # pyright: ignore[reportArgumentType]
    client = RoutedOpenAI(keys=[key], budgets=[Budget(usd=1), Budget(usd=2, name="other")])
    with pytest.raises(ConfigError, match=r"a copy shares .* budgets: give .* budgets= to the constructor"):
        client.copy(budgets=[Budget(usd=1)])
    with pytest.raises(ConfigError, match="budgets="):
        RoutedOpenAI(router=client.router, budgets=[Budget(usd=1)])
    assert client.copy(keys=["sk-2"]).router.budgets is not None


async def test_a_call_without_the_tag_concerns_no_budget_of_it(sim: ProviderSimulator) -> None:
    async with new_client(sim, Budget(usd="0.000001", scope="tag:tenant=None")) as client:
        await ask(client)


def test_amounts_are_meant_as_they_are_written() -> None:
    assert Budget(usd=0.1).rule("p").microusd == 100_000
    assert Budget(usd="0.123456").rule("p").microusd == 123_456
    assert Budget(usd=1, name="n").rule("p").id == "p/n"
    assert Budget(usd=1).rule("p").name == "pool per day"
    assert Budget(usd=1, zone="Europe/Berlin").rule("p").name == "pool per day in Europe/Berlin"
