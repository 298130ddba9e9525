"""What ledgers do when the process ends, or forks."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import Protocol
from weakref import ref

_EXIT_S = 5.0
"""Seconds that the interpreter's exit may wait for all ledgers together."""


class Closable(Protocol):
    """A ledger, as far as it matters here."""

    def close(self, timeout: float) -> None: ...

    def after_fork(self) -> None: ...


_ledgers: set[ref[Closable]] = set()
"""Not a `WeakSet`, which cannot be gone through while another thread adds to it."""

_exiting = False
_before_exit: list[Callable[[], None]] = []


def enrol(ledger: Closable) -> None:
    """Have a ledger closed when the process ends, and told of forks."""
    _ledgers.add(ref(ledger, _ledgers.discard))


def _all() -> list[Closable]:
    return [ledger for reference in _ledgers.copy() if (ledger := reference()) is not None]


def is_exiting() -> bool:
    """Whether the process is about to end."""
    return _exiting


def before_exit(callback: Callable[[], None]) -> None:
    """Have `callback` called when the process ends, just before the ledgers close."""
    _before_exit.append(callback)


def _close_all() -> None:
    global _exiting  # noqa: PLW0603  a process ends once
    _exiting = True
    for callback in _before_exit:
        callback()
    end = time.monotonic() + _EXIT_S
    for ledger in _all():
        ledger.close(max(0.0, end - time.monotonic()))


def _after_fork_in_child() -> None:
    for ledger in _all():
        ledger.after_fork()
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
