"""What is on record, found and added up, each on a connection of its own."""

# The types that sqlite-utils declares have gaps.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keyrouter_openai.errors import ConfigError

from .database import reading
from .rollups import HOUR_S
from .schema import ATTEMPT_COLUMNS, Value, schema_version

if TYPE_CHECKING:
    from sqlite_utils import Database

When = datetime | float
"""A moment: a datetime, local time if it is naive, or seconds since the epoch."""

_GROUPS = {
    "key": "key",
    "account": "account",
    "pool": "pool",
    "model": "model",
    "provider": "provider",
    "day": "date(at, 'unixepoch', 'localtime')",
    "outcome": "outcome",
}
_TAG = "tag:"
_BY_TAG = "(select value from json_each(tags) where key = :tag)"

_FIRST_WITH_HOURS = 4
"""The schema that brought the roll-ups; reading does not migrate."""

# Whole hours come from `hours`. Those that a bound cuts, or a local midnight where the zone is off by a fraction of
# an hour, come from their rows as long as all of them are there; once some were cleared away, the hour counts whole.
_CUT = f"(hour < :since or hour + {HOUR_S} > :until)"
_CUT_BY_MIDNIGHT = f"date(hour, 'unixepoch', 'localtime') <> date(hour + {HOUR_S - 1}, 'unixepoch', 'localtime')"
_IN_BOUNDS = f"hour > :since - {HOUR_S} and hour < :until"
_FROM_HOURS = f"""
    with cut as (
        select hour from hours where {_IN_BOUNDS} and {{cut}} group by hour having sum(attempts) =
            (select count(*) from attempts where at >= hour and at < hour + {HOUR_S})
    ),
    part as (
        select hour as at, pool, key, account, provider, nullif(model, '') as model, outcome, tags,
            attempts, prompt_tokens, cached_tokens, completion_tokens, cost_microusd, unpriced
        from hours where {_IN_BOUNDS} and hour not in cut
        union all
        select {{rows}} from cut join attempts on at >= hour and at < hour + {HOUR_S}
        where at >= :since and at < :until
    )
"""
_FROM_ROWS = "with part as (select {rows} from attempts where at >= :since and at < :until)"
_ROWS = """
    at, pool, key, account, provider, model, outcome, tags,
    1 as attempts, prompt_tokens, cached_tokens, completion_tokens, cost_microusd,
    prompt_tokens is not null and cost_microusd is null as unpriced
"""


def attempts(
    path: Path,
    since: When | None,
    until: When | None,
    equal: dict[str, str | None],
    *,
    limit: int | None,
    newest_first: bool,
) -> list[dict[str, Any]]:
    """See `Ledger.attempts`."""
    where, values = _where(since, until, equal)
    direction = "desc" if newest_first else "asc"
    with reading(path) as connection:
        if connection is None:
            return []
        table = _database(connection).table("attempts")
        there = ", ".join(name for name in ATTEMPT_COLUMNS if name in table.columns_dict)  # reading does not migrate
        rows = table.rows_where(where, values, f"at {direction}, id {direction}", there, limit)
        return [_decoded(row) for row in rows]


def summary(path: Path, by: str, *, since: When | None, until: When | None) -> list[dict[str, Any]]:
    """See `Ledger.summary`."""
    values: dict[str, Value] = {
        "since": -inf if since is None else _epoch(since),
        "until": inf if until is None else _epoch(until),
    }
    if by.startswith(_TAG) and by != _TAG:
        group = _BY_TAG
        values["tag"] = by.removeprefix(_TAG)
    elif by in _GROUPS:
        group = _GROUPS[by]
    else:
        raise ConfigError(f"cannot sum up by {by!r}: use one of {', '.join(_GROUPS)}, or {_TAG}NAME")
    pool = "pool, " if by == "key" else ""  # a key's name is unique in its pool alone
    cut = f"({_CUT} or {_CUT_BY_MIDNIGHT})" if by == "day" else _CUT
    with reading(path) as connection:
        if connection is None:
            return []
        source = _FROM_HOURS if schema_version(connection) >= _FIRST_WITH_HOURS else _FROM_ROWS
        sql = f"""
            {source.format(cut=cut, rows=_ROWS)}
            select {pool}{group} as grouped,
                sum(attempts) as attempts,
                coalesce(sum(attempts) filter (where outcome = 'ok'), 0) as succeeded,
                coalesce(sum(attempts) filter (where outcome <> 'ok'), 0) as failed,
                sum(prompt_tokens) as prompt_tokens,
                sum(cached_tokens) as cached_tokens,
                sum(completion_tokens) as completion_tokens,
                sum(cost_microusd) / 1e6 as cost_usd,
                sum(unpriced) as unpriced
            from part group by {pool}grouped order by {pool}grouped
        """
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
    return (
        dict.fromkeys(ATTEMPT_COLUMNS)
        | row
        | {
            "stream": bool(row["stream"]),
            "usage_estimated": None if estimated is None else bool(estimated),
            "tags": json.loads(row["tags"]),
        }
    )
