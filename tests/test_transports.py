"""Failed connections over each transport that the SDK has: they mean the same, and are met by the same."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import DefaultAioHttpClient, DefaultAsyncHttpxClient

from keyrouter_openai import route_of
from keyrouter_openai.core.model import Fault
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import ECHO, MESSAGES, Pool, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio

needs_aiohttp = pytest.mark.skipif(importlib.util.find_spec("aiohttp") is None, reason="aiohttp is not installed")
TRANSPORTS = [
    pytest.param(DefaultAsyncHttpxClient, id="httpx"),
    pytest.param(DefaultAioHttpClient, id="aiohttp", marks=needs_aiohttp),
]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B"), SimAccount("C")], clock=clock) as sim:
        made = make_pool(sim, tmp_path / "ledger.db", clock)
        yield made
        made.ledger.close()


@pytest.fixture(params=TRANSPORTS)
def client(pool: Pool, request: pytest.FixtureRequest) -> Any:
    return partial(pool.client, http_client=request.param(), timeout=openai.Timeout(60.0, connect=5.0))


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("fault", ["reset", "disconnect", "garbage"])
async def test_a_lost_answer_moves_on(pool: Pool, client: Any, fault: str, stream: bool) -> None:
    pool.sim.fail(fault, times=1)
    result = await call(pool, sync=False, stream=stream, client=client())
    assert (result.text, result.error) == (ECHO, None)
    attempts = route_of(result.origin).attempts
    assert [attempt.outcome for attempt in attempts] == [Fault.NETWORK, Fault.NONE]
    assert attempts[0].account != attempts[1].account
    assert len(pool.sim.calls) == 2, "each attempt is sent once, whatever the transport would do by itself"


@pytest.mark.parametrize("fault", ["reset", "disconnect", "garbage"])
async def test_a_lost_answer_is_told_as_one(pool: Pool, client: Any, fault: str) -> None:
    pool.sim.fail(fault)
    result = await call(pool, sync=False, stream=False, client=client())
    assert type(result.error) is openai.APIConnectionError
    details = {row["detail"] for row in pool.rows()}
    assert details <= {"RemoteProtocolError", "ReadError"}, details
    secrets = tuple(pool.sim.keys.values())
    link: BaseException | None = result.error
    while link is not None:
        shown = repr((link, link.__dict__))
        assert not any(secret in shown for secret in secrets)
        link = link.__cause__ or link.__context__


async def test_an_error_that_causes_itself_is_raised_as_any_other(pool: Pool) -> None:
    client = pool.client(http_client=DefaultAsyncHttpxClient(transport=Circular()), max_attempts=3)
    result = await call(pool, sync=False, stream=False, client=client)
    assert type(result.error) is openai.APIConnectionError
    assert [attempt.outcome for attempt in route_of(result.error).attempts] == [Fault.NETWORK] * 3


class Circular(httpx2.AsyncBaseTransport):
    """Raises an error whose causes go round in a circle, as libraries that mock a transport do."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        error = httpx2.ConnectError("no connection")
        wrapped = LookupError("no answer was set for this request")
        wrapped.__cause__ = error
        raise error from wrapped


async def test_what_was_never_sent_is_told_apart(pool: Pool, client: Any) -> None:
    with pool.sim.unreachable():
        result = await call(pool, sync=False, stream=False, client=client(max_attempts=2))
    assert type(result.error) is openai.APIConnectionError
    assert {row["detail"] for row in pool.rows()} == {"ConnectError"}
    assert not pool.sim.calls


async def test_silence_is_a_timeout(pool: Pool, client: Any) -> None:
    pool.sim.fail("hang")
    quick = client(timeout=openai.Timeout(60.0, read=0.05), max_attempts=1)
    result = await call(pool, sync=False, stream=False, client=quick)
    assert type(result.error) is openai.APITimeoutError
    assert [row["detail"] for row in pool.rows()] == ["ReadTimeout"]


@pytest.mark.parametrize("fault", ["stream_cut", "stream_end"])
async def test_a_stream_cut_short_is_told(pool: Pool, client: Any, fault: str) -> None:
    pool.sim.fail(fault, times=1, events=2)
    result = await call(pool, sync=False, stream=True, client=client())
    assert type(result.error) is openai.APIConnectionError
    assert result.text
    assert ECHO.startswith(result.text)


@pytest.mark.parametrize("fault", ["stream_cut", "stream_end"])
async def test_a_stream_cut_before_its_content_moves_on(pool: Pool, client: Any, fault: str) -> None:
    pool.sim.fail(fault, times=1)
    result = await call(pool, sync=False, stream=True, client=client())
    assert (result.text, result.error) == (ECHO, None)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_all_keys_share_connections(pool: Pool, transport: Any) -> None:
    async with pool.client(http_client=transport()) as client:
        for _ in range(12):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert pool.sim.connections == 1
    assert min(pool.sim.by_key().values()) > 0


@needs_aiohttp
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_aiohttp_is_for_asyncio_alone(pool: Pool, anyio_backend: str) -> None:
    async with pool.client(http_client=DefaultAioHttpClient()) as client:
        with pytest.raises(RuntimeError, match="no running event loop"):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert pool.router.status().in_flight == 0
