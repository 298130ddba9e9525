"""Websocket sessions while they are open: what passes, what is learned of it, and how they end in the ledger."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrouter_openai import Key, RoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from tests.sessions import BOTH, MESSAGE, MODEL, client_of, outcomes, plain, realtime, responses, upgrades
from tests.support import ECHO, Pool, TurnedClock, make_pool

exceptions = pytest.importorskip("websockets.exceptions", reason="needs openai[realtime]")


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as simulator:
        yield simulator


@pytest.fixture
def pool(sim: ProviderSimulator, tmp_path: Path) -> Pool:
    return make_pool(sim, tmp_path / "usage.db", TurnedClock())


# -- opened and recorded


@BOTH
async def test_a_realtime_session_is_routed_and_recorded(pool: Pool, sync: bool) -> None:
    events = await realtime(client_of(pool, sync=sync), turns=2)

    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == ECHO * 2
    (row,) = pool.rows()
    done = [event.response.usage for event in events if event.type == "response.done"]
    assert (row["endpoint"], row["outcome"], row["status"], row["stream"]) == ("/realtime", "ok", 101, True)
    assert (row["model"], row["served_model"]) == (MODEL, MODEL)
    assert row["prompt_tokens"] == sum(usage.input_tokens for usage in done)
    assert row["completion_tokens"] == sum(usage.output_tokens for usage in done)
    assert not row["usage_estimated"]
    assert {call.account for call in pool.sim.calls} == {row["account"]}


@BOTH
async def test_a_responses_session_is_routed_and_recorded(pool: Pool, sync: bool) -> None:
    events = await responses(client_of(pool, sync=sync))

    usage = events[-1].response.usage
    (row,) = pool.rows()
    assert (row["endpoint"], row["outcome"], row["stream"]) == ("/responses", "ok", True)
    assert (row["model"], row["served_model"]) == (None, "gpt-4o")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage.input_tokens, usage.output_tokens)


@BOTH
@pytest.mark.parametrize("session", [realtime, responses])
async def test_events_are_those_of_the_sdk(pool: Pool, sync: bool, session: Callable[[Any], Any]) -> None:
    ours = await session(client_of(pool, sync=sync))
    theirs = await session(plain(pool.sim, sync=sync))

    assert [(type(event), event.type) for event in ours] == [(type(event), event.type) for event in theirs]


@BOTH
async def test_bytes_and_methods_are_those_of_the_sdk(pool: Pool, sync: bool) -> None:
    if sync:
        with pool.client_sync() as client, client.realtime.connect(model=MODEL) as connection:
            assert type(connection).__module__ == "openai.resources.realtime.realtime"
            data = connection.recv_bytes()
            assert connection.parse_event(data).type == "session.created"
    else:
        async with pool.client() as client, client.realtime.connect(model=MODEL) as connection:
            assert type(connection).__module__ == "openai.resources.realtime.realtime"
            data = await connection.recv_bytes()
            assert connection.parse_event(data).type == "session.created"
    assert isinstance(data, bytes)


async def test_the_lease_is_held_while_the_connection_is_open(pool: Pool) -> None:
    async with pool.client() as client:
        async with client.realtime.connect(model=MODEL):
            assert pool.router.status().in_flight == 1
            assert outcomes(pool) == []
        assert pool.router.status().in_flight == 0
    assert outcomes(pool) == ["ok"]
    assert pool.rows()[0]["usage_estimated"]


async def test_organisation_and_project_of_the_key_go_along(sim: ProviderSimulator) -> None:
    account = sim.accounts["A"]
    key = Key(
        name="a",
        secret=sim.keys["A/key-1"],
        base_url=sim.url,
        organization=account.organization,
        project=account.project,
    )
    await realtime(RoutedOpenAI(keys=[key], organization="org-of-the-client", ledger=None))
    assert (sim.calls[0].organization, sim.calls[0].project) == (account.organization, account.project)


# -- what comes while it is open


@BOTH
async def test_a_session_that_breaks_is_settled_as_broken(pool: Pool, sync: bool) -> None:
    pool.sim.fail("stream_cut", events=2)
    with pytest.raises(exceptions.ConnectionClosedError):
        await realtime(client_of(pool, sync=sync))
    (row,) = [row for row in pool.rows() if row["status"] == 101]
    assert (row["outcome"], row["completion_tokens"], row["usage_estimated"]) == ("stream_broken", 2, True)
    assert pool.router.status().in_flight == 0


async def test_one_that_is_closed_in_the_middle_of_a_response_is_abandoned(pool: Pool) -> None:
    async with pool.client() as client, client.realtime.connect(model=MODEL) as connection:
        await connection.conversation.item.create(item=MESSAGE)
        await connection.response.create()
        async for event in connection:
            if event.type == "response.output_text.delta":
                break
    assert outcomes(pool) == ["abandoned"]
    assert pool.rows()[0]["completion_tokens"] == 1


async def test_one_that_nobody_holds_any_more_gives_its_lease_back(pool: Pool) -> None:
    async with pool.client() as client:
        connection = await client.realtime.connect(model=MODEL).enter()
        transport = connection._connection.transport  # pyright: ignore[reportPrivateUsage]
        del connection
        gc.collect()
        assert pool.router.status().in_flight == 0
        transport.abort()
    assert outcomes(pool) == ["abandoned"]


@BOTH
async def test_a_rate_limit_inside_reaches_the_caller(pool: Pool, sync: bool) -> None:
    pool.sim.fail("rate_limit", path="/v1/realtime", after=1, times=1, wait=30.0)
    events = await realtime(client_of(pool, sync=sync))
    assert (events[-1].type, events[-1].error.code) == ("error", "rate_limit_exceeded")
    assert outcomes(pool) == ["stream_broken"]


async def test_a_rate_limit_inside_is_learned_from_while_the_connection_is_open(pool: Pool) -> None:
    pool.sim.fail("rate_limit", path="/v1/realtime", after=1, times=1, wait=30.0)
    async with pool.client() as client, client.realtime.connect(model=MODEL) as connection:
        await connection.response.create(response={"input": [MESSAGE]})
        assert [(await connection.recv()).type for _ in range(2)] == ["session.created", "error"]
        for _ in range(4):
            await realtime(pool.client())
    first, *others = upgrades(pool.sim)
    assert {key for key, _ in others} == {"A/key-1", "B/key-1"} - {first[0]}


async def test_an_account_that_runs_dry_is_put_aside_while_the_connection_is_open(pool: Pool) -> None:
    pool.sim.fail("quota_exhausted", path="/v1/realtime", after=1, times=1)
    async with pool.client() as client, client.realtime.connect(model=MODEL) as connection:
        await connection.response.create(response={"input": [MESSAGE]})
        assert [(await connection.recv()).type for _ in range(2)] == ["session.created", "error"]
        (dry,) = {call.account for call in pool.sim.calls}
        assert {account.name: account.state for account in pool.router.status().accounts}[str(dry)] == "exhausted"
    assert outcomes(pool) == ["stream_broken"]


async def test_an_error_of_the_callers_own_is_none_of_the_session(pool: Pool) -> None:
    async with pool.client() as client, client.realtime.connect(model=MODEL) as connection:
        await connection.send({"type": "no.such.event"})  # pyright: ignore[reportArgumentType]
        assert [(await connection.recv()).type for _ in range(2)] == ["session.created", "error"]
    assert outcomes(pool) == ["ok"]


async def test_what_events_say_of_limits_is_known_at_once(tmp_path: Path) -> None:
    """However long ago the connection was opened."""
    accounts = [SimAccount("A", rpm=600, tpm=90_000), SimAccount("B", rpm=600, tpm=90_000)]
    with ProviderSimulator(accounts, clock=TurnedClock()) as sim:
        pool = make_pool(sim, tmp_path / "usage.db", TurnedClock())
        async with pool.client() as client, client.realtime.connect(model=MODEL) as connection:
            for drained in (0, 50_000):
                pool.clock.pass_(50.0)
                sim.drain(str(sim.calls[0].account), MODEL, tokens=drained)
                await connection.response.create(response={"input": [MESSAGE]})
                async for event in connection:
                    if event.type == "response.done":
                        break
            (buckets,) = [account.buckets for account in pool.router.status().accounts if account.buckets]
    levels = {bucket.dimension: (bucket.limit, bucket.level) for bucket in buckets}
    assert levels["tokens"] == (90_000, pytest.approx(40_000, abs=100))
    assert levels["requests"][0] == 600


@BOTH
async def test_what_is_made_in_a_session_belongs_to_the_account_that_made_it(pool: Pool, sync: bool) -> None:
    made = (await responses(client_of(pool, sync=sync)))[-1].response
    opened = upgrades(pool.sim)[0]
    pool.sim.reset_counts()
    async with pool.client() as client:
        for _ in range(4):
            await client.responses.retrieve(made.id)
    assert [(call.key, call.status) for call in pool.sim.calls] == [(opened[0], 200)] * 4


async def test_the_sdk_reconnects_with_another_lease(pool: Pool) -> None:
    pool.sim.fail("stream_cut", events=1, times=1)
    reconnecting: list[Any] = []
    async with (
        pool.client() as client,
        client.realtime.connect(
            model=MODEL, on_reconnecting=reconnecting.append, initial_delay=0.001, extra_query={"intent": "talk"}
        ) as connection,
    ):
        await connection.conversation.item.create(item=MESSAGE)
        await connection.response.create()
        events: list[str] = []
        async for event in connection:
            events.append(event.type)
            if events.count("session.created") == 2:
                break
    assert len(reconnecting) == 1
    assert outcomes(pool) == ["stream_broken", "ok"]
    assert [status for _, status in upgrades(pool.sim)] == [101, 101]
