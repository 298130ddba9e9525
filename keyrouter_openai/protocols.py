"""The sockets of the house: each a small Protocol, with several plugs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from pydantic import SecretStr

from .clock import Signal, ThreadSignal
from .core.memory import Learned, LearnedOwner
from .core.model import Attempt
from .events import Event

T = TypeVar("T")

EventSink = Callable[[Event], None]
"""Receives every event, on the thread it happened on. What it raises is logged and harms nothing."""


class Vault(Protocol):
    """Where secrets rest. Every method may block for long: callers keep it off the event loop.

    All failures are `VaultError`.
    """

    @property
    def name(self) -> str:
        """What a person would call it, such as `OS keyring (SecretService)`."""
        ...

    def get(self, pool: str, key: str) -> SecretStr | None:
        """The secret of a key, or None if the vault has none under that name."""
        ...

    def set(self, pool: str, key: str, secret: SecretStr) -> None:
        """Store or replace a secret."""
        ...

    def delete(self, pool: str, key: str) -> None:
        """Forget a secret; deleting one that is not there is fine."""
        ...


@runtime_checkable
class Recorder(Protocol):
    """What the router needs of a ledger: a place for attempts, and for what they taught. It never raises.

    What takes attempts, lessons or work never waits; `record`, `withdraw` and `remember` are called by finalizers too.
    """

    path: Path
    on_trouble: Callable[[str, int], None] | None
    """Gets what is wrong with the file (empty when it is over), and how many rows wait."""
    pricing: Callable[[Attempt], Attempt] | None
    """Gives an attempt that has usage, and neither a cost nor the source of a price, its cost; may block."""
    snapshot: Callable[[], str] | None
    """The state of the pools that use the ledger, as JSON, for those who watch."""

    @property
    def holder(self) -> str:
        """The name under which allowances of budgets are set aside for this process."""
        ...

    def began(self, attempt: Attempt) -> None:
        """Put an attempt on record that is about to be sent, as it is to stand if nothing more is heard of it."""
        ...

    def record(self, attempt: Attempt) -> None:
        """Put an attempt on record that has ended."""
        ...

    def withdraw(self, attempt: Attempt) -> None:
        """Nothing was sent of an attempt that `began`: it is not to be on record."""
        ...

    def run(self, work: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Have work done in one transaction, elsewhere. The future gets what it returns or raises."""
        ...

    def remember(self, pool: str, values: Sequence[Learned]) -> None:
        """Keep what was learned of a pool: a later value replaces one with the same subject."""
        ...

    def recall(self, pool: str) -> tuple[Learned, ...]:
        """What was learned of a pool but for owners, accounts first; may block while it is read."""
        ...

    def calls_by_hour(self, pool: str) -> Sequence[tuple[float, float]]:
        """When calls come, for forecasts: the start (seconds since the epoch) and calls of each hour of two weeks."""
        ...

    def owners(self, pool: str, ids: Iterable[str]) -> Mapping[str, LearnedOwner]:
        """Whose these resources are, as far as that was learned, by id; may block while it is read."""
        ...

    def flush(self, timeout: float = 5.0) -> bool: ...

    def close(self) -> None: ...


class Clock(Protocol):
    """Time as the router sees it, handed in so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds that never go back; for deadlines and durations."""
        ...

    def time(self) -> float:
        """Wall-clock seconds since the epoch; for the ledger and for dates that providers name."""
        ...

    async def sleep(self, seconds: float, signal: Signal | None = None) -> None:
        """Sleep, or until the signal is set if there is one."""
        ...

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        """As `sleep`, for threads."""
        ...
