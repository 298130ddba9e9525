"""A provider of three accounts, and clients over one ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from keyrouter_openai import Key, RoutedOpenAI, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import Client, Open, accounts_of, do


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B"), SimAccount("C")]) as running:
        yield running


@pytest.fixture(params=["async", "sync"])
async def open_client(request: pytest.FixtureRequest, sim: ProviderSimulator, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens clients of one kind over the same ledger; each is as if in another process."""
    opened: list[Any] = []

    def open_one(keys: list[Key] | None = None, **arguments: Any) -> Client:
        kind = RoutedOpenAI if request.param == "async" else SyncRoutedOpenAI
        arguments = {"ledger": tmp_path / "usage.db", "timeout": 20.0, **arguments}
        client = kind(keys=accounts_of(sim) if keys is None else keys, **arguments)
        opened.append(client)
        return client

    yield open_one
    for client in opened:
        await do(client, "close")
