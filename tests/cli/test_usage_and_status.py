"""What the ledger knows, added up and key by key."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from keyrouter_openai.core.model import Attempt, Fault, Usage
from keyrouter_openai.ledger import Ledger
from tests.ledger.support import attempt

from .support import Cli


def record(cli: Cli, *attempts: Attempt) -> None:
    ledger = Ledger(cli.ledger)
    for one in attempts:
        ledger.record(one)
    ledger.close()


@pytest.fixture
def month(cli: Cli) -> None:
    record(
        cli,
        attempt(at=at("2026-10-31T23:59"), model="gpt-4o", usage=Usage(prompt=10, completion=1), tags={"tenant": "t1"}),
        attempt(at=at("2026-11-01T00:00"), model="gpt-4o", usage=Usage(prompt=20, completion=2), cost_microusd=1_500),
        attempt(at=at("2026-11-02T12:00"), key="b", model="o3", outcome=Fault.RATE_LIMIT, tags={"tenant": "t2"}),
    )


def at(time_: str) -> float:
    return datetime.fromisoformat(time_).timestamp()


@pytest.mark.usefixtures("month")
class TestUsage:
    def test_by_key(self, cli: Cli) -> None:
        counts = {"attempts": 1, "succeeded": 0, "failed": 1}
        nothing = {"prompt_tokens": None, "cached_tokens": None, "completion_tokens": None, "cost_usd": None}
        first, second = cli.json("usage")
        assert second == {"key": "b", "pool": "default", **counts, **nothing}
        assert (first["key"], first["attempts"], first["prompt_tokens"], first["cost_usd"]) == ("a", 2, 30, 0.0015)

    @pytest.mark.parametrize(
        ("by", "groups"),
        [
            ("account", ["acme"]),
            ("model", ["gpt-4o", "o3"]),
            ("provider", ["openai"]),
            ("day", ["2026-10-31", "2026-11-01", "2026-11-02"]),
            ("outcome", ["ok", "rate_limit"]),
            ("tag:tenant", [None, "t1", "t2"]),
        ],
    )
    def test_by_what(self, cli: Cli, by: str, groups: list[str | None]) -> None:
        assert [row[by] for row in cli.json("usage", "--by", by)] == groups

    @pytest.mark.parametrize(
        ("bounds", "attempts"),
        [
            (["--since", "2026-11-01"], 2),
            (["--until", "2026-11-01"], 1),
            (["--since", "2026-11-01", "--until", "2026-11-02T12:00"], 1),
            (["--since", "2026-11-02T12:00"], 1),
            (["--since", "999999w"], 3),
        ],
    )
    def test_between_two_moments(self, cli: Cli, bounds: list[str], attempts: int) -> None:
        assert sum(row["attempts"] for row in cli.json("usage", *bounds)) == attempts

    def test_so_long_ago(self, cli: Cli) -> None:
        record(cli, *(attempt(at=time.time() - hours * 3600, key="c") for hours in (0.4, 11, 13, 7 * 24 + 1)))
        counts = [sum(row["attempts"] for row in cli.json("usage", "--since", ago)) for ago in ("30m", "12h", "7d")]
        assert counts == [1, 2, 3]

    def test_the_table(self, cli: Cli) -> None:
        lines = cli.run("usage", "--by", "model").stdout.splitlines()
        assert lines[0].split()[:4] == ["model", "attempts", "succeeded", "failed"]
        assert lines[2].split() == ["gpt-4o", "2", "2", "0", "30", "0", "3", "0.0015"]

    def test_what_makes_no_sense(self, cli: Cli) -> None:
        assert "cannot sum up by 'colour': use one of key, account" in cli.refuses("usage", "--by", "colour")
        assert "'yesterday' is no time: write it as 30m, 12h, 7d" in cli.refuses("usage", "--since", "yesterday")
        assert "is no time" in cli.refuses("usage", "--until", "0001-01-01")


def test_usage_of_nothing(cli: Cli) -> None:
    assert cli.json("usage") == []
    assert f"No such attempts are on record in {cli.ledger}" in cli.run("usage").stderr
    assert not cli.ledger.exists()


class TestStatus:
    @pytest.fixture(autouse=True)
    def keys(self, cli: Cli) -> None:
        cli.add("a")
        cli.add("b", "--provider", "groq", "--account", "declared")
        cli.add("idle")
        cli.add("a", "--pool", "other")

    def test_each_key_with_its_last_attempt(self, cli: Cli) -> None:
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

    def test_a_pool_that_does_not_exist(self, cli: Cli) -> None:
        says = "pool 'none' has no keys (pools that have some: default, other): add one with `keyrouter-openai keys add"
        assert says in cli.refuses("status", "--pool", "none")

    def test_help_says_what_it_does_not_know(self, cli: Cli) -> None:
        assert "client.router.status()" in cli.run("status", "--help").stdout
