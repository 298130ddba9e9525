"""The sockets of the house: each a small Protocol, with several plugs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import SecretStr

from .clock import Signal, ThreadSignal
from .core.memory import Learned, LearnedOwner
from .core.model import Attempt
from .events import Event

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

    `record` and `remember` never block; they are called by finalizers too.
    """

    path: Path
    on_trouble: Callable[[str, int], None] | None
    """Gets what is wrong with the file (empty when it is over), and how many rows wait in memory."""

    def record(self, attempt: Attempt) -> None: ...

    def remember(self, pool: str, values: Sequence[Learned]) -> None:
        """Keep what was learned of a pool: a later value replaces one with the same subject."""
        ...

    def recall(self, pool: str) -> tuple[Learned, ...]:
        """What was learned of a pool but for owners, accounts first; may block while it is read."""
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
