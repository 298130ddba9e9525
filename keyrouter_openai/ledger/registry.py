"""The keys of each pool: their names and metadata. Their secrets rest in a vault, never here."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key, check_name

from .database import reading, writing

_FORGET_KEY = (
    "delete from keys where pool = :pool and name = :name",
    "delete from learned_accounts where pool = :pool and key = :name",
    "delete from learned_limits where pool = :pool and account = 'key:' || :name",
    "delete from owners where pool = :pool and account = 'key:' || :name",
    "update owners set key = '' where pool = :pool and key = :name",
)
"""Removes a key with what was learned of it: another key may come to have its name."""


class Registry:
    """The keys of all pools, in the ledger's file.

    Each method opens the file for one short transaction, so that several processes can use it; all raise
    `ConfigError` if the file cannot be used. Reading from a file that does not exist finds nothing and
    creates nothing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def pools(self) -> list[str]:
        """The names of all pools that have keys."""
        with reading(self.path) as connection:
            if connection is None:
                return []
            return [pool for (pool,) in connection.execute("select distinct pool from keys order by pool")]

    def keys(self, pool: str) -> list[Key]:
        """The keys of a pool in the order they were added, without secrets."""
        with reading(self.path) as connection:
            if connection is None:
                return []
            rows = connection.execute(
                "select name, metadata, enabled from keys where pool = ? order by rowid", (pool,)
            ).fetchall()
        return [Key(name=name, enabled=bool(enabled), **json.loads(metadata)) for name, metadata, enabled in rows]

    def add(self, pool: str, key: Key) -> None:
        """Add a key to a pool, without its secret. Raises ConfigError if the pool has one of that name."""
        try:
            check_name(pool, "pool")
        except ValueError as error:
            raise ConfigError(str(error)) from None
        # Defaults are left out, so that an older version can read keys that use nothing it does not know.
        metadata = key.model_dump_json(exclude={"name", "enabled"}, exclude_defaults=True)
        with writing(self.path) as connection:
            added = connection.execute(
                "insert or ignore into keys (pool, name, metadata, enabled, added_at) values (?, ?, ?, ?, ?)",
                (pool, key.name, metadata, key.enabled, time.time()),
            )
            if not added.rowcount:
                raise ConfigError(
                    f"pool {pool!r} already has a key {key.name!r}: choose another name, or remove it first"
                )

    def remove(self, pool: str, name: str) -> None:
        """Forget a key and what was learned of it; its secret stays in its vault.

        Raises ConfigError if there is none of that name.
        """
        self._change(pool, name, *_FORGET_KEY)

    def set_enabled(self, pool: str, name: str, enabled: bool) -> None:
        """Put a key into use or out of it. Raises ConfigError if there is none of that name."""
        self._change(pool, name, f"update keys set enabled = {enabled:d} where pool = :pool and name = :name")

    def _change(self, pool: str, name: str, *statements: str) -> None:
        names = self._names(pool)
        if name not in names:
            known = f"it has {', '.join(names)}" if names else "it has none"
            raise ConfigError(f"pool {pool!r} has no key {name!r}: {known}")
        with writing(self.path) as connection:
            for sql in statements:
                connection.execute(sql, {"pool": pool, "name": name})

    def _names(self, pool: str) -> list[str]:
        with reading(self.path) as connection:
            if connection is None:
                return []
            rows = connection.execute("select name from keys where pool = ? order by rowid", (pool,))
            return [name for (name,) in rows]
