"""Secrets in one encrypted file, for machines without a keyring.

The file is JSON: the format's number, the scrypt parameters, one AES-256-GCM box for each entry, and a seal.
An entry's associated data is its name, so that no two can be swapped. The seal is an empty box whose
associated data are all the names: it tells a wrong passphrase, and an entry renamed or taken out. Names can be
read without the passphrase.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Protocol, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from platformdirs import user_data_path
from pydantic import BaseModel, ConfigDict, Field, SecretBytes, SecretStr, ValidationError

from keyrouter_openai.errors import VaultError

from .passphrase import find_passphrase

_FORMAT = 1

# scrypt's cost N for new files, as OWASP's Password Storage Cheat Sheet asks: half a second, 128 MiB.
_LOG2_N = 17


class PassphraseSource(Protocol):
    """Finds the passphrase, or raises `VaultError`. `new` says that it is to lock a file yet to be made."""

    def __call__(self, *, new: bool) -> SecretBytes: ...


class EncryptedFileVault:
    """Secrets in a file that a passphrase opens.

    Several processes may write at once. A file that cannot be read, for whatever reason, is never replaced.

    Args:
        path: the file. Default: `vault.json` in the user data folder.
        passphrase: asked until it opens the file, then never again in this process.
    """

    def __init__(self, path: Path | None = None, passphrase: PassphraseSource = find_passphrase) -> None:
        # Resolved, so that a link to the file stays a link when the file is replaced.
        self._path = (path or user_data_path("keyrouter-openai") / "vault.json").expanduser().resolve()
        self._passphrase = passphrase
        self._unlocking = threading.Lock()
        self._unlocked: tuple[_Kdf, AESGCM] | None = None

    @property
    def name(self) -> str:
        return f"encrypted file {self._path}"

    def get(self, pool: str, key: str) -> SecretStr | None:
        entry = f"{pool}/{key}"
        with self._os_errors("read"):
            document = self._read()
        if document is None:
            return None
        # Before the look-up: that there is no such entry is to be believed only once the seal was opened.
        cipher = self._unlock(document)
        box = document.entries.get(entry)
        if box is None:
            return None
        try:
            return SecretStr(box.open(cipher, entry.encode()).decode())
        except InvalidTag:
            raise VaultError(
                f"the {self.name} was damaged at the entry {entry}: take the key out with "
                f"`keyrouter-openai keys remove {key} --pool {pool}` and add it again."
            ) from None

    def set(self, pool: str, key: str, secret: SecretStr) -> None:
        entry = f"{pool}/{key}"
        with self._os_errors("write"), self._one_writer():
            document = self._read() or self._create()
            cipher = self._unlock(document)
            box = _Box.seal(cipher, secret.get_secret_value().encode(), entry.encode())
            self._write(_Document.seal_all(cipher, document.kdf, {**document.entries, entry: box}))

    def delete(self, pool: str, key: str) -> None:
        entry = f"{pool}/{key}"
        with self._os_errors("write"):
            if self._read() is None:
                return
            with self._one_writer():
                document = self._read()
                if document is None:
                    return
                cipher = self._unlock(document)
                entries = {name: box for name, box in document.entries.items() if name != entry}
                self._write(_Document.seal_all(cipher, document.kdf, entries))

    def _create(self) -> _Document:
        kdf = _Kdf(salt=os.urandom(16), log2_n=_LOG2_N)
        with self._unlocking:
            cipher = kdf.derive(self._passphrase(new=True))
            self._unlocked = kdf, cipher
        return _Document.seal_all(cipher, kdf, {})

    def _unlock(self, document: _Document) -> AESGCM:
        """Return the document's cipher, which its seal has proven right."""
        # One thread at a time: all but the first find the work done.
        with self._unlocking:
            if self._unlocked is not None and self._unlocked[0] == document.kdf:
                cipher = self._unlocked[1]
            else:
                cipher = document.kdf.derive(self._passphrase(new=False))
            try:
                document.seal.open(cipher, _names(document.entries))
            except InvalidTag:
                raise VaultError(
                    f"the {self.name} does not open: the passphrase is wrong, or the file was damaged. Give "
                    "the one it was made with (KEYROUTER_VAULT_PASSPHRASE or KEYROUTER_VAULT_KEYFILE), or, if "
                    "it was damaged, move it away and add its keys again."
                ) from None
            self._unlocked = document.kdf, cipher
            return cipher

    def _read(self) -> _Document | None:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            written_as = _Version.model_validate_json(content).format
            if written_as > _FORMAT:
                raise VaultError(
                    f"the {self.name} has format {written_as} and this version of keyrouter-openai knows "
                    f"{_FORMAT}: upgrade it with `pip install -U keyrouter-openai`."
                )
            return _Document.model_validate_json(content)
        except ValidationError:
            raise VaultError(
                f"the {self.name} is truncated, damaged, or no vault at all: restore it from a backup, or "
                "move it away and add its keys again."
            ) from None

    def _write(self, document: _Document) -> None:
        """Replace the file in one step: a crash leaves the old one or the new one, whole."""
        # One fixed name, which the writers' lock makes ours: what a crash left goes with the next write.
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(document.model_dump_json(indent=1).encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        _sync_directory(self._path.parent)

    @contextmanager
    def _one_writer(self) -> Generator[None]:
        """Hold the lock that the writers of all processes and threads share."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A file of its own, as every write replaces the vault and would leave a lock on it behind.
        lock = self._path.with_name(self._path.name + ".lock")
        with os.fdopen(os.open(lock, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            _lock(file.fileno())
            yield

    @contextmanager
    def _os_errors(self, doing: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise VaultError(
                f"cannot {doing} the {self.name}: {error.strerror or error}. Mend that, or name another "
                "place with KEYROUTER_VAULT=file:PATH."
            ) from error


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class _Version(BaseModel):
    format: int


class _Kdf(_Part):
    """Parameters of scrypt, N being 2**log2_n. The bounds refuse a weak key, and one that takes gigabytes."""

    salt: Annotated[bytes, Field(min_length=16, max_length=64)]
    log2_n: Annotated[int, Field(ge=15, le=20)]
    r: Literal[8] = 8
    p: Literal[1] = 1

    def derive(self, passphrase: SecretBytes) -> AESGCM:
        scrypt = Scrypt(salt=self.salt, length=32, n=2**self.log2_n, r=self.r, p=self.p)
        return AESGCM(scrypt.derive(passphrase.get_secret_value()))


class _Box(_Part):
    """An AES-GCM ciphertext with its nonce."""

    nonce: Annotated[bytes, Field(min_length=12, max_length=12)]
    ciphertext: Annotated[bytes, Field(min_length=16)]

    @classmethod
    def seal(cls, cipher: AESGCM, content: bytes, associated: bytes) -> Self:
        nonce = os.urandom(12)
        return cls(nonce=nonce, ciphertext=cipher.encrypt(nonce, content, associated))

    def open(self, cipher: AESGCM, associated: bytes) -> bytes:
        """Return the content, or raise `InvalidTag`."""
        return cipher.decrypt(self.nonce, self.ciphertext, associated)


class _Document(_Part):
    """The whole file."""

    format: Literal[1] = _FORMAT
    kdf: _Kdf
    seal: _Box
    entries: dict[str, _Box]

    @classmethod
    def seal_all(cls, cipher: AESGCM, kdf: _Kdf, entries: Mapping[str, _Box]) -> Self:
        return cls(kdf=kdf, seal=_Box.seal(cipher, b"", _names(entries)), entries=dict(entries))


def _names(entries: Mapping[str, _Box]) -> bytes:
    """What the seal vouches for."""
    return json.dumps(sorted(entries)).encode()


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Wait for the lock, ten seconds at most; closing the file gives it up."""
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)

    def _sync_directory(path: Path) -> None:
        """Do nothing: Windows cannot open a directory, and puts renames on record by itself."""

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        """Wait for the lock; closing the file, or the end of the process, gives it up."""
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _sync_directory(path: Path) -> None:
        """Make a rename in the directory outlast a power cut."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
