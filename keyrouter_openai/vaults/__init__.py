"""Where secrets rest: the OS keyring, an encrypted file, the environment, or memory.

Each module brings one `Vault`; `loader` is the door through which the router reads them.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from pydantic import SecretStr

from keyrouter_openai.errors import ConfigError, VaultError
from keyrouter_openai.protocols import Vault

__all__ = ["open_vault"]

_logger = logging.getLogger("keyrouter_openai")


def open_vault(spec: str | None) -> Vault:
    """Return the vault that `spec`, the value of `KEYROUTER_VAULT`, names. Nothing is read or asked yet.

    Args:
        spec: `keyring`, `file` (in the user data folder), `file:PATH` or `env`; None or empty for the OS
            keyring if an acceptable one answers at first use, else the encrypted file.

    Raises:
        ConfigError: `spec` names no vault.
    """
    if not spec:
        return _KeyringElseFile()
    kind, _, path = spec.partition(":")
    if spec == "keyring":
        from .keyring import KeyringVault

        return KeyringVault()
    if spec == "file" or (kind == "file" and path):
        from .encrypted_file import EncryptedFileVault

        return EncryptedFileVault(Path(path) if path else None)
    if spec == "env":
        from .environment import EnvironmentVault

        return EnvironmentVault()
    raise ConfigError(f"KEYROUTER_VAULT={spec!r} names no vault: use keyring, file, file:PATH or env")


class _KeyringElseFile:
    """The OS keyring if an acceptable one answers, else the encrypted file.

    Asking the keyring costs tenths of a second and may block, so the choice waits for the first use.
    """

    def __init__(self) -> None:
        self._choosing = threading.Lock()
        self._chosen: Vault | None = None

    @property
    def name(self) -> str:
        return "OS keyring, else encrypted file" if self._chosen is None else self._chosen.name

    def get(self, pool: str, key: str) -> SecretStr | None:
        return self._choose().get(pool, key)

    def set(self, pool: str, key: str, secret: SecretStr) -> None:
        self._choose().set(pool, key, secret)

    def delete(self, pool: str, key: str) -> None:
        self._choose().delete(pool, key)

    def _choose(self) -> Vault:
        from .encrypted_file import EncryptedFileVault
        from .keyring import KeyringVault

        with self._choosing:
            if self._chosen is None:
                keyring = KeyringVault()
                try:
                    keyring.find_backend()
                except VaultError as error:
                    self._chosen = EncryptedFileVault()
                    _logger.warning("Secrets rest in the %s: %s", self._chosen.name, error)
                else:
                    self._chosen = keyring
            return self._chosen
