"""Events as structured records on the logger `keyrouter_openai`.

Each record's message is a short sentence; the event itself is in `record.event`, for handlers that want fields.
"""

from __future__ import annotations

import logging
from dataclasses import asdict

from ..events import (
    AttemptEnded,
    AttemptStarted,
    BudgetReached,
    Event,
    ExhaustionPredicted,
    KeyStateChanged,
    LedgerTrouble,
    UnknownPrice,
)

logger = logging.getLogger("keyrouter_openai")

_LEVELS: dict[type[Event], int] = {
    AttemptStarted: logging.DEBUG,
    AttemptEnded: logging.DEBUG,
    BudgetReached: logging.WARNING,
    ExhaustionPredicted: logging.WARNING,
    LedgerTrouble: logging.DEBUG,  # the ledger itself has said it
    UnknownPrice: logging.WARNING,
}
_FOR_A_PERSON = ("invalid", "exhausted")
"""Key states that someone has to do something about."""


def log_event(event: Event) -> None:
    """Write one event: attempts at DEBUG, what a person must mend at WARNING, all else at INFO."""
    level = _LEVELS.get(type(event), logging.INFO)
    if isinstance(event, KeyStateChanged) and event.new in _FOR_A_PERSON:
        level = logging.WARNING
    if logger.isEnabledFor(level):
        shown = asdict(event).items()
        fields = " ".join(f"{name}={str(value)!r}" for name, value in shown if name not in ("at", "pool"))
        logger.log(level, "%s pool=%r %s", type(event).__name__, event.pool, fields, extra={"event": event})
