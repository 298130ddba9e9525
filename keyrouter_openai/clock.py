"""The system's time, in the form that the router takes it (see `protocols.Clock`)."""

from __future__ import annotations

import time

import anyio


class SystemClock:
    """Real time and real sleeping, under asyncio and trio alike."""

    def monotonic(self) -> float:
        return time.monotonic()

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def sleep_sync(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
