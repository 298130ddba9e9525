"""What a router has learned is there again after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrouter_openai import Key, Ledger, RoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import MESSAGES

pytestmark = pytest.mark.anyio


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A", keys=2, rpm=20, tpm=50_000), SimAccount("B", rpm=300)]) as simulator:
        yield simulator


def client_of(sim: ProviderSimulator, path: Path) -> RoutedOpenAI:
    names = {"A/key-1": "a1", "A/key-2": "a2", "B/key-1": "b"}
    keys = [Key(name=names[label], secret=secret, base_url=sim.url) for label, secret in sim.keys.items()]
    return RoutedOpenAI(keys=keys, ledger=path)


async def ask(client: RoutedOpenAI, times: int = 1) -> None:
    for _ in range(times):
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


async def test_accounts_and_limits_are_known_after_a_restart(sim: ProviderSimulator, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    async with client_of(sim, path) as first:
        await ask(first, 12)
        known = first.router.status()
    assert {key.account for key in known.keys} == {"org-A/proj_A", "org-B/proj_B"}

    async with client_of(sim, path) as second:
        assert {key.name: key.account for key in second.router.status().keys} == {
            key.name: key.account for key in known.keys
        }
        await ask(second)
        buckets = {
            (account.name, bucket.dimension): bucket
            for account in second.router.status().accounts
            for bucket in account.buckets
        }
        assert {place: bucket.limit for place, bucket in buckets.items()} == {
            ("org-A/proj_A", "requests"): 20,
            ("org-A/proj_A", "tokens"): 50_000,
            ("org-B/proj_B", "requests"): 300,
        }
        assert buckets["org-A/proj_A", "requests"].level < 19, "what was used before the restart is still used"


async def test_keys_that_were_called_by_their_place_are_not_recalled(sim: ProviderSimulator, tmp_path: Path) -> None:
    """The next program's `key-1` may be another key."""
    ledger = Ledger(tmp_path / "usage.db")
    with ProviderSimulator([SimAccount("X"), SimAccount("Y")]) as other:
        async with RoutedOpenAI(keys=list(other.keys.values()), base_url=other.url, ledger=ledger) as first:
            await ask(first, 4)
            assert {key.account for key in first.router.status().keys} == {"org-X/proj_X", "org-Y/proj_Y"}
    async with RoutedOpenAI(keys=list(sim.keys.values()), base_url=sim.url, ledger=ledger) as second:
        assert {key.account for key in second.router.status().keys} == {"key:key-1", "key:key-2", "key:key-3"}
    ledger.close()
