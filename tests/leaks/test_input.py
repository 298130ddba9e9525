"""What is refused is not repeated, and a key does not show what it holds."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from keyrouter_openai import Key, Router, SyncRoutedOpenAI, VaultError
from keyrouter_openai.errors import KeyRouterError
from keyrouter_openai.testing import ProviderSimulator
from keyrouter_openai.vaults.memory import MemoryVault

from .support import (
    Ask,
    Log,
    Pool,
    assert_clean,
    doors,
    secret,
    seen_in_error,
)

BAD = {
    "newline": secret(1) + "\n" + secret(2),
    "blank": secret(1) + " " + secret(2),
    "control": secret(1) + "\x00",
    "not-ascii": secret(1) + "é",
}


def refusal(act: Callable[[], object]) -> KeyRouterError:
    """The error that `act` is refused with."""
    with pytest.raises(KeyRouterError) as caught:
        act()
    return caught.value


bad_secrets = pytest.mark.parametrize("kind", list(BAD))


@bad_secrets
def test_a_secret_that_is_refused_is_not_repeated(kind: str) -> None:
    error = refusal(lambda: Key(name="a", secret=SecretStr(BAD[kind])))
    assert_clean(seen_in_error(error))


@bad_secrets
def test_a_bare_secret_that_is_refused_is_not_repeated(kind: str) -> None:
    assert_clean(seen_in_error(refusal(lambda: Key(name="a", secret=BAD[kind]))))
    assert_clean(seen_in_error(refusal(lambda: SyncRoutedOpenAI(keys=[BAD[kind]], ledger=None))))


MALFORMED = {
    "empty": f"{secret(1)},,{secret(2)}",
    "named": f"a={secret(1)}",
    "twice": f"{secret(1)},{secret(1)}",
}


@pytest.mark.parametrize("kind", list(MALFORMED))
def test_a_list_of_secrets_in_the_environment_is_not_repeated(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", MALFORMED[kind])
    monkeypatch.setenv("OPENAI_API_KEY", secret(4))
    assert_clean(seen_in_error(refusal(lambda: SyncRoutedOpenAI(ledger=None))))


def test_an_unrelated_mistake_does_not_show_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", secret(4))
    monkeypatch.setenv("KEYROUTER_DB", str(tmp_path / "usage.db"))
    assert_clean(seen_in_error(refusal(lambda: SyncRoutedOpenAI(pool="nowhere"))))
    assert_clean(seen_in_error(refusal(lambda: SyncRoutedOpenAI(ledger=tmp_path))))


@bad_secrets
@doors
def test_a_secret_that_the_vault_spoiled_is_not_repeated(
    sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, kind: str
) -> None:
    vault = MemoryVault({"a": SecretStr(BAD[kind])})
    pool.router = Router([Key(name="a"), Key(name="b")], vault=vault, ledger=pool.ledger)
    pool.settings["router"] = pool.router
    error, shown = ask(pool.settings, False)
    assert isinstance(error, VaultError)
    assert_clean(shown)
    assert_clean(seen_in_error(error))
    assert_clean(log.lines)
    assert sim.calls == []


def test_a_key_does_not_show_its_secret() -> None:
    key = Key(name="a", secret=SecretStr(secret(1)))
    for shown in (key, copy.copy(key), copy.deepcopy(key), key.model_copy(), [key], {"key": key}):
        assert_clean([repr(shown), str(shown)])
    assert_clean([repr(vars(key)), repr(dict(key)), repr(key.model_dump()), key.model_dump_json()])
    assert key.secret is not None
    assert key.secret.get_secret_value() == secret(1)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_not_pickled_with_its_secret(protocol: int) -> None:
    with pytest.raises(TypeError) as caught:
        pickle.dumps(Key(name="a", secret=SecretStr(secret(1))), protocol)
    assert_clean(seen_in_error(caught.value))
