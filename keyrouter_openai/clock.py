"""The system's time, in the form that the router takes it (see `protocols.Clock`), and how to be woken before."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

import anyio
from anyio.lowlevel import current_token


class Signal:
    """Wakes the task that made it, from any thread."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        loop: Any = current_token().native_token
        self._soon: Callable[[Callable[[], None]], object] = (
            loop.call_soon_threadsafe if isinstance(loop, AbstractEventLoop) else loop.run_sync_soon
        )

    def set(self) -> None:
        """Wake it; once it is gone, nothing."""
        with suppress(RuntimeError):  # its event loop has ended
            self._soon(self._wake)

    def _wake(self) -> None:
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Until it is set, for `seconds` at most; then it can be waited for again."""
        with anyio.move_on_after(seconds):
            await self._event.wait()
        if self._event.is_set():
            self._event = anyio.Event()


class ThreadSignal:
    """Wakes the thread that waits for it, from any thread and from finalizers, which `threading.Event` does not take:
    it has a lock that the very thread may hold.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Wake it, or let it go on at once when it comes to wait."""
        self._queue.put(None)

    def wait(self, seconds: float) -> bool:
        """Until it is set, for `seconds` at most; whether it was. Then it can be waited for again."""
        try:
            self._queue.get(timeout=seconds)
        except Empty:
            return False
        while not self._queue.empty():
            self._queue.get()
        return True


class SystemClock:
    """Real time and real sleeping, under asyncio and trio alike."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float, signal: Signal | None = None) -> None:
        if signal is None:
            await anyio.sleep(seconds)
        else:
            await signal.wait(seconds)

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        if signal is None:
            time.sleep(seconds)
        else:
            signal.wait(seconds)


SYSTEM_CLOCK = SystemClock()
