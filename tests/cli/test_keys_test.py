"""`keys test` makes one call with each key, and tells what came of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from keyrouter_openai.ledger import Ledger
from keyrouter_openai.testing import ProviderSimulator, respond
from keyrouter_openai.vaults import open_vault

from .support import Cli


def outcomes(results: list[dict[str, Any]]) -> dict[str, tuple[bool, str, int | None]]:
    return {row["key"]: (row["ok"], row["outcome"], row["status"]) for row in results}


def test_good_keys(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    results = cli.json("keys", "test")
    assert outcomes(results) == {"A1": (True, "ok", 200), "A2": (True, "ok", 200), "B1": (True, "ok", 200)}
    assert [row["account"] for row in results] == ["org-A/proj_A", "org-A/proj_A", "org-B/proj_B"]
    assert all(row["seconds"] > 0 and row["detail"] == "" for row in results)
    assert sim.by_key() == {"A/key-1": 1, "A/key-2": 1, "B/key-1": 1}
    assert {call.path for call in sim.calls} == {"/v1/models"}


def test_the_table(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    sim.revoke("A/key-2")
    lines = cli.run("keys", "test", exit_code=1).stdout.splitlines()
    assert lines[0].split() == ["key", "ok", "outcome", "status", "seconds", "account", "detail"]
    assert [line.split()[:4] for line in lines[2:]] == [
        ["A1", "yes", "ok", "200"],
        ["A2", "no", "key_refused", "401"],
        ["B1", "yes", "ok", "200"],
    ]


def test_named_keys_alone(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    assert list(outcomes(cli.json("keys", "test", "B1", "A1", "B1"))) == ["B1", "A1"]
    assert sim.by_key() == {"A/key-1": 1, "A/key-2": 0, "B/key-1": 1}


def test_a_disabled_key_is_tested_if_it_is_named(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    for name in ("A1", "A2"):
        cli.run("keys", "disable", name)
    assert list(outcomes(cli.json("keys", "test"))) == ["B1"]
    assert outcomes(cli.json("keys", "test", "A1")) == {"A1": (True, "ok", 200)}
    cli.run("keys", "disable", "B1")
    assert "are disabled" in cli.run("keys", "test").stderr
    assert cli.json("keys", "test") == []


def test_a_fault_of_one_key_says_nothing_of_the_others(cli: Cli, sim: ProviderSimulator) -> None:
    """Neither a limit of the account that two share, nor a provider that refuses them all."""
    cli.add_all(sim)
    for fault, outcome, status in (("rate_limit", "rate_limit", 429), ("no_key", "key_refused", 401)):
        sim.fail(fault)
        expected = dict.fromkeys(("A1", "A2", "B1"), (False, outcome, status))
        assert outcomes(cli.json("keys", "test", exit_code=1)) == expected
        sim.heal()
    assert sim.by_key() == {"A/key-1": 2, "A/key-2": 2, "B/key-1": 2}


def test_nobody_answers(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    with sim.unreachable():
        assert outcomes(cli.json("keys", "test", "A1", exit_code=1)) == {"A1": (False, "network", None)}


def test_a_web_page_is_no_success(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    sim.fail(respond(200, body="<html>Welcome</html>"))
    (row,) = cli.json("keys", "test", "A1", exit_code=1)
    assert (row["ok"], row["status"]) == (False, 200)
    assert "check base_url" in row["detail"]


def test_a_provider_that_echoes_the_key(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    sim.fail("key_echo")
    assert cli.json("keys", "test", exit_code=1)[0]["ok"] is False
    cli.run("keys", "test", exit_code=1)


def test_a_secret_that_is_gone(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    open_vault(os.environ["KEYROUTER_VAULT"]).delete("default", "A1")
    first, *others = cli.json("keys", "test", exit_code=1)
    assert (first["key"], first["outcome"]) == ("A1", "vault")
    assert first["detail"] == f"no secret in the encrypted file {cli.vault}: remove the key and add it again"
    assert all(row["ok"] for row in others)


def test_a_vault_that_does_not_open_is_no_fault_of_a_key(
    cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.add_all(sim)
    monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "wrong")
    assert "the passphrase is wrong" in cli.refuses("keys", "test")
    assert sim.calls == []


def test_no_other_credential_is_tested_in_place_of_the_keys(
    cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.add_all(sim)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"Authorization: Bearer {sim.keys['B/key-1']}")
    assert "OPENAI_CUSTOM_HEADERS sets Authorization" in cli.refuses("keys", "test")
    assert sim.calls == []


def test_the_calls_are_on_record(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add_all(sim)
    cli.run("keys", "test", "A1", "B1")
    rows = Ledger(cli.ledger).attempts()
    assert {(row["key"], row["endpoint"], row["outcome"]) for row in rows} == {
        ("A1", "/models", "ok"),
        ("B1", "/models", "ok"),
    }
