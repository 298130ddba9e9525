"""The operating system's keyring, through the `keyring` package."""

from __future__ import annotations

import configparser
import logging
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, cast

from pydantic import SecretStr

from keyrouter_openai.errors import VaultError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

_logger = logging.getLogger("keyrouter_openai")
_T = TypeVar("_T")

# The backends that hand secrets to a service of the operating system. Whatever else is installed may keep
# them in plain text (keyrings.alt does), and becomes keyring's choice by being there.
_TRUSTED = frozenset(
    f"keyring.backends.{name}" for name in ("SecretService", "libsecret", "kwallet", "macOS", "Windows")
)
_STORES_NOTHING = frozenset(f"keyring.backends.{name}" for name in ("null", "fail", "chainer"))

# Libraries under the backends whose own errors come through `keyring` unchanged (read in keyring 25.7).
_LIBRARY_ERRORS = (
    ("secretstorage.exceptions", "SecretStorageException"),
    ("jeepney.wrappers", "DBusErrorResponse"),
    ("gi.repository.GLib", "Error"),
    ("dbus.exceptions", "DBusException"),
    ("pywintypes", "error"),
    ("win32ctypes.pywin32.pywintypes", "error"),
)

# CRED_MAX_CREDENTIAL_BLOB_SIZE of wincred.h; keyring writes UTF-16 and does not check.
_WINDOWS_MAX_BYTES = 5 * 512

_OTHERWISE = "keep secrets in an encrypted file with KEYROUTER_VAULT=file"


class KeyringVault:
    """Secrets in Secret Service, KWallet, macOS Keychain or Windows Credential Manager.

    Each key has a service name of its own, `keyrouter-openai/POOL/NAME`, because Windows emulates several
    users of one service in a way that can lose an entry. A backend that is none of these is refused, unless
    the variable `PYTHON_KEYRING_BACKEND` names it.
    """

    def __init__(self) -> None:
        self._backend: KeyringBackend | None = None

    @property
    def name(self) -> str:
        return "OS keyring" if self._backend is None else f"OS keyring ({_label(self._backend)})"

    def find_backend(self) -> KeyringBackend:
        """Return the backend in use; the first call may take tenths of a second.

        Raises:
            VaultError: no acceptable one is there.
        """
        if self._backend is None:
            self._backend = _choose_backend()
        return self._backend

    def get(self, pool: str, key: str) -> SecretStr | None:
        service = _service(pool, key)

        def read(backend: KeyringBackend) -> SecretStr | None:
            secret = backend.get_password(service, key)
            return None if secret is None else SecretStr(secret)

        return self._call(f"read {service}", read)

    def set(self, pool: str, key: str, secret: SecretStr) -> None:
        service = _service(pool, key)

        def write(backend: KeyringBackend) -> None:
            # keyring wraps this method in a function that has no types.
            backend.set_password(service, key, secret.get_secret_value())  # pyright: ignore[reportUnknownMemberType]

        if type(self.find_backend()).__module__ == "keyring.backends.Windows":
            _check_windows_size(service, secret)
        self._call(f"store {service}", write)
        # KWallet's backend ignores a refusal of the service, and a third party's may drop what it is given.
        if self.get(pool, key) != secret:
            raise VaultError(f"the {self.name} took {service} without an error but did not keep it: {_OTHERWISE}.")

    def delete(self, pool: str, key: str) -> None:
        from keyring.errors import PasswordDeleteError

        service = _service(pool, key)

        def delete(backend: KeyringBackend) -> None:
            try:
                backend.delete_password(service, key)
            except PasswordDeleteError:
                # It says that there is no such entry, which is fine, but with some backends any failure.
                if backend.get_password(service, key) is not None:
                    raise

        self._call(f"delete {service}", delete)

    def _call(self, what: str, action: Callable[[KeyringBackend], _T]) -> _T:
        backend = self.find_backend()
        try:
            return action(backend)
        except _backend_errors() as error:
            problem = f"{type(error).__name__}: {error}"
        # Outside the `except`, so that the error does not keep the backend's frames, which hold the secret.
        raise VaultError(
            f"the {self.name} cannot {what} ({problem}). Unlock or restart the keyring and try again, or {_OTHERWISE}."
        )


def _service(pool: str, key: str) -> str:
    return f"keyrouter-openai/{pool}/{key}"


def _check_windows_size(service: str, secret: SecretStr) -> None:
    size = len(secret.get_secret_value().encode("utf-16-le"))
    if size > _WINDOWS_MAX_BYTES:
        raise VaultError(
            f"cannot store {service}: the secret has {size // 2} characters, and Windows Credential Manager "
            f"takes {_WINDOWS_MAX_BYTES // 2}: {_OTHERWISE}."
        )


def _choose_backend() -> KeyringBackend:
    import keyring
    from keyring.backends.chainer import ChainerBackend

    named = os.environ.get("PYTHON_KEYRING_BACKEND")
    try:
        found = keyring.get_keyring()
    except (ImportError, AttributeError, ValueError, RuntimeError, OSError, configparser.Error) as error:
        setting = "keyringrc.cfg" if named is None else f"PYTHON_KEYRING_BACKEND={named!r}"
        raise VaultError(
            f"the keyring backend that {setting} names cannot be loaded ({type(error).__name__}: {error}). "
            f"Correct or remove that setting, or {_OTHERWISE}."
        ) from error
    candidates = found.backends if isinstance(found, ChainerBackend) else [found]
    for backend in candidates:
        if type(backend).__module__ in _TRUSTED:
            return backend
    if _path(found) == named and type(found).__module__ not in _STORES_NOTHING:
        _logger.warning("Secrets go to %s, because PYTHON_KEYRING_BACKEND names it.", named)
        return found
    refused = [_path(backend) for backend in candidates if type(backend).__module__ not in _STORES_NOTHING]
    if refused:
        raise VaultError(
            f"{', '.join(refused)} is no keyring of the operating system and may keep secrets in plain text. "
            f"Name it in PYTHON_KEYRING_BACKEND if you trust it, or {_OTHERWISE}."
        )
    raise VaultError(
        "no OS keyring answers. On Linux it takes a session D-Bus with gnome-keyring or KWallet; "
        f"where there is none, {_OTHERWISE}."
    )


def _backend_errors() -> tuple[type[Exception], ...]:
    """The errors that a backend can raise, of those libraries that are loaded."""
    from keyring.errors import KeyringError

    foreign = [
        cast("type[Exception]", getattr(sys.modules[module], name))
        for module, name in _LIBRARY_ERRORS
        if module in sys.modules
    ]
    # ValueError is an entry that is not UTF-8; RuntimeError what third parties like to raise.
    return (KeyringError, OSError, ValueError, RuntimeError, *foreign)


def _path(backend: KeyringBackend) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _label(backend: KeyringBackend) -> str:
    module = type(backend).__module__
    return module.removeprefix("keyring.backends.") if module in _TRUSTED else _path(backend)
