"""Calls that are billed, and what the command says of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from keyrouter_openai import SyncRoutedOpenAI
from keyrouter_openai.core.model import Usage
from keyrouter_openai.ledger import Ledger
from tests.cli.support import Cli
from tests.ledger.support import attempt

TEXT = "The quick brown fox jumps over the lazy dog. " * 40
"""450 tokens by the simulator's rule of thumb, of a question as of its echo."""
MESSAGES: Any = [{"role": "user", "content": TEXT}]


def ask(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-4o", "messages": MESSAGES, **more})


def routed(**more: Any) -> SyncRoutedOpenAI:
    return SyncRoutedOpenAI(max_retries=0, **more)


def reasons(rows: list[dict[str, Any]]) -> str:
    """The reasons of the only difference."""
    (row,) = rows
    return "; ".join(row["reasons"])


def in_ledger(cli: Cli, sql: str) -> None:
    with closing(sqlite3.connect(cli.ledger)) as connection, connection:
        connection.execute(sql)


def record(cli: Cli, **changes: Any) -> None:
    """Put an attempt into the ledger that the provider knows nothing of."""
    ledger = Ledger(cli.ledger)
    ledger.record(attempt(**{"key": "A1", "model": "gpt-4o", "usage": Usage(100, 10), "cost_microusd": 350, **changes}))
    ledger.close()
