"""`keyrouter-openai demo`: a load on a simulated provider, with one key and with a pool."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from keyrouter_openai.errors import ConfigError
from keyrouter_openai.events import KeyStateChanged
from keyrouter_openai.testing.load import MINUTE, bursty, read_trace
from keyrouter_openai.testing.replay import Result

from . import contest
from .contest import DRY, REVOKED, TWO_KEYS, Contest, KeyReport, Side, SideReport
from .output import json_option

if TYPE_CHECKING:
    from rich.console import Console

_SPEED = 3.0
"""How much faster than real time the made-up service lives, so that 20 seconds hold a minute of it."""
_TOLERABLY_LATE = 0.5
"""Seconds for which a call may be sent late without a word about it."""
_PIPE_WIDTH = 100
_LINES = 5
"""Lines of progress, where standard error is no terminal."""
_ENDINGS = [number for number in signal.Signals if number.name in ("SIGTERM", "SIGHUP")]


@dataclass(frozen=True, slots=True)
class _Setting:
    """What is played, and where it comes from in words."""

    contest: Contest
    source: str


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(1, 200), default=20, show_default=True, help="How long the load lasts at most."
)
@click.option("--seed", default=1, show_default=True, help="Of the load, the provider's latencies and all else random.")
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Replay a recorded trace (a .csv.gz).")
@click.option("--window", metavar="A,B", help="The seconds of the trace to replay. Default: its busiest minute.")
@click.option(
    "--speed",
    type=click.FloatRange(1),
    metavar="K",
    help="How many times faster than recorded. Default: as much as fits the window into --seconds.",
)
@json_option
def demo(seconds: float, seed: int, trace: Path | None, window: str | None, speed: float | None, as_json: bool) -> None:
    """Show what a pool of keys buys, on a simulated provider: no key and no network are needed.

    The same load is played three times at once, each against a provider of its own with the same five accounts:
    with one key and with round robin over all keys through AsyncOpenAI, and through RoutedOpenAI. A key is
    revoked at a third of the time, an account runs dry at half of it.

    A trace has the columns arrival_s (seconds, ascending), prompt_tokens and completion_tokens. Played K times
    as fast, it meets a provider that lives K times as fast: its limits refill and its answers come K times
    sooner. Numbers of tokens are as recorded.

    With --json, an object: load, accounts, sides, keys, findings.

    \b
    Example:
      keyrouter-openai demo
      keyrouter-openai demo --trace azure2023_A.csv.gz --window 645,705 --seconds 60
    """
    try:
        setting = _setting(seconds, seed, trace, window, speed)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for number in _ENDINGS:
        signal.signal(number, _end)
    console = _console(sys.stdout)
    if not as_json:
        _print_opening(console, setting)
    try:
        with _progress(setting.contest) as watch:
            reports = contest.run(setting.contest, watch)
    except contest.Broken as error:
        raise click.ClickException(f"the demo broke off: {error}") from None
    sides = [report.side for report in reports]
    keys = [key for report in reports for key in report.keys]
    if as_json:
        click.echo(json.dumps(_document(setting, sides, keys), indent=2))
        return
    _print_table(console, ["", *(side.side for side in sides)], _side_rows(sides))
    _print_table(console, ["key", "calls", "answered", "tokens", "refused", "in the end"], map(_key_row, keys))
    for finding in _findings(sides):
        console.print(finding)


def _end(number: int, _: object) -> None:
    """End as on an error, which ends the processes and removes the files."""
    sys.exit(128 + number)


# -- what is played


def _setting(seconds: float, seed: int, trace: Path | None, window: str | None, speed: float | None) -> _Setting:
    """What the options ask for; ValueError if they make no sense."""
    if trace is None:
        if window is not None or speed is not None:
            raise ValueError("--window and --speed are about a recorded trace: give --trace FILE as well")
        load = bursty(Random(seed))
        start, end = load.busiest(seconds * _SPEED)
        speed = _SPEED
        source = f"the busiest {end - start:g} s of a made-up service"
    else:
        load = read_trace(trace)
        start, end = load.busiest(MINUTE) if window is None else _two_numbers(window)
        speed = speed or max((end - start) / seconds, 1.0)
        source = f"{trace.name} from {start:g} s to {end:g} s"
    return _Setting(Contest(load.window(start, end).faster(speed), speed, seed), source)


def _two_numbers(window: str) -> tuple[float, float]:
    try:
        start, end = map(float, window.split(","))
    except ValueError:
        raise ValueError(f"--window {window!r} is not two numbers of seconds: write it as 645,705") from None
    return start, end


def _print_opening(console: Console, setting: _Setting) -> None:
    from rich.table import Table

    played = setting.contest
    load = played.load
    console.print(f"{len(load.arrivals):,} calls in {load.seconds:.3g} s: {setting.source}.")
    if played.speed != 1:
        console.print(
            f"Time runs {played.speed:.3g} times as fast, for the provider too: a minute of its limits lasts "
            f"{MINUTE / played.speed:.3g} s, and its answers take as much less. Numbers of tokens are not changed."
        )
    legend = Table.grid("", "", padding=(0, 3, 0, 0))
    legend.add_row(
        "accounts",
        f"{TWO_KEYS} (two keys), medium, small, {DRY} (runs dry at half time), {REVOKED} (its key is revoked at "
        f"a third); together {contest.HEADROOM:g} times the tokens per minute that this service takes in the long run",
    )
    legend.add_row(Side.ONE_KEY, f"AsyncOpenAI(max_retries={contest.MAX_RETRIES}) with a key of {TWO_KEYS}")
    legend.add_row(Side.ROUND_ROBIN, f"AsyncOpenAI(max_retries={contest.MAX_RETRIES}) with all keys in turn")
    legend.add_row(Side.ROUTED, f"all keys; max_wait={contest.MAX_WAIT:g} instead of 60, so that this ends in time")
    console.print()
    console.print(legend)
    console.print()


# -- progress, on standard error

_Watch = Callable[[Side, Result | KeyStateChanged], None]


@contextmanager
def _progress(played: Contest) -> Generator[_Watch]:
    console = _console(sys.stderr)
    with _bars(console, played) if console.is_terminal else _lines(console, played) as show:
        done, failed = Counter[Side](), Counter[Side]()

        def watch(side: Side, news: Result | KeyStateChanged) -> None:
            if isinstance(news, KeyStateChanged):
                console.print(f"{side}: key {news.key} is {news.new} ({news.reason})")
                return
            done[side] += 1
            failed[side] += news.error is not None
            show(side, done[side], failed[side])

        yield watch
    console.print()


@contextmanager
def _bars(console: Console, played: Contest) -> Generator[Callable[[Side, int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[red]{task.fields[failed]} failed"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        tasks = {side: progress.add_task(side, total=len(played.load.arrivals), failed=0) for side in Side}
        yield lambda side, done, failed: progress.update(tasks[side], completed=done, failed=failed)


@contextmanager
def _lines(console: Console, played: Contest) -> Generator[Callable[[Side, int, int], None]]:
    counts: dict[Side, tuple[int, int]] = dict.fromkeys(Side, (0, 0))
    due = monotonic() + played.load.seconds / _LINES

    def show(side: Side, done: int, failed: int) -> None:
        nonlocal due
        counts[side] = done, failed
        if (now := monotonic()) >= due:
            due = now + played.load.seconds / _LINES
            told = (f"{side} {done} calls, {failed} failed" for side, (done, failed) in counts.items())
            console.print("; ".join(told), soft_wrap=True)

    yield show


# -- results


def _side_rows(sides: Sequence[SideReport]) -> Iterable[Sequence[str]]:
    yield "calls", *(f"{side.calls:,}" for side in sides)
    yield "answered", *(f"{side.succeeded:,}" for side in sides)
    yield "failed", *(f"{side.calls - side.succeeded:,}" for side in sides)
    for kind, _ in sum((Counter(side.failed) for side in sides), Counter[str]()).most_common():
        yield f"  {kind}", *(f"{side.failed[kind]:,}" if kind in side.failed else "" for side in sides)
    yield "requests sent", *(f"{side.sent:,}" for side in sides)
    yield "  of them wasted", *(f"{side.wasted:,}" for side in sides)
    yield "  for each answer", *(_optional(side.sent_per_answer, "{:.2f}") for side in sides)
    yield "p50 until answered", *(_optional(side.p50_s, "{:.2f} s") for side in sides)
    yield "p99 until answered", *(_optional(side.p99_s, "{:.2f} s") for side in sides)
    yield "longest wait", *(f"{side.longest_s:.2f} s" for side in sides)


def _key_row(key: KeyReport) -> Sequence[str]:
    refused = ", ".join(f"{count} {outcome}" for outcome, count in key.refused.items())
    end = f"{key.state}: {key.reason}" if key.reason else key.state
    return key.key, f"{key.calls:,}", f"{key.succeeded:,}", f"{key.tokens:,}", refused, end


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _findings(sides: Sequence[SideReport]) -> Iterable[str]:
    """What the figures say, in sentences."""
    one, robin, routed = sides
    yield (
        f"Of {routed.calls:,} calls, RoutedOpenAI answered {routed.succeeded:,}, round robin over the same keys "
        f"{robin.succeeded:,}, and one key {one.succeeded:,}."
    )
    yield (
        f"The provider refused {routed.wasted:,} of its requests, {robin.wasted:,} of round robin's and "
        f"{one.wasted:,} of the one key's."
    )
    yield (
        f"After its key was revoked, {REVOKED} got {routed.sent_to_revoked:,} more requests from RoutedOpenAI and "
        f"{robin.sent_to_revoked:,} from round robin; {DRY}, once dry, got {routed.sent_to_dry:,} and "
        f"{robin.sent_to_dry:,}."
    )
    if "429 no_key_available" in routed.failed:
        yield (
            f"{routed.failed['429 no_key_available']:,} routed calls found no capacity within the "
            f"{contest.MAX_WAIT:g} s that they were let wait here."
        )
    if (latest := max(side.latest_s for side in sides)) > _TOLERABLY_LATE:
        yield f"This machine was too busy to send all calls on time (up to {latest:.1f} s late): times are too long."


def _document(setting: _Setting, sides: Sequence[SideReport], keys: Sequence[KeyReport]) -> dict[str, Any]:
    played = setting.contest
    return {
        "load": {
            "source": setting.source,
            "calls": len(played.load.arrivals),
            "seconds": played.load.seconds,
            "speed": played.speed,
            "seed": played.seed,
            "max_wait": contest.MAX_WAIT,
        },
        "accounts": [{"name": a.name, "keys": a.keys, "rpm": a.rpm, "tpm": a.tpm} for a in played.accounts],
        "sides": [asdict(side) | {"sent_per_answer": side.sent_per_answer} for side in sides],
        "keys": [asdict(key) for key in keys],
        "findings": list(_findings(sides)),
    }


def _print_table(console: Console, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "key", "refused", "in the end") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def _console(file: Any) -> Console:
    from rich.console import Console

    width = None if file.isatty() else _PIPE_WIDTH
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)
