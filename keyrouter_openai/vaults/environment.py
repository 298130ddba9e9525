"""Secrets in environment variables, read-only."""

from __future__ import annotations

import os
import re

from pydantic import SecretStr

from keyrouter_openai.errors import VaultError


class EnvironmentVault:
    """Reads the secret of key `my-key` in pool `team` from `KEYROUTER_SECRET_TEAM_MY_KEY`.

    The pool `default` is left out of the name: `KEYROUTER_SECRET_MY_KEY`. Names that differ only in case or
    punctuation share a variable.
    """

    name = "environment (KEYROUTER_SECRET_*)"

    def get(self, pool: str, key: str) -> SecretStr | None:
        variable = _variable(pool, key)
        return SecretStr(os.environ[variable]) if variable in os.environ else None

    def set(self, pool: str, key: str, secret: SecretStr) -> None:
        """Raise `VaultError`: only who starts the process can set its variables for good."""
        raise VaultError(
            f"the environment is read-only: export {_variable(pool, key)} yourself, or choose a vault that "
            "can be written with KEYROUTER_VAULT=keyring or KEYROUTER_VAULT=file"
        )

    def delete(self, pool: str, key: str) -> None:
        """Raise `VaultError` if the variable is set, as only who set it can unset it."""
        variable = _variable(pool, key)
        if variable in os.environ:
            raise VaultError(f"the environment is read-only: unset {variable} where you set it")


def _variable(pool: str, key: str) -> str:
    words = key if pool == "default" else f"{pool}_{key}"
    return "KEYROUTER_SECRET_" + re.sub(r"[^A-Z0-9]", "_", words.upper())
