"""The system's time, in the form that the router takes it (see `protocols.Clock`), and how to be woken before."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

import anyio


class Signal:
    """Wakes the task that made it, from any thread."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        try:
            self._soon = asyncio.get_running_loop().call_soon_threadsafe
        except RuntimeError:
            from trio.lowlevel import current_trio_token

            self._soon = current_trio_token().run_sync_soon

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

    def sleep_sync(self, seconds: float, signal: threading.Event | None = None) -> None:
        if signal is None:
            time.sleep(seconds)
        elif signal.wait(seconds):
            signal.clear()


SYSTEM_CLOCK = SystemClock()
