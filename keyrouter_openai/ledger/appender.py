"""The open file that attempts are appended to."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from weakref import WeakSet

from keyrouter_openai.core.model import Attempt

from .database import open_to_write
from .schema import INSERT_ATTEMPT, Row, attempt_row, storable


class Appender:
    """Opens its file when there is something to append, and keeps it open.

    It is closed during a fork, so that the child inherits nothing of SQLite: it would go by locks of its
    parent that it does not have (https://www.sqlite.org/howtocorrupt.html, section 2.6).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        _appenders.add(self)

    def append(self, attempts: Sequence[Attempt]) -> None:
        """Append all or, if it raises sqlite3.Error, OSError or ConfigError, none of the attempts."""
        rows = [attempt_row(attempt) for attempt in attempts]
        with _lock:
            connection = self._open()
            try:
                _insert(connection, rows)
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
        return self._connection


def _insert(connection: sqlite3.Connection, rows: list[Row]) -> None:
    with connection:
        try:
            connection.executemany(INSERT_ATTEMPT, rows)
            return
        except (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError):
            connection.rollback()
        connection.executemany(INSERT_ATTEMPT, [storable(row) for row in rows])


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
