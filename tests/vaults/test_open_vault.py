"""Which vault `KEYROUTER_VAULT` opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from keyrouter_openai.errors import ConfigError, VaultError
from keyrouter_openai.vaults import open_vault

CANARY = SecretStr("sk-canary-0123456789")


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("keyring", "OS keyring"),
        ("env", "environment (KEYROUTER_SECRET_*)"),
        ("file", "encrypted file {data}/keyrouter-openai/vault.json"),
        ("file:{data}/mine.json", "encrypted file {data}/mine.json"),
        ("file:~/mine.json", "encrypted file {home}/mine.json"),
        (None, "OS keyring, else encrypted file"),
        ("", "OS keyring, else encrypted file"),
    ],
)
def test_what_a_spec_opens(spec: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    spec = spec and spec.format(data=tmp_path)
    assert open_vault(spec).name == name.format(data=tmp_path, home=Path.home())


@pytest.mark.parametrize("spec", ["Keyring", "file:", "vault.json", "keyring:x", "env:x"])
def test_an_unknown_spec(spec: str) -> None:
    with pytest.raises(ConfigError, match=f"KEYROUTER_VAULT='{spec}' names no vault: use keyring, file"):
        open_vault(spec)


def test_opening_costs_nothing() -> None:
    program = (
        "import sys; import keyrouter_openai.vaults as vaults; import keyrouter_openai.vaults.loader\n"
        "vaults.open_vault(None); vaults.open_vault('keyring'); vaults.open_vault('env')\n"
        "assert not {'keyring', 'cryptography', 'platformdirs', 'trio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.secret_service
def test_by_default_the_keyring(secret_service: object, caplog: pytest.LogCaptureFixture) -> None:
    vault = open_vault(None)
    vault.set("default", "a", CANARY)
    assert open_vault("keyring").get("default", "a") == CANARY
    assert vault.name == "OS keyring (SecretService)"
    vault.delete("default", "a")
    assert vault.get("default", "a") is None
    assert not caplog.messages


@pytest.mark.usefixtures("no_keyring", "cheap_scrypt")
class TestNoKeyring:
    def test_by_default_the_encrypted_file_and_it_is_said_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "correct horse")
        vault = open_vault(None)
        vault.set("default", "a", CANARY)
        vault.set("default", "b", CANARY)
        assert open_vault("file").get("default", "a") == CANARY
        [message] = caplog.messages
        assert message.startswith(f"Secrets rest in the {vault.name}: no OS keyring answers.")
        assert caplog.records[0].name == "keyrouter_openai"

    def test_asked_for_by_name_it_is_an_error(self) -> None:
        with pytest.raises(VaultError, match="no OS keyring answers"):
            open_vault("keyring").set("default", "a", CANARY)
