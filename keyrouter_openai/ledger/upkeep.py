"""Keeping the file small and sound: clearing away what is old, and checking that it adds up."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import NamedTuple

from . import rollups
from .appender import recover, transaction
from .database import opened, reading
from .journal import is_in_use
from .rollups import ADDED_UP, HOUR_S
from .schema import SCHEMA_VERSION, schema_version

_AT_ONCE = 1_000
"""Rows deleted in one transaction: milliseconds, after which others get their turn for as long."""

_OLD = "delete from attempts where id in (select id from attempts where at < ? order by at limit ?)"

# An hour of which rows were cleared away has fewer of them than it counts; of others all sums must be the same.
_WRONG_HOURS = f"""
    with added_up as ({ADDED_UP}),
    rows as (select hour, sum(attempts) as attempts from added_up group by hour),
    rolled_up as (select hour, sum(attempts) as attempts from hours group by hour)
    select hour from rows left join rolled_up using (hour) where rows.attempts > coalesce(rolled_up.attempts, 0)
    union
    select hour from (select * from added_up except select * from hours)
    join rows using (hour) join rolled_up using (hour) where rows.attempts = rolled_up.attempts
    order by hour
"""


class Compacted(NamedTuple):
    """What `compact` did."""

    deleted: int
    """Attempts."""
    before: int
    """They were older than this: seconds since the epoch, the start of an hour."""
    freed: int
    """Bytes by which the file is smaller."""
    kept_size: str
    """Why the file was not made smaller; empty if it was, or there was nothing to gain."""


def compact(path: Path, before: float) -> Compacted:
    """Delete the attempts of the hours that ended before a time; what each hour adds up to stays, and so do budgets.

    No other process waits for it longer than for any other that writes. The file gets smaller only if nobody else uses
    it, else what became free is used for what comes. Raises ConfigError if the file cannot be written.
    """
    hour = int(before // HOUR_S) * HOUR_S
    if not path.exists():
        return Compacted(0, hour, 0, "")
    recover(path)
    size = path.stat().st_size
    deleted = 0
    with opened(path) as connection:
        with transaction(connection):
            rollups.add(connection)
        while True:
            began = time.monotonic()
            with transaction(connection):
                rows = connection.execute(_OLD, (hour, _AT_ONCE)).rowcount
            if not rows:
                break
            deleted += rows
            time.sleep(time.monotonic() - began)
        kept_size = _shrink(connection, path)
    return Compacted(deleted, hour, size - path.stat().st_size, kept_size)


def _shrink(connection: sqlite3.Connection, path: Path) -> str:
    if not connection.execute("pragma freelist_count").fetchone()[0]:
        return ""
    if is_in_use(path):
        return "a program that makes calls uses it"
    try:
        connection.execute("vacuum")
        connection.execute("pragma wal_checkpoint(truncate)")
    except sqlite3.OperationalError as error:  # another program reads it, or there is no room for a copy
        return str(error)
    return ""


def check(path: Path) -> list[str]:
    """What is wrong with the file; empty if nothing is. Raises ConfigError if it cannot be read."""
    with reading(path) as connection:
        if connection is None:
            return []
        try:
            return _damage(connection) or _wrong_sums(connection)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            return [str(error)]


def _damage(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("pragma integrity_check") if text != "ok"]


def _wrong_sums(connection: sqlite3.Connection) -> list[str]:
    if schema_version(connection) < SCHEMA_VERSION:
        return []
    hours = [time.strftime("%Y-%m-%dT%H:00Z", time.gmtime(hour)) for (hour,) in connection.execute(_WRONG_HOURS, (0,))]
    return [f"the sums of the hour from {hour} are not those of its attempts" for hour in hours]
