"""Every state has a way back, by one real call at a time; time is turned by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import openai
import pytest

from keyrouter_openai import NoKeyAvailable
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import ECHO, MESSAGES, Pool, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B")], clock=clock) as sim:
        made = make_pool(sim, tmp_path / "ledger.db", clock)
        yield made
        made.ledger.close()


async def many(pool: Pool, count: int) -> list[str | None]:
    """So many calls at once; what each was answered."""
    answers: list[str | None] = []
    client = pool.client()

    async def one() -> None:
        answer = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        answers.append(answer.choices[0].message.content)

    async with client, anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(one)
    return answers


async def run_dry(pool: Pool) -> None:
    pool.sim.set_credit("A", calls=0)
    for _ in range(3):
        pool.clock.pass_(1)
        assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.state("A1") == pool.state("A2") == "exhausted"
    pool.sim.reset_counts()


async def test_a_dry_account_that_is_refilled_serves_again_after_one_canary(pool: Pool) -> None:
    await run_dry(pool)
    pool.clock.pass_(14 * 60)
    assert await many(pool, 20) == [ECHO] * 20
    assert pool.sim.count(account="A") == 0, "not before its time"

    pool.sim.set_credit("A", calls=None)
    pool.clock.pass_(2 * 60)
    assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.sim.count(account="A") == 1, "exactly one canary"
    assert pool.state("A1") == pool.state("A2") == "available"

    assert await many(pool, 20) == [ECHO] * 20
    assert pool.sim.count(account="A") > 5, "it carries its share again"


async def test_one_canary_and_never_a_herd(pool: Pool) -> None:
    await run_dry(pool)
    pool.clock.pass_(15 * 60)
    assert await many(pool, 50) == [ECHO] * 50
    assert pool.sim.count(account="A") == 1
    assert pool.state("A1") == "exhausted"

    pool.clock.pass_(29 * 60)
    assert await many(pool, 10) == [ECHO] * 10
    assert pool.sim.count(account="A") == 1, "the pause has doubled"
    pool.clock.pass_(2 * 60)
    assert await many(pool, 10) == [ECHO] * 10
    assert pool.sim.count(account="A") == 2


async def test_a_canary_that_tells_nothing_is_followed_by_another_soon(pool: Pool) -> None:
    await run_dry(pool)
    pool.sim.set_credit("A", calls=None)
    pool.clock.pass_(15 * 60)
    pool.sim.fail("server_error", account="A", times=1)
    assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.state("A1") == "exhausted"
    pool.clock.pass_(60)
    for _ in range(12):  # an account whose call has failed is spared for some calls
        assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.state("A1") == "available"


async def test_a_cancelled_canary_gives_its_place_to_the_next(pool: Pool) -> None:
    await run_dry(pool)
    pool.sim.set_credit("A", calls=None)
    pool.clock.pass_(15 * 60)
    pool.sim.fail("hang", account="A", times=1)
    with anyio.move_on_after(0.3):
        await call(pool, sync=False, stream=False, client=pool.client().with_options(timeout=30))
    assert pool.router.status().in_flight == 0
    pool.clock.pass_(60)
    for _ in range(2):
        assert (await call(pool, sync=False, stream=False)).text == ECHO
    assert pool.state("A1") == "available"


async def test_an_invalid_key_that_is_restored_serves_again(pool: Pool) -> None:
    pool.sim.revoke("A/key-1")
    for _ in range(8):
        pool.clock.pass_(60)
        await call(pool, sync=False, stream=False)
    assert pool.state("A1") == "invalid"
    pool.sim.restore("A/key-1")
    pool.clock.pass_(16 * 60)
    pool.sim.reset_counts()
    assert await many(pool, 10) == [ECHO] * 10
    assert pool.state("A1") == "available"


async def test_a_suspect_key_whose_next_call_succeeds_is_available(pool: Pool) -> None:
    pool.sim.fail("key_revoked", key="A/key-1", times=1)
    for _ in range(3):
        pool.clock.pass_(60)
        await call(pool, sync=False, stream=False)
    assert pool.sim.count(status=401) == 1
    for _ in range(4):
        pool.clock.pass_(60)
        await call(pool, sync=False, stream=False)
    assert pool.state("A1") == "available"


async def test_a_burst_of_refusals_is_one_refusal(pool: Pool) -> None:
    pool.sim.fail("key_revoked", account="A")
    assert await many(pool, 30) == [ECHO] * 30
    states = {pool.state("A1"), pool.state("A2")}
    assert "invalid" not in states, "a second refusal must come at another time"


async def test_with_all_accounts_dry_nothing_is_sent_until_a_canary_is_due(pool: Pool) -> None:
    for account in "AB":
        pool.sim.set_credit(account, calls=0)
    first = await call(pool, sync=False, stream=False)
    assert isinstance(first.error, openai.RateLimitError)
    assert not isinstance(first.error, NoKeyAvailable)
    pool.sim.reset_counts()
    second = await call(pool, sync=False, stream=False)
    assert isinstance(second.error, NoKeyAvailable)
    assert second.error.retry_after == pytest.approx(15 * 60, abs=5)
    assert pool.sim.calls == []
