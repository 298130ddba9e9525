"""`keyrouter-openai simulate`: what would become of the traffic if the pool were another."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

import click

from keyrouter_openai.core.model import DAY
from keyrouter_openai.core.objectives import OBJECTIVES
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.ledger import default_path
from keyrouter_openai.prices import Prices
from keyrouter_openai.retry import DEFAULT_MAX_WAIT

from .keystore import pool_option
from .output import dollars, json_option, plain
from .setting import assumptions, changed, todays
from .traffic import Traffic, read_ledger, read_trace
from .usage import moment
from .whatif import Played, play_on

_TODAY, _WHAT_IF = "today", "what if"
_PIPE_WIDTH = 100


def _finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    if not isfinite(value):
        raise click.BadParameter(f"{value} is not a number to reckon with")
    return value


@click.command()
@pool_option
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Replay a recorded trace (a .csv.gz).")
@click.option("--model", metavar="NAME", help="The model that the trace's calls ask for. Default: as recorded.")
@click.option("--since", callback=moment, metavar="WHEN", help="Replay what is on record from then on. Default: 1d.")
@click.option("--until", callback=moment, metavar="WHEN", help="Replay what is on record before then.")
@click.option(
    "--add-account",
    "added",
    multiple=True,
    metavar="[NAME:]rpm=N,...",
    help="Add a key with an account of its own: rpm, tpm, rpd and tpd are its limits for each model, price is its "
    "price relative to the list price, provider is openai unless said otherwise. May be given several times.",
)
@click.option(
    "--remove",
    "removed",
    multiple=True,
    metavar="NAME",
    help="Take out a key, or all keys of an account. May be given several times.",
)
@click.option("--objective", type=click.Choice(list(OBJECTIVES)), help="Rank accounts by this. Default: as today.")
@click.option(
    "--scale",
    type=click.FloatRange(0, 1000, min_open=True),
    default=1.0,
    callback=_finite,
    metavar="X",
    help="So many times the traffic: each call comes X times, the copies within the next minute.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0),
    default=DEFAULT_MAX_WAIT,
    callback=_finite,
    show_default=True,
    metavar="S",
    help="Seconds that a call may wait for capacity, today as well.",
)
@click.option("--seed", default=1, show_default=True, help="Of all that is random.")
@json_option
def simulate(
    pool: str,
    trace: Path | None,
    model: str | None,
    since: float | None,
    until: float | None,
    added: Sequence[str],
    removed: Sequence[str],
    objective: str | None,
    scale: float,
    max_wait: float,
    seed: int,
    as_json: bool,
) -> None:
    """Tell what would become of the traffic if the pool were another. Nothing is sent, and nothing is changed.

    The calls that are on record, or those of a trace, are played against the pool as it is and as it would be with
    the changes, side by side: how many are answered, how long they wait, and what they cost. The router decides as
    it does in earnest; time is virtual, and ten thousand calls take some seconds.

    Limits are those that keys declare, else those that were learned from answers; where neither is known there is
    none, which is said. They are charged with what the calls used. Each account has a prompt cache. All accounts
    answer equally fast and never fail. Costs are in US dollars, and unknown where there is no price.

    A trace has the columns arrival_s (seconds, ascending), model, prompt_tokens and completion_tokens, and may have
    session_id and reusable_prefix_tokens: how much of a prompt repeats an earlier one of its session.

    Calls that found no key, and for which nothing was sent, are on no record.

    With --json, an object: traffic, today (null where the pool has no keys), what_if (null without a change),
    difference (of the numbers that both have), notes.

    \b
    Example:
      keyrouter-openai simulate --add-account rpm=500,tpm=200000
      keyrouter-openai simulate --since 7d --scale 3 --max-wait 10
      keyrouter-openai simulate --remove old --add-account cheap:tpm=1000000,price=0.5 --objective cost
    """
    path = default_path()
    if trace is not None:
        _check_absent("about what is on record: leave it out where --trace is given", since=since, until=until)
        traffic = read_trace(trace, model)
    else:
        _check_absent("about a recorded trace: give --trace FILE as well", model=model)
        since = (until or time.time()) - DAY if since is None else since
        traffic = read_ledger(path, pool, since, until)
    today = todays(path, pool, traffic.seen)
    accounts = changed(pool, today.accounts, removed, added)
    what_if = replace(today, accounts=accounts, objective=objective or today.objective)
    worlds = {_TODAY: (today, traffic)} if today.accounts else {}
    if what_if != today or scale != 1.0:
        worlds[_WHAT_IF] = what_if, traffic.times(scale, Random(seed))
    prices = Prices()
    played = {
        name: play_on(setting, load.calls, max_wait=max_wait, seed=seed, prices=prices)
        for name, (setting, load) in worlds.items()
    }
    models = {call.model for call in traffic.calls}
    assumed = [note for setting, _ in worlds.values() for note in assumptions(setting, models)]
    assumed += [f"no price is known of {what}" for each in played.values() for what in each.unpriced]
    notes = [*traffic.notes, *dict.fromkeys(assumed)]
    if as_json:
        click.echo(json.dumps(_document(traffic, played, notes), indent=2))
    else:
        _print(traffic, played, notes)


def _check_absent(why: str, **options: object) -> None:
    """Raise ConfigError if one of these options was given."""
    for name, value in options.items():
        if value is not None:
            raise ConfigError(f"--{name} is {why}")


# -- results


def _document(traffic: Traffic, played: Mapping[str, Played], notes: Sequence[str]) -> dict[str, Any]:
    today, what_if = (_as_json(played[name]) if name in played else None for name in (_TODAY, _WHAT_IF))
    difference = (
        today
        and what_if
        and {
            name: what_if[name] - value
            for name, value in today.items()
            if isinstance(value, int | float) and what_if[name] is not None
        }
    )
    return {
        "traffic": {"source": traffic.source, "calls": len(traffic.calls), "seconds": round(traffic.seconds, 3)},
        "today": today,
        "what_if": what_if,
        "difference": difference,
        "notes": notes,
    }


def _as_json(played: Played) -> dict[str, Any]:
    derived = ("goodput", "token_goodput", "cost_usd", "cost_per_1000_usd")
    return asdict(played) | {name: getattr(played, name) for name in derived}


_Value = float | int | None


@dataclass(frozen=True, slots=True)
class _Form:
    """How numbers of a kind look, and the difference between two of them."""

    number: Callable[[Any], str]
    difference: Callable[[Any], str]

    def cells(self, values: Sequence[_Value]) -> list[str]:
        """The numbers of all columns; of two, also by how much the second is more or less than the first."""
        cells = ["unknown" if value is None else self.number(value) for value in values]
        if len(values) == 1:
            return cells
        before, after = values
        if before is None or after is None:
            return [*cells, "unknown"]
        change = self.difference(abs(after - before))
        same = change == self.difference(0)
        return [*cells, change if same else f"{'+' if after > before else '-'}{change}"]


_COUNT = _Form("{:,}".format, "{:,}".format)
_SHARE = _Form("{:.1%}".format, lambda share: f"{100 * share:.1f} points")
_SECONDS = _Form("{:.2f} s".format, "{:.2f} s".format)
_DOLLARS = _Form(dollars, dollars)


def _rows(plays: Sequence[Played]) -> Iterator[list[str]]:
    """The lines of the table: what it is, then the columns."""

    def row(label: str, form: _Form, value: Callable[[Played], _Value]) -> list[str]:
        return [label, *form.cells([value(each) for each in plays])]

    yield row("calls", _COUNT, lambda each: each.calls)
    yield row("answered", _COUNT, lambda each: each.answered)
    yield row("  of all", _SHARE, lambda each: each.goodput)
    yield row("  of all tokens", _SHARE, lambda each: each.token_goodput)
    yield row("refused for want of capacity", _COUNT, lambda each: each.refused)
    yield row("wait, median", _SECONDS, lambda each: each.wait_p50_s)
    yield row("wait, 95th percentile", _SECONDS, lambda each: each.wait_p95_s)
    yield row("requests sent", _COUNT, lambda each: each.requests)
    yield row("  of them wasted", _COUNT, lambda each: each.wasted)
    yield row("prompt tokens from a cache", _SHARE, lambda each: each.cached)
    yield row("cost, US dollars", _DOLLARS, lambda each: each.cost_usd)
    yield row("  for 1,000 answers", _DOLLARS, lambda each: each.cost_per_1000_usd)
    if any(each.unpriced for each in plays):
        yield row("  of answers with a price", _DOLLARS, lambda each: (each.cost_microusd or 0) / 1e6)
        yield row("  answers without a price", _COUNT, lambda each: sum(each.unpriced.values()))
    for account in dict.fromkeys(name for each in plays for name in each.answered_by):
        yield row(f"answered by {account}", _COUNT, lambda each, name=account: each.answered_by.get(name, 0))


def _print(traffic: Traffic, played: Mapping[str, Played], notes: Sequence[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for name in (*played, "difference") if len(played) > 1 else played:
        table.add_column(name, justify="right")
    for row in _rows(list(played.values())):
        table.add_row(*map(plain, row))
    console.print(f"{plain(traffic.source)}, over {timedelta(seconds=round(traffic.seconds))}.\n")
    console.print(table)
    if notes:
        console.print()
    for note in notes:
        console.print(f"Note: {plain(note)}.")
