"""Budgets where an attempt is more than one answer to one request: sessions over websockets, and hedged calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from keyrouter_openai import Budget, BudgetExceeded, SyncRoutedOpenAI
from keyrouter_openai.events import AttemptStarted, Event
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount
from tests.sessions import BOTH, realtime

from .support import TEXT, ask, billed, keys_of, new_client, spent

ID = "default/pool/total/UTC"


class TestSessions:
    """A session over a websocket is one attempt, whose cost is known at its end."""

    @BOTH
    async def test_costs_what_was_said_in_it(self, sim: ProviderSimulator, tmp_path: Path, *, sync: bool) -> None:
        pytest.importorskip("websockets", reason="needs openai[realtime]")
        budget = Budget(usd=0.08, per="total")
        client: Any = (
            SyncRoutedOpenAI(keys=keys_of(sim), budgets=[budget], timeout=60.0) if sync else new_client(sim, budget)
        )
        sessions = 0
        with pytest.raises(BudgetExceeded):
            while sessions < 1000:
                await realtime(client, turns=4)
                sessions += 1
                (status,) = client.router.status().budgets
                assert status.reserved_usd == 0.0
                assert round(status.spent_usd * 1e6) == billed(sim)
        assert sessions > 1
        await anyio.to_thread.run_sync(client.router.flush)
        found = spent(tmp_path / "usage.db")
        assert found[ID] == found["rows"] == billed(sim) <= 80_000


class TestHedging:
    """Two attempts are out, each with what it can cost reserved, and one of them is dropped."""

    async def test_both_attempts_are_charged_and_what_was_reserved_comes_back(self, tmp_path: Path) -> None:
        accounts = [SimAccount("A"), SimAccount("B")]
        with ProviderSimulator(accounts, latency=Latency(first_byte=0.3)) as sim:
            async with new_client(sim, Budget(usd=1, per="total"), hedge_after=0.02) as client:
                reserved: list[float] = []

                def on_event(event: Event) -> None:
                    if isinstance(event, AttemptStarted):
                        reserved.append(client.router.status().budgets[0].reserved_usd)

                client.router.on_event(on_event)
                await ask(client, TEXT, max_tokens=1000)
                (status,) = client.router.status().budgets
                assert status.reserved_usd == 0.0
            rows = client.ledger.attempts()
            assert sorted((row["outcome"], row["detail"]) for row in rows) == [("abandoned", "hedged"), ("ok", "")]
            assert reserved[1] == 2 * reserved[0] > 0
            cost = {row["outcome"]: row["cost_microusd"] for row in rows}
            assert cost["ok"] == 250 * 2.5 + 250 * 10
            assert cost["abandoned"] >= 1000 * 10
            found = spent(tmp_path / "usage.db")
            assert found[ID] == found["rows"] == sum(cost.values()) >= billed(sim)

    async def test_many_hedged_calls_at_once_stay_within_the_budget(self, tmp_path: Path) -> None:
        accounts = [SimAccount("A"), SimAccount("B")]
        refused = 0
        with ProviderSimulator(accounts, latency=Latency(first_byte=0.1)) as sim:
            async with new_client(sim, Budget(usd=0.1, per="total"), hedge_after=0.02) as client:

                async def one() -> None:
                    nonlocal refused
                    try:
                        await ask(client)
                    except BudgetExceeded:
                        refused += 1

                async with anyio.create_task_group() as group:
                    for _ in range(80):
                        group.start_soon(one)
                (status,) = client.router.status().budgets
                assert status.reserved_usd == 0.0
            outcomes = {row["outcome"] for row in client.ledger.attempts()}
            assert refused > 0 and outcomes == {"ok", "abandoned"}
            found = spent(tmp_path / "usage.db")
            assert billed(sim) <= found["rows"] == found[ID] <= 0.1e6
