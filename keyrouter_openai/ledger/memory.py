"""What routers have learned, kept for the next start: its way into the tables and out again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from keyrouter_openai.core.memory import Learned, LearnedAccount, LearnedLimit
from keyrouter_openai.core.model import Dimension
from keyrouter_openai.errors import ConfigError

from . import owners
from .database import reading
from .schema import Row, schema_version

KEPT_S = 30 * 86400.0
"""Seconds after which what was learned is forgotten."""

_AHEAD_S = 60.0
"""Seconds that a value may lie ahead: others write while this process waits for the file."""

_FIRST_VERSION = 2
_FIRST_WITH_HOURS = 4
"""The schemas that brought the tables; reading does not migrate."""
PATTERN_S = 14 * 86400.0
"""Seconds back to which hours show the pattern of the day."""

# A row that lacks a number, as SQLite stores what is none, is left out: it must not hold up the others.
_UPSERT_LIMIT = """
    insert or ignore into learned_limits (pool, account, family, dimension, period, "limit", burst, level, at, guessed)
    values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    on conflict (pool, account, family, dimension, period) do update
    set "limit" = excluded."limit", burst = excluded.burst, level = excluded.level, at = excluded.at,
        guessed = excluded.guessed
    where excluded.at >= at
"""
_UPSERT_ACCOUNT = """
    insert or ignore into learned_accounts (pool, key, account, evidence, at)
    values (?, ?, ?, ?, ?)
    on conflict (pool, key) do update
    set account = excluded.account, evidence = excluded.evidence, at = excluded.at
    where excluded.at >= at
"""

Change = tuple[str, Sequence[Row]]
"""A statement, and the rows to execute it with."""


def changes(learned: Iterable[tuple[str, Learned]]) -> list[Change]:
    """What brings values, each with its pool, into the file: of one subject the latest stays."""
    limits: list[Row] = []
    accounts: list[Row] = []
    owned: list[Row] = []
    for pool, value in learned:
        if isinstance(value, LearnedLimit):
            limits.append(
                (
                    *(pool, value.account, value.family, value.dimension.value, value.period),
                    *(value.limit, value.burst, value.level, value.at, value.guessed),
                )
            )
        elif isinstance(value, LearnedAccount):
            accounts.append((pool, value.key, value.account, value.evidence, value.at))
        else:
            owned.append(owners.row(pool, value))
    return [(_UPSERT_LIMIT, limits), (_UPSERT_ACCOUNT, accounts), (owners.UPSERT, owned)]


def forgetting() -> list[Change]:
    """What clears the file of values that are too old.

    Also of those that lie far ahead, from a clock that was wrong: nothing could ever replace them.
    """
    return [
        (f"delete from {table} where at not between ? and ?", [_kept()])
        for table in ("learned_limits", "learned_accounts")
    ]


def recall(path: Path, pool: str) -> tuple[Learned, ...]:
    """See `Ledger.recall`."""
    try:
        return _read(path, pool)
    except ConfigError as error:
        logging.getLogger("keyrouter_openai").warning("what was learned of pool %r cannot be read: %s", pool, error)
        return ()


def calls_by_hour(path: Path, pool: str) -> tuple[tuple[float, float], ...]:
    """See `Ledger.calls_by_hour`."""
    try:
        with reading(path) as connection:
            if connection is None or schema_version(connection) < _FIRST_WITH_HOURS:
                return ()
            found = connection.execute(
                "select hour, sum(attempts) from hours where pool = ? and hour >= ? group by hour",
                (pool, time.time() - PATTERN_S),
            )
            return tuple((float(hour), float(calls)) for hour, calls in found)
    except ConfigError as error:
        logging.getLogger("keyrouter_openai").warning("the calls of pool %r cannot be read: %s", pool, error)
        return ()


def _read(path: Path, pool: str) -> tuple[Learned, ...]:
    oldest, newest = _kept()
    wanted = {"pool": pool, "oldest": oldest, "newest": newest}
    condition = "pool = :pool and at between :oldest and :newest"
    with reading(path) as connection:
        if connection is None or schema_version(connection) < _FIRST_VERSION:
            return ()
        accounts = connection.execute(
            f"select key, account, evidence, at from learned_accounts where {condition}", wanted
        ).fetchall()
        limits = connection.execute(
            f"""
            select dimension, account, family, period, "limit", burst, level, at, guessed from learned_limits
            where {condition}
            """,
            wanted,
        ).fetchall()
    dimensions = {dimension.value: dimension for dimension in Dimension}
    return (
        *(LearnedAccount(*row) for row in accounts),
        *(
            LearnedLimit(account, family, dimensions[name], *numbers, guessed=bool(guessed))
            for name, account, family, *numbers, guessed in limits
            if name in dimensions  # other versions of this package may know more
        ),
    )


def _kept() -> tuple[float, float]:
    """Between which wall-clock times values are kept, in seconds since the epoch."""
    now = time.time()
    return now - KEPT_S, now + _AHEAD_S
