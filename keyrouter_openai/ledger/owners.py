"""Whose the resources are that calls have made or shown: into the file and out again.

What lasts (files, batches, vector stores, fine-tunes, ...) is kept as long as there is room. Responses, stored
completions and their items are kept for 30 days, as the provider keeps them. Of both the oldest go where a pool has
more than `MOST`; that is looked into when the file is opened and after every `SWEEP_EVERY` rows, not at each write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from keyrouter_openai.core.memory import LearnedOwner
from keyrouter_openai.core.resources import passes
from keyrouter_openai.errors import ConfigError

from .database import reading
from .schema import Row, schema_version

PASSING_S = 30 * 86400.0
"""Seconds for which the owners of responses and their items are kept: as long as OpenAI keeps responses
(its guide on data controls)."""
MOST = 200_000
"""Rows kept for each pool, of what lasts and of what passes."""
SWEEP_EVERY = 10_000
"""Rows written by one process after which it clears the file of what is too much."""

_FIRST_VERSION = 3
"""The schema that brought the table; reading does not migrate."""
_AT_ONCE = 500
"""Ids in one query: SQLite takes no more than 999 parameters in its older versions."""

UPSERT = """
    insert or ignore into owners (pool, id, key, account, passing, at) values (?, ?, ?, ?, ?, ?)
    on conflict (pool, id) do update set key = excluded.key, account = excluded.account, at = excluded.at
    where excluded.at >= at
"""
# Rows are numbered in the order in which they came in, so the oldest are found without an index of their own.
_FORGET_OLDEST = """
    delete from owners where rowid in (
        select rowid from owners where pool = ? and passing = ? order by rowid desc limit -1 offset ?
    )
"""


def row(pool: str, owner: LearnedOwner) -> Row:
    """The values for `UPSERT`."""
    return pool, owner.id, owner.key, owner.account, passes(owner.id), owner.at


def sweeping(pools: Iterable[str]) -> list[tuple[str, Sequence[Row]]]:
    """What clears the file of owners that are too old, or too many in one of these pools.

    Also of those from a clock that was far ahead: nothing could ever replace them.
    """
    now = time.time()
    return [
        ("delete from owners where (passing and at < ?) or at > ?", [(now - PASSING_S, now + 60.0)]),
        (_FORGET_OLDEST, [(pool, passing, MOST) for pool in pools for passing in (False, True)]),
    ]


def find(path: Path, pool: str, ids: Iterable[str]) -> dict[str, LearnedOwner]:
    """See `Ledger.owners`."""
    wanted = list(dict.fromkeys(ids))
    try:
        return {
            owner.id: owner
            for start in range(0, len(wanted), _AT_ONCE)
            for owner in _read(path, pool, wanted[start : start + _AT_ONCE])
        }
    except ConfigError as error:
        logging.getLogger("keyrouter_openai").warning("owners in pool %r cannot be read: %s", pool, error)
        return {}


def _read(path: Path, pool: str, ids: Sequence[str]) -> list[LearnedOwner]:
    with reading(path) as connection:
        if connection is None or schema_version(connection) < _FIRST_VERSION:
            return []
        rows = connection.execute(
            f"select id, key, account, at from owners where pool = ? and id in ({', '.join('?' * len(ids))})",
            (pool, *ids),
        )
        return [LearnedOwner(*row) for row in rows]
