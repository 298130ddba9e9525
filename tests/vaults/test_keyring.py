"""The OS keyring: which backends are taken, and what the user hears when one fails."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from typing import ClassVar

import keyring
import keyring.errors
import pytest
from keyring.backend import KeyringBackend
from pydantic import SecretStr

from keyrouter_openai.errors import VaultError
from keyrouter_openai.vaults.keyring import KeyringVault
from keyrouter_openai.vaults.loader import SecretLoader
from tests.secret_service import SecretService

CANARY = SecretStr("sk-canary-0123456789")


class ThirdPartyKeyring(KeyringBackend):
    """A backend of somebody else's, such as those of `keyrings.alt`. It keeps secrets in plain sight."""

    priority = 0.5  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    viable = False  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    """False keeps it out of keyring's own choice, as if it was not installed."""
    entries: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


THIRD_PARTY = f"{__name__}.ThirdPartyKeyring"


@pytest.fixture
def third_party(no_keyring: None, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], str]:
    """Have the third party's backend installed; return what it stores."""
    entries: dict[tuple[str, str], str] = {}
    monkeypatch.setattr(ThirdPartyKeyring, "entries", entries)
    monkeypatch.setattr(ThirdPartyKeyring, "viable", True)
    return entries


def refusal(vault: KeyringVault) -> str:
    """What the vault says when it is asked to store a secret, once it is clear that nothing leaks with it."""
    with pytest.raises(VaultError) as caught:
        vault.set("default", "a", CANARY)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert CANARY.get_secret_value() not in "".join(shown.format())
    # Nor does it drag along an error that is not shown, whose frames hold the secret.
    assert caught.value.__context__ is caught.value.__cause__
    return str(caught.value)


@pytest.mark.secret_service
# keyring leaves the connection of a call that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
class TestSecretService:
    def test_it_is_found_and_named(self, secret_service: SecretService) -> None:
        vault = KeyringVault()
        vault.set("default", "a", CANARY)
        assert vault.name == "OS keyring (SecretService)"

    def test_each_key_has_a_service_name_of_its_own(self, secret_service: SecretService) -> None:
        KeyringVault().set("team", "a", CANARY)
        assert keyring.get_password("keyrouter-openai/team/a", "a") == CANARY.get_secret_value()

    def test_locked(self, secret_service: SecretService) -> None:
        vault = KeyringVault()
        vault.set("default", "a", CANARY)
        secret_service.lock()
        assert "Unlock" in refusal(vault)
        with pytest.raises(VaultError, match=r"cannot read keyrouter-openai/default/a \(KeyringLocked"):
            vault.get("default", "a")
        with pytest.raises(VaultError, match="cannot delete"):
            vault.delete("default", "a")

    def test_daemon_killed(self, secret_service: SecretService) -> None:
        # The bus starts another, which is locked.
        vault = KeyringVault()
        vault.set("default", "a", CANARY)
        secret_service.kill_daemon()
        assert "KeyringLocked" in refusal(vault)

    def test_bus_killed(self, secret_service: SecretService) -> None:
        vault = KeyringVault()
        vault.set("default", "a", CANARY)
        secret_service.kill_bus()
        assert "KEYROUTER_VAULT=file" in refusal(vault)
        with pytest.raises(VaultError, match="SecretServiceNotAvailableException"):
            vault.get("default", "a")

    def test_daemon_frozen(self, secret_service: SecretService) -> None:
        """The deadline holds, and the read that still hangs keeps no process from its exit."""
        KeyringVault().set("default", "a", CANARY)
        secret_service.freeze()
        program = (
            "from keyrouter_openai.vaults.keyring import KeyringVault\n"
            "from keyrouter_openai.vaults.loader import SecretLoader\n"
            "vault = KeyringVault()\n"
            "vault.find_backend()\n"
            "SecretLoader(vault, 'default', deadline=0.25).load_sync('a')\n"
        )
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert child.returncode == 1
        assert (
            "VaultError: key 'a' of pool 'default': the OS keyring (SecretService) gave no answer within 0.25 s."
            in child.stderr
        )
        secret_service.thaw()
        assert SecretLoader(KeyringVault(), "default").load_sync("a") == CANARY

    def test_it_is_taken_out_of_a_chain(
        self, third_party: dict[tuple[str, str], str], secret_service: SecretService
    ) -> None:
        assert type(keyring.get_keyring()).__name__ == "ChainerBackend"
        vault = KeyringVault()
        vault.set("default", "a", CANARY)
        assert vault.name == "OS keyring (SecretService)"
        assert vault.get("default", "a") == CANARY
        assert not third_party


def test_no_bus(no_keyring: None) -> None:
    assert refusal(KeyringVault()).startswith("no OS keyring answers.")


def test_a_third_partys_backend_is_refused(third_party: dict[tuple[str, str], str]) -> None:
    assert isinstance(keyring.get_keyring(), ThirdPartyKeyring)
    assert THIRD_PARTY in refusal(KeyringVault())
    assert not third_party


def test_a_third_partys_backend_is_taken_if_the_user_names_it(
    third_party: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", THIRD_PARTY)
    vault = KeyringVault()
    with caplog.at_level(logging.WARNING, "keyrouter_openai"):
        vault.set("default", "a", CANARY)
    assert vault.get("default", "a") == CANARY
    assert vault.name == f"OS keyring ({THIRD_PARTY})"
    assert caplog.messages == [f"Secrets go to {THIRD_PARTY}, because PYTHON_KEYRING_BACKEND names it."]


@pytest.mark.parametrize("backend", ["null", "fail", "chainer"])
def test_backends_that_store_nothing_are_refused_even_if_named(
    backend: str, no_keyring: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ChainerBackend" if backend == "chainer" else "Keyring"
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", f"keyring.backends.{backend}.{name}")
    assert refusal(KeyringVault()).startswith("no OS keyring answers.")


@pytest.mark.parametrize("name", ["not_installed.Keyring", "keyring.backends.null.Misspelt", "nonsense", ""])
def test_a_named_backend_that_cannot_be_loaded(name: str, no_keyring: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", name)
    assert f"PYTHON_KEYRING_BACKEND={name!r} names cannot be loaded" in refusal(KeyringVault())


@pytest.mark.parametrize(
    "error", [keyring.errors.PasswordSetError("denied"), ConnectionResetError("gone"), RuntimeError("bug")]
)
def test_what_a_backend_raises_comes_out_in_words(
    error: Exception,
    third_party: dict[tuple[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(self: object, service: str, username: str, password: str) -> None:
        raise error

    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", THIRD_PARTY)
    monkeypatch.setattr(ThirdPartyKeyring, "set_password", fail)
    assert f"cannot store keyrouter-openai/default/a ({type(error).__name__}: {error})" in refusal(KeyringVault())


def test_a_backend_that_drops_what_it_takes(
    third_party: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def drop(self: object, service: str, username: str, password: str) -> None: ...

    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", THIRD_PARTY)
    monkeypatch.setattr(ThirdPartyKeyring, "set_password", drop)
    assert "did not keep it" in refusal(KeyringVault())


def test_a_delete_that_fails_is_not_taken_for_a_missing_entry(
    third_party: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: object, service: str, username: str) -> None:
        raise keyring.errors.PasswordDeleteError("denied")

    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", THIRD_PARTY)
    monkeypatch.setattr(ThirdPartyKeyring, "delete_password", deny)
    vault = KeyringVault()
    vault.delete("default", "a")
    vault.set("default", "a", CANARY)
    with pytest.raises(VaultError, match="denied"):
        vault.delete("default", "a")


def test_windows_takes_1280_characters(
    third_party: dict[tuple[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThirdPartyKeyring, "__module__", "keyring.backends.Windows")
    vault = KeyringVault()
    vault.set("default", "a", SecretStr("x" * 1280))
    with pytest.raises(VaultError, match=r"1281 characters.*takes 1280.*KEYROUTER_VAULT=file"):
        vault.set("default", "a", SecretStr("x" * 1281))
    assert vault.get("default", "a") == SecretStr("x" * 1280)
    assert vault.name == "OS keyring (Windows)"
