"""The open file that the ledger writes into."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from threading import RLock
from typing import TypeVar
from weakref import ref

from keyrouter_openai.core.memory import Learned, LearnedOwner
from keyrouter_openai.core.model import Attempt
from keyrouter_openai.errors import ConfigError

from . import memory, owners, rollups
from .allowances import charging, releasing
from .database import open_to_write
from .journal import is_alive, take_in
from .schema import INSERT_ATTEMPT, Row, attempt_row, storable

_AT_ONCE = 8
"""Rows of one statement, as a power of two: few enough statements that SQLite keeps all of them prepared."""
_MORE_ROWS = f", ({INSERT_ATTEMPT.rpartition('(')[2]}"
_T = TypeVar("_T")


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
        _appenders.add(ref(self, _appenders.discard))

    def append(self, holder: str, attempts: Sequence[Attempt], learned: Sequence[tuple[str, Learned]]) -> None:
        """Append attempts, charge them to their budgets, and bring in what was learned, each with its pool.

        All of it is written or, if this raises sqlite3.Error, OSError or ConfigError, none.
        """
        changes = charging(holder, attempts)
        if learned:
            changes += memory.changes(learned)
            self._unswept += sum(isinstance(value, LearnedOwner) for _, value in learned)
        if learned and self._unswept > owners.SWEEP_EVERY:
            self._unswept = 0
            changes += owners.sweeping({pool for pool, _ in learned})
        with self._using() as connection:
            _write(connection, attempts, changes)

    def take_in(self, name: str, attempts: Sequence[Attempt]) -> None:
        """Append what is not there yet of the attempts of a journal whose process has ended, and give back what was
        set aside for that. Raises as `append` does."""
        with self._using() as connection:
            missing = [attempt for attempt in attempts if not _is_there(connection, attempt)]
            _write(connection, missing, [*charging(name, missing), *_leaving(name)])

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do some work in one transaction, undone if it raises. Raises as `append` does, and what `work` raises."""
        with self._using() as connection, transaction(connection):
            return work(connection)

    def is_watched(self) -> bool:
        """Whether somebody wants to see what processes do. Raises as `append` does."""
        with self._using() as connection:
            row = connection.execute("select max(until) from watching").fetchone()
            return row[0] is not None and row[0] > time.time()

    def show(self, holder: str, status: str) -> None:
        """Show what this process does. Raises as `append` does."""
        with self._using() as connection, connection:
            connection.execute("insert or replace into live values (?, ?, ?)", (holder, time.time(), status))

    def leave(self, holder: str) -> None:
        """Give back what was set aside for this process, if it can be done now; else the next to open does."""
        with suppress(sqlite3.Error, OSError, ConfigError), self._using() as connection:
            _write(connection, (), _leaving(holder))

    def close(self) -> None:
        """Close the file; the next `append` opens it again."""
        with _lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _using(self) -> Generator[sqlite3.Connection, None, None]:
        with _lock:
            try:
                yield self._open()
            except sqlite3.Error:
                self.close()
                raise

    def _open(self) -> sqlite3.Connection:
        # SQLite goes on writing into a file that was deleted or replaced, where nobody would ever see it.
        if self._connection is not None and self._opened != _identity(self._path):
            self.close()
        if self._connection is None:
            self._connection = open_to_write(self._path)
            self._opened = _identity(self._path)
            _write(self._connection, (), memory.forgetting())
            take_in(self._path, self.take_in)
            _write(self._connection, (), _leaving(*_gone(self._connection, self._path)))
        return self._connection


def recover(path: Path) -> None:
    """Take in the journals of processes that have ended, if that can be done now."""
    appender = Appender(path)
    with suppress(sqlite3.Error, OSError, ConfigError):
        take_in(path, appender.take_in)
    appender.close()


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """A transaction that keeps other writers out from the beginning, undone if the block raises."""
    with connection:
        connection.execute("begin immediate")
        yield


def _write(connection: sqlite3.Connection, attempts: Sequence[Attempt], changes: Sequence[memory.Change]) -> None:
    """Put attempts into the tables and make changes, in one transaction."""
    rows = [attempt_row(attempt) for attempt in attempts]
    try:
        _put(connection, rows, changes)
    except (UnicodeEncodeError, OverflowError, sqlite3.InterfaceError, sqlite3.ProgrammingError):
        changes = [(sql, [storable(row) for row in values]) for sql, values in changes]
        _put(connection, [storable(row) for row in rows], changes)


def _put(connection: sqlite3.Connection, rows: Sequence[Row], changes: Sequence[memory.Change]) -> None:
    with connection:
        if rows:
            rollups.add(connection, _insert(connection, rows) - len(rows))
        for sql, values in changes:
            connection.executemany(sql, values)


def _insert(connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Insert many rows by few statements, as each waits for the threads that make calls; the id of the last one."""
    start = last = 0
    while left := len(rows) - start:
        size = 1 << min(left.bit_length() - 1, _AT_ONCE)
        values = chain.from_iterable(rows[start : start + size])
        last = connection.execute(f"{INSERT_ATTEMPT}{_MORE_ROWS * (size - 1)}", list(values)).lastrowid or last
        start += size
    return last


def _is_there(connection: sqlite3.Connection, attempt: Attempt) -> bool:
    found = "select 1 from attempts where at = ? and request_id = ? and number = ?"
    return connection.execute(found, (attempt.at, attempt.request_id, attempt.number)).fetchone() is not None


def _leaving(*holders: str) -> list[memory.Change]:
    """What takes processes that have ended off the tables of those that live."""
    changes = [change for holder in holders for change in releasing(holder)]
    return [*changes, ("delete from live where holder = ?", [(holder,) for holder in holders])]


def _gone(connection: sqlite3.Connection, path: Path) -> list[str]:
    """Those who are in the tables of processes that live, and have no journal."""
    holders = connection.execute("select holder from allowances union select holder from live")
    return [holder for (holder,) in holders if not is_alive(path, holder.partition("/")[0])]


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


_appenders: set[ref[Appender]] = set()
"""Not a `WeakSet`, which cannot be gone through while another thread adds to it."""
_lock = RLock()
"""Held while any appender uses SQLite, and during a fork."""


def _before_fork() -> None:
    _lock.acquire()
    for reference in _appenders.copy():
        if (appender := reference()) is not None:
            appender.close()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
