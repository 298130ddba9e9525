"""Clients with budgets, and what the simulated provider bills them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from keyrouter_openai import Budget, Key, RoutedOpenAI
from keyrouter_openai.clock import SystemClock
from keyrouter_openai.testing import ProviderSimulator

MODEL = "gpt-4o"  # 2.50 and 10 US dollars per million tokens of input and output
CENT = 10_000
TEXT = "word " * 200
"""The simulator counts a token for four characters, and echoes: 250 tokens in, as many out as the cap allows."""


class WallClock(SystemClock):
    """A clock whose wall-clock time is set by the test alone, as by a person."""

    def __init__(self, at: datetime) -> None:
        self.wall = at.timestamp()

    def time(self) -> float:
        return self.wall


def keys_of(sim: ProviderSimulator) -> list[Key]:
    return [
        Key(name=label[0].lower(), secret=secret, base_url=sim.url, account=label[0])
        for label, secret in sim.keys.items()
    ]


def new_client(sim: ProviderSimulator, *budgets: Budget, **arguments: Any) -> RoutedOpenAI:
    return RoutedOpenAI(keys=keys_of(sim), budgets=budgets, timeout=60.0, **arguments)


def messages(text: str = TEXT) -> list[Any]:
    return [{"role": "user", "content": text}]


async def ask(client: RoutedOpenAI, text: str = TEXT, **arguments: Any) -> Any:
    create: Any = client.chat.completions.create
    return await create(**{"model": MODEL, "max_tokens": 100, "messages": messages(text), **arguments})


def billed(sim: ProviderSimulator) -> int:
    """Micro-dollars that the provider bills."""
    return sum(sim.bill().values())


def spent(path: Path) -> dict[str, int]:
    """Micro-dollars that the ledger holds against each budget, and those of all rows."""
    with closing(sqlite3.connect(path)) as connection:
        windows = dict(connection.execute("select budget, sum(spent_microusd) from budget_windows group by 1"))
        rows = connection.execute("select coalesce(sum(cost_microusd), 0) from attempts").fetchone()[0]
        return {**windows, "rows": rows}
