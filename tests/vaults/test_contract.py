"""What every vault that can be written does alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretBytes, SecretStr

from keyrouter_openai.protocols import Vault
from keyrouter_openai.vaults.encrypted_file import EncryptedFileVault
from keyrouter_openai.vaults.keyring import KeyringVault
from keyrouter_openai.vaults.memory import MemoryVault


@pytest.fixture
def keyring_vault(secret_service: object) -> Callable[[], Vault]:
    return KeyringVault


@pytest.fixture
def file_vault(tmp_path: Path, cheap_scrypt: None) -> Callable[[], Vault]:
    def passphrase(*, new: bool) -> SecretBytes:
        return SecretBytes(b"correct horse")

    return lambda: EncryptedFileVault(tmp_path / "vault.json", passphrase)


@pytest.fixture
def memory_vault() -> Callable[[], Vault]:
    vault = MemoryVault({})
    return lambda: vault


@pytest.fixture(
    params=[
        pytest.param("keyring_vault", marks=pytest.mark.secret_service),
        "file_vault",
        "memory_vault",
    ]
)
def reopen(request: pytest.FixtureRequest) -> Callable[[], Vault]:
    """Open the vault under test, anew with every call."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "text",
    [
        "sk-proj-abc",
        "sk" + "x" * 5000,
        "".join(map(chr, range(33, 127))),
        "sk-ключ-鍵-🔑",
        " leading and trailing ",
        "two\nlines",
    ],
    ids=["key", "long", "punctuation", "unicode", "blanks", "lines"],
)
def test_a_secret_comes_back_as_it_was_stored(reopen: Callable[[], Vault], text: str) -> None:
    reopen().set("default", "a", SecretStr(text))
    assert reopen().get("default", "a") == SecretStr(text)


def test_a_key_that_was_never_stored_has_no_secret(reopen: Callable[[], Vault]) -> None:
    assert reopen().get("default", "a") is None
    reopen().set("default", "a", SecretStr("sk-a"))
    assert reopen().get("default", "b") is None


def test_a_second_secret_replaces_the_first(reopen: Callable[[], Vault]) -> None:
    reopen().set("default", "a", SecretStr("sk-old"))
    reopen().set("default", "a", SecretStr("sk-new"))
    assert reopen().get("default", "a") == SecretStr("sk-new")


def test_deleting_forgets_one_key_alone(reopen: Callable[[], Vault]) -> None:
    reopen().set("default", "a", SecretStr("sk-a"))
    reopen().set("default", "b", SecretStr("sk-b"))
    reopen().delete("default", "a")
    assert reopen().get("default", "a") is None
    assert reopen().get("default", "b") == SecretStr("sk-b")


def test_deleting_what_is_not_there_is_fine(reopen: Callable[[], Vault]) -> None:
    reopen().delete("default", "a")
    reopen().set("default", "b", SecretStr("sk-b"))
    reopen().delete("default", "a")
    assert reopen().get("default", "b") == SecretStr("sk-b")


@pytest.mark.parametrize(
    "reopen", ["file_vault", pytest.param("keyring_vault", marks=pytest.mark.secret_service)], indirect=True
)
def test_pools_keep_their_keys_apart(reopen: Callable[[], Vault]) -> None:
    reopen().set("one", "a", SecretStr("sk-one"))
    reopen().set("two", "a", SecretStr("sk-two"))
    reopen().delete("two", "a")
    assert reopen().get("one", "a") == SecretStr("sk-one")


def test_a_vault_shows_its_name_and_no_secret(reopen: Callable[[], Vault]) -> None:
    vault = reopen()
    vault.set("default", "a", SecretStr("sk-canary"))
    assert vault.name
    assert "canary" not in vault.name + repr(vault) + str(vars(vault))
