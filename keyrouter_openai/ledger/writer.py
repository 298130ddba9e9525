"""Attempts and what was learned, on their way into the file: taken at once, written by a thread of their own."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple
from weakref import WeakSet

from keyrouter_openai.core.memory import Learned, LearnedOwner
from keyrouter_openai.core.model import Attempt
from keyrouter_openai.errors import ConfigError

from . import memory, owners, queries
from .appender import Appender
from .database import explain
from .queries import When

MAX_WAITING = 100_000
"""Attempts kept in memory while the file cannot be written."""

_BATCH = 1_000
"""Attempts, and learned values, in one transaction: few enough that other processes get their turn."""
_GATHER_S = 0.01
"""Seconds to let attempts gather before they are written together: waking the thread for each costs most."""
_IDLE_S = 10.0
"""Seconds without an attempt after which the thread ends, so that forgotten ledgers leave nothing behind."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0
_EXIT_S = 5.0
"""Seconds that the interpreter's exit may wait for all ledgers together."""

_log = logging.getLogger("keyrouter_openai")


class _Lesson(NamedTuple):
    """What was learned of a pool at one moment."""

    pool: str
    values: tuple[Learned, ...]


class _Flush(Event):
    """A request that travels behind what it waits for; set when it is answered."""

    def __init__(self, *, closing: bool = False) -> None:
        super().__init__()
        self.closing = closing
        self.written = False


class Ledger:
    """The attempts of any number of clients and processes, and what they taught, in one SQLite file.

    Making one stores the path and no more: the file comes with what is first taken. `record` hands an attempt to a
    thread that lets some gather and has them in the file a hundredth of a second later; a process killed in
    between loses them, and `flush` has them written at once. The exit of the interpreter closes every ledger, as
    does that of a worker of `multiprocessing`; `os._exit` does not.

    A file that cannot be written never fails a call. It is said once, on the logger `keyrouter_openai` and to
    `on_trouble`, and once more when it is over. Meanwhile attempts wait in memory, up to `MAX_WAITING`
    (100,000); beyond that the oldest are dropped and counted, which is said too.

    Args:
        path: the file; `default_path()` is the usual one.
        on_trouble: gets what is wrong (empty when it is over) and the number of rows that wait, on the
            ledger's thread. It must not raise. Where none is given, the first router of this ledger takes it
            to tell of it as an event.
    """

    def __init__(self, path: str | os.PathLike[str], *, on_trouble: Callable[[str, int], None] | None = None) -> None:
        self.path = Path(path)
        self.on_trouble = on_trouble
        self._begin()
        _ledgers.add(self)

    def _begin(self) -> None:
        # A SimpleQueue, as its put() may interrupt itself: streams are recorded by their finalizers.
        self._inbox: SimpleQueue[Attempt | _Lesson | _Flush] = SimpleQueue()
        self._hurry = Event()
        """Somebody waits for the file: no gathering now."""
        self._starting = Lock()
        self._thread: Thread | None = None
        # The thread's own:
        self._appender = Appender(self.path)
        self._rows: deque[Attempt] = deque()
        self._learned: dict[tuple[str, tuple[object, ...]], Learned] = {}
        """By pool and subject; beyond `MAX_WAITING` the first to come go."""
        self._flushes: list[_Flush] = []
        self._dropped = 0
        self._told = 0  # 1: there is a problem; 2: attempts are being dropped

    def record(self, attempt: Attempt) -> None:
        """Take an attempt, in a few microseconds. Never raises; works after `close` and in finalizers too."""
        self._inbox.put(attempt)
        self._ensure_thread()

    def remember(self, pool: str, values: Sequence[Learned]) -> None:
        """Take what was learned of a pool, to be kept and found by `recall` for 30 days, or by `owners`.

        Of one subject the latest value replaces all others, also those of other processes. As `record`, it takes a
        few microseconds and never raises.
        """
        self._inbox.put(_Lesson(pool, tuple(values)))
        self._ensure_thread()

    def recall(self, pool: str) -> tuple[Learned, ...]:
        """What was learned of a pool in the last 30 days and is in the file: accounts first, then limits.

        Blocks while it reads, some microseconds a value. Never raises: where the file cannot be read, that is said
        on the logger `keyrouter_openai` and nothing is found.
        """
        return memory.recall(self.path, pool)

    def owners(self, pool: str, ids: Iterable[str]) -> dict[str, LearnedOwner]:
        """Whose these resources are, by id, as far as that is in the file.

        Those of files, batches and all that lasts are kept, those of responses and their items for 30 days; of each
        at least the latest 200,000 of a pool. Blocks while it reads. Never raises: where the file cannot be read,
        that is said on the logger `keyrouter_openai` and nothing is found.
        """
        return owners.find(self.path, pool, ids)

    def flush(self, timeout: float = 5.0) -> bool:
        """Block up to `timeout` seconds until all that was taken before is in the file; whether it is.

        Attempts that were dropped for want of room are not waited for.
        """
        if self._nothing_to_do():
            return True
        request = _Flush()
        if not self._ask(request):
            request.closing = True
            self._run()
        request.wait(timeout)
        return request.written

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, close the file and end the thread, in up to `timeout` seconds.

        What cannot be written is said on the logger. A later `record` opens the file again.
        """
        if self._nothing_to_do():
            return
        request = _Flush(closing=True)
        if not self._ask(request):
            self._run()
        thread = self._thread
        if request.wait(timeout) and thread is not None:
            thread.join(timeout)
        if not request.written:
            _log.warning("ledger %s closed with %d rows not written", self.path, self._waiting())

    def attempts(
        self,
        *,
        since: When | None = None,
        until: When | None = None,
        pool: str | None = None,
        key: str | None = None,
        account: str | None = None,
        model: str | None = None,
        limit: int | None = None,
        newest_first: bool = True,
    ) -> list[dict[str, Any]]:
        """The attempts on record, after a flush, as dictionaries of `schema.ATTEMPT_COLUMNS`.

        What is not known is None. Raises ConfigError if the file cannot be read.

        Args:
            since: from this time on: a datetime (a naive one is local time) or seconds since the epoch.
            until: before this time.
            model: the model asked for.
        """
        self.flush()
        return queries.attempts(
            self.path,
            since=since,
            until=until,
            pool=pool,
            key=key,
            account=account,
            model=model,
            limit=limit,
            newest_first=newest_first,
        )

    def summary(self, by: str = "key", *, since: When | None = None, until: When | None = None) -> list[dict[str, Any]]:
        """What the attempts on record add up to, after a flush, one dictionary for each group.

        Each holds the group under the name `by`, `attempts`, `succeeded`, `failed` (any outcome but `ok`),
        `prompt_tokens`, `cached_tokens` (part of the prompt's), `completion_tokens` and `cost_usd` (US
        dollars). A sum is over the attempts that have the number, and None where none has.

        Args:
            by: `key` (with its pool), `account`, `model`, `provider`, `day` (local), `outcome` or `tag:NAME`.
            since: as in `attempts`.
            until: as in `attempts`.

        Raises ConfigError if the file cannot be read or `by` is none of these.
        """
        self.flush()
        return queries.summary(self.path, by, since=since, until=until)

    def _ask(self, request: _Flush) -> bool:
        """Send a request to the thread; whether there is one."""
        self._inbox.put(request)
        self._hurry.set()
        return self._ensure_thread()

    def _nothing_to_do(self) -> bool:
        return self._thread is None and not self._waiting()

    def _waiting(self) -> int:
        return self._inbox.qsize() + len(self._rows) + len(self._learned)

    def _ensure_thread(self) -> bool:
        """Have a thread see to the inbox; False if there is none to be had, as when the interpreter ends."""
        # Not waited for: a finalizer may run on the thread that holds it, which then is starting one.
        if _exiting:  # a new thread would not run any more, and Python 3.11 would wait for it for ever
            return self._thread is not None
        if self._thread is None and self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    self._thread = Thread(target=self._run, name="keyrouter-ledger", daemon=True)
                    self._thread.start()
            except RuntimeError:
                self._thread = None
                return False
            finally:
                self._starting.release()
        return True

    def _run(self) -> None:
        try:
            while self._collect(_IDLE_S) and self._write_or_wait():
                pass
        finally:
            self._appender.close()
            self._thread = None
            # Whoever put something in since the last look may have seen the thread still there.
            if not self._inbox.empty():
                self._ensure_thread()

    def _collect(self, timeout: float) -> bool:
        """Wait for something to come in and take what is there, up to a flush; False if nothing came."""
        taken = 0
        try:
            item = self._inbox.get(timeout=timeout)
            if not isinstance(item, _Flush):
                self._hurry.wait(_GATHER_S)
            self._hurry.clear()
            while not isinstance(item, _Flush):
                self._take(item)
                taken += 1
                if taken == _BATCH:
                    return True
                item = self._inbox.get_nowait()
        except Empty:
            return taken > 0
        self._flushes.append(item)
        return True

    def _take(self, item: Attempt | _Lesson) -> None:
        if isinstance(item, _Lesson):
            for value in item.values:
                subject = item.pool, value.subject
                if (known := self._learned.get(subject)) is None or known.at <= value.at:
                    self._learned[subject] = value
            while len(self._learned) > MAX_WAITING:
                del self._learned[next(iter(self._learned))]
            return
        if len(self._rows) >= MAX_WAITING:
            self._rows.popleft()
            self._dropped += 1
        self._rows.append(item)

    def _write_or_wait(self) -> bool:
        """Write all rows, trying again for as long as it takes; False if the thread is to end."""
        pause = _FIRST_PAUSE_S
        while problem := self._write_rows():
            self._tell(problem)
            if self._is_closing():
                self._answer_flushes(written=False)
                return False
            self._wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        self._tell("")
        closing = self._is_closing()
        self._answer_flushes(written=True)
        return not closing

    def _is_closing(self) -> bool:
        return any(request.closing for request in self._flushes)

    def _answer_flushes(self, *, written: bool) -> None:
        for request in self._flushes:
            request.written = written
            request.set()
        self._flushes.clear()

    def _wait(self, pause: float) -> None:
        """Collect until the pause is over or somebody asks for a flush."""
        asked = len(self._flushes)
        end = time.monotonic() + pause
        while len(self._flushes) == asked and (left := end - time.monotonic()) > 0:
            self._collect(left)

    def _write_rows(self) -> str:
        """Write the rows, as many at a time as fit into a batch; what went wrong, or an empty string."""
        while self._rows or self._learned:
            batch = list(islice(self._rows, _BATCH))
            learned = list(islice(self._learned.items(), _BATCH))
            try:
                self._appender.append(batch, [(pool, value) for (pool, _), value in learned])
            except (sqlite3.Error, OSError, ConfigError) as error:
                return explain(error, self.path)
            for _ in batch:
                self._rows.popleft()
            for subject, _ in learned:
                del self._learned[subject]
        return ""

    def _tell(self, problem: str) -> None:
        """Say what is wrong once, once more when attempts begin to be dropped, and when it is over."""
        level = (2 if self._dropped else 1) if problem else 0
        over = not problem and (self._told or self._dropped)
        if level <= self._told and not over:
            return
        waiting = self._waiting()
        if problem:
            if self._dropped:
                problem += f" (the oldest attempts are dropped now, beyond {MAX_WAITING:,})"
            _log.warning("%s; %d rows wait in memory, calls go on", problem, waiting)
        else:
            _log.warning("ledger %s is written again; %d attempts were dropped", self.path, self._dropped)
            self._dropped = 0
        self._told = level
        if self.on_trouble is not None:
            self.on_trouble(problem, waiting)


_ledgers: WeakSet[Ledger] = WeakSet()


_exiting = False
"""The process is about to end."""


_before_exit: list[Callable[[], None]] = []


def before_exit(callback: Callable[[], None]) -> None:
    """Have `callback` called when the process ends, just before the ledgers close."""
    _before_exit.append(callback)


def _close_all() -> None:
    global _exiting  # noqa: PLW0603  a process ends once
    _exiting = True
    for callback in _before_exit:
        callback()
    end = time.monotonic() + _EXIT_S
    for ledger in list(_ledgers):
        ledger.close(max(0.0, end - time.monotonic()))


def _after_fork_in_child() -> None:
    # The thread is the parent's, and so are the attempts that wait for it.
    for ledger in list(_ledgers):
        ledger._begin()  # pyright: ignore[reportPrivateUsage]
    _close_with_worker()


def _close_with_worker(starting: object = None) -> None:
    """Close all when a worker of `multiprocessing` ends: it uses `os._exit`, which calls no `atexit`."""
    if (util := sys.modules.get("multiprocessing.util")) is None:
        return
    if starting is None:  # a worker that is about to start forgets all finalizers, and then calls this once more
        util.register_after_fork(_close_all, _close_with_worker)
    util.Finalize(None, _close_all, exitpriority=0)


atexit.register(_close_all)
_close_with_worker()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
