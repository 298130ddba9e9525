"""Secrets given in code."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr


class MemoryVault:
    """Holds the secrets of one pool's keys, by key name, for as long as the process lives."""

    name = "memory of this process"

    def __init__(self, secrets: Mapping[str, SecretStr]) -> None:
        self._secrets = dict(secrets)

    def get(self, pool: str, key: str) -> SecretStr | None:
        return self._secrets.get(key)

    def set(self, pool: str, key: str, secret: SecretStr) -> None:
        self._secrets[key] = secret

    def delete(self, pool: str, key: str) -> None:
        self._secrets.pop(key, None)
