"""Table `hours`: what the attempts of each hour add up to, kept by the transaction that brings their rows.

An hour begins in UTC; local days are put together from hours (see `queries.summary`). A sum is null where no attempt
has the number, and a model of '' is none. Tags are a dimension as a whole, as the text that `attempts` has: a tag
whose value is another for each call makes as many roll-ups as there are attempts.
"""

from __future__ import annotations

import sqlite3

HOUR_S = 3600

ADDED_UP = f"""
    select cast(at / {HOUR_S} as integer) * {HOUR_S} as hour, pool, key, account, provider,
        coalesce(model, '') as model, outcome, tags,
        count(*) as attempts,
        sum(prompt_tokens) as prompt_tokens,
        sum(cached_tokens) as cached_tokens,
        sum(completion_tokens) as completion_tokens,
        sum(cost_microusd) as cost_microusd,
        sum(prompt_tokens is not null and cost_microusd is null) as unpriced
    from attempts where id > ? group by 1, 2, 3, 4, 5, 6, 7, 8
"""
"""Adds up the rows of `attempts` after one, as `hours` has them. `unpriced` counts those with tokens and no cost."""

_ADD = f"""
    insert into hours {ADDED_UP}
    on conflict do update set
        attempts = attempts + excluded.attempts,
        prompt_tokens = coalesce(prompt_tokens + excluded.prompt_tokens, prompt_tokens, excluded.prompt_tokens),
        cached_tokens = coalesce(cached_tokens + excluded.cached_tokens, cached_tokens, excluded.cached_tokens),
        completion_tokens =
            coalesce(completion_tokens + excluded.completion_tokens, completion_tokens, excluded.completion_tokens),
        cost_microusd = coalesce(cost_microusd + excluded.cost_microusd, cost_microusd, excluded.cost_microusd),
        unpriced = unpriced + excluded.unpriced
"""


_LAST_ROW = "(select coalesce(max(id), 0) from attempts)"
_LAST_ADDED = f"select min(last, {_LAST_ROW}) from rolled_up"
"""Ids of rows that were cleared away are given anew."""


def last_added(connection: sqlite3.Connection) -> int:
    """The id of the last row that is in the hours.

    Others may have come after it: programs with an older schema, that run while it is brought up to date, write on.
    """
    return connection.execute(_LAST_ADDED).fetchone()[0]


def add(connection: sqlite3.Connection, after: int) -> None:
    """Add the rows that come after one to the hours."""
    connection.execute(_ADD, (after,))
    connection.execute(f"update rolled_up set last = {_LAST_ROW}")
