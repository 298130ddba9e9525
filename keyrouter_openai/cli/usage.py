"""`keyrouter-openai usage`: what the attempts on record add up to."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from keyrouter_openai.ledger import Ledger, default_path

from .output import UNKNOWN, dollars, json_option, plain, print_rows
from .sums import Row, total_of

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FORMULA = ("=", "+", "-", "@")
"""How a cell begins that a spreadsheet would execute."""


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds since the epoch, of so long ago or of a time in ISO 8601, local unless it names a zone."""
    if value is None:
        return None
    if ago := re.fullmatch(r"(\d{1,6})([mhdw])", value):
        return time.time() - int(ago[1]) * _SECONDS[ago[2]]
    try:
        return datetime.fromisoformat(value).timestamp()
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{value!r} is no time: write it as 30m, 12h, 7d, 2w (ago), 2026-11-01 or 2026-11-01T14:00"
        ) from None


def _page_to_be(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (folder := Path(value).parent).is_dir():
        raise click.BadParameter(f"there is no folder {folder}: make it, or name a file elsewhere")
    return value


@click.command()
@click.option(
    "--by",
    default="key",
    show_default=True,
    metavar="WHAT",
    help="key, account, model, provider, pool, day, outcome, or tag:K for the values of tag K.",
)
@click.option("--since", callback=moment, metavar="WHEN", help="From then on, such as 7d or 2026-11-01.")
@click.option("--until", callback=moment, metavar="WHEN", help="Before then, such as 1h or 2026-11-30T18:00.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, with a line of names.")
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    callback=_page_to_be,
    metavar="FILE",
    help="Write a page with charts, one file that needs no network; - is standard output.",
)
def usage(by: str, since: float | None, until: float | None, as_json: bool, as_csv: bool, page: str | None) -> None:
    """Add up the attempts on record: all of them, or those between two moments.

    An attempt is one request that went to a provider; a call that failed over has several. Costs are in US
    dollars, over the attempts whose price is known; `unpriced` counts those that used tokens and have none.

    With --json, an array of objects: what is grouped by, under its own name (by key: also pool), attempts,
    succeeded, failed, prompt_tokens, cached_tokens (part of the prompt's), completion_tokens, cost_usd, unpriced.
    Where no attempt has a number, it is null. --csv has the same columns, null as an empty field; text that a
    spreadsheet would take for a formula has a ' before it.

    The page of --html shows the same sums in full: by day, model, key, account and tag, and what failed. Its bars
    are split by model and by what --by says.

    \b
    Example:
      keyrouter-openai usage --by tag:tenant --since 7d
      keyrouter-openai usage --html usage.html --since 2026-11-01
    """
    if as_json + as_csv + (page is not None) > 1:
        raise click.UsageError("--json, --csv and --html are different outputs: choose one")
    if since is not None and until is not None and since >= until:
        raise click.UsageError("there is no time between --since and --until: give --until a later one")
    path = default_path()
    ledger = Ledger(path)
    rows = ledger.summary(by, since=since, until=until)
    if page is not None:
        from .report import usage_page

        text = usage_page(ledger, by, since, until)
        with click.open_file(page, "w", encoding="utf-8") as file:
            file.write(text)
        if page != "-":
            click.echo(f"Written: {page}", err=True)
    elif as_csv:
        _print_csv(rows)
    elif as_json:
        print_rows(rows, as_json=True)
    else:
        total = _shown(total_of(rows), by, group="total") if len(rows) > 1 else None
        print_rows(
            [_shown(row, by, group="(none)" if row[by] is None else row[by]) for row in rows],
            as_json=False,
            if_empty=f"No such attempts are on record in {path}.",
            formats={"cost_usd": dollars},
            total=total,
            spare=("succeeded", "cached_tokens", "pool"),
        )


def _shown(row: Row, by: str, group: str) -> dict[str, Any]:
    """A row as the table shows it: a cost that nobody knows is said to be unknown."""
    unknown = row["cost_usd"] is None and row["unpriced"]
    pool = {"pool": row.get("pool", "")} if by == "key" else {}
    figures = {name: value for name, value in row.items() if name not in (by, "pool")}
    cost = UNKNOWN if unknown else row["cost_usd"]
    return {by: group, **pool, **figures, "cost_usd": cost, "unpriced": row["unpriced"] or None}


def _print_csv(rows: Sequence[Row]) -> None:
    if not rows:
        return
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)


def _csv_cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}"
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
