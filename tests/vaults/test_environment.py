from __future__ import annotations

import pytest
from pydantic import SecretStr

from keyrouter_openai.errors import VaultError
from keyrouter_openai.vaults.environment import EnvironmentVault


@pytest.mark.parametrize(
    ("pool", "key", "variable"),
    [
        ("default", "a", "KEYROUTER_SECRET_A"),
        ("default", "my-key.2", "KEYROUTER_SECRET_MY_KEY_2"),
        ("team", "me@work", "KEYROUTER_SECRET_TEAM_ME_WORK"),
    ],
)
def test_a_secret_is_read_from_its_variable(
    pool: str, key: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    assert EnvironmentVault().get(pool, key) is None
    monkeypatch.setenv(variable, "sk-a")
    assert EnvironmentVault().get(pool, key) == SecretStr("sk-a")


def test_it_is_read_only_and_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VaultError, match="read-only: export KEYROUTER_SECRET_A ") as caught:
        EnvironmentVault().set("default", "a", SecretStr("sk-canary"))
    assert "canary" not in str(caught.value)
    EnvironmentVault().delete("default", "a")
    monkeypatch.setenv("KEYROUTER_SECRET_A", "sk-a")
    with pytest.raises(VaultError, match="read-only: unset KEYROUTER_SECRET_A "):
        EnvironmentVault().delete("default", "a")
