"""The failover table, row by row: what the caller sees, what reached upstream, who lost standing, what is on record.

The pool is two keys of account A and one each of B and C; A1 is tried first. Each row runs for both clients,
plain and streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from keyrouter_openai import NoKeyAvailable, route_of
from keyrouter_openai.core.model import Fault
from keyrouter_openai.testing import ProviderSimulator, SimAccount, respond

from .support import ECHO, Pool, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    clock = TurnedClock()
    accounts = [SimAccount("A", keys=2), SimAccount("B"), SimAccount("C")]
    with ProviderSimulator(accounts, clock=clock) as sim:
        made = make_pool(sim, tmp_path / "ledger.db", clock)
        yield made
        made.ledger.close()


async def prefer(pool: Pool, *names: str) -> None:
    """Have the named key of A chosen next: all others are used before, and other accounts more."""
    for name in ("C1", "C1", "B1", "B1", "A2", "A1"):
        if name not in names:
            pool.clock.pass_(1)
            await call(pool, sync=False, stream=False, client=pool.client().with_routing(key=name))
    pool.clock.pass_(1)
    pool.sim.reset_counts()
    pool.events.clear()


@dataclass(frozen=True)
class Row:
    """`fault` happens to the calls that `where` matches; `upstream` is what reached the provider, by key."""

    fault: Any
    where: dict[str, Any] = field(default_factory=dict[str, Any])
    upstream: tuple[str, ...] = ()
    """Keys in the order in which they were tried; the others must get nothing."""
    outcomes: tuple[Fault, ...] = ()
    sees: type[openai.OpenAIError] | None = None
    states: dict[str, str] = field(default_factory=dict[str, str])
    """Keys that are not available afterwards."""
    text: str | None = None
    """What of the text the caller got; default: all where there is an answer, else nothing."""
    only: str | None = None
    """`plain` or `stream`, where the row makes sense for one alone."""

    @property
    def name(self) -> str:
        return self.fault if isinstance(self.fault, str) else self.fault.name


A = {"account": "A"}
A1 = {"key": "A/key-1"}
OK = Fault.NONE
_A_THROTTLED = {"A1": "throttled", "A2": "throttled"}
_A_INVALID = {"A1": "invalid", "A2": "invalid"}
_A_EXHAUSTED = {"A1": "exhausted", "A2": "exhausted"}

FAILED_OVER = [
    # account faults: the other key of A is not tried
    Row("rate_limit", A | {"wait": 7}, ("A1", "?"), (Fault.RATE_LIMIT, OK), states=_A_THROTTLED),
    Row("quota_exhausted", A, ("A1", "?"), (Fault.EXHAUSTED, OK), states=_A_EXHAUSTED),
    Row("payment_required", A, ("A1", "?"), (Fault.EXHAUSTED, OK), states=_A_EXHAUSTED),
    Row("spend_limit_organization", A, ("A1", "?"), (Fault.EXHAUSTED, OK), states=_A_EXHAUSTED),
    Row("spend_limit_project", A, ("A1", "?"), (Fault.EXHAUSTED, OK), states=_A_EXHAUSTED),
    Row("account_deactivated", A, ("A1", "?"), (Fault.ACCOUNT_CLOSED, OK), states=_A_INVALID),
    Row("request_too_large", A, ("A1", "?"), (Fault.TOO_LARGE, OK)),
    # key faults
    Row("key_revoked", A1, ("A1", "?"), (Fault.KEY_REFUSED, OK), states={"A1": "suspect"}),
    Row("missing_scope", A1, ("A1", "?"), (Fault.NOT_PERMITTED, OK)),
    Row("model_missing", A1, ("A1", "?"), (Fault.MODEL_MISSING, OK)),
    Row("model_forbidden", A1, ("A1", "?"), (Fault.MODEL_MISSING, OK)),
    # provider and network faults: another account first, and nobody loses standing
    Row("server_error", {"times": 1}, ("A1", "?"), (Fault.SERVER_ERROR, OK)),
    Row("bad_gateway", {"times": 1}, ("A1", "?"), (Fault.SERVER_ERROR, OK)),
    Row("gateway_timeout", {"times": 1}, ("A1", "?"), (Fault.SERVER_ERROR, OK)),
    Row("unavailable", {"times": 1}, ("A1", "?"), (Fault.OVERLOADED, OK)),
    Row("overloaded", {"times": 1}, ("A1", "?"), (Fault.OVERLOADED, OK)),
    Row("slow_down", {"times": 1, "wait": 3}, ("A1", "?"), (Fault.OVERLOADED, OK)),
    Row("front_end", {"times": 1, "wait": 3}, ("A1", "?"), (Fault.HOST_LIMIT, OK)),
    Row("reset", {"times": 1}, ("A1", "?"), (Fault.NETWORK, OK)),
    Row("disconnect", {"times": 1}, ("A1", "?"), (Fault.NETWORK, OK)),
    Row("garbage", {"times": 1}, ("A1", "?"), (Fault.NETWORK, OK)),
    Row("error_in_200", {"times": 1}, ("A1", "?"), (Fault.SERVER_ERROR, OK)),
    # streams that fail before their first content
    Row("stream_error", {"times": 1}, ("A1", "?"), (Fault.SERVER_ERROR, OK), only="stream"),
    Row("stream_end", {"times": 1}, ("A1", "?"), (Fault.NETWORK, OK), only="stream"),
    Row("stream_cut", {"times": 1}, ("A1", "?"), (Fault.NETWORK, OK), only="stream"),
]

RAISED_AT_ONCE = [
    Row("bad_request", sees=openai.BadRequestError),
    Row("not_found", sees=openai.NotFoundError),
    Row("conflict", sees=openai.ConflictError),
    Row("too_large_body", sees=openai.APIStatusError),
    Row("unprocessable", sees=openai.UnprocessableEntityError),
    Row("context_too_long", sees=openai.BadRequestError),
    Row("content_policy", sees=openai.BadRequestError),
]

BROKEN_AFTER_CONTENT = [
    Row("stream_error", {"events": 2, "times": 1}, sees=openai.APIError, only="stream"),
    Row("stream_end", {"events": 2, "times": 1}, sees=openai.APIConnectionError, only="stream"),
    Row("stream_cut", {"events": 2, "times": 1}, sees=openai.APIConnectionError, only="stream"),
]


def _cases(rows: list[Row]) -> list[Any]:
    return [
        pytest.param(row, sync, kind == "stream", id=f"{row.name}-{'sync' if sync else 'async'}-{kind}")
        for row in rows
        for sync in (False, True)
        for kind in ("plain", "stream")
        if row.only in (None, kind)
    ]


def upstream(pool: Pool) -> list[str]:
    """The keys that reached the provider, in order."""
    return [str(c.key).replace("/key-", "") for c in pool.sim.calls]


@pytest.mark.parametrize(("row", "sync", "stream"), _cases(FAILED_OVER))
async def test_another_key_answers(pool: Pool, row: Row, sync: bool, stream: bool) -> None:
    await prefer(pool, "A1")
    before = len(pool.rows())
    pool.sim.fail(row.fault, **row.where)

    result = await call(pool, sync=sync, stream=stream)

    assert result.error is None
    assert result.text == ECHO
    tried = upstream(pool)
    assert len(tried) == len(row.upstream)
    assert tried[0] == "A1"
    assert tried[1] in ("B1", "C1"), "an account that was not tried comes first"
    states = {name: pool.state(name) for name in ("A1", "A2", "B1", "C1")}
    assert {name: state for name, state in states.items() if state != "available"} == row.states
    rows = pool.rows()[before:]
    assert [(r["key"], r["outcome"]) for r in rows] == list(zip(tried, row.outcomes, strict=True))
    assert [r["number"] for r in rows] == [1, 2]
    assert len({r["request_id"] for r in rows}) == 1
    assert rows[-1]["status"] == 200
    assert rows[-1]["completion_tokens"] > 0
    assert pool.router.status().in_flight == 0


@pytest.mark.parametrize(("row", "sync", "stream"), _cases(RAISED_AT_ONCE))
async def test_a_fault_of_the_callers_own_is_sent_once(pool: Pool, row: Row, sync: bool, stream: bool) -> None:
    await prefer(pool, "A1")
    before = len(pool.rows())
    pool.sim.fail(row.fault)

    result = await call(pool, sync=sync, stream=stream)

    assert row.sees is not None
    assert type(result.error) is row.sees
    assert upstream(pool) == ["A1"]
    assert {pool.state(name) for name in ("A1", "A2", "B1", "C1")} == {"available"}
    assert [r["outcome"] for r in pool.rows()[before:]] == [Fault.REQUEST]
    assert pool.router.status().in_flight == 0


@pytest.mark.parametrize(("row", "sync", "stream"), _cases(BROKEN_AFTER_CONTENT))
async def test_a_stream_is_never_restarted_after_content(pool: Pool, row: Row, sync: bool, stream: bool) -> None:
    await prefer(pool, "A1")
    before = len(pool.rows())
    pool.sim.fail(row.fault, **row.where)

    result = await call(pool, sync=sync, stream=stream)

    assert row.sees is not None
    assert isinstance(result.error, row.sees)
    assert result.text
    assert ECHO.startswith(result.text)
    assert result.text != ECHO
    assert upstream(pool) == ["A1"]
    (broken,) = pool.rows()[before:]
    assert broken["outcome"] == Fault.STREAM_BROKEN
    assert broken["usage_estimated"] == 1
    assert broken["prompt_tokens"] > 0
    assert pool.state("A1") == "available"
    assert pool.router.status().in_flight == 0
    if isinstance(result.error, openai.APIConnectionError):
        assert route_of(result.error).attempts[0].outcome == Fault.STREAM_BROKEN
        assert "stream_broken" in "\n".join(result.error.__notes__)


async def test_no_second_key_of_an_account_at_its_limit_is_tried(tmp_path: Path) -> None:
    clock = TurnedClock()
    accounts = [SimAccount(name, keys=2) for name in "ABCD"]
    with ProviderSimulator(accounts, clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock)
        sim.fail("rate_limit", account="A", wait=30)
        for _ in range(16):
            clock.pass_(0.1)
            result = await call(pool, sync=False, stream=False)
            assert result.text == ECHO
        assert sim.count(account="A") == 1
        assert sim.count(status=429) == 1
        pool.ledger.close()


async def test_an_account_that_is_learned_is_as_good_as_a_declared_one(tmp_path: Path) -> None:
    clock = TurnedClock()
    accounts = [SimAccount("A", keys=3), SimAccount("B", keys=1)]
    with ProviderSimulator(accounts, clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock, declared=False)
        for _ in range(4):
            clock.pass_(1)
            await call(pool, sync=False, stream=False)
        sim.reset_counts()
        sim.fail("rate_limit", account="A", wait=30)
        for _ in range(8):
            clock.pass_(0.1)
            assert (await call(pool, sync=False, stream=False)).text == ECHO
        assert sim.count(account="A") == 1
        pool.ledger.close()


async def test_when_all_accounts_are_parked_the_call_waits_for_the_first(pool: Pool) -> None:
    pool.sim.fail("rate_limit", account="A", times=1, wait=20)
    pool.sim.fail("rate_limit", account="B", times=1, wait=9)
    pool.sim.fail("rate_limit", account="C", times=1, wait=30)
    for name in ("A1", "B1", "C1"):
        client = pool.client(max_wait=0).with_routing(key=name)
        assert isinstance((await call(pool, sync=False, stream=False, client=client)).error, openai.RateLimitError)
    started = pool.clock.now

    result = await call(pool, sync=False, stream=False)

    assert result.text == ECHO
    assert pool.clock.now - started == pytest.approx(9, abs=0.1)
    assert upstream(pool)[-1] == "B1"
    assert pool.rows()[-1]["waited_s"] == pytest.approx(9, abs=0.1)


@pytest.mark.parametrize("sync", [False, True])
async def test_nothing_can_serve(pool: Pool, sync: bool) -> None:
    for account, wait in (("A", 90), ("B", 70), ("C", 80)):
        pool.sim.fail("rate_limit", account=account, wait=wait)
    first = await call(pool, sync=sync, stream=False)
    assert type(first.error) is openai.RateLimitError, "something was sent: the provider's own last error"
    notes = "\n".join(getattr(first.error, "__notes__", []))
    assert all(f"account {name!r}" in notes for name in "ABC")
    pool.sim.reset_counts()

    second = await call(pool, sync=sync, stream=False)

    assert isinstance(second.error, NoKeyAvailable)
    assert isinstance(second.error, openai.RateLimitError)
    assert second.error.status_code == 429
    assert second.error.retry_after == pytest.approx(70, abs=2)
    assert second.error.response.headers["retry-after"] == "70"
    assert set(second.error.reasons) == {"A1", "A2", "B1", "C1"}
    assert all("throttled" in reason for reason in second.error.reasons.values())
    assert upstream(pool) == []
    assert pool.router.status().in_flight == 0


async def test_overload_parks_the_model_and_does_not_burn_through_the_keys(pool: Pool) -> None:
    await prefer(pool, "A1")
    pool.sim.fail("slow_down", model="gpt-4o", wait=5)
    client = pool.client(max_wait=0)
    assert isinstance((await call(pool, sync=False, stream=False, client=client)).error, openai.RateLimitError)
    sent = len(upstream(pool))
    assert sent == 1, "with no time to wait, no second key of the same provider is sent there"

    client = pool.client(max_wait=0)
    other = await call(pool, sync=False, stream=False, client=client, model="gpt-4o-mini")
    assert other.text == ECHO, "another model of the same provider is not parked"


async def test_a_region_block_is_no_keys_fault(pool: Pool) -> None:
    await prefer(pool, "A1")
    pool.sim.fail("region")
    result = await call(pool, sync=False, stream=False)
    assert type(result.error) is openai.PermissionDeniedError
    assert upstream(pool) == ["A1"]
    assert {pool.state(name) for name in ("A1", "A2", "B1", "C1")} == {"available"}


async def test_a_second_refusal_makes_a_key_invalid(pool: Pool) -> None:
    pool.sim.revoke("A/key-1")
    for _ in range(8):
        pool.clock.pass_(60)
        assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.state("A1") == "invalid"
    assert pool.sim.count(key="A/key-1") == 2
    assert {pool.state(name) for name in ("A2", "B1", "C1")} == {"available"}


async def test_all_keys_refused_within_seconds_is_the_providers_fault(pool: Pool) -> None:
    pool.sim.fail("key_revoked")
    client = pool.client(max_retries=3)
    result = await call(pool, sync=False, stream=False, client=client)
    assert isinstance(result.error, openai.AuthenticationError)
    assert sorted(upstream(pool)) == ["A1", "A2", "B1", "C1"]
    assert not {"suspect", "invalid"} & {pool.state(name) for name in ("A1", "A2", "B1", "C1")}
    pool.sim.heal()
    pool.clock.pass_(30)
    assert (await call(pool, sync=False, stream=False)).text == ECHO


async def test_a_missing_model_is_remembered_for_minutes(pool: Pool) -> None:
    await prefer(pool, "A1")
    pool.sim.fail("model_missing", account="A")
    for _ in range(8):
        pool.clock.pass_(1)
        assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.sim.count(account="A") <= 2, "once for each key of A"


async def test_a_model_that_nobody_has_is_the_providers_own_error_each_time(pool: Pool) -> None:
    pool.sim.fail("model_missing")
    for _ in range(4):
        result = await call(pool, sync=False, stream=False)
        assert type(result.error) is openai.NotFoundError


async def test_a_request_too_large_never_goes_to_that_account_again(pool: Pool) -> None:
    await prefer(pool, "A1")
    pool.sim.set_limits("A", rpm=None, tpm=1000)
    large: dict[str, Any] = {"max_tokens": 5000}
    for _ in range(6):
        pool.clock.pass_(1)
        assert (await call(pool, sync=False, stream=False, **large)).error is None
    assert pool.sim.count(account="A") == 1
    pool.clock.pass_(120)
    for _ in range(8):
        pool.clock.pass_(1)
        await call(pool, sync=False, stream=False, max_tokens=10)
    assert pool.sim.count(account="A") > 1, "small requests still go there"


async def test_too_large_for_all_is_the_providers_error(pool: Pool) -> None:
    for account in "ABC":
        pool.sim.set_limits(account, rpm=None, tpm=1000)
    result = await call(pool, sync=False, stream=False, max_tokens=5000)
    assert isinstance(result.error, openai.RateLimitError)
    assert len(upstream(pool)) == 3


async def test_connection_refused_is_answered_by_another_host(tmp_path: Path) -> None:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A")]) as down, ProviderSimulator([SimAccount("B")]) as up:
        pool = make_pool(up, tmp_path / "ledger.db", clock)
        keys = [*pool.router.keys, *make_pool(down, tmp_path / "other.db", clock).router.keys]
        pool.router.reload(keys)
        with down.unreachable():
            for sync in (False, True):
                for _ in range(3):
                    clock.pass_(1)
                    assert (await call(pool, sync=sync, stream=False)).text == ECHO
        assert down.calls == []
        pool.ledger.close()


async def test_a_hang_ends_with_the_callers_timeout_and_another_account_answers(pool: Pool) -> None:
    await prefer(pool, "A1")
    pool.sim.fail("hang", times=1)
    client = pool.client().with_options(timeout=0.2)
    result = await call(pool, sync=False, stream=False, client=client)
    assert result.text == ECHO
    assert len(upstream(pool)) == 2


async def test_an_answer_of_unknown_shape_is_told(pool: Pool) -> None:
    await prefer(pool, "A1")
    pool.sim.fail(respond(418, {}, b"short and stout"), times=1)
    result = await call(pool, sync=False, stream=False)
    assert isinstance(result.error, openai.APIStatusError)
    assert [type(e).__name__ for e in pool.events if type(e).__name__ == "UnknownAnswer"] == ["UnknownAnswer"]
