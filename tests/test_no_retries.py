"""`max_retries=0` says that nothing is to be sent again that the provider may have carried out; refusals move on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from keyrouter_openai import Key, RoutedOpenAI, route_of
from keyrouter_openai.testing import ProviderSimulator, SimAccount, respond

from .support import ECHO, MESSAGES, Pool, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A"), SimAccount("B"), SimAccount("C")], clock=clock) as sim:
        made = make_pool(sim, tmp_path / "ledger.db", clock)
        yield made
        made.ledger.close()


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("fault", ["server_error", "overloaded", "reset", "hang"])
async def test_without_retries_what_may_be_carried_out_is_sent_once(pool: Pool, fault: str, stream: bool) -> None:
    pool.sim.fail(fault)
    client = pool.client(max_retries=0, timeout=openai.Timeout(60.0, read=0.2 if fault == "hang" else 60.0))
    assert (await call(pool, sync=False, stream=stream, client=client)).error is not None
    assert len(pool.sim.calls) == 1


async def test_a_bound_of_attempts_is_no_leave_to_send_again(pool: Pool) -> None:
    pool.sim.fail("server_error")
    client = pool.client(max_attempts=3).with_options(max_retries=0)
    assert (await call(pool, sync=False, stream=False, client=client)).error is not None
    assert len(pool.sim.calls) == 1


@pytest.mark.parametrize("fault", ["rate_limit", "key_revoked", "quota_exhausted"])
async def test_without_retries_a_refusal_moves_on(pool: Pool, fault: str) -> None:
    pool.sim.fail(fault, times=1)
    assert (await call(pool, sync=False, stream=False, client=pool.client(max_retries=0))).text == ECHO


@pytest.mark.parametrize("fault", ["front_end", respond(429, body={"error": {"message": "model is overloaded"}})])
async def test_without_retries_a_host_at_its_limit_is_left_for_another(fault: Any) -> None:
    with ProviderSimulator([SimAccount("A")]) as first, ProviderSimulator([SimAccount("B")]) as second:
        keys = [
            Key(name=name, secret=sim.keys[f"{name}/key-1"], base_url=sim.url, account=name)
            for name, sim in (("A", first), ("B", second))
        ]
        first.fail(fault)
        async with RoutedOpenAI(keys=keys, ledger=None, max_retries=0) as client:
            for _ in range(2):
                await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert first.count() and second.count() == 2


async def test_without_retries_what_cannot_be_sent_moves_on(pool: Pool) -> None:
    with pool.sim.unreachable():
        result = await call(pool, sync=False, stream=False, client=pool.client(max_retries=0))
    assert len(route_of(result.error).attempts) == 3, "once for each account"


async def test_without_retries_a_stream_tells_its_error_as_it_is_read(pool: Pool) -> None:
    pool.sim.fail(respond(200, body='data: {"error": {"message": "no luck", "code": "server_error"}}\n\n'))
    stream = await pool.client(max_retries=0).chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="no luck"):
        await anext(aiter(stream))
    assert len(pool.sim.calls) == 1


async def test_sessions_of_agents_tell_of_errors_as_of_anything_else(pool: Pool) -> None:
    error = {"type": "budget_exceeded", "code": "session_budget_reached", "message": "The session has spent its limit"}
    event = json.dumps({"type": "error", "session_id": "session_1", "error": error})
    pool.sim.fail(respond(200, body=f"data: {event}\n\n"))
    client: Any = pool.client()
    stream = await client.post("/agents/sessions", cast_to=Any, stream=True, stream_cls=openai.AsyncStream[Any])
    with pytest.raises(openai.APIError, match="spent its limit"):
        await anext(aiter(stream))
    assert len(pool.sim.calls) == 1
    assert {pool.state(name) for name in ("A1", "B1", "C1")} == {"available"}
