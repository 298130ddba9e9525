"""What is on record, found and added up, each on a connection of its own."""

# The types that sqlite-utils declares have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyrouter_openai.errors import ConfigError

from .database import reading
from .schema import ATTEMPT_COLUMNS, Value

if TYPE_CHECKING:
    from sqlite_utils import Database

When = datetime | float
"""A moment: a datetime, local time if it is naive, or seconds since the epoch."""

_GROUPS = {
    "key": "key",
    "account": "account",
    "model": "model",
    "provider": "provider",
    "day": "date(at, 'unixepoch', 'localtime')",
    "outcome": "outcome",
}
_TAG = "tag:"
_BY_TAG = "(select value from json_each(tags) where key = :tag)"


def attempts(
    path: Path,
    *,
    since: When | None,
    until: When | None,
    pool: str | None,
    key: str | None,
    account: str | None,
    model: str | None,
    limit: int | None,
    newest_first: bool,
) -> list[dict[str, Any]]:
    """See `Ledger.attempts`."""
    where, values = _where(since, until, {"pool": pool, "key": key, "account": account, "model": model})
    direction = "desc" if newest_first else "asc"
    with reading(path) as connection:
        if connection is None:
            return []
        rows = (
            _database(connection)
            .table("attempts")
            .rows_where(where, values, f"at {direction}, id {direction}", ", ".join(ATTEMPT_COLUMNS), limit)
        )
        return [_decoded(row) for row in rows]


def summary(path: Path, by: str, *, since: When | None, until: When | None) -> list[dict[str, Any]]:
    """See `Ledger.summary`."""
    where, values = _where(since, until, {})
    if by.startswith(_TAG) and by != _TAG:
        group = _BY_TAG
        values["tag"] = by.removeprefix(_TAG)
    elif by in _GROUPS:
        group = _GROUPS[by]
    else:
        raise ConfigError(f"cannot sum up by {by!r}: use one of {', '.join(_GROUPS)}, or {_TAG}NAME")
    pool = "pool, " if by == "key" else ""  # a key's name is unique in its pool alone
    sql = f"""
        select {pool}{group} as grouped,
            count(*) as attempts,
            sum(outcome = 'ok') as succeeded,
            sum(outcome <> 'ok') as failed,
            sum(prompt_tokens) as prompt_tokens,
            sum(cached_tokens) as cached_tokens,
            sum(completion_tokens) as completion_tokens,
            sum(cost_microusd) / 1e6 as cost_usd
        from attempts where {where} group by {pool}grouped order by {pool}grouped
    """
    with reading(path) as connection:
        if connection is None:
            return []
        return [{by: row.pop("grouped"), **row} for row in _database(connection).query(sql, values)]


def _database(connection: sqlite3.Connection) -> Database:
    from sqlite_utils import Database

    return Database(connection, execute_plugins=False, recursive_triggers=False)


def _where(since: When | None, until: When | None, equal: dict[str, str | None]) -> tuple[str, dict[str, Value]]:
    """A condition in SQL and its values."""
    bounds = {"since": since, "until": until}
    values: dict[str, Value] = {name: _epoch(when) for name, when in bounds.items() if when is not None}
    values |= {column: wanted for column, wanted in equal.items() if wanted is not None}
    compare = {"since": "at >= :since", "until": "at < :until"}
    return " and ".join(compare.get(name, f"{name} = :{name}") for name in values) or "1", values


def _epoch(when: When) -> float:
    return when.timestamp() if isinstance(when, datetime) else when


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    estimated = row["usage_estimated"]
    return row | {
        "stream": bool(row["stream"]),
        "usage_estimated": None if estimated is None else bool(estimated),
        "tags": json.loads(row["tags"]),
    }
