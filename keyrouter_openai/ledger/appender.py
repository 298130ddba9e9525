"""The open file that the ledger writes into."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from weakref import WeakSet

from keyrouter_openai.core.memory import Learned, LearnedOwner
from keyrouter_openai.core.model import Attempt

from . import memory, owners
from .database import open_to_write
from .schema import INSERT_ATTEMPT, attempt_row, storable


class Appender:
    """Opens its file when there is something to write, and keeps it open.

    It is closed during a fork, so that the child inherits nothing of SQLite: it would go by locks of its
    parent that it does not have (https://www.sqlite.org/howtocorrupt.html, section 2.6).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._unswept = owners.SWEEP_EVERY
        """Owners written since there was last a look for those that are too many; the first finds what others left."""
        _appenders.add(self)

    def append(self, attempts: Sequence[Attempt], learned: Sequence[tuple[str, Learned]]) -> None:
        """Append the attempts and bring in what was learned, each with its pool.

        All of it is written or, if this raises sqlite3.Error, OSError or ConfigError, none.
        """
        changes: list[memory.Change] = [(INSERT_ATTEMPT, [attempt_row(attempt) for attempt in attempts])]
        if learned:
            changes += memory.changes(learned)
            self._unswept += sum(isinstance(value, LearnedOwner) for _, value in learned)
        if learned and self._unswept > owners.SWEEP_EVERY:
            self._unswept = 0
            changes += owners.sweeping({pool for pool, _ in learned})
        with _lock:
            try:
                _write(self._open(), changes)
            except sqlite3.Error:
                self.close()
                raise

    def close(self) -> None:
        """Close the file; the next `append` opens it again."""
        with _lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        # SQLite goes on writing into a file that was deleted or replaced, where nobody would ever see it.
        if self._connection is not None and self._opened != _identity(self._path):
            self.close()
        if self._connection is None:
            self._connection = open_to_write(self._path)
            self._opened = _identity(self._path)
            _write(self._connection, memory.forgetting())
        return self._connection


def _write(connection: sqlite3.Connection, changes: Sequence[memory.Change]) -> None:
    with connection:
        try:
            for sql, rows in changes:
                connection.executemany(sql, rows)
            return
        except (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError):
            connection.rollback()
        for sql, rows in changes:
            connection.executemany(sql, [storable(row) for row in rows])


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_appenders: WeakSet[Appender] = WeakSet()
_lock = RLock()
"""Held while any appender uses SQLite, and during a fork."""


def _before_fork() -> None:
    _lock.acquire()
    for appender in list(_appenders):
        appender.close()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
