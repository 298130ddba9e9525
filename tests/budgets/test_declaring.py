"""What is said of a budget, and what of that makes no sense."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keyrouter_openai import Budget, ConfigError, Key, Ledger, RoutedOpenAI, SyncRoutedOpenAI
from keyrouter_openai.core.memory import LearnedAccount


def test_what_makes_no_sense_is_refused_by_name() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"usd": 0}, "budget 'pool'.*usd"),
        ({"usd": 1, "scope": "key:"}, "scope 'key:' names nothing: use pool, key:NAME"),
        ({"usd": 1, "scope": "tag:team"}, "tag:NAME=VALUE"),
        ({"usd": 1, "zone": "Mars/Olympus"}, "no time zone 'Mars/Olympus': use an IANA name"),
        ({"usd": 1, "per": "hour"}, "per: .*'day', 'week', 'month' or 'total'"),
        ({"usd": 1, "name": "a b"}, "'a b' is not a usable name for a budget"),
        ({"usd": 1, "currency": "EUR"}, "currency"),
    ]
    for given, said in cases:
        with pytest.raises(ConfigError, match=said):
            Budget(**given)
    key = Key(name="a", secret="sk-1")
    with pytest.raises(ConfigError, match="budget 'pool per day' is given twice"):
        RoutedOpenAI(keys=[key], budgets=[Budget(usd=1), Budget(usd=2)])
    not_lists: list[Any] = [Budget(usd=1), [{"usd": 1}], {"usd": 1}, "pool", 5]
    for wrong in not_lists:
        with pytest.raises(ConfigError, match=r"budgets=.*: give a list of them, such as \[Budget\(usd=50\)\]"):
            RoutedOpenAI(keys=[key], budgets=wrong)
    client = RoutedOpenAI(keys=[key], budgets=[Budget(usd=1), Budget(usd=2, name="other")])
    with pytest.raises(ConfigError, match=r"a copy shares .* budgets: give .* budgets= to the constructor"):
        client.copy(budgets=[Budget(usd=1)])
    with pytest.raises(ConfigError, match="budgets="):
        RoutedOpenAI(router=client.router, budgets=[Budget(usd=1)])
    assert client.copy(keys=["sk-2"]).router.budgets is not None


def test_amounts_are_meant_as_they_are_written() -> None:
    assert Budget(usd=0.1).rule("p").microusd == 100_000
    assert Budget(usd="0.123456").rule("p").microusd == 123_456
    assert Budget(usd=1, name="n").rule("p").id == "p/n"
    assert Budget(usd=1).rule("p").name == "pool per day"
    assert Budget(usd=1, zone="Europe/Berlin").rule("p").name == "pool per day in Europe/Berlin"


@pytest.mark.parametrize("kind", [RoutedOpenAI, SyncRoutedOpenAI])
def test_a_budget_that_concerns_no_call_is_told_of_when_the_router_is_made(
    kind: type[RoutedOpenAI | SyncRoutedOpenAI], caplog: pytest.LogCaptureFixture
) -> None:
    keys = [
        Key(name="a", secret="sk-1", account="acme", models=["gpt-4o*", "o3"]),
        Key(name="b", secret="sk-2", account="acme", models=["gpt-5*"], enabled=False),
    ]
    fine = ("pool", "key:a", "key:b", "account:acme", "tag:team=none", "model:gpt-4o-mini", "model:*", "model:o*")
    budgets = [Budget(usd=1, scope=scope) for scope in fine]
    client = kind(keys=keys, budgets=budgets, ledger=None)
    assert caplog.messages == []
    idle = [Budget(usd=1, scope=scope) for scope in ("key:c", "account:other", "model:claude*")]
    kind(keys=keys, budgets=[*budgets, *idle], ledger=None)
    assert caplog.messages == [
        "budget 'key:c per day' concerns no call so far: pool 'default' has no key 'c': it has a, b",
        "budget 'account:other per day' concerns no call so far: pool 'default' has no account 'other': it has acme",
        "budget 'model:claude* per day' concerns no call so far: no key of pool 'default' serves such models",
    ]
    caplog.clear()
    kind(router=client.router)
    client.with_options(timeout=5)
    assert caplog.messages == []


def test_an_account_that_was_learned_before_is_no_surprise(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    keys = [Key(name=name, secret=f"sk-{name}") for name in "ab"]
    with closing(Ledger(tmp_path / "usage.db")) as ledger:
        ledger.remember("default", [LearnedAccount("a", "acme", "", time.time())])
        ledger.flush()
        SyncRoutedOpenAI(keys=keys, budgets=[Budget(usd=1, scope="account:acme")], ledger=ledger)
        assert caplog.messages == []
