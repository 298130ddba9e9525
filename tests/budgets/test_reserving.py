"""What an attempt can cost is reserved before it is sent, and given back as far as it was not used."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import openai
import pytest

from keyrouter_openai import Budget, BudgetExceeded, KeyRouterError, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator

from .support import CENT, MODEL, ask, billed, keys_of, messages, new_client, spent


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


async def test_failures_cost_nothing_and_what_may_have_been_billed_counts_in_full(sim: ProviderSimulator) -> None:
    budget = Budget(usd=1, per="total")
    async with new_client(sim, budget, max_retries=0) as client:

        def now_spent() -> float:
            return client.router.status().budgets[0].spent_usd or 0.0

        sim.fail("server_error", times=2)
        with pytest.raises(openai.InternalServerError):
            await (
                client.with_routing(max_attempts=2)
                .with_options(max_retries=1)
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


async def test_a_recording_is_charged_by_its_length_which_no_price_tells_beforehand(sim: ProviderSimulator) -> None:
    recording = ("speech.wav", b"RIFF" + bytes(32_000))
    for prices in (None, {"whisper-1": {"hour": 0.36}}):
        async with new_client(sim, Budget(usd=1), prices=prices) as client:
            with pytest.raises(BudgetExceeded) as caught:
                await client.audio.transcriptions.create(model="whisper-1", file=recording)
        assert "'whisper-1' is charged by the hour" in str(caught.value)
        assert "let such calls pass with Budget(admit_unpriced=True)" in str(caught.value)
        assert "prices=" not in str(caught.value)
    assert sim.count() == 0
    async with new_client(sim, Budget(usd=1, admit_unpriced=True)) as client:
        await client.audio.transcriptions.create(model="whisper-1", file=recording)
        assert sim.count(status=200) == 1
