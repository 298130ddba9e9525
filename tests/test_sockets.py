"""Websockets: opened with the best key of a pool, failed over until they are open, or passed through."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import openai
import pytest

from keyrouter_openai import ConfigError, Key, NoKeyAvailable, RoutedOpenAI, Router, SyncRoutedOpenAI, route_of
from keyrouter_openai.testing import ProviderSimulator, SimAccount, redirect, respond
from tests.sessions import BOTH, MODEL, client_of, contents, outcomes, plain, realtime, upgrades
from tests.support import Pool, TurnedClock, make_pool

exceptions = pytest.importorskip("websockets.exceptions", reason="needs openai[realtime]")


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as simulator:
        yield simulator


@pytest.fixture
def pool(sim: ProviderSimulator, tmp_path: Path) -> Pool:
    return make_pool(sim, tmp_path / "usage.db", TurnedClock())


# -- failing over until one is open


@BOTH
@pytest.mark.parametrize(
    "fault",
    [
        *("key_revoked", "rate_limit", "quota_exhausted", "account_deactivated", "missing_scope", "model_missing"),
        *("server_error", "unavailable", "bad_gateway", "reset", "disconnect", "garbage"),
    ],
)
async def test_another_account_takes_over_where_the_upgrade_fails(pool: Pool, fault: str, sync: bool) -> None:
    pool.sim.fail(fault, times=1)

    events = await realtime(client_of(pool, sync=sync))

    assert events[-1].type == "response.done"
    first, second = upgrades(pool.sim)
    assert second[1] == 101 and first[1] != 101
    failed, opened = pool.rows()
    assert opened["outcome"] == "ok" and failed["outcome"] != "ok"
    assert opened["account"] != failed["account"]


@BOTH
@pytest.mark.parametrize("fault", ["server_error", "reset", "unreachable"])
async def test_without_retries_another_account_takes_over_all_the_same(
    sim: ProviderSimulator, tmp_path: Path, fault: str, sync: bool
) -> None:
    with ProviderSimulator([SimAccount("A")]) as other:
        urls = {"A": other.url, "B": sim.url}
        keys = [
            Key(name=n, secret=sim.keys[f"{n}/key-1"], base_url=urls[n], account=n, weight=w)
            for n, w in (("A", 9), ("B", 1))
        ]
        router = Router(keys, ledger=None, clock=TurnedClock(), rng=Random(1))
        if fault != "unreachable":
            other.fail(fault)
        with other.unreachable() if fault == "unreachable" else nullcontext():
            for _ in range(3):
                client = (SyncRoutedOpenAI if sync else RoutedOpenAI)(router=router, max_retries=0)
                assert (await realtime(client))[-1].type == "response.done"


@BOTH
async def test_what_no_key_can_open_raises_the_error_of_the_sdk(pool: Pool, sync: bool) -> None:
    pool.sim.fail("key_revoked")
    with pytest.raises(exceptions.InvalidStatus) as ours:
        await realtime(client_of(pool, sync=sync))
    with pytest.raises(exceptions.InvalidStatus) as theirs:
        await realtime(plain(pool.sim, sync=sync))

    assert ours.value.response.status_code == theirs.value.response.status_code == 401
    assert len([note for note in ours.value.__notes__ if note.startswith("attempt")]) == 2
    assert [attempt.outcome for attempt in route_of(ours.value).attempts] == ["key_refused", "key_refused"]


@BOTH
async def test_where_no_connection_can_be_made_the_error_is_that_of_the_sdk(pool: Pool, sync: bool) -> None:
    with pool.sim.unreachable(), pytest.raises(ConnectionRefusedError) as caught:
        await realtime(client_of(pool, sync=sync))
    assert "the fault of the network" in caught.value.__notes__[0]


async def test_a_call_that_cannot_be_opened_in_time_is_refused_as_any_other(pool: Pool) -> None:
    pool.sim.fail("rate_limit", wait=30.0)
    with pytest.raises(exceptions.InvalidStatus):
        await realtime(pool.client(max_wait=0))
    with pytest.raises(NoKeyAvailable) as caught:
        await realtime(pool.client(max_wait=0))
    assert set(caught.value.reasons) == {"A1", "B1"}


async def test_it_waits_for_capacity_as_any_other_call(pool: Pool) -> None:
    pool.sim.fail("rate_limit", wait=20.0, times=2)
    assert (await realtime(pool.client()))[-1].type == "response.done"
    assert pool.rows()[-1]["waited_s"] == pytest.approx(20.0, abs=1.0)


async def test_with_one_key_the_connection_is_tried_once_as_by_the_sdk(sim: ProviderSimulator) -> None:
    sim.fail("server_error")
    client = RoutedOpenAI(keys=[Key(name="a", secret=sim.keys["A/key-1"], base_url=sim.url)], ledger=None)
    with pytest.raises(exceptions.InvalidStatus):
        await realtime(client)
    assert len(sim.calls) == 1


async def test_one_that_is_given_up_while_it_is_opened_is_settled(pool: Pool) -> None:
    pool.sim.fail("hang")
    async with pool.client() as client:
        with anyio.move_on_after(0.2):
            await client.realtime.connect(model=MODEL).enter()
        assert pool.router.status().in_flight == 0
    assert outcomes(pool) == ["abandoned"]


# -- the right key, and no other


async def test_keys_that_do_not_serve_the_model_are_not_chosen(sim: ProviderSimulator) -> None:
    keys = [
        Key(name="a", secret=sim.keys["A/key-1"], base_url=sim.url, models=["gpt-4o"]),
        Key(name="b", secret=sim.keys["B/key-1"], base_url=sim.url),
    ]
    for _ in range(4):
        await realtime(RoutedOpenAI(keys=keys, ledger=None))
    assert {call.key for call in sim.calls} == {"B/key-1"}


@BOTH
async def test_no_credential_follows_a_redirect_to_another_host(pool: Pool, sync: bool) -> None:
    with ProviderSimulator([SimAccount("C")], seed=7) as other:
        pool.sim.fail(redirect(other.url.replace("http", "ws") + "/realtime"))
        with pytest.raises(exceptions.InvalidHandshake):
            await realtime(client_of(pool, sync=sync))
        assert other.calls == []
        assert len(pool.sim.calls) == 1, "no other key would be led elsewhere"


@BOTH
async def test_a_credential_goes_to_the_address_of_its_key_alone(pool: Pool, sync: bool) -> None:
    with ProviderSimulator([SimAccount("C")], seed=7) as other:
        keys = [
            Key(name="a", secret=pool.sim.keys["A/key-1"]),
            Key(name="c", secret=other.keys["C/key-1"], base_url=other.url, model_map={MODEL: "their-realtime"}),
        ]
        router = Router(keys, rng=Random(1))
        kind = SyncRoutedOpenAI if sync else RoutedOpenAI
        for _ in range(6):
            await realtime(kind(router=router, base_url=pool.sim.url))
        assert {call.key for call in pool.sim.calls} == {"A/key-1"}
        assert {(call.key, call.model) for call in other.calls} == {("C/key-1", "their-realtime")}


@pytest.mark.parametrize("wish", [{"key": "B1"}, {"account": "B"}])
async def test_wishes_hold_for_connections(pool: Pool, wish: dict[str, Any]) -> None:
    for _ in range(3):
        await realtime(pool.client().with_routing(**wish, tags={"tenant": "t1"}))
    assert {call.account for call in pool.sim.calls} == {"B"}
    assert pool.rows()[0]["tags"] == {"tenant": "t1"}


def test_an_address_for_websockets_must_be_encrypted() -> None:
    with pytest.raises(ConfigError, match="websocket_base_url"):
        RoutedOpenAI(keys=["sk-a", "sk-b"], websocket_base_url="ws://example.com/v1", ledger=None)


# -- no secret gets out


async def test_an_answer_that_repeats_the_credential_is_masked(
    pool: Pool, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    pool.sim.fail("key_echo")
    with pytest.raises(exceptions.InvalidStatus) as caught:
        await realtime(pool.client())
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    pool.ledger.flush()
    seen = ["".join(report.format()), repr(caught.value.response), caplog.text, *contents(tmp_path)]
    for secret in pool.sim.keys.values():
        assert not [text for text in seen if secret in text]
    assert "GET /v1/realtime" in caplog.text, "the upgrade was to be logged"


# -- what is not the router's


@BOTH
async def test_a_credential_of_the_callers_own_passes_through(sync: bool, tmp_path: Path) -> None:
    """Such as an ephemeral client secret, which belongs to the account that made it."""
    ephemeral = "ek_0123456789abcdef"
    with ProviderSimulator([SimAccount("A"), SimAccount("caller", keys=[ephemeral])]) as sim:
        pool = make_pool(sim, tmp_path / "usage.db", TurnedClock())
        headers = {"Authorization": f"Bearer {ephemeral}"}
        await realtime(client_of(pool, sync=sync, base_url=sim.url), extra_headers=headers)
        assert {call.account for call in sim.calls} == {"caller"}
    assert outcomes(pool) == []


@BOTH
async def test_a_client_with_a_key_of_its_own_works_as_the_sdk_does(sim: ProviderSimulator, sync: bool) -> None:
    kind = SyncRoutedOpenAI if sync else RoutedOpenAI
    client = kind(api_key=sim.keys["B/key-1"], base_url=sim.url)
    ledger = client.ledger
    assert (await realtime(client))[-1].type == "response.done"
    assert {call.key for call in sim.calls} == {"B/key-1"}
    assert [row["endpoint"] for row in ledger.attempts()] == ["/realtime"]


async def test_a_key_that_is_fetched_for_each_connection_is_fetched(sim: ProviderSimulator) -> None:
    async def fetch() -> str:
        return sim.keys["B/key-1"]

    await realtime(RoutedOpenAI(api_key=fetch, base_url=sim.url, ledger=None))
    assert {call.key for call in sim.calls} == {"B/key-1"}


async def test_nothing_is_kept_of_an_ephemeral_secret(pool: Pool, tmp_path: Path) -> None:
    secret = {"value": "ek_0123456789abcdef", "expires_at": 1, "session": {"type": "realtime", "id": "sess_1"}}
    pool.sim.fail(respond(200, {}, secret))
    async with pool.client() as client:
        made = await client.realtime.client_secrets.create()
    assert made.value == secret["value"]
    pool.ledger.flush()
    assert [row["endpoint"] for row in pool.rows()] == ["/realtime/client_secrets"]
    assert not [text for text in contents(tmp_path) if "ek_" in text]
    assert not [event for event in pool.events if "ek_" in repr(event)]


async def test_a_connection_that_takes_no_key_is_refused_before_anything_is_sent(pool: Pool) -> None:
    async with pool.client(base_url=pool.sim.url) as client:
        with pytest.raises(ConfigError, match=r"beta\.realtime.*takes no key of a pool"):
            client.beta.realtime.connect(model=MODEL)
        client.beta.realtime.connect(model=MODEL, extra_headers={"authorization": "Bearer sk-my-own"})
    assert pool.sim.calls == []


async def test_without_websockets_the_sdk_says_what_to_install(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("websockets", "websockets.asyncio.client", "websockets.sync.client", "openai.lib._websocket"):
        monkeypatch.setitem(sys.modules, name, None)
    async with pool.client(base_url=pool.sim.url) as client:
        with pytest.raises(openai.OpenAIError, match=r"openai\[realtime\]"):
            await client.realtime.connect(model=MODEL).enter()
    assert pool.sim.calls == []


# -- every connection that the SDK can make


def connects(resource: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All methods `connect` of a client, by their names from the client on."""
    kind: type[Any] = resource.__class__
    for name, child in vars(kind).items():
        if isinstance(child, cached_property) and not name.startswith("with_"):
            yield from connects(getattr(resource, name), f"{path}.{name}".strip("."))
    if hasattr(resource, "connect"):
        yield path, resource.connect


NEEDED: dict[str, dict[str, str]] = {
    "realtime": {"model": MODEL},
    "realtime.translations": {"model": "gpt-realtime-translate"},
    "live.forks": {"session_id": "live_1"},
    "live.sideband": {"session_id": "live_1"},
}


@BOTH
async def test_every_connection_of_the_installed_sdk_is_routed(pool: Pool, sync: bool) -> None:
    client = client_of(pool, sync=sync)
    plain_client: Any = openai.OpenAI(api_key="sk-a") if sync else openai.AsyncOpenAI(api_key="sk-a")
    found = dict(connects(plain_client))
    found.pop("beta.realtime")  # takes no key of a pool
    for path in found:
        resource: Any = client
        for name in path.split("."):
            resource = getattr(resource, name)
        manager = resource.connect(**NEEDED.get(path, {}))
        if sync:
            await anyio.to_thread.run_sync(lambda manager=manager: manager.enter().close())
        else:
            await (await manager.enter()).close()
    assert len(found) >= 3
    assert {status for _, status in upgrades(pool.sim)} == {101}
    assert outcomes(pool) == ["ok"] * len(found)
    await (anyio.to_thread.run_sync(client.close) if sync else client.close())
