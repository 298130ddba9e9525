"""`keyrouter-openai usage`: what the attempts on record add up to."""

from __future__ import annotations

import re
import time
from datetime import datetime

import click

from keyrouter_openai.ledger import Ledger, default_path

from .output import json_option, print_rows

_SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
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


@click.command()
@click.option(
    "--by",
    default="key",
    show_default=True,
    metavar="WHAT",
    help="key, account, model, provider, day, outcome, or tag:K for the values of tag K.",
)
@click.option("--since", callback=_moment, metavar="WHEN", help="From then on, such as 7d or 2026-11-01.")
@click.option("--until", callback=_moment, metavar="WHEN", help="Before then, such as 1h or 2026-11-30T18:00.")
@json_option
def usage(by: str, since: float | None, until: float | None, as_json: bool) -> None:
    """Add up the attempts on record: all of them, or those between two moments.

    An attempt is one request that went to a provider; a call that failed over has several. Costs are in US
    dollars; where no attempt has a number, there is none.

    With --json, an array of objects: what is grouped by, under its own name (by key: also pool), attempts,
    succeeded, failed, prompt_tokens, cached_tokens (part of the prompt's), completion_tokens, cost_usd.

    \b
    Example:
      keyrouter-openai usage --by tag:tenant --since 7d
    """
    path = default_path()
    rows = Ledger(path).summary(by, since=since, until=until)
    if not as_json:
        rows = [{**row, by: "(none)" if row[by] is None else row[by]} for row in rows]
    formats = {"cost_usd": "{:,.4f}".format}
    print_rows(rows, as_json=as_json, if_empty=f"No such attempts are on record in {path}.", formats=formats)
