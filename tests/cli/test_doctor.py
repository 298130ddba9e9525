"""The doctor says what is wrong and what to do, and shows no values."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import openai
import pytest

from keyrouter_openai.vaults import open_vault

from .support import SECRET, Cli


def findings(cli: Cli, *, exit_code: int) -> dict[str, tuple[str, str]]:
    return {row["check"]: (row["result"], row["detail"]) for row in cli.json("doctor", exit_code=exit_code)}


def test_all_is_well(cli: Cli) -> None:
    cli.add("a")
    cli.add("b", "--pool", "team")
    cli.run("keys", "disable", "a")
    cli.add("c")
    before = cli.at_rest()
    found = findings(cli, exit_code=0)
    assert cli.at_rest() == before
    assert {result for result, _ in found.values()} == {"ok"}
    assert found["openai"][1] == openai.__version__
    assert found["ledger"][1] == str(cli.ledger)
    assert found["vault"][1] == f"encrypted file {cli.vault}"
    assert found["pool default"][1] == "keys: 2, enabled: 1"
    assert found["client"][1] == "RoutedOpenAI() uses the keys of pool 'default'"


def test_each_line_of_the_text_says_how_it_is(cli: Cli) -> None:
    cli.add("a")
    lines = cli.run("doctor").stdout.splitlines()
    assert len(lines) == len(findings(cli, exit_code=0))
    assert all(line.startswith("ok    ") for line in lines)


def test_variables_are_named_and_their_values_not_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    text = cli.run("doctor").stdout
    given, missing = text.split("environment: set: ")[1].splitlines()[0].split("; not set: ")
    assert {"OPENAI_API_KEY", "KEYROUTER_VAULT_PASSPHRASE"} <= set(given.split(", "))
    assert {"OPENAI_API_KEYS", "HTTPS_PROXY"} <= set(missing.split(", "))
    assert "correct horse" not in text
    assert "RoutedOpenAI() uses the key in OPENAI_API_KEY" in text


def test_no_key_yet(cli: Cli) -> None:
    found = findings(cli, exit_code=0)
    assert found["client"] == ("warn", "RoutedOpenAI() finds no key: add one with `keyrouter-openai keys add NAME`")
    assert found["ledger"][1].endswith("(not there yet: it comes with its first entry)")
    assert not cli.ledger.exists()


def test_an_untested_sdk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "__version__", "4.0.1")
    result, detail = findings(cli, exit_code=0)["openai"]
    assert result == "warn"
    assert "4.0.1 was not tested: pip install 'openai>=2.54,<4'" in detail


def test_a_ledger_that_cannot_be_used(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(cli.ledger)) as connection:
        connection.execute("pragma user_version = 99")
    result, detail = findings(cli, exit_code=1)["ledger"]
    assert result == "fail"
    assert "upgrade, or point KEYROUTER_DB at another file" in detail
    monkeypatch.setenv("KEYROUTER_DB", str(tmp_path))
    found = findings(cli, exit_code=1)
    assert found["ledger"][0] == "fail"
    assert found["vault"][0] == "ok"


def test_a_vault_that_does_not_open(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.add("a")
    monkeypatch.delenv("KEYROUTER_VAULT_PASSPHRASE")
    found = findings(cli, exit_code=1)
    assert found["vault"][0] == "fail"
    assert "set KEYROUTER_VAULT_PASSPHRASE" in found["vault"][1]
    assert found["pool default"][0] == "warn"
    monkeypatch.setenv("KEYROUTER_VAULT", "nonsense")
    assert "names no vault: use keyring, file, file:PATH or env" in findings(cli, exit_code=1)["vault"][1]


@pytest.mark.usefixtures("no_keyring")
def test_no_keyring(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KEYROUTER_VAULT")
    monkeypatch.setenv("HOME", str(tmp_path))
    result, detail = findings(cli, exit_code=0)["vault"]
    assert result == "warn"
    assert "encrypted file" in detail
    assert "no OS keyring answers. On Linux it takes a session D-Bus with gnome-keyring or KWallet" in detail
    monkeypatch.setenv("KEYROUTER_VAULT", "keyring")
    assert findings(cli, exit_code=1)["vault"][0] == "fail"


def test_a_secret_that_is_gone(cli: Cli) -> None:
    cli.add("a")
    cli.add("b")
    open_vault(os.environ["KEYROUTER_VAULT"]).delete("default", "a")
    result, detail = findings(cli, exit_code=1)["pool default"]
    assert result == "fail"
    assert "key 'a' of pool 'default': no secret in the encrypted file" in detail


def test_a_pool_without_a_key_in_use(cli: Cli) -> None:
    cli.add("a")
    cli.run("keys", "disable", "a")
    result, detail = findings(cli, exit_code=0)["pool default"]
    assert result == "warn"
    assert "`keyrouter-openai keys enable NAME --pool default`" in detail


def test_a_header_that_overrides_every_key(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.add("a")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Team: a\nauthorization : Bearer {SECRET}")
    result, detail = findings(cli, exit_code=0)["OPENAI_CUSTOM_HEADERS"]
    assert result == "warn"
    assert "sets Authorization: all calls go out with it, and none with a key of a pool. Take it out" in detail


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("KEYROUTER_POOL", "nowhere", "pool 'nowhere' does not exist"),
        ("OPENAI_API_KEYS", "sk-canary-1,,sk-canary-2", "OPENAI_API_KEYS is malformed at key 2 of 3"),
        ("OPENAI_BASE_URL", "http://example.com", "would send the key over the network unencrypted"),
    ],
)
def test_settings_with_which_no_client_could_be_made(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    if variable != "OPENAI_API_KEYS":
        cli.add("a")
        cli.add("b")
    monkeypatch.setenv(variable, value)
    result, detail = findings(cli, exit_code=1)["client"]
    assert result == "fail"
    assert says in detail
