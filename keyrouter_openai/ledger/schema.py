"""The tables of the file, and the migrations that make them."""

from __future__ import annotations

import json
import sqlite3
from functools import lru_cache
from typing import TYPE_CHECKING

from keyrouter_openai.core.model import Attempt, Usage

from .rollups import ADDED_UP

if TYPE_CHECKING:
    from sqlite_utils import Database, Migrations

SCHEMA_VERSION = 4
"""The number of migrations. It is also the file's `user_version`, which any program can read cheaply."""

ATTEMPT_COLUMNS: dict[str, type] = {
    "at": float,
    "request_id": str,
    "number": int,
    "pool": str,
    "key": str,
    "account": str,
    "provider": str,
    "endpoint": str,
    "outcome": str,
    "model": str,
    "served_model": str,
    "status": int,
    "detail": str,
    "stream": bool,
    "prompt_tokens": int,
    "completion_tokens": int,
    "cached_tokens": int,
    "cache_written_tokens": int,
    "reasoning_tokens": int,
    "audio_tokens": int,
    "image_tokens": int,
    "usage_estimated": bool,
    "cost_microusd": int,
    "price_source": str,
    "service_tier": str,
    "first_byte_s": float,
    "seconds": float,
    "waited_s": float,
    "provider_request_id": str,
    "tags": str,
}
"""Table `attempts` as `attempt_row` fills it, one row an attempt. Tags are a JSON object."""

_ALWAYS_KNOWN = {
    *("at", "request_id", "number", "pool", "key", "account", "provider", "endpoint", "outcome"),
    *("detail", "stream", "seconds", "waited_s", "tags"),
}

_MONEY_COLUMNS = ("image_tokens", "service_tier")
_MONEY = (
    "alter table attempts add column image_tokens integer",
    "alter table attempts add column service_tier text",
    "drop index if exists idx_attempts_pool_key_at",
    # Rows are found by the primary key alone, so they are kept in its order, without a rowid.
    """
    create table hours (
        hour integer not null, pool text not null, key text not null, account text not null, provider text not null,
        model text not null, outcome text not null, tags text not null,
        attempts integer not null, prompt_tokens integer, cached_tokens integer, completion_tokens integer,
        cost_microusd integer, unpriced integer not null,
        primary key (hour, pool, key, account, provider, model, outcome, tags)
    ) without rowid
    """,
    f"insert into hours {ADDED_UP.replace('?', '0')}",
    "create table rolled_up (last integer not null)",
    "insert into rolled_up select coalesce(max(id), 0) from attempts",
    """
    create table budget_windows (
        budget text not null, window integer not null, spent_microusd integer not null, primary key (budget, window)
    )
    """,
    """
    create table allowances (
        budget text not null, window integer not null, holder text not null, microusd integer not null,
        primary key (budget, window, holder)
    )
    """,
    "create table budgets (id text primary key, declaration text not null, at real not null)",
    "create table live (holder text primary key, at real not null, status text not null)",
    "create table watching (id integer primary key, until real not null)",
)

INSERT_ATTEMPT = f"insert into attempts ({', '.join(ATTEMPT_COLUMNS)}) values ({', '.join('?' * len(ATTEMPT_COLUMNS))})"

Value = str | int | float | None
Row = tuple[Value, ...]


def attempt_row(attempt: Attempt) -> Row:
    """The values of an attempt in the order of `ATTEMPT_COLUMNS`."""
    return (
        attempt.at,
        attempt.request_id,
        attempt.number,
        attempt.pool,
        attempt.key,
        attempt.account,
        attempt.provider,
        attempt.endpoint,
        str(attempt.outcome),
        attempt.model,
        attempt.served_model,
        attempt.status,
        attempt.detail,
        attempt.stream,
        *_usage_values(attempt.usage),
        attempt.cost_microusd,
        attempt.price_source,
        attempt.service_tier,
        attempt.first_byte_s,
        attempt.seconds,
        attempt.waited_s,
        attempt.provider_request_id,
        _as_json(tuple((str(name), str(value)) for name, value in attempt.tags.items())) if attempt.tags else "{}",
    )


@lru_cache(1024)
def _as_json(tags: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(dict(tags))


def _usage_values(usage: Usage | None) -> Row:
    if usage is None:
        return (None,) * 8
    return (
        usage.prompt,
        usage.completion,
        usage.cached,
        usage.cache_written,
        usage.reasoning,
        usage.audio + usage.audio_answer,
        usage.image + usage.image_answer,
        usage.estimated,
    )


def storable(row: Row) -> Row:
    """A row with what SQLite refuses replaced, for values that came from callers and providers unchecked."""
    return tuple(_storable(value) for value in row)


def _storable(value: object) -> Value:
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else None
    return str(value).encode(errors="replace").decode()  # half of a surrogate pair is no UTF-8


def schema_version(connection: sqlite3.Connection) -> int:
    """The version of the schema in an open file; 0 where there is none yet."""
    return int(connection.execute("pragma user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to date; several processes may try at once, and the first does it."""
    if schema_version(connection) >= SCHEMA_VERSION:
        return
    from sqlite_utils import Database

    database = Database(connection, execute_plugins=False, recursive_triggers=False)
    with connection:
        connection.execute("begin immediate")
        if schema_version(connection) < SCHEMA_VERSION:
            _migrations().apply(database)
            connection.execute(f"pragma user_version = {SCHEMA_VERSION}")


def _migrations() -> Migrations:
    from sqlite_utils import Migrations

    migrations = Migrations("keyrouter_openai")

    # A migration that was released is never edited: files made by it exist. Columns of a later version are
    # added to ATTEMPT_COLUMNS and left out here by name.
    @migrations()
    def attempts_and_keys(database: Database) -> None:
        attempts = database.table("attempts")
        columns = {name: kind for name, kind in ATTEMPT_COLUMNS.items() if name not in _MONEY_COLUMNS}
        attempts.create({"id": int, **columns}, pk="id", not_null=_ALWAYS_KNOWN)
        attempts.create_index(["at"])
        attempts.create_index(["pool", "key", "at"])
        database.table("keys").create(
            {"pool": str, "name": str, "metadata": str, "enabled": bool, "added_at": float},
            pk=("pool", "name"),
            not_null={"pool", "name", "metadata", "enabled", "added_at"},
        )

    @migrations()
    def learned_limits_and_accounts(database: Database) -> None:
        limit = {"pool": str, "account": str, "family": str, "dimension": str, "period": float}
        value = {"limit": float, "burst": float, "level": float, "at": float, "guessed": bool}
        database.table("learned_limits").create({**limit, **value}, pk=tuple(limit), not_null={*limit, *value})
        account = {"pool": str, "key": str, "account": str, "evidence": str, "at": float}
        database.table("learned_accounts").create(account, pk=("pool", "key"), not_null=set(account))

    @migrations()
    def owners(database: Database) -> None:
        owner = {"pool": str, "id": str, "key": str, "account": str, "passing": bool, "at": float}
        database.table("owners").create(owner, pk=("pool", "id"), not_null=set(owner))

    @migrations()
    def money(database: Database) -> None:
        for statement in _MONEY:
            database.conn.execute(statement)

    return migrations
