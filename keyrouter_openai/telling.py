"""Who is told of what the router decides: the log, and whoever asked for it."""

from __future__ import annotations

from logging import DEBUG
from math import isfinite

from .core.model import RouteRequest
from .core.select import Refusal
from .events import Event, LedgerTrouble, NoKey
from .protocols import Clock, EventSink
from .sinks.log import log_event, logger


class Teller:
    """Passes the events of one router on, on the thread on which they happen."""

    def __init__(self, pool: str, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._sinks: list[EventSink] = []

    def add(self, sink: EventSink) -> None:
        """Have `sink` called with every event from now on."""
        self._sinks.append(sink)

    @property
    def wants_attempts(self) -> bool:
        """Whether somebody listens to the events of single attempts, of which there are many."""
        return bool(self._sinks) or logger.isEnabledFor(DEBUG)

    def tell(self, event: Event) -> None:
        """Pass an event on. What a sink raises is logged, and harms nothing."""
        log_event(event)
        for sink in self._sinks:
            try:
                sink(event)
            except Exception:  # noqa: BLE001  a user's callback may raise anything, and must harm no call
                logger.exception("an event callback failed")

    def refusal(self, request: RouteRequest, refusal: Refusal) -> None:
        """A call fails for want of a key."""
        now = self._clock.monotonic()
        retry_after = refusal.first_return - now if isfinite(refusal.first_return) else None
        reasons = {name: reason for name, (reason, _) in refusal.obstacles.items()}
        self.tell(NoKey(self._clock.time(), self._pool, request.id, retry_after, reasons))

    def trouble(self, path: str, problem: str, waiting: int) -> None:
        """The ledger cannot be written, or can be again."""
        self.tell(LedgerTrouble(self._clock.time(), self._pool, path, problem, waiting))
