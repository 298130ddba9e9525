from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount
from tests.secret_service import no_keyring as no_keyring
from tests.secret_service import secret_service as secret_service
from tests.vaults.conftest import cheap_scrypt as cheap_scrypt

from .support import Cli


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cheap_scrypt: None) -> Cli:
    """The command with an empty ledger and an encrypted file as its vault."""
    monkeypatch.setenv("KEYROUTER_VAULT", f"file:{tmp_path / 'vault.json'}")
    monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "correct horse")
    monkeypatch.delenv("KEYROUTER_VAULT_KEYFILE", raising=False)
    return Cli(tmp_path / "usage.db", tmp_path / "vault.json")


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """Account A has two keys, B has one."""
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B")]) as simulator:
        yield simulator
