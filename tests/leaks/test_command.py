"""The command never prints a secret, and what it stores holds none in the clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from keyrouter_openai.cli import main
from keyrouter_openai.testing import ProviderSimulator
from tests.vaults.conftest import cheap_scrypt as cheap_scrypt

from .support import assert_clean, secret


@pytest.fixture(autouse=True)
def file_vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cheap_scrypt: None) -> None:
    monkeypatch.setenv("KEYROUTER_VAULT", f"file:{tmp_path / 'vault.json'}")
    monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "correct horse")


def run(*arguments: str, input: str = "", succeeds: bool = True) -> None:
    """Run the command, and look for secrets in all that it prints."""
    result = CliRunner().invoke(main, arguments, input=input)
    assert_clean([result.output, result.stderr, repr(result.exception)])
    assert (result.exit_code == 0) is succeeds, result.output


def test_a_day_with_the_command(sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for number in (1, 2):
        run("keys", "add", f"key-{number}", "--base-url", sim.url, input=f"{secret(number)}\n")
    run("keys", "add", "key-3", secret(3), succeeds=False)
    run("keys", "add", "key-3", input=f"{secret(3)} {secret(3)}\n", succeeds=False)
    sim.fail("key_echo", key="a/key-1")
    run("keys", "test", succeeds=False)
    monkeypatch.setenv("OPENAI_API_KEY", secret(4))
    monkeypatch.setenv("OPENAI_API_KEYS", f"{secret(5)},,{secret(6)}")
    run("keys", "import-env", "--dry-run", succeeds=False)
    monkeypatch.setenv("OPENAI_API_KEYS", f"{secret(5)},{secret(6)}")
    run("keys", "import-env")
    for listing in (("keys", "list"), ("status",), ("usage",), ("doctor",)):
        run(*listing)
        run(*listing, "--json")
    run("keys", "disable", "key-1")
    run("keys", "enable", "key-1")
    run("keys", "remove", "key-1", "--yes")
    assert_clean(file.read_bytes().decode("latin-1") for file in tmp_path.iterdir())
