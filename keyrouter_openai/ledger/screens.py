"""What `top` and the page of `usage` ask of the file, beside the sums of `queries`."""

from __future__ import annotations

import json
import sqlite3
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from .database import reading, writing
from .schema import SCHEMA_VERSION, schema_version

_HOUR_S = 3600
_LATEST = 10_000
"""Attempts among which the last of each key is looked for."""

_TAG_NAMES = """
    select tag.key from hours, json_each(hours.tags) as tag
    where hour > coalesce(:since - :hour, hour - 1) and hour < coalesce(:until, hour + 1)
    group by tag.key order by sum(attempts) desc, tag.key
"""
_LIVE = "select holder, at, status from live where at >= ? order by holder"
_LAST = """
    select pool, key, account, provider, outcome, max(at) as at
    from (select pool, key, account, provider, outcome, at from attempts order by at desc limit ?) group by pool, key
"""
_BUDGETS = """
    select id, declaration, at, w.window, spent_microusd,
        (
            select coalesce(sum(max(microusd, 0)), 0) from allowances as a where a.budget = id and a.window = w.window
        ) as held_microusd
    from budgets left join budget_windows as w on w.budget = id order by id, w.window
"""


class Sight(NamedTuple):
    """The file at one moment."""

    live: list[dict[str, Any]]
    """What each program that runs says of itself: `holder`, `at` and `status`, each `PoolStatus` as a dictionary."""
    last: list[dict[str, Any]]
    """The last attempt of each key of late: `pool`, `key`, `account`, `provider`, `outcome`, `at`."""
    budgets: list[dict[str, Any]]
    """Each window of each budget, and each budget without any: `id`, `declaration`, `at`, `window`, `spent_microusd`,
    and `held_microusd`, which is set aside for programs that run."""


def watch(path: Path, until: float) -> None:
    """Ask programs that run to say of themselves once a second what they know, until that time.

    Raises ConfigError if the file cannot be written.
    """
    with writing(path) as connection:
        connection.execute("insert or replace into watching (id, until) values (1, ?)", (until,))


def running(path: Path) -> set[str]:
    """The programs that have a journal beside the file, as they do while they run."""
    path = path.resolve()
    journals = path.parent.glob(f"{escape(path.name)}.journal-*")
    return {journal.name.removeprefix(f"{path.name}.journal-").removesuffix(".2") for journal in journals}


def sight(path: Path, *, since: float) -> Sight:
    """What is to be seen of programs that said something since then, and of keys and budgets.

    Raises ConfigError if the file cannot be read.
    """
    with reading(path) as connection:
        if connection is None or schema_version(connection) < SCHEMA_VERSION:
            return Sight([], [], [])
        connection.row_factory = sqlite3.Row
        live = [dict(row) | {"status": json.loads(row["status"])} for row in connection.execute(_LIVE, (since,))]
        last = [dict(row) for row in connection.execute(_LAST, (_LATEST,))]
        budgets = [dict(row) | {"declaration": json.loads(row["declaration"])} for row in connection.execute(_BUDGETS)]
        return Sight(live, last, budgets)


def tag_names(path: Path, *, since: float | None, until: float | None) -> list[str]:
    """The names of the tags of attempts between two moments, to the hour, the most frequent first.

    Raises ConfigError if the file cannot be read.
    """
    with reading(path) as connection:
        if connection is None or schema_version(connection) < SCHEMA_VERSION:
            return []
        bounds = {"since": since, "until": until, "hour": _HOUR_S}
        return [name for (name,) in connection.execute(_TAG_NAMES, bounds)]
