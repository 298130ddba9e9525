"""What the ledger knows, key by key."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from keyrouter_openai.core.model import Fault
from tests.ledger.support import attempt

from .support import Cli, record


@pytest.fixture(autouse=True)
def keys(cli: Cli) -> None:
    cli.add("a")
    cli.add("b", "--provider", "groq", "--account", "declared")
    cli.add("idle")
    cli.add("a", "--pool", "other")


def test_each_key_with_its_last_attempt(cli: Cli) -> None:
    now = round(time.time())
    failed = {"outcome": Fault.RATE_LIMIT, "status": 429}
    record(
        cli,
        attempt(at=now - 7200, account="key:a", status=200),
        attempt(at=now - 60, account="org-1/proj_1", **failed),
        attempt(at=now - 120, account="org-1/proj_1", status=200),
        attempt(at=now - 7200, key="b", provider="groq", account="key:b", outcome=Fault.NETWORK),
        attempt(at=now - 10, pool="other"),
    )
    cli.run("keys", "disable", "b")
    assert cli.json("status") == [
        {
            "key": "a",
            "provider": "openai",
            "enabled": True,
            "account": "org-1/proj_1",
            "last_used": now - 60,
            "last_outcome": "rate_limit",
            "last_status": 429,
            "attempts_last_hour": 2,
            "failures_last_hour": 1,
        },
        {
            "key": "b",
            "provider": "groq",
            "enabled": False,
            "account": "declared",
            "last_used": now - 7200,
            "last_outcome": "network",
            "last_status": None,
            "attempts_last_hour": 0,
            "failures_last_hour": 0,
        },
        {
            "key": "idle",
            "provider": "openai",
            "enabled": True,
            "account": None,
            "last_used": None,
            "last_outcome": None,
            "last_status": None,
            "attempts_last_hour": 0,
            "failures_last_hour": 0,
        },
    ]
    table = cli.run("status").stdout
    assert datetime.fromtimestamp(now - 60).isoformat(" ") in table
    assert [row["attempts_last_hour"] for row in cli.json("status", "--pool", "other")] == [1]


def test_a_pool_that_does_not_exist(cli: Cli) -> None:
    says = "pool 'none' has no keys (pools that have some: default, other): add one with `keyrouter-openai keys add"
    assert says in cli.refuses("status", "--pool", "none")


def test_help_says_what_it_does_not_know(cli: Cli) -> None:
    assert "client.router.status()" in cli.run("status", "--help").stdout
