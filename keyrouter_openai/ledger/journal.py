"""The journal: attempts are in it before their callers go on, and stay there until they are in SQLite.

Each process has one for each ledger that it records into: a file beside the database, `<database>.journal-<name>`, to
which it appends a record when an attempt begins (the row as it is to stand if nothing more comes), and one when it has
ended. A record is appended by one write to the file, some microseconds in all: it is then in the memory of the
operating system, which writes it to the disk in its own time.

What survives: all that was appended, if the process is killed (also with -9), calls `os._exit` or crashes. What does
not: the last half minute or so, if the machine loses its power or its kernel crashes; then a database in SQLite's WAL
mode is whole, but may lack its last transactions too.

Why nothing is lost or doubled:

- Whoever is alive holds a lock of the operating system on its journal, which ends with the process, however that ends;
  it means the same in containers that share the folder, where a process id does not. A journal that nobody holds is
  taken in by the next who opens the ledger. Of several who find it at once one gets the lock.
- A journal is shortened only when all that was read from it is in SQLite. What is still wanted is then copied into the
  second file of the journal, `<database>.journal-<name>.2`, which takes over; only then is the first one emptied, and
  they change places each time. Recorders append under a lock, so none appends to a file that was copied already. A
  process killed in between leaves records in both; they are the same records.
- So a journal may have attempts that are in SQLite already, and attempts that both began and ended. Of each attempt
  (the request's id, and its number) the end counts, and a row that is there is not written again: it has the same
  time, id and number.
- A record cut short by a full disk or the loss of power is recognised by its checksum and passed over.

The lock of recorders is reentrant, as a finalizer may record on a thread that is recording. It is held for the time of
a write and no other lock is taken meanwhile, so a finalizer that waits for another thread's write waits for no more.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import Any

from keyrouter_openai.core.model import Attempt

from .records import LAYOUT, Kind, Subject, attempt_of, decoded, encoded, subject_of, translated

_CHUNK = 1 << 18
"""Bytes read at once."""
_LONG = 1 << 20
"""Bytes, all of them of no use any more, beyond which a journal is shortened."""
_INFIX = ".journal-"
_SECOND = ".2"
_BINARY = getattr(os, "O_BINARY", 0)
_LOCKED_BYTE = 1 << 30
"""Windows lets nobody read what is locked, so it is a byte that is never there."""


class _File:
    """A file that is appended to, read at any place, and emptied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | _BINARY, 0o600)
        self._reader = path.open("rb", buffering=0)  # a place of its own, which appending does not move

    def hold(self) -> bool:
        return _hold(self._descriptor, self.path)

    def append(self, data: bytes) -> None:
        if (written := os.write(self._descriptor, data)) < len(data):
            os.write(self._descriptor, data[written:])  # it says what is wrong

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, end: int) -> bytes:
        self._reader.seek(start)
        return self._reader.read(end - start)

    def empty(self) -> None:
        os.ftruncate(self._descriptor, 0)

    def is_in_place(self) -> bool:
        return _is_in_place(self._descriptor, self.path)

    def close(self) -> None:
        os.close(self._descriptor)
        self._reader.close()


class Journal:
    """The journal of one process for one ledger. It makes its file when there is something to append.

    `append` may be called on any thread, and by finalizers; all else on one thread at a time.
    """

    def __init__(self, database: Path) -> None:
        self.name = secrets.token_hex(8)
        self.problem: OSError | None = None
        """Why the last record could not be appended."""
        self._database = database.resolve()  # where SQLite too keeps what belongs to it
        self._lock = RLock()
        self._moving = False
        self._begin()

    def _begin(self) -> None:
        self._files: list[_File] = []
        """The one that is held, and the second one once there was need of it."""
        self._current: _File | None = None
        self._begun: dict[Subject, bytes] = {}
        """The records of attempts that are under way, of those that were read."""
        self._read_to = self._until = 0
        self._appended = self._taken = 0

    @property
    def exists(self) -> bool:
        """Whether there is a file."""
        return self._current is not None

    @property
    def waiting(self) -> int:
        """How many attempts have ended and are still to be read."""
        return self._appended - self._taken

    def append(self, kind: Kind, attempt: Attempt) -> bool:
        """Append a record; whether it is in the file. Never raises."""
        frame = encoded(kind, attempt)
        with self._lock:
            # One that comes from a finalizer amid a move must wait elsewhere: the file would go without it.
            if self._moving or (self._current is None and self.problem is not None):
                return False
            try:
                (self._current or self._open()).append(frame)
            except OSError as error:
                self.problem = error
                return False
            self.problem = None
            self._appended += kind is Kind.ENDED
        return True

    def mend(self, *, make: bool = False) -> bool:
        """Have a file that can be written, where it could not or was deleted since; whether there is one.

        Where there was none yet, one is made only if that is asked for.
        """
        with self._settled():
            try:
                if self._current is None and self.problem is None and not make:
                    return False
                if self._current is None or not all(file.is_in_place() for file in self._files):
                    self._replace()
                elif self.problem is not None:
                    self._current.append(LAYOUT)  # to see if it can be written again
                self.problem = None
            except OSError as error:
                self.problem = error
        return self.problem is None

    def look(self) -> None:
        """Have `take` go up to what is there now."""
        with self._lock:
            self._until = 0 if self._current is None else self._current.size()

    def take(self) -> list[Attempt]:
        """Some of the attempts that have ended, in the order in which they did; none if all were taken."""
        taken: list[Attempt] = []
        length = _CHUNK
        while not taken and self._current is not None and self._read_to < self._until:
            end = min(self._read_to + length, self._until)
            data = self._current.read(self._read_to, end)
            used = 0
            for values, start, used in decoded(data):
                if values[0] == Kind.BEGAN:
                    self._begun[subject_of(values)] = data[start:used]
                elif values[0] != Kind.LAYOUT:
                    self._begun.pop(subject_of(values), None)
                    if values[0] == Kind.ENDED:
                        taken.append(attempt_of(values))
            if not used and end < self._until:
                length *= 2  # one record is longer than that, or there is damage
                continue
            self._read_to = end if end == self._until else self._read_to + used
        self._taken += len(taken)
        return taken

    def forget(self, attempt: Attempt) -> None:
        """It has ended, which could not be appended: it is no longer under way."""
        self._begun.pop((attempt.request_id, attempt.number), None)

    def shorten(self) -> None:
        """Leave out what was taken, if that is worth it. All of it must be in SQLite by now."""
        if self._read_to <= _LONG:
            return
        with self._settled(), suppress(OSError):  # where there is no room for a copy, all stays as it is
            self._move()

    def close(self) -> bool:
        """Delete the files, unless there is something in them that is wanted; whether there are none any more."""
        with self._settled():
            if self._current is None:
                return True
            if self._begun or self._read_to < self._current.size():
                return False
            files = reversed(self._files)
            self._begin()
            for file in files:
                file.close()
                file.path.unlink(missing_ok=True)
        return True

    def let_go(self) -> None:
        """Close the files as a forked child must: they are its parent's, who goes on with them."""
        for file in self._files:
            file.close()
        self._files = []

    def __del__(self) -> None:
        self.let_go()

    @contextmanager
    def _settled(self) -> Generator[None, None, None]:
        """Nothing is appended meanwhile, not even by finalizers on this thread."""
        with self._lock:
            self._moving = True
            try:
                yield
            finally:
                self._moving = False

    def _open(self) -> _File:
        self._database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            file = _File(_path(self._database, self.name))
            try:
                if file.hold():
                    file.append(LAYOUT)
                    break
            except OSError:
                file.close()
                file.path.unlink(missing_ok=True)
                raise
            file.close()  # somebody who looks for journals that nobody holds was quicker
            self.name = secrets.token_hex(8)
        self._files = [file]
        self._current = file
        self._read_to = 0
        return file

    def _replace(self) -> None:
        """Go on in a new file with what is still wanted of the old one."""
        old, read_to = self._current, self._read_to
        left = self._files
        wanted = b"" if old is None else b"".join(self._begun.values()) + old.read(read_to, old.size())
        if any(_path(self._database, self.name + suffix).exists() for suffix in ("", _SECOND)):
            self.name = secrets.token_hex(8)
        self._open().append(wanted)
        for file in left:
            file.close()

    def _move(self) -> None:
        old = self._current
        assert old is not None, "there is something to shorten"
        if len(self._files) == 1:
            self._files.append(_File(_path(self._database, self.name + _SECOND)))
        new = next(file for file in self._files if file is not old)
        wanted = LAYOUT + b"".join(self._begun.values())
        try:
            new.append(wanted + old.read(self._read_to, old.size()))
        except OSError:
            new.empty()
            raise
        self._current = new
        self._read_to = self._until = len(wanted)
        old.empty()


def take_in(database: Path, write: Callable[[str, list[Attempt]], None]) -> None:
    """Have `write` called with the name and the attempts of each journal that nobody holds, which is then deleted.

    Those without an end are as they were to stand. Raises what `write` raises; that journal stays.
    """
    database = database.resolve()
    for path in _journals(database):
        try:
            descriptor = os.open(path, os.O_RDWR | _BINARY)
        except OSError:  # it is gone, or another user's
            continue
        second = path.with_name(path.name + _SECOND)
        try:
            if not _hold(descriptor, path):
                continue
            write(
                path.name.removeprefix(database.name + _INFIX),
                _remains([file for file in (path, second) if file.exists()]),
            )
        finally:
            os.close(descriptor)
        for file in (second, path):
            file.unlink(missing_ok=True)


def is_alive(database: Path, name: str) -> bool:
    """Whether there is a journal of that name."""
    return _path(database.resolve(), name).exists()


def is_in_use(database: Path) -> bool:
    """Whether there are journals; after `take_in` those of processes that live."""
    return bool(_journals(database.resolve()))


def _journals(database: Path) -> list[Path]:
    """The first files of all journals of a database."""
    files = sorted(database.parent.iterdir())
    return [file for file in files if file.name.startswith(database.name + _INFIX) and not file.name.endswith(_SECOND)]


def _remains(paths: Sequence[Path]) -> list[Attempt]:
    found: dict[Subject, Sequence[Any]] = {}
    for path in paths:
        layout: Sequence[Any] | None = None
        for values, _, _ in decoded(path.read_bytes()):
            if values[0] == Kind.LAYOUT:
                layout = values
            elif layout is not None:
                own = translated(values, layout)
                known = found.get(subject := subject_of(own))
                if known is None or own[0] >= known[0]:
                    found[subject] = own
    return [attempt_of(values) for values in found.values() if values[0] != Kind.WITHDRAWN]


def _path(database: Path, name: str) -> Path:
    return database.with_name(f"{database.name}{_INFIX}{name}")


def _is_in_place(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _hold(descriptor: int, path: Path) -> bool:
    """Take the lock of an open journal; False if somebody else has it, or has deleted the file."""
    try:
        _lock(descriptor)
    except BlockingIOError:
        return False
    return _is_in_place(descriptor, path)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
