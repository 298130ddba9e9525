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
    insert into hours {ADDED_UP.replace("?", "min(?, (select last from rolled_up))")}
    on conflict do update set
        attempts = attempts + excluded.attempts,
        prompt_tokens = coalesce(prompt_tokens + excluded.prompt_tokens, prompt_tokens, excluded.prompt_tokens),
        cached_tokens = coalesce(cached_tokens + excluded.cached_tokens, cached_tokens, excluded.cached_tokens),
        completion_tokens =
            coalesce(completion_tokens + excluded.completion_tokens, completion_tokens, excluded.completion_tokens),
        cost_microusd = coalesce(cost_microusd + excluded.cost_microusd, cost_microusd, excluded.cost_microusd),
        unpriced = unpriced + excluded.unpriced
"""

_LARGEST_ID = 2**63 - 1


def add(connection: sqlite3.Connection, after: int = _LARGEST_ID) -> None:
    """Add the rows that come after an id to the hours, and those up to it that are not in them yet.

    Programs with an older schema, that run while it is brought up to date, write such. What is remembered of the last
    row is not enough to know the new ones by: ids of rows that were cleared away are given anew.
    """
    connection.execute(_ADD, (after,))
    connection.execute("update rolled_up set last = (select coalesce(max(id), 0) from attempts)")
