"""What the tests of all libraries share: a pool of two accounts, and a tool during whose run a key dies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from pydantic import BaseModel

from keyrouter_openai import Key, Ledger, RoutedOpenAI, Router, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from tests.support import Pool, TurnedClock

MODEL = "gpt-4o"
HELLO = "Say hello in one word."
ASK_TOOL = "What does get_weather say of Oslo?"
FORECAST = "Oslo: 3 degrees and snow."


class City(BaseModel):
    """What the models are asked to fill in."""

    name: str
    inhabitants: int


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Two accounts of one key each, the second for hard times. In the end, the ledger must have all that came."""
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        keys = [
            Key(name=account, secret=sim.keys[f"{account}/key-1"], base_url=sim.url, account=account, quality=quality)
            for account, quality in (("A", 1.0), ("B", 0.5))
        ]
        ledger, clock = Ledger(tmp_path / "ledger.db"), TurnedClock()
        router = Router(keys, ledger=ledger, clock=clock, rng=Random(1), objective="quality")
        pool = Pool(sim, router, ledger, clock)
        yield pool
        pool.router.flush()
        assert sim.calls
        assert [(row["key"], row["account"]) for row in pool.rows()] == [
            (call.account, call.account) for call in sim.calls
        ]
        ledger.close()


@pytest.fixture
async def client(pool: Pool) -> AsyncIterator[RoutedOpenAI]:
    async with pool.client() as client:
        yield client


@pytest.fixture
def sync_client(pool: Pool) -> Iterator[SyncRoutedOpenAI]:
    with pool.client_sync() as client:
        yield client


@pytest.fixture(params=["revoked", "out of credit"])
def get_weather(request: pytest.FixtureRequest, pool: Pool) -> Iterator[Callable[[str], str]]:
    """A tool during whose run the key dies that it was called with. The other one must get the tool's result."""

    def get_weather(city: str) -> str:
        """The weather in a city.

        Args:
            city: The name of the city.
        """
        assert "Oslo" in city
        if request.param == "revoked":
            pool.sim.revoke("A/key-1")
        else:
            pool.sim.set_credit("A", calls=0)
        return FORECAST

    yield get_weather
    assert [(call.account, call.status == 200) for call in pool.sim.calls] == [("A", True), ("A", False), ("B", True)]
