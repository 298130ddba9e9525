"""What a process has taken and not yet written: attempts in its journal or in memory, and what was learned."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from keyrouter_openai.core.memory import Learned
from keyrouter_openai.core.model import Attempt
from keyrouter_openai.errors import ConfigError

from .appender import Appender
from .database import explain
from .journal import Journal
from .records import Kind

MAX_WAITING = 100_000
"""Attempts kept in memory while neither the file nor the journal can be written."""

_BATCH = 1_000
"""Attempts, and learned values, in one transaction: few enough that other processes get their turn."""


class Backlog:
    """Attempts and what was learned, on their way into SQLite. `add` may be called on any thread, and by finalizers."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.dropped = 0
        """Attempts for which there was no room."""
        self._path = path
        self._spare: deque[Attempt] = deque()
        """Attempts that could not be put into the journal."""
        self._rows: deque[Attempt] = deque()
        """Attempts that were read from there, until they are written."""
        self._learned: dict[tuple[str, tuple[object, ...]], Learned] = {}
        """By pool and subject; beyond `MAX_WAITING` the first to come go."""

    @property
    def waiting(self) -> int:
        """How many attempts and values are still to be written."""
        return self.journal.waiting + len(self._spare) + len(self._rows) + len(self._learned)

    @property
    def journal_problem(self) -> str:
        """Why the journal cannot be written, and what to do; empty if it can."""
        if (problem := self.journal.problem) is None:
            return ""
        advice = "free some space, or see to its folder"
        return f"ledger {self._path}: its journal cannot be written: {problem.strerror}: {advice}"

    def add(self, kind: Kind, attempt: Attempt) -> None:
        """Put an attempt into the journal. If it has ended and that fails, it is kept in memory. Never raises."""
        if not self.journal.append(kind, attempt) and kind is Kind.ENDED:
            self._spare.append(attempt)

    def trim(self) -> None:
        """Drop the oldest attempts in memory beyond `MAX_WAITING`. On the thread that writes."""
        while len(self._spare) > MAX_WAITING:
            self.journal.forget(self._spare.popleft())
            self.dropped += 1

    def learn(self, pool: str, values: Sequence[Learned]) -> None:
        """Take what was learned of a pool; of one subject the latest value stays."""
        for value in values:
            subject = pool, value.subject
            if (known := self._learned.get(subject)) is None or known.at <= value.at:
                self._learned[subject] = value
        while len(self._learned) > MAX_WAITING:
            del self._learned[next(iter(self._learned))]

    def write(self, appender: Appender, pricing: Callable[[Attempt], Attempt] | None) -> str:
        """Write all that was there when this was called, in batches; what went wrong, or an empty string."""
        self.journal.mend()
        self.journal.look()
        while (source := self._source()) or self._learned:
            batch = [_priced(source[i], pricing) for i in range(min(len(source), _BATCH))]
            learned = list(islice(self._learned.items(), _BATCH))
            try:
                appender.append(self.journal.name, batch, [(pool, value) for (pool, _), value in learned])
            except (sqlite3.Error, OSError, ConfigError) as error:
                return explain(error, self._path)
            for _ in batch:
                self.journal.forget(source.popleft())
            for subject, _ in learned:
                del self._learned[subject]
        self.journal.shorten()
        return ""

    def _source(self) -> deque[Attempt]:
        """Where the next attempts to be written are, until they are written."""
        if not self._rows:
            self._rows.extend(self.journal.take())
        return self._rows or self._spare


def _priced(attempt: Attempt, pricing: Callable[[Attempt], Attempt] | None) -> Attempt:
    known = attempt.usage is None or attempt.cost_microusd is not None or attempt.price_source is not None
    return attempt if known or pricing is None else pricing(attempt)
