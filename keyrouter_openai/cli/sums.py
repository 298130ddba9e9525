"""Rows of `Ledger.summary`, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A row of `Ledger.summary`, or several added up."""


def total_of(rows: Sequence[Row]) -> dict[str, Any]:
    """What rows of `Ledger.summary` add up to; a number that none of them has stays None."""
    names = ("attempts", "succeeded", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "unpriced")
    # Each cost is a whole number of micro-dollars, and they are added up as such.
    micro = _sum(None if row["cost_usd"] is None else round(row["cost_usd"] * 1_000_000) for row in rows)
    sums = {name: _sum(row[name] for row in rows) for name in names}
    return sums | {"cost_usd": None if micro is None else micro / 1_000_000}


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
