"""The page of `keyrouter-openai usage --html`: what was spent, on what, and where there was trouble."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from keyrouter_openai.ledger import Ledger
from keyrouter_openai.ledger.screens import tag_names

from .charts import COLOURS, Series, legend, share_bar, stacked_bars
from .output import UNKNOWN, dollars, plain
from .sums import Row, total_of

_MOST_DAYS = 92
"""Days that have a bar each; a longer time is shown by month."""
_MOST_ROWS = 10
_MOST_TAGS = 6
_ALARMING = 0.1
"""The part of attempts that may fail before their number takes the colour of alarm."""
_SHARE_COLUMNS = ("spent, US dollars", "attempts", "failed", "prompt tokens", "of them cached", "completion tokens")


class _Measure(NamedTuple):
    """What bars show of the rows of a summary."""

    title: str
    of: Callable[[Row], float]
    text: Callable[[float], str]
    """A value on the axis and in tips."""
    cell: Callable[[Row], str]
    """The same in a table, as HTML; empty where there is nothing to show."""


class _Period(NamedTuple):
    """A day or month, local, and from when until when it goes."""

    label: str
    short: str
    """For the axis, where room is scarce."""
    since: float
    until: float


_Groups = dict[str, dict[str, Any]]
"""Rows of a summary by the names of their groups as they are shown."""


def usage_page(ledger: Ledger, by: str, since: float | None, until: float | None) -> str:
    """A self-contained page in HTML: no script, and nothing that is loaded from anywhere."""
    figures = _Figures(ledger, since, until)
    parts = [_heading(figures)]
    if figures.days:
        spent = figures.measure
        parts.append(_tiles(figures))
        parts += [_over_time(figures, spent, split) for split in dict.fromkeys(("model", by))]
        parts.append(_over_time(figures, _FAILURES, "outcome") if figures.total["failed"] else _NO_FAILURES)
        parts += [_shares(figures, dimension) for dimension in figures.dimensions]
    else:
        parts.append("<p>No such attempts are on record.</p>")
    style = (files("keyrouter_openai.cli") / "report.css").read_text(encoding="utf-8")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Usage of API keys</title>'
        f"<style>\n{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


# -- figures


@dataclass(frozen=True)
class _Figures:
    """The sums that the page shows, each of them one that `Ledger.summary` gives."""

    ledger: Ledger
    since: float | None
    until: float | None
    _known: dict[tuple[str, _Period | None], _Groups] = field(default_factory=dict[tuple[str, _Period | None], _Groups])

    @cached_property
    def days(self) -> list[dict[str, Any]]:
        return self.ledger.summary("day", since=self.since, until=self.until)

    @cached_property
    def total(self) -> dict[str, Any]:
        return total_of(self.days)

    @cached_property
    def measure(self) -> _Measure:
        """Money or, where no price is known at all, tokens."""
        return _TOKENS if self.total["cost_usd"] is None else _MONEY

    @cached_property
    def dimensions(self) -> list[str]:
        """What the page shows shares by: what every attempt has, and what tells some apart from others here."""
        telling = [by for by in ("provider", "pool") if len(self.groups(by)) > 1]
        tags = tag_names(self.ledger.path, since=self.since, until=self.until)
        return ["model", "key", "account", *telling, *(f"tag:{name}" for name in tags[:_MOST_TAGS])]

    @cached_property
    def several_pools(self) -> bool:
        return len(self.groups("pool")) > 1

    @cached_property
    def unit(self) -> str:
        first, last = (date.fromisoformat(self.days[at]["day"]) for at in (0, -1))
        return "day" if (last - first).days < _MOST_DAYS else "month"

    @cached_property
    def periods(self) -> list[_Period]:
        """The days or months from the first to the last of those with attempts."""
        first, last = (date.fromisoformat(self.days[at]["day"]) for at in (0, -1))
        if self.unit == "day":
            starts = [first + timedelta(days) for days in range((last - first).days + 2)]
        else:
            months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month + 1)
            starts = [date(month // 12, month % 12 + 1, 1) for month in months]
        long, short = ("%Y-%m-%d", "%m-%d") if self.unit == "day" else ("%Y-%m", "%Y-%m")
        edges = [datetime(start.year, start.month, start.day).timestamp() for start in starts]
        return [
            _Period(start.strftime(long), start.strftime(short), *between)
            for start, *between in zip(starts, edges, edges[1:], strict=False)
        ]

    def groups(self, by: str, period: _Period | None = None) -> _Groups:
        """The summary of one period, or of all the time."""
        if (by, period) not in self._known:
            since, until = self.since, self.until
            if period is not None:
                since = period.since if since is None else max(since, period.since)
                until = period.until if until is None else min(until, period.until)
            rows = self.ledger.summary(by, since=since, until=until)
            self._known[by, period] = {self._name(row, by): row for row in rows}
        return self._known[by, period]

    def _name(self, row: Row, by: str) -> str:
        name = "(none)" if row[by] is None else plain(str(row[by]))
        return f"{plain(row['pool'])} / {name}" if by == "key" and self.several_pools else name

    def lines(self, by: str, measure: _Measure, most: int) -> dict[str, str]:
        """The line in which each group is shown: its own for the weightiest, and one for all others together."""
        groups = self.groups(by)
        weights = {name: self._weight(row, measure) for name, row in groups.items()}
        ranked = sorted(groups, key=lambda name: (-weights[name], -groups[name]["attempts"], name))
        others = f"{len(ranked) - most + 1} others"
        return {name: name if len(ranked) <= most or at < most - 1 else others for at, name in enumerate(ranked)}

    def _weight(self, row: Row, measure: _Measure) -> float:
        """What is measured; a cost that nobody knows ranks as if it were at the average price, not as nothing."""
        if measure is _MONEY and row["cost_usd"] is None:
            return _tokens(row) * _cost(self.total) / max(_tokens(self.total), 1)
        return measure.of(row)

    def by_line(self, by: str, lines: Mapping[str, str], period: _Period | None = None) -> _Groups:
        """What the groups of each line add up to, in the order of the lines."""
        together: dict[str, list[Row]] = defaultdict(list)
        for name, row in self.groups(by, period).items():
            if name in lines:  # else it is of attempts that came while this was being made
                together[lines[name]].append(row)
        return {line: total_of(together[line]) for line in dict.fromkeys(lines.values()) if line in together}


# -- parts of the page


def _heading(figures: _Figures) -> str:
    start = "the beginning" if figures.since is None else _moment(figures.since)
    end = "now" if figures.until is None else _moment(figures.until)
    return (
        f'<h1>Usage of API keys</h1>\n<p class="soft">From {start} until {end}, by the ledger '
        f"{escape(plain(str(figures.ledger.path)))} on {_moment(time.time())}. Days and times are local.</p>"
    )


def _tiles(figures: _Figures) -> str:
    total = figures.total
    prompt, cached, completion = (total[n] or 0 for n in ("prompt_tokens", "cached_tokens", "completion_tokens"))
    failed = total["failed"] / total["attempts"]
    worst = next(iter(figures.lines("outcome", _FAILURES, _MOST_ROWS)))
    cost = total["cost_usd"]
    spent = f"${dollars(cost)}" if cost is not None else UNKNOWN if total["unpriced"] else "nothing to price"
    unpriced = f"without {total['unpriced']:,} attempts whose price is unknown"
    tiles = (
        ("Spent", spent, unpriced if total["unpriced"] else "each attempt is priced"),
        ("Attempts", f"{total['attempts']:,}", f"{total['succeeded']:,} succeeded"),
        ("Failed", _alarmed(f"{total['failed']:,}", total), f"{failed:.1%}, most by {worst}" if failed else "none"),
        (
            "Tokens",
            _compact(prompt + completion),
            f"{prompt:,} in ({_part(cached, prompt)} cached), {completion:,} out",
        ),
    )
    items = (f"<div><dt>{name}</dt><dd>{value}<small>{escape(note)}</small></dd></div>" for name, value, note in tiles)
    return f'<dl class="tiles">{"".join(items)}</dl>'


def _over_time(figures: _Figures, measure: _Measure, by: str) -> str:
    """Bars of each day or month, split by `by`, and the table with the same numbers."""
    title = f"{measure.title} by {figures.unit} and {_label(by)}"
    lines = figures.lines(by, measure, COLOURS)
    whole = {line: row for line, row in figures.by_line(by, lines).items() if measure.cell(row)}
    grid = [(period, figures.by_line(by, lines, period)) for period in figures.periods]
    series = [Series(line, [measure.of(rows[line]) if line in rows else 0.0 for _, rows in grid]) for line in whole]
    bars = stacked_bars(title, [(p.label, p.short) for p in figures.periods], series, measure.text)

    def cells(rows: Mapping[str, Row]) -> list[str]:
        total = measure.cell(total_of(list(rows.values()))) if rows else ""
        return [total, *(measure.cell(rows[line]) if line in rows else "" for line in whole)]

    body = [[period.label, *cells(rows)] for period, rows in reversed(grid)]
    table = _table(title, [figures.unit, "total", *map(escape, whole)], body, ["total", *cells(whole)])
    figure = f'<h2>{escape(title)}</h2><div class="wide">{bars}</div>{legend(list(whole))}'
    return f'<section><div class="figure">{figure}</div>{table}</section>'


def _shares(figures: _Figures, by: str) -> str:
    """A line for each value of `by`, with its part of the whole as a bar."""
    measure, total = figures.measure, figures.total
    whole = measure.of(total)
    title = f"By {_label(by)}"
    body = [
        [escape(line), share_bar(measure.of(row) / whole if whole else 0.0), _part(measure.of(row), whole), *_sums(row)]
        for line, row in figures.by_line(by, figures.lines(by, measure, _MOST_ROWS)).items()
    ]
    head = [escape(_label(by)), "", "part", *_SHARE_COLUMNS]
    table = _table(title, head, body, ["total", "", "", *_sums(total)])
    return f"<section><h2>{escape(title)}</h2>{table}</section>"


def _sums(row: Row) -> list[str]:
    """The cells of `_SHARE_COLUMNS`."""
    part = f" ({_part(row['failed'], row['attempts'])})" if row["failed"] else ""
    tokens = (row[name] for name in ("prompt_tokens", "cached_tokens", "completion_tokens"))
    failed = _alarmed(f"{row['failed']:,}{part}", row)
    return [_money(row), f"{row['attempts']:,}", failed, *("" if sum_ is None else f"{sum_:,}" for sum_ in tokens)]


def _table(title: str, head: Sequence[str], body: Iterable[Sequence[str]], foot: Sequence[str]) -> str:
    """A table in a frame that scrolls, by keyboard too. The cells are HTML."""
    columns = "".join(f'<th scope="col">{name}</th>' for name in head)
    rows = "".join(f"<tr>{_cells(row)}</tr>" for row in body)
    return (
        f'<div class="table" role="region" aria-label="{escape(title)}, in numbers" tabindex="0"><table><thead>'
        f"<tr>{columns}</tr></thead><tbody>{rows}</tbody><tfoot><tr>{_cells(foot)}</tr></tfoot></table></div>"
    )


def _cells(row: Sequence[str]) -> str:
    first, *others = row
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)


# -- values


def _money(row: Row) -> str:
    """The cost of a row, with how many attempts it leaves out."""
    unpriced = row["unpriced"]
    if row["cost_usd"] is None:
        return UNKNOWN if unpriced else ""
    return dollars(row["cost_usd"]) + (f" <small>+ {unpriced:,} unpriced</small>" if unpriced else "")


def _alarmed(text: str, row: Row) -> str:
    alarming = row["failed"] and row["failed"] >= _ALARMING * row["attempts"]
    return f'<span class="alarm">{text}</span>' if alarming else text


def _tokens(row: Row) -> int:
    return (row["prompt_tokens"] or 0) + (row["completion_tokens"] or 0)


def _axis_dollars(value: float) -> str:
    return f"${value:,.2f}" if value >= 0.1 or not value else f"${value:.3g}"


def _compact(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


def _part(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _label(by: str) -> str:
    return plain(by.removeprefix("tag:"))


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at):%Y-%m-%d %H:%M}"


def _cost(row: Row) -> float:
    return row["cost_usd"] or 0.0


def _failed(row: Row) -> int:
    return row["failed"]


def _token_cell(row: Row) -> str:
    return f"{_tokens(row):,}" if _tokens(row) else ""


def _failed_cell(row: Row) -> str:
    return f"{_failed(row):,}" if _failed(row) else ""


_MONEY = _Measure("Dollars spent", _cost, _axis_dollars, _money)
_TOKENS = _Measure("Tokens used", _tokens, _compact, _token_cell)
_FAILURES = _Measure("Failed attempts", _failed, "{:,.0f}".format, _failed_cell)
_NO_FAILURES = "<section><h2>Failed attempts</h2><p>None: every attempt succeeded.</p></section>"
