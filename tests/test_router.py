"""Leases under pressure: collectors, cancelled waiters, reloads, and what one answer may and may not teach."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import anyio
import openai
import pytest

from keyrouter_openai import ConfigError, Key, NoKeyAvailable, RoutedOpenAI, Router
from keyrouter_openai.core.model import Fault, Outcome, RouteRequest
from keyrouter_openai.core.queue import Turn
from keyrouter_openai.core.select import History, Refusal
from keyrouter_openai.lease import Lease
from keyrouter_openai.ledger import Registry
from keyrouter_openai.testing import ProviderSimulator, SimAccount, redirect, respond

from .support import ECHO, MESSAGES, Pool, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio

REQUEST = RouteRequest(id="r", endpoint="/chat/completions", model="gpt-4o")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B")], clock=clock) as sim:
        made = make_pool(sim, tmp_path / "ledger.db", clock)
        yield made
        made.ledger.close()


def take(router: Router, **wishes: Any) -> Lease:
    taken = router.acquire(RouteRequest(id="r", endpoint="/x", **wishes), History(), number=1, max_wait=0)
    assert isinstance(taken, Lease)
    return taken


class Meddler(Random):
    """Chance that does something of its own in the middle of a choice, as the garbage collector may."""

    def __init__(self) -> None:
        super().__init__(1)
        self.meddle = lambda: None

    def random(self) -> float:
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return super().random()


def test_a_stream_that_the_collector_closes_in_the_middle_of_a_choice_blocks_nothing() -> None:
    chance = Meddler()
    router = Router([Key(name="a", secret="sk-a"), Key(name="b", secret="sk-b")], rng=chance)
    held = take(router)
    chance.meddle = lambda: router.settle(held, Outcome(Fault.ABANDONED, 200), started_at=0.0, waited_s=0.0)
    router.release(take(router))
    assert router.status().in_flight == 0


def test_a_fork_takes_no_lease_along() -> None:
    router = Router([Key(name="a", secret="sk-a"), Key(name="b", secret="sk-b")], rng=Random(1))
    take(router)
    child = os.fork()
    if child == 0:
        os._exit(router.status().in_flight)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert router.status().in_flight == 1


async def test_cancelled_waiters_give_back_their_places(pool: Pool) -> None:
    router = pool.router
    refused = Outcome(Fault.RATE_LIMIT, 429, wait=1.0)
    for name in ("A1", "B1"):
        taken = router.acquire(
            RouteRequest(id="r", endpoint="/x", model="gpt-4o", key=name), History(), number=1, max_wait=0
        )
        assert isinstance(taken, Lease)
        router.settle(taken, refused, started_at=0.0, waited_s=0.0)
    waiting = [router.acquire(REQUEST, History(), number=1, max_wait=60) for _ in range(200)]
    for turn in waiting:
        assert isinstance(turn, Turn)
        router.leave(turn)
    pool.clock.pass_(1.1)
    assert (await call(pool, sync=False, stream=False, client=pool.client(max_wait=0.5))).text == ECHO


async def test_who_waits_for_an_account_that_dies_is_told_at_once(pool: Pool) -> None:
    router = pool.router
    first = router.acquire(
        RouteRequest(id="r", endpoint="/x", model="gpt-4o", account="A"), History(), number=1, max_wait=0
    )
    assert isinstance(first, Lease)
    router.settle(first, Outcome(Fault.RATE_LIMIT, 429, wait=1.0), started_at=0.0, waited_s=0.0)
    waiting = [
        router.acquire(
            RouteRequest(id="r", endpoint="/x", model="gpt-4o", account="A"), History(), number=1, max_wait=9
        )
        for _ in range(3)
    ]
    pool.clock.pass_(1.0)
    turns = [turn for turn in waiting if isinstance(turn, Turn)]
    lease, *others = [router.look(turn) for turn in turns]
    assert isinstance(lease, Lease)
    assert others == [None, None], "the account is tried with one call after the other"
    router.settle(lease, Outcome(Fault.EXHAUSTED, 429), started_at=0.0, waited_s=0.0)
    assert all(isinstance(turn.granted, Refusal) for turn in turns[1:]), "nobody waits in vain"


async def test_one_stray_refusal_fails_no_other_call(pool: Pool) -> None:
    pool.sim.set_credit("A", calls=0)
    for _ in range(3):
        pool.clock.pass_(1)
        await call(pool, sync=False, stream=False)
    pool.sim.fail("key_revoked", account="B", times=1)
    async with pool.client() as client:
        outcomes: list[str] = []

        async def one() -> None:
            try:
                await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
                outcomes.append("ok")
            except openai.OpenAIError as error:
                outcomes.append(type(error).__name__)

        await one()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(one)
    assert outcomes[1:] == ["ok"] * 20


async def test_a_stream_decides_for_its_account_with_its_first_content(pool: Pool) -> None:
    pool.sim.set_credit("A", calls=0)
    for _ in range(3):
        pool.clock.pass_(1)
        await call(pool, sync=False, stream=False)
    pool.sim.set_credit("A", calls=None)
    pool.clock.pass_(16 * 60)
    async with pool.client().with_routing(account="A") as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert pool.state("A1") == "available"
        await stream.close()


async def test_an_error_event_after_content_teaches_what_it_says(pool: Pool) -> None:
    chunk = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hi"}}]}
    quota = {"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "no more"}}
    pool.sim.fail(respond(200, {}, f"data: {json.dumps(chunk)}\n\ndata: {json.dumps(quota)}\n\n"), account="A", times=1)
    client = pool.client().with_routing(account="A")
    result = await call(pool, sync=False, stream=True, client=client)
    assert result.text == "hi"
    assert isinstance(result.error, openai.APIError)
    assert pool.state("A1") == "exhausted"
    assert pool.rows()[-1]["outcome"] == "stream_broken"


async def test_dead_keys_do_not_use_up_the_attempts(tmp_path: Path) -> None:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A", keys=6)], clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock)
        for number in range(1, 6):
            sim.revoke(f"A/key-{number}")
        assert (await call(pool, sync=False, stream=False, client=pool.client(max_retries=0))).text == ECHO
        pool.ledger.close()


async def test_keys_and_accounts_that_are_put_aside_do_not_use_up_the_attempts(tmp_path: Path) -> None:
    """What one plain key with the SDK's retries would get answered, a pool must not lose."""
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A", keys=4), SimAccount("B")], clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock, declared=False)
        sim.fail("rate_limit", account="A", wait=300)
        sim.fail("server_error", account="B", times=1)
        assert (await call(pool, sync=False, stream=False)).text == ECHO
        pool.ledger.close()


@pytest.mark.parametrize("only", ["A1", None])
async def test_a_server_that_refuses_to_tell_a_streams_usage_is_asked_no_more(pool: Pool, only: str | None) -> None:
    refusal = {"error": {"message": "Unrecognized request argument supplied: stream_options", "param": None}}
    pool.sim.fail(respond(400, {}, json.dumps(refusal)), times=1)
    if only:
        pool.router.reload([key for key in pool.router.keys if key.name == only])
    assert (await call(pool, sync=False, stream=True)).text == ECHO
    assert (await call(pool, sync=False, stream=True)).text == ECHO
    bodies = [json.loads(c.body) for c in pool.sim.calls]
    assert ["stream_options" in body for body in bodies] == [True, False, False]


async def test_an_answer_that_forbids_another_attempt_is_obeyed(pool: Pool) -> None:
    pool.sim.fail(respond(500, {"x-should-retry": "false"}, b"{}"))
    assert isinstance((await call(pool, sync=False, stream=False)).error, openai.InternalServerError)
    assert len(pool.sim.calls) == 1


async def test_a_size_that_only_pictures_explain_closes_no_account(pool: Pool) -> None:
    pool.sim.fail("request_too_large", account="A", times=1)
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: list[Any] = [{"role": "user", "content": [picture]}]
    client = pool.client().with_routing(account="A")
    assert (await call(pool, sync=False, stream=False, client=client, messages=messages)).error is not None
    client = pool.client().with_routing(account="A")
    assert (await call(pool, sync=False, stream=False, client=client)).text == ECHO


async def test_an_overload_without_a_model_parks_no_model(pool: Pool) -> None:
    pool.sim.fail("unavailable", path="/v1/models")
    async with pool.client(max_wait=0) as client:
        with pytest.raises(openai.InternalServerError):
            await client.models.list()
    assert (await call(pool, sync=False, stream=False, client=pool.client(max_wait=0))).text == ECHO


async def test_an_answer_without_a_project_changes_no_account(tmp_path: Path) -> None:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A")], clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock, declared=False)
        pool.router.reload([*pool.router.keys, Key(name="other", secret="sk-o", base_url=sim.url)])
        client = pool.client().with_routing(key="A1")
        await call(pool, sync=False, stream=False, client=client)
        learned = pool.router.status().key("A1").account
        assert learned == "org-A/proj_A"
        pool.sim.fail(respond(429, {"openai-organization": "org-A", "retry-after": "9"}, b"{}"), times=1)
        await call(pool, sync=False, stream=False, client=pool.client(max_wait=0).with_routing(key="A1"))
        assert pool.router.status().key("A1").account == learned
        pool.ledger.close()


async def test_a_redirect_to_another_host_is_no_keys_fault(pool: Pool) -> None:
    with ProviderSimulator([SimAccount("elsewhere")]) as other:
        pool.sim.fail(redirect(f"{other.url}/chat/completions"), account="A", times=1)
        assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert {pool.state(name) for name in ("A1", "A2", "B1")} == {"available"}


async def test_a_downloaded_file_may_hold_anything(pool: Pool) -> None:
    content = b'{"error": {"message": "this is the content of a file"}}'
    async with pool.client().with_routing(key="A1") as client:
        file = await client.files.create(file=("f.json", content), purpose="assistants")
        assert (await client.files.content(file.id)).content == content


# Reloads and copies


def test_a_replaced_secret_starts_anew_and_goes_nowhere_else() -> None:
    router = Router([Key(name="a", secret="sk-old"), Key(name="b", secret="sk-b")])
    old = router.acquire(RouteRequest(id="r", endpoint="/x", key="a"), History(), number=1, max_wait=0)
    assert isinstance(old, Lease)
    clock = router.clock.monotonic()
    for _ in range(2):
        router.settle(old, Outcome(Fault.KEY_REFUSED, 401), started_at=0.0, waited_s=0.0)
    assert clock <= router.clock.monotonic()
    assert router.status().key("a").state == "suspect"
    router.reload([Key(name="a", secret="sk-new", base_url="https://other.example.com"), Key(name="b", secret="sk-b")])
    assert router.status().key("a").state == "available"
    secret = router.cached_secret(old.key)
    assert secret is not None
    assert secret.get_secret_value() == "sk-old", "the lease goes on with the key that it was given for"


def test_a_copy_may_route_over_another_pool(tmp_path: Path) -> None:
    client = RoutedOpenAI(api_key="sk-one", ledger=tmp_path / "usage.db")
    with pytest.raises(ConfigError, match="'team'"):
        client.with_options(pool="team")
    Registry(tmp_path / "usage.db").add("team", Key(name="of-the-team"))
    assert [key.name for key in client.with_options(pool="team").router.keys] == ["of-the-team"]
    assert [key.name for key in client.with_options(keys=["sk-a", "sk-b"]).router.keys] == ["key-1", "key-2"]


async def test_the_exception_that_the_caller_was_handling_keeps_its_traceback(pool: Pool) -> None:
    pool.sim.fail("bad_request")

    def deep() -> None:
        raise KeyError("the caller's own")

    try:
        deep()
    except KeyError as own:
        result = await call(pool, sync=False, stream=False)
        assert isinstance(result.error, openai.BadRequestError)
        assert own.__traceback__ is not None
        assert own.__traceback__.tb_next is not None


def test_when_nothing_can_serve_every_key_has_its_reason() -> None:
    clock = TurnedClock()
    router = Router(
        [Key(name="a", secret="sk-a"), Key(name="b", secret="sk-b"), Key(name="c", secret="sk-c", enabled=False)],
        clock=clock,
    )
    for key, outcome in (("a", Outcome(Fault.MODEL_MISSING, 404)), ("b", Outcome(Fault.RATE_LIMIT, 429, wait=90.0))):
        lease = router.acquire(RouteRequest(id="r", endpoint="/x", model="m", key=key), History(), number=1, max_wait=0)
        assert isinstance(lease, Lease)
        router.settle(lease, outcome, started_at=0.0, waited_s=0.0)
    client = RoutedOpenAI(router=router)
    with pytest.raises(NoKeyAvailable) as caught:
        anyio.run(lambda: client.chat.completions.create(model="m", messages=MESSAGES))
    assert caught.value.reasons.keys() == {"a", "b", "c"}
    assert "lacks" in caught.value.reasons["a"]
    assert caught.value.retry_after == pytest.approx(90, abs=1)


def test_names_that_callers_make_up_are_forgotten() -> None:
    clock = TurnedClock()
    router = Router([Key(name="a", secret="sk-a"), Key(name="b", secret="sk-b")], clock=clock)
    for number in range(500):
        clock.pass_(10)
        for outcome in (Outcome(Fault.MODEL_MISSING, 404), Outcome(Fault.OVERLOADED, 503, wait=1.0)):
            lease = router.acquire(
                RouteRequest(id="r", endpoint="/x", model=f"m{number}", key="a"), History(), number=1, max_wait=9
            )
            assert isinstance(lease, Lease)
            router.settle(lease, outcome, started_at=0.0, waited_s=0.0)
            clock.pass_(5)
    (state,) = {lease.state.host.name: lease.state for lease in [take(router, key="a")]}.values()
    assert len(state.denied) < 100
    assert len(state.host.breakers) < 100
