"""What the ledger has of what was served, in the terms of a provider's bill."""

from __future__ import annotations

from pathlib import Path

from keyrouter_openai.core.reconcile import Line, Recorded, added_up
from keyrouter_openai.errors import ConfigError

from .appender import recover
from .database import reading
from .schema import schema_version

LAG_S = 3600
"""Seconds within which the provider may not have billed all it served. It names no figure; this is on the safe side."""

_FIRST_WITH_HOURS = 4  # the schema; reading does not migrate

_RECORDED = """
    select date(at, 'unixepoch') as day, pool, key, model, served_model,
        sum(served), sum(served * coalesce(prompt_tokens, 0)), sum(served * coalesce(cached_tokens, 0)),
        sum(served * coalesce(completion_tokens, 0)), sum(coalesce(cost_microusd, 0)),
        sum(served and cost_microusd is null), sum(served and usage_estimated = 1),
        sum(not served and outcome in ('network', 'abandoned')), sum(served and at > :recent)
    from (
        select *, coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) > 0 or (outcome = 'ok' and endpoint in (
            '/audio/speech', '/audio/transcriptions', '/audio/translations', '/moderations',
            '/images/generations', '/images/edits', '/images/variations'
        )) as served
        from attempts where provider = 'openai' and at >= :since and at < :until
    )
    group by 1, 2, 3, 4, 5
"""
"""What was served: what used tokens, and what goes to a model without its answer telling what it used."""

_CLEARED = """
    select coalesce(sum(attempts), 0) > (select count(*) from attempts where at >= :since and at < :until)
    from hours where hour >= :since and hour < :until
"""


def served(path: Path, since: int, until: int, now: float) -> dict[Line, Recorded]:
    """What the ledger has of the provider `openai`, by day, model and key (`NAME`, or `POOL/NAME` of another pool).

    The model is the one that answered. Blocks.

    Raises:
        ConfigError: the file cannot be read, or some of these rows were cleared away.
    """
    recover(path)
    bounds = {"since": since, "until": until}
    with reading(path) as connection:
        if connection is None:
            return {}
        if schema_version(connection) >= _FIRST_WITH_HOURS and connection.execute(_CLEARED, bounds).fetchone()[0]:
            raise ConfigError(
                f"ledger {path}: single attempts of these days were cleared away by `ledger compact`, and only they "
                "say what was served: choose a later --since"
            )
        rows = connection.execute(_RECORDED, {**bounds, "recent": now - LAG_S}).fetchall()
    # An answer that broke off may not have said which model it came from; others for the same name have.
    answering = {model: served for _, _, _, model, served, *_ in rows if served}
    lines = added_up(
        (Line(day, served or answering.get(model, model) or "", name_of(pool, key)), Recorded(*counts))
        for day, pool, key, model, served, *counts in rows
    )
    return {line: each for line, each in lines.items() if each.requests or each.unanswered}


def name_of(pool: str, key: str) -> str:
    """What a key is called among those of all pools."""
    return key if pool == "default" else f"{pool}/{key}"
