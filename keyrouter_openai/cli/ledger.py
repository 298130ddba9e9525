"""`keyrouter-openai ledger`: clear old attempts away, and check that the file is sound."""

from __future__ import annotations

import re
import time
from datetime import datetime

import click

from keyrouter_openai.ledger import default_path
from keyrouter_openai.ledger.upkeep import check, compact

from .output import json_option, print_rows

_SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def _age(ctx: click.Context, param: click.Parameter, value: str) -> float:
    """Seconds."""
    if (age := re.fullmatch(r"(\d{1,6})([hdw])", value)) is None:
        raise click.BadParameter(f"{value!r} is no age: write it as 12h, 90d or 52w")
    return int(age[1]) * _SECONDS[age[2]]


@click.group()
def ledger() -> None:
    """Look after the file of attempts: KEYROUTER_DB, by default in the user data folder.

    \b
    Example:
      keyrouter-openai ledger compact --keep 90d
    """


@ledger.command("compact")
@click.option("--keep", default="90d", show_default=True, callback=_age, metavar="AGE", help="Such as 12h, 90d or 52w.")
@json_option
def compact_command(keep: float, as_json: bool) -> None:
    """Delete old attempts, and keep what they add up to.

    The sums of each hour stay, by pool, key, account, provider, model, outcome and tags: `usage` shows the same
    afterwards, to the hour. Budgets stay too. Programs that use the file go on meanwhile; while they run it does not
    get smaller, but what became free is used for what comes.

    With --json, an array of one object: path, deleted (attempts), before (seconds since the epoch), freed_bytes,
    not_shrunk (why the file did not get smaller, or null).

    \b
    Example:
      keyrouter-openai ledger compact --keep 90d
    """
    path = default_path()
    done = compact(path, time.time() - keep)
    if as_json:
        row = {"path": str(path), "deleted": done.deleted, "before": done.before}
        print_rows([{**row, "freed_bytes": done.freed, "not_shrunk": done.kept_size or None}], as_json=True)
        return
    before = datetime.fromtimestamp(done.before).astimezone().isoformat(" ", "minutes")
    click.echo(f"Deleted {done.deleted:,} attempts from before {before} in {path}; their sums are kept.")
    if done.kept_size:
        click.echo(f"The file did not get smaller: {done.kept_size}. What became free is used for what comes.")
    elif done.freed > 0:
        click.echo(f"The file is {done.freed / 1e6:,.1f} MB smaller.")


@ledger.command("check")
@json_option
def check_command(as_json: bool) -> None:
    """Check that the file is whole and adds up.

    The sums of each hour must be those of its attempts. All of the file is read, which takes some minutes for ten
    million attempts. The exit code is 1 if anything is wrong.

    With --json, an array of objects: problem.

    \b
    Example:
      keyrouter-openai ledger check
    """
    path = default_path()
    problems = check(path)
    if as_json or problems:
        print_rows([{"problem": problem} for problem in problems], as_json=as_json)
    else:
        click.echo(f"Nothing is wrong with {path}.")
    if problems:
        raise click.exceptions.Exit(1)
