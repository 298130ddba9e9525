"""The ledger's file: where it is, whether it can be used, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Lock

from keyrouter_openai.errors import ConfigError

from .schema import SCHEMA_VERSION, migrate, schema_version

BUSY_TIMEOUT_S = 2.0
"""Seconds to wait for another process that holds the file locked, before it counts as trouble."""

_ADVICE = {
    sqlite3.SQLITE_BUSY: "another program keeps the file locked: close it, or use another file",
    sqlite3.SQLITE_FULL: "free some space",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable, or use another file",
    sqlite3.SQLITE_CANTOPEN: "check that its folder exists and can be read and written",
    sqlite3.SQLITE_IOERR: "check the disk: it may be full, failing or gone",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: move it away, or restore a copy",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: use another file",
}


_making = Lock()


def default_path() -> Path:
    """`KEYROUTER_DB` if it is set, else `keyrouter-openai/usage.db` in the user's data folder."""
    if named := os.environ.get("KEYROUTER_DB"):
        return Path(named).expanduser()
    from platformdirs import user_data_path

    return user_data_path("keyrouter-openai", appauthor=False) / "usage.db"


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise `ConfigError` if `path` is a folder, another program's file, or from a newer schema. Changes nothing.

    A disk that cannot be written is no such mistake: it may pass, and no call fails for it.
    """
    path = Path(path)
    with _clear_errors(path):
        _version_on_disk(path)
        if not (folder := _nearest_folder(path)).is_dir():
            raise ConfigError(f"ledger {path}: {folder} is no folder: use another path")


def _nearest_folder(path: Path) -> Path:
    """The folder of a file, or the nearest one above it that is there."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    return folder


def _check_writable(path: Path) -> None:
    if not os.access(folder := _nearest_folder(path), os.W_OK | os.X_OK):
        raise ConfigError(f"ledger {path}: {folder} is no folder that can be written: use another path")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"ledger {path}: the file cannot be written: make it writable or use another path")


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open the file with its tables up to date, made with its folder where there is none.

    Each change is a transaction of its own unless one was begun. Raises sqlite3.Error, OSError, ConfigError.
    """
    check_path(path)
    _check_writable(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One thread after another: what touch() closes would take the locks along of one that has the file open already.
    with _making, suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)  # SQLite gives its -wal and -shm the same mode
    connection = _connect(path, "mode=rw")
    try:
        migrate(connection)
        # The switch to WAL needs the file for a moment alone and does not wait for it. It is kept in the
        # file, so a process that comes too early may go on without: the next one to open makes up for it.
        with suppress(sqlite3.OperationalError):
            connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection | None, None, None]:
    """A connection for queries, or None where there is no ledger yet. Failures are `ConfigError`."""
    with _clear_errors(path):
        if not _version_on_disk(path):
            yield None
            return
        # mode=ro makes -wal and -shm where it can, and leaves them behind.
        mode = "mode=rw" if os.access(path.parent, os.W_OK) else _unchanging_mode(path)
        with closing(_connect(path, mode)) as connection:
            connection.text_factory = _text  # JSON may have half of a surrogate pair, which SQLite makes no UTF-8 of
            yield connection


@contextmanager
def opened(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """A connection as that of `open_to_write`. Failures are `ConfigError`."""
    with _clear_errors(path), closing(open_to_write(path)) as connection:
        yield connection


@contextmanager
def writing(path: Path) -> Generator[sqlite3.Connection, None, None]:
    """A connection for one short transaction, undone if the block raises. Failures are `ConfigError`."""
    with opened(path) as connection, connection:
        yield connection


def explain(error: Exception, path: Path) -> str:
    """What an error with the file means and what to do about it."""
    if isinstance(error, ConfigError):
        return str(error)
    if isinstance(error, OSError):
        return f"ledger {path}: {error.strerror}: {_ADVICE[sqlite3.SQLITE_CANTOPEN]}"
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return f"ledger {path}: {error}: {_ADVICE.get(primary_code, 'see if the sqlite3 program can read it')}"


@contextmanager
def _clear_errors(path: Path) -> Generator[None, None, None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise ConfigError(explain(error, path)) from error


def _version_on_disk(path: Path) -> int:
    """The version of the schema in a file, 0 where there is none. Changes nothing on disk."""
    if path.is_dir():
        raise ConfigError(f"ledger {path} is a folder: name a file in it, such as {path / 'usage.db'}")
    if not path.exists():
        return 0
    if not path.is_file():
        raise ConfigError(f"ledger {path} is no regular file: use another path")
    # Never by open(): closing a file drops the locks that SQLite holds on it elsewhere in this process.
    try:
        version = _version(path, _unchanging_mode(path))
    except sqlite3.DatabaseError:  # whoever looks without a lock while somebody writes may see half of it
        version = _version(path, "mode=ro")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"ledger {path} was written by a newer keyrouter-openai (schema {version}; this one knows "
            f"{SCHEMA_VERSION}): upgrade, or point KEYROUTER_DB at another file"
        )
    return version


def _version(path: Path, mode: str) -> int:
    with closing(_connect(path, mode)) as connection:
        return schema_version(connection)


def _text(stored: bytes) -> str:
    return stored.decode(errors="replace")


def _unchanging_mode(path: Path) -> str:
    """How to open a file so that nothing is changed on disk."""
    # `immutable` does without -wal and -shm, and would miss what is in them.
    return "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{mode}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
    )
