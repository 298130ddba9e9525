"""Budgets for a key, an account, a tag or a model, and such as warn."""

from __future__ import annotations

import pytest

from keyrouter_openai import Budget, BudgetExceeded, routing
from keyrouter_openai.events import BudgetReached, Event
from keyrouter_openai.testing import ProviderSimulator

from .support import ask, new_client


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


async def test_a_call_without_the_tag_concerns_no_budget_of_it(sim: ProviderSimulator) -> None:
    async with new_client(sim, Budget(usd="0.000001", scope="tag:tenant=None")) as client:
        await ask(client)


async def test_a_warning_is_given_once_and_nothing_is_blocked(sim: ProviderSimulator) -> None:
    events: list[Event] = []
    async with new_client(sim, Budget(usd=0.002, action="warn", name="soft")) as client:
        client.router.on_event(events.append)
        for _ in range(5):
            await ask(client)
    told = [event for event in events if isinstance(event, BudgetReached)]
    assert [(event.budget, event.action, event.usd) for event in told] == [("soft", "warn", 0.002)]
    assert told[0].spent_usd > 0.002 and told[0].until is not None
