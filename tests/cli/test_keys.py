"""Keys are added, listed, switched and removed; what goes wrong changes nothing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from keyrouter_openai import Key, VaultError
from keyrouter_openai.cli.keystore import Keystore
from keyrouter_openai.keys import Limits
from keyrouter_openai.ledger import Registry
from keyrouter_openai.vaults.memory import MemoryVault

from .support import SECRET, Cli, at_terminal, is_clean


def test_a_key_goes_into_the_vault_and_the_registry(cli: Cli) -> None:
    done = cli.run("keys", "add", "work", input=f"  {SECRET}\n")
    assert done.stdout == f"Added key 'work' to pool 'default'; its secret is in the encrypted file {cli.vault}.\n"
    assert cli.secret("work") == SECRET
    assert Registry(cli.ledger).keys("default") == [Key(name="work")]
    assert SECRET.encode() not in cli.ledger.read_bytes() + cli.vault.read_bytes()


def test_all_that_can_be_said_of_a_key_is_kept_and_listed(cli: Cli) -> None:
    cli.add(
        *("work", "--pool", "team", "--provider", "groq", "--base-url", "https://example.com/v1/"),
        *("--organization", "org-1", "--project", "proj_1", "--account", "acme", "--weight", "2.5"),
        *("--model", "llama-*", "--model", "qwen-*", "--tag", "a", "--tag", "b"),
        *("--rpm", "30", "--tpm", "8000", "--rpd", "1000", "--tpd", "200000", "--concurrent", "4"),
        *("--limits-for", "llama-*", "--price-multiplier", "0.5", "--quality", "0.75"),
    )
    cli.add("other")
    assert cli.json("keys", "list") == [
        {
            "pool": "default",
            "name": "other",
            "provider": "openai",
            "base_url": None,
            "organization": None,
            "project": None,
            "account": None,
            "weight": 1.0,
            "models": None,
            "model_map": {},
            "limits": {},
            "price_multiplier": 1.0,
            "quality": None,
            "tags": [],
            "enabled": True,
        },
        {
            "pool": "team",
            "name": "work",
            "provider": "groq",
            "base_url": "https://example.com/v1",
            "organization": "org-1",
            "project": "proj_1",
            "account": "acme",
            "weight": 2.5,
            "models": ["llama-*", "qwen-*"],
            "model_map": {},
            "limits": {"llama-*": {"rpm": 30, "tpm": 8000, "rpd": 1000, "tpd": 200000, "concurrent": 4}},
            "price_multiplier": 0.5,
            "quality": 0.75,
            "tags": ["a", "b"],
            "enabled": True,
        },
    ]
    table = cli.run("keys", "list").stdout
    assert "https://example.com/v1" in table
    assert "llama-*, qwen-*" in table
    assert "llama-*: 30 rpm, 8,000 tpm, 1,000 rpd, 200,000 tpd, 4 concurrent" in table


def test_limits_hold_for_all_models_unless_they_are_named(cli: Cli) -> None:
    cli.add("work", "--rpm", "500")
    assert Registry(cli.ledger).keys("default") == [Key(name="work", limits={"*": Limits(rpm=500)})]
    assert "*: 500 rpm" in cli.run("keys", "list").stdout


def test_the_pool_may_come_from_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYROUTER_POOL", "team")
    cli.add("work")
    assert cli.secret("work", "team") == SECRET
    assert cli.json("keys", "list")[0]["pool"] == "team"


def test_what_is_not_printable_cannot_drive_the_terminal(cli: Cli) -> None:
    cli.add("work", "--tag", "\x1b[2Jacme")
    assert "?[2Jacme" in cli.run("keys", "list").stdout


def test_disable_and_enable(cli: Cli) -> None:
    cli.add("work")
    cli.run("keys", "disable", "work")
    assert cli.json("keys", "list")[0]["enabled"] is False
    assert cli.secret("work") == SECRET
    cli.run("keys", "enable", "work")
    assert cli.json("keys", "list")[0]["enabled"] is True


def test_remove_takes_the_secret_too(cli: Cli) -> None:
    cli.add("work")
    cli.add("other")
    cli.run("keys", "remove", "work", "--yes")
    assert cli.secret("work") is None
    assert [key["name"] for key in cli.json("keys", "list")] == ["other"]


def test_a_key_whose_vault_is_gone_can_still_be_removed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli.add("work")
    monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "forgotten")
    assert "the passphrase is wrong" in cli.refuses("keys", "remove", "work", "--yes")
    cli.run("keys", "remove", "work", "--yes", "--keep-secret")
    assert cli.json("keys", "list") == []


class TestAtATerminal:
    def test_the_secret_is_asked_for_once_and_not_shown(self, cli: Cli) -> None:
        with at_terminal("keys", "add", "work") as person:
            person.answers("Secret: ", SECRET)
            code, output = person.sees_in_the_end()
        assert code == 0
        assert "Added key 'work'" in output
        assert is_clean(output)
        assert cli.secret("work") == SECRET

    def test_ctrl_c_at_the_prompt_changes_nothing(self, cli: Cli) -> None:
        before = cli.at_rest()
        with at_terminal("keys", "add", "work") as person:
            person.reads("Secret: ")
            person.interrupts()
            code, output = person.sees_in_the_end()
        assert (code, output.strip()) == (130, "Interrupted.")
        assert cli.at_rest() == before

    def test_removing_is_asked_about(self, cli: Cli) -> None:
        cli.add("work")
        before = cli.at_rest()
        with at_terminal("keys", "remove", "work") as person:
            person.answers("Remove key 'work' of pool 'default'? [y/N]: ", "n")
            assert person.sees_in_the_end() == (1, "Nothing was changed.\n")
        assert cli.at_rest() == before
        with at_terminal("keys", "remove", "work") as person:
            person.answers("Remove key 'work' of pool 'default'? [y/N]: ", "y")
            assert person.sees_in_the_end() == (0, "Removed key 'work' from pool 'default'.\n")
        assert cli.secret("work") is None

    def test_the_passphrase_of_the_vault_is_asked_for(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KEYROUTER_VAULT_PASSPHRASE")
        with at_terminal("keys", "add", "work") as person:
            person.answers("Secret: ", SECRET)
            person.answers("\nPassphrase of the encrypted file: ", "correct horse")
            person.answers("\nThe same again: ", "correct horse")
            code, output = person.sees_in_the_end()
        assert code == 0, output
        monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "correct horse")
        assert cli.secret("work") == SECRET


@pytest.mark.parametrize(
    ("arguments", "secret", "says"),
    [
        (["bad name"], SECRET, "'bad name' is not a usable name for a key"),
        (["work", "--pool", "../x"], SECRET, "'../x' is not a usable name for a pool"),
        (["work", "--provider", "acme"], SECRET, "key 'work': unknown provider 'acme': use one of anthropic, azure"),
        (["work", "--base-url", "http://example.com"], SECRET, "key 'work': base_url 'http://example.com' would send"),
        (
            ["work", "--provider", "vllm"],
            SECRET,
            "key 'work': provider 'vllm' has no address of its own: give base_url",
        ),
        (["work", "--weight", "0"], SECRET, "key 'work': weight: Input should be greater than 0"),
        (["work", "--rpm", "0"], SECRET, "key 'work': limits: rpm: Input should be greater than 0"),
        (["work", "--tpm", "many"], SECRET, "'many' is not a valid integer"),
        (["work", "--rpd", "5", "--limits-for", ""], SECRET, "key 'work': limits takes patterns of models"),
        (["work", "--limits-for", "gpt-*"], SECRET, "--limits-for says for which models: give a limit too"),
        (["work", "--price-multiplier", "0"], SECRET, "key 'work': price_multiplier: Input should be greater than 0"),
        (["work", "--quality", "2"], SECRET, "key 'work': quality: Input should be less than or equal to 1"),
        (["work", "--weight", "much"], SECRET, "'much' is not a valid float"),
        (["work"], "", "key 'work': the secret is empty: paste the key"),
        (["work"], f"{SECRET}\nsk-canary-2", "key 'work': the secret holds a newline"),
        (["work"], "sk-canary-\u00e4", "key 'work': the secret holds a newline, a blank or another character"),
        (["work"], b"sk-canary-\xff", "key 'work': the secret holds a newline, a blank or another character"),
        (["there"], SECRET, "pool 'default' already has a key 'there': choose another name, or remove it first"),
        (["work", SECRET], SECRET, "a secret on the command line stays in the shell's history"),
        (["work", f"--secret={SECRET}"], SECRET, "No such option"),
    ],
)
def test_bad_input_is_refused(cli: Cli, arguments: list[str], secret: str | bytes, says: str) -> None:
    cli.add("there", secret="sk-canary-there")
    assert says in cli.refuses("keys", "add", *arguments, input=secret)
    assert cli.secret("there") == "sk-canary-there"


@pytest.mark.parametrize("command", ["remove", "enable", "disable", "test"])
def test_keys_and_pools_that_do_not_exist(cli: Cli, command: str) -> None:
    cli.add("there")
    yes = ["--yes"] if command == "remove" else []
    assert "pool 'default' has no key 'work': it has there" in cli.refuses("keys", command, "work", *yes)
    assert "pool 'none' has no key" in cli.refuses("keys", command, "there", "--pool", "none", *yes)


def test_removing_without_a_terminal_takes_a_yes(cli: Cli) -> None:
    cli.add("work")
    assert "confirm with --yes" in cli.refuses("keys", "remove", "work", input="y\n")


def test_a_ledger_that_cannot_be_used(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(cli.ledger)) as connection:
        connection.execute("pragma user_version = 99")
    assert "was written by a newer keyrouter-openai" in cli.refuses("keys", "add", "work", input=SECRET)
    monkeypatch.setenv("KEYROUTER_DB", str(tmp_path))
    assert f"ledger {tmp_path} is a folder: name a file in it" in cli.refuses("keys", "add", "work", input=SECRET)


@pytest.mark.parametrize(
    ("vault", "passphrase", "says"),
    [
        ("env", "", "the environment is read-only: export KEYROUTER_SECRET_WORK yourself"),
        ("nonsense", "", "KEYROUTER_VAULT='nonsense' names no vault: use keyring, file, file:PATH or env"),
        (None, "wrong", "the passphrase is wrong"),
        (None, "", "the encrypted file needs a passphrase, and nobody can be asked for it here"),
    ],
)
def test_a_vault_that_cannot_be_used(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, vault: str | None, passphrase: str, says: str
) -> None:
    cli.add("there")
    if vault is not None:
        monkeypatch.setenv("KEYROUTER_VAULT", vault)
    monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", passphrase)
    assert says in cli.refuses("keys", "add", "work", input=SECRET)


def test_a_read_only_vault_takes_a_key_that_it_has(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYROUTER_VAULT", "env")
    monkeypatch.setenv("KEYROUTER_SECRET_WORK", SECRET)
    cli.add("work")
    assert cli.secret("work") == SECRET
    assert "unset KEYROUTER_SECRET_WORK where you set it" in cli.refuses("keys", "remove", "work", "--yes")


class TestTheRegistryFailsAfterTheVault:
    """Another program holds the database locked, so that it can be read but not written."""

    @pytest.fixture(autouse=True)
    def locked(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("keyrouter_openai.ledger.database.BUSY_TIMEOUT_S", 0.05)
        cli.add("there", secret="sk-canary-there")

    def test_adding_is_undone(self, cli: Cli) -> None:
        with closing(sqlite3.connect(cli.ledger, isolation_level=None)) as other:
            other.execute("begin immediate")
            result = cli.run("keys", "add", "work", input=SECRET, exit_code=2)
        assert "another program keeps the file locked" in result.stderr
        assert cli.secret("work") is None
        assert [key["name"] for key in cli.json("keys", "list")] == ["there"]

    def test_removing_is_undone(self, cli: Cli) -> None:
        with closing(sqlite3.connect(cli.ledger, isolation_level=None)) as other:
            other.execute("begin immediate")
            result = cli.run("keys", "remove", "there", "--yes", exit_code=2)
        assert "another program keeps the file locked" in result.stderr
        assert cli.secret("there") == "sk-canary-there"
        assert json.loads(cli.run("keys", "list", "--json").stdout)[0]["name"] == "there"

    def test_what_cannot_be_undone_is_said(self, cli: Cli) -> None:
        keystore = Keystore(Registry(cli.ledger), ForgetsNothing({}))
        with closing(sqlite3.connect(cli.ledger, isolation_level=None)) as other:
            other.execute("begin immediate")
            with pytest.raises(VaultError, match=r"keeps the file locked.*'work' was changed and not put back: no way"):
                keystore.add("default", Key(name="work", secret=SECRET))


class ForgetsNothing(MemoryVault):
    def delete(self, pool: str, key: str) -> None:
        raise VaultError("no way")
