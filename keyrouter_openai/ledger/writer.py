"""Attempts and what was learned, on their way into the file: taken at once, written by a thread of their own."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import Any, NamedTuple, TypeVar

from keyrouter_openai.core.memory import Learned, LearnedOwner
from keyrouter_openai.core.model import Attempt
from keyrouter_openai.errors import ConfigError

from . import exits, memory, owners, queries
from .allowances import is_held
from .appender import Appender, recover
from .backlog import MAX_WAITING, Backlog
from .queries import When
from .records import Kind

_GATHER_S = 1.0
"""Seconds to let attempts gather before they are written together: waking the thread costs most."""
_IDLE_S = 10.0
"""Seconds without an attempt after which the thread ends, so that forgotten ledgers leave nothing behind."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 30.0
_SHOW_EVERY_S = 1.0
"""Seconds between two snapshots while somebody watches."""

_log = logging.getLogger("keyrouter_openai")
_Lesson = tuple[str, tuple[Learned, ...]]
"""A pool, and what was learned of it at one moment."""
_T = TypeVar("_T")


class _Flush(Event):
    """A request that travels behind what it waits for; set when it is answered."""

    def __init__(self, *, closing: bool = False) -> None:
        super().__init__()
        self.closing = closing
        self.written = False


class _Work(NamedTuple):
    """Something to be done in one transaction, and who waits for it."""

    call: Callable[[sqlite3.Connection], Any]
    answer: Future[Any]


class Ledger:
    """The attempts of any number of clients and processes, and what they taught, in one SQLite file.

    Making one stores the path and no more: the file comes with what is first taken. `record` appends an attempt to the
    journal of this process (see `journal.py`), where it outlives a `kill -9`, and a thread has what has gathered
    there in SQLite a second later; `flush` has it there at once. What a killed process left in its
    journal is in SQLite as soon as anybody opens the ledger or asks it. The exit of the interpreter closes every
    ledger, as does that of a worker of `multiprocessing`.

    A file that cannot be written never fails a call. It is said once, on the logger `keyrouter_openai` and to
    `on_trouble`, and once more when it is over. Meanwhile attempts wait in the journal; where that cannot be written
    either they wait in memory, up to `MAX_WAITING` (100,000), and beyond that the oldest are dropped and counted,
    which is said too.

    Args:
        path: the file; `default_path()` is the usual one.
        on_trouble: gets what is wrong (empty when it is over) and the number of rows that wait, on the
            ledger's thread. It must not raise. Where none is given, the first router of this ledger takes it
            to tell of it as an event.
    """

    def __init__(self, path: str | os.PathLike[str], *, on_trouble: Callable[[str, int], None] | None = None) -> None:
        self.path = Path(path)
        self.on_trouble = on_trouble
        self.pricing: Callable[[Attempt], Attempt] | None = None
        """Gives an attempt whose tokens are known its cost, on the ledger's thread, where that was not known before."""
        self.snapshot: Callable[[], str] | None = None
        """What is to be shown, about once a second, to those who watch."""
        self._begin()
        exits.enrol(self)

    def _begin(self) -> None:
        # SimpleQueues, as their put() may interrupt anything: streams are recorded by their finalizers.
        self._inbox: SimpleQueue[_Lesson | _Flush | _Work | None] = SimpleQueue()
        self._backlog = Backlog(self.path)
        self._nudged = False
        """The thread knows that there are attempts."""
        self._hurry: SimpleQueue[None] = SimpleQueue()
        """Somebody waits for the file: no gathering now."""
        self._starting = Lock()
        self._thread: Thread | None = None
        # The thread's own:
        self._appender = Appender(self.path)
        self._flushes: list[_Flush] = []
        self._works: list[_Work] = []
        self._is_watched = False
        self._show_at = 0.0
        self._told = 0  # 1: there is a problem; 2: attempts are being dropped

    @property
    def holder(self) -> str:
        """The name under which this process holds allowances of budgets: that of its journal."""
        return self._backlog.journal.name

    def began(self, attempt: Attempt) -> None:
        """Take an attempt that is about to be sent, as it is to stand if nothing more is heard of it; as `record`."""
        self._backlog.add(Kind.BEGAN, attempt)

    def record(self, attempt: Attempt) -> None:
        """Take an attempt, in a few microseconds. Never raises; works after `close` and in finalizers too."""
        self._backlog.add(Kind.ENDED, attempt)
        if not self._nudged or self._thread is None:
            self._nudged = True
            self._inbox.put(None)
            self._ensure_thread()

    def withdraw(self, attempt: Attempt) -> None:
        """Of an attempt that `began` nothing was sent: it is not to be on record. As `record` otherwise."""
        self._backlog.add(Kind.WITHDRAWN, attempt)

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> Future[_T]:
        """Have `work` done on the ledger's thread, in one transaction of its own that keeps other writers out.

        Never blocks. The future gets what it returns or raises; sqlite3.Error, OSError, ConfigError if that cannot be.
        """
        request = _Work(work, Future())
        if not self._ask(request):
            self.close()
        return request.answer

    def remember(self, pool: str, values: Sequence[Learned]) -> None:
        """Take what was learned of a pool, to be kept and found by `recall` for 30 days, or by `owners`.

        Of one subject the latest value replaces all others, also those of other processes. As `record`, it takes a
        few microseconds and never raises.
        """
        self._inbox.put((pool, tuple(values)))
        self._ensure_thread()

    def recall(self, pool: str) -> tuple[Learned, ...]:
        """What was learned of a pool in the last 30 days and is in the file: accounts first, then limits.

        Blocks while it reads. Never raises: a file that cannot be read is said on the logger, and nothing found.
        """
        return memory.recall(self.path, pool)

    def calls_by_hour(self, pool: str) -> tuple[tuple[float, float], ...]:
        """The start (seconds since the epoch) and calls of each hour of two weeks; reads as `recall` does."""
        return memory.calls_by_hour(self.path, pool)

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

        The journal stays as long as there are attempts under way, budgets that have something to spend, or attempts
        that cannot be written, which is said on the logger. A later `record` opens the file again.
        """
        if self._nothing_to_do() and not self._backlog.journal.exists:
            return
        request = _Flush(closing=True)
        if not self._ask(request):
            self._run()
        thread = self._thread
        if request.wait(timeout) and thread is not None:
            thread.join(timeout)
        if not request.written:
            _log.warning("ledger %s closed with %d rows not written", self.path, self._backlog.waiting)

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
        self._have_all()
        equal = {"pool": pool, "key": key, "account": account, "model": model}
        return queries.attempts(self.path, since, until, equal, limit=limit, newest_first=newest_first)

    def summary(self, by: str = "key", *, since: When | None = None, until: When | None = None) -> list[dict[str, Any]]:
        """What the attempts on record add up to, after a flush, one dictionary for each group.

        Each holds the group under the name `by`, `attempts`, `succeeded`, `failed` (any outcome but `ok`),
        `prompt_tokens`, `cached_tokens` (part of the prompt's), `completion_tokens` and `cost_usd` (US
        dollars). A sum is over the attempts that have the number, and None where none has.

        Args:
            by: `key` (with its pool), `account`, `model`, `provider`, `day` (local), `outcome` or `tag:NAME`.
            since, until: as in `attempts`.

        Raises ConfigError if the file cannot be read or `by` is none of these.
        """
        self._have_all()
        return queries.summary(self.path, by, since=since, until=until)

    def after_fork(self) -> None:
        """In a forked child, the thread is the parent's, and so is the journal with the attempts in it."""
        self._backlog.journal.let_go()
        self._begin()

    def _have_all(self) -> None:
        """Have in SQLite what this process has taken, and what killed ones have left."""
        self.flush()
        recover(self.path)

    def _ask(self, request: _Flush | _Work) -> bool:
        """Send a request to the thread; whether there is one."""
        self._inbox.put(request)
        self._hurry.put(None)
        return self._ensure_thread()

    def _nothing_to_do(self) -> bool:
        return self._thread is None and self._inbox.empty() and not self._backlog.waiting

    def _ensure_thread(self) -> bool:
        """Have a thread see to the inbox; False if there is none to be had, as when the interpreter ends."""
        # Not waited for: a finalizer may run on the thread that holds it, which then is starting one.
        if exits.is_exiting():  # a new thread would not run any more, and Python 3.11 would wait for it for ever
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
            idle_since = time.monotonic()
            while self._is_watched or time.monotonic() - idle_since < _IDLE_S:
                if self._collect(min(_IDLE_S, _SHOW_EVERY_S)):
                    if not self._turn():
                        break
                    idle_since = time.monotonic()
                self._show()
        finally:
            self._appender.close()
            self._thread = None
            # Whoever put something in since the last look may have seen the thread still there.
            if not self._inbox.empty():
                self._ensure_thread()

    def _collect(self, timeout: float) -> bool:
        """Wait for something to come in and take what is there, up to a flush; False if nothing came."""
        came = False
        try:
            item = self._inbox.get(timeout=timeout)
            if not isinstance(item, _Flush | _Work):
                with suppress(Empty):
                    self._hurry.get(timeout=_GATHER_S)
            self._hurry = SimpleQueue()  # whoever has put something into the old one is in the inbox already
            self._nudged = False
            while True:
                came = True
                if isinstance(item, _Flush):
                    self._flushes.append(item)
                    return True
                if isinstance(item, _Work):
                    self._works.append(item)
                elif item is not None:
                    self._backlog.learn(*item)
                item = self._inbox.get_nowait()
        except Empty:
            return came
        finally:
            self._backlog.trim()

    def _turn(self) -> bool:
        """Write all that there is, trying again for as long as it takes; False if the thread is to end."""
        pause = _FIRST_PAUSE_S
        self._do_works()
        while problem := self._backlog.write(self._appender, self.pricing):
            self._tell(problem)
            if self._is_closing():
                self._answer_flushes(written=False)
                return False
            self._wait(pause)
            self._do_works()
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        self._tell(self._backlog.journal_problem)
        closing = self._is_closing()
        if closing and not self._may_spend() and self._backlog.journal.close():
            self._appender.leave(self.holder)
        self._answer_flushes(written=True)
        return not closing

    def _do_works(self) -> None:
        while self._works:
            call, answer = self._works.pop(0)
            if not answer.set_running_or_notify_cancel():
                continue
            if not self._backlog.journal.mend(make=True):  # by it others see that this process lives, and may hold much
                answer.set_exception(ConfigError(self._backlog.journal_problem))
                continue
            try:
                answer.set_result(self._appender.run(call))
            except Exception as error:  # noqa: BLE001  the future hands it to who asked
                answer.set_exception(error)

    def _show(self) -> None:
        """Show a snapshot if somebody watches."""
        if self.snapshot is None or time.monotonic() < self._show_at:
            return
        self._show_at = time.monotonic() + _SHOW_EVERY_S
        try:
            self._is_watched = self._appender.is_watched()
            if self._is_watched:
                self._appender.show(self.holder, self.snapshot())
        except (sqlite3.Error, OSError, ConfigError):
            self._is_watched = False  # what is wrong is said when attempts are to be written

    def _is_closing(self) -> bool:
        return any(request.closing for request in self._flushes)

    def _may_spend(self) -> bool:
        """Whether budgets of this process have allowances: without its journal those would count as given up."""
        try:
            return self._appender.run(partial(is_held, holder=self.holder))
        except (sqlite3.Error, OSError, ConfigError):
            return True

    def _answer_flushes(self, *, written: bool) -> None:
        for request in self._flushes:
            request.written = written
            request.set()
        self._flushes.clear()

    def _wait(self, pause: float) -> None:
        """Collect until the pause is over or somebody asks for something."""
        asked = len(self._flushes)
        end = time.monotonic() + pause
        while len(self._flushes) == asked and not self._works and (left := end - time.monotonic()) > 0:
            self._collect(left)

    def _tell(self, problem: str) -> None:
        """Say what is wrong once, once more when attempts begin to be dropped, and when it is over."""
        level = (2 if self._backlog.dropped else 1) if problem else 0
        over = not problem and (self._told or self._backlog.dropped)
        if level <= self._told and not over:
            return
        waiting = self._backlog.waiting
        if problem:
            if self._backlog.dropped:
                problem += f" (the oldest attempts are dropped now, beyond {MAX_WAITING:,})"
            _log.warning("%s; %d rows wait, calls go on", problem, waiting)
        else:
            _log.warning("ledger %s is written again; %d attempts were dropped", self.path, self._backlog.dropped)
            self._backlog.dropped = 0
        self._told = level
        if self.on_trouble is not None:
            self.on_trouble(problem, waiting)
