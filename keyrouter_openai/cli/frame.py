"""What `keyrouter-openai top` shows, drawn for a terminal of any size."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .output import UNKNOWN, dollars, in_full, plain

_HIGH = 32
"""Lines from which on there is room for more than what is needed."""
_NARROW, _WIDE = 76, 120
"""Columns up to which there is not even room for that, and from which on there is more."""
_FEW = 4
"""Rows without which a part is not worth its place on a low terminal."""
_PIPE_WIDTH = 160
_SHARES = {"keys": 4, "budgets": 3, "limits": 3, "parked": 2, "running_dry": 2, "programs": 1}
"""How rows are dealt out where there are too few for all; what matters most is named first."""
_SOON_S = 12 * 3600
_STATE_STYLES = {"available": "green", "suspect": "yellow", "throttled": "yellow", "disabled": "dim"}
_GRAVE = "red"
_PER = {"day": " a day", "week": " a week", "month": " a month", "total": " in all"}

_Row = Sequence[RenderableType]
_View = Mapping[str, Any]


def console() -> Console:
    """Standard output, for frames."""
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False)


def frame(view: _View, *, width: int, height: int | None = None) -> RenderableType:
    """One picture of the view, of `height` lines at most; None: of as many as it takes."""
    low = height is not None and height < _HIGH
    above = 1 if low else 2
    """Lines above the rows of a part: the names of its columns, and a blank one."""
    drawn: dict[str, Callable[[_View, int, int], RenderableType]] = {
        "keys": _keys,
        "parked": _parked,
        "running_dry": _running_dry,
        "limits": _limits,
        "budgets": _budgets,
        "programs": _programs,
    }
    head = _head(view)
    rows = {name: len(view[name]) for name in _SHARES if view[name] and not (low and name == "programs")}
    if height is not None:
        rows = _dealt(rows, height - len(head), above)
    parts: list[RenderableType] = [*head]
    for name, draw in drawn.items():
        if name in rows:
            parts += [*([] if low else [""]), draw(view, width, rows[name])]
    if not view["keys"]:
        parts += ["", f"No attempts are on record in {plain(view['ledger'])}, and no program runs with it."]
    return Group(*parts)


def _dealt(wanted: Mapping[str, int], room: int, above: int) -> dict[str, int]:
    """Rows for each part: as many as it wants, or its share of the room, or none for what matters least."""
    given: dict[str, int] = {}
    for name, rows in wanted.items():
        least = above + min(rows, _FEW)
        if given and least > room:
            break
        given[name] = min(rows, _FEW)
        room -= least
    for _ in range(room):
        hungry = [name for name in given if given[name] < wanted[name]]
        if not hungry:
            break
        given[min(hungry, key=lambda name: given[name] / _SHARES[name])] += 1
    return given


# -- parts


def _head(view: _View) -> list[Text]:
    at = datetime.fromtimestamp(view["at"])
    minute, today = view["minute"], view["today"]
    programs = len({one["program"] for one in view["programs"]})
    in_flight = [one["in_flight"] for one in view["programs"] if one["in_flight"] is not None]
    running = _number(programs, "program") + (
        f", {_count(sum(in_flight))} in flight" if in_flight else " without calls"
    )
    states = Counter[str](key["state"] for key in view["keys"] if key["state"] is not None)
    having = ", ".join(f"{count:,} {plain(state)}" for state, count in states.most_common())
    tokens = (minute["prompt_tokens"] or 0) + (minute["completion_tokens"] or 0)
    cost, unpriced = today["cost_usd"], today["unpriced"] or 0
    if cost is not None:
        spent = f"${dollars(cost)}" + (f" + {unpriced:,} unpriced" if unpriced else "")
    else:
        spent = f"unknown cost of {_number(unpriced, 'attempt')}" if unpriced else "nothing spent"
    lines = [
        Text.assemble(
            (f"{at:%H:%M:%S}", "bold"), f"  {running if programs else 'no program runs'}", ("  (q ends)", "dim")
        ),
        Text(f"keys    {having or 'as the record has them'}"),
        Text(f"minute  {_number(minute['attempts'] or 0, 'attempt')}, {_count(tokens)} tokens"),
        Text(f"today   {spent}, {_number(today['attempts'] or 0, 'attempt')}, {_count(today['failed'] or 0)} failed"),
    ]
    if view["trouble"]:
        lines.append(Text(plain(view["trouble"]), style=_GRAVE))
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def _keys(view: _View, width: int, most: int) -> RenderableType:
    keys: list[dict[str, Any]] = view["keys"]
    several_pools = len({key["pool"] for key in keys}) > 1
    columns: dict[str, Callable[[dict[str, Any]], RenderableType]] = {
        "key": lambda key: _name(f"{key['pool']}/{key['key']}" if several_pools else key["key"]),
        "account": lambda key: _name(key["account"] or ""),
        "provider": lambda key: _name(key["provider"] or ""),
        "state": lambda key: _state(key, view["at"], reason=width >= _WIDE),
        "in flight": lambda key: "" if key["in_flight"] is None else _count(key["in_flight"]),
        "att/min": lambda key: _count(key["attempts_last_minute"]),
        "tok/min": lambda key: _count(key["tokens_last_minute"]),
        "$ today": lambda key: _money(key["cost_usd_today"], key["unpriced_today"]),
        "unpriced": lambda key: _count(key["unpriced_today"]) if key["unpriced_today"] else "",
    }
    hidden = {
        *(("account", "provider") if width < _WIDE else ()),
        *(("att/min", "tok/min") if width < _NARROW else ()),
        *(() if any(key["unpriced_today"] for key in keys) else ("unpriced",)),
    }
    shown = [name for name in columns if name not in hidden]
    table = _table()
    for name in shown:
        number = name not in ("key", "account", "provider", "state")
        table.add_column(name, justify="right" if number else "left", no_wrap=number)
    return _filled(table, keys, lambda key: [columns[name](key) for name in shown], most)


def _state(key: dict[str, Any], now: float, *, reason: bool) -> Text:
    if key["state"] is None:
        if key["last_used"] is None:
            return _name("not used of late", "dim")
        style = "dim" if key["last_outcome"] == "ok" else "yellow"
        return _name(f"{key['last_outcome']} {_span(max(now - key['last_used'], 0.0))} ago", style)
    text = _name(key["state"], _STATE_STYLES.get(key["state"], _GRAVE))
    if key["until"] is not None and key["until"] > now:
        text.append(f" for {_span(key['until'] - now)}")
    if reason and key["reason"]:
        text.append(plain(f", {key['reason']}"), style="dim")
    return text


def _parked(view: _View, width: int, most: int) -> RenderableType:
    table = _table("parked", "models", "until")

    def row(one: dict[str, Any]) -> _Row:
        until = datetime.fromtimestamp(one["until"])
        in_ = _span(one["until"] - view["at"])
        return [_name(one["account"]), _name(one["family"] or "all"), f"{until:%H:%M:%S}, in {in_}"]

    return _filled(table, view["parked"], row, most)


def _running_dry(view: _View, width: int, most: int) -> RenderableType:
    table = _table("runs dry", "what", "at")
    table.add_column("80 % sure", no_wrap=True)

    def row(one: dict[str, Any]) -> _Row:
        period = "" if one["period"] is None else _per(one["period"])
        what = f"{one['family']} {one['dimension'].replace('_', ' ')}{period}".strip()
        earliest, latest = (
            None if one[end] is None else _clock(one[end], view["at"]) for end in ("earliest", "latest")
        )
        span = f"{earliest or 'any time'} to {latest or 'not before the reset'}"
        return [
            _name(one["name"]),
            _name(what),
            f"{_clock(one['at'], view['at'])}, in {_span(one['at'] - view['at'])}",
            span,
        ]

    return _filled(table, view["running_dry"], row, most)


def _limits(view: _View, width: int, most: int) -> RenderableType:
    table = _barred(width, "limits of", "what", numbers=("used", "left"))

    def row(limit: dict[str, Any]) -> _Row:
        what = f"{limit['family']} {limit['dimension'].replace('_', ' ')}{_per(limit['period'])}".strip()
        guess = "~" if limit["guessed"] else ""
        left = f"{_count(max(limit['level'], 0))} of {guess}{_count(limit['limit'])}"
        return [_name(limit["account"]), _name(what), _bar(limit["used"]), f"{limit['used']:.0%}", left]

    return _filled(table, view["limits"], row, most)


def _budgets(view: _View, width: int, most: int) -> RenderableType:
    scope, end = width >= _WIDE, width >= _NARROW
    table = _barred(
        width, "budget", *(["for"] if scope else []), numbers=("used", "spent", *(["until"] if end else []))
    )

    def row(budget: dict[str, Any]) -> _Row:
        spent, limit = budget["spent_usd"], budget["limit_usd"]
        used = (spent or 0.0) / limit if limit else 1.0
        until = budget["until"]
        return [
            _name(budget["budget"]),
            *([_name(budget["scope"])] if scope else []),
            _bar(used),
            "" if spent is None else f"{used:.0%}",
            f"{'not used yet, ' if spent is None else f'${dollars(spent)} '}of ${in_full(limit)}{_PER[budget['per']]}",
            *(["" if until is None else f"{datetime.fromtimestamp(until):%d %b %H:%M}"] if end else []),
        ]

    return _filled(table, view["budgets"], row, most)


def _programs(view: _View, width: int, most: int) -> RenderableType:
    table = _table("program", "pool")
    table.add_column("in flight", justify="right")

    def row(one: dict[str, Any]) -> _Row:
        known = one["in_flight"] is not None
        return [_name(one["program"]), _name(one["pool"] or "?"), _count(one["in_flight"]) if known else ""]

    return _filled(table, view["programs"], row, most)


# -- tables


def _table(*names: str, **settings: Any) -> Table:
    return Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan", **settings)


def _barred(width: int, *names: str, numbers: Sequence[str]) -> Table:
    """A table with a column for bars, which takes the room that is left."""
    table = _table(*names, width=min(width, _WIDE))
    table.add_column("", ratio=1, min_width=8)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _name(text: str, style: str = "") -> Text:
    """Text that gives way, with an ellipsis, where numbers need the room."""
    return Text(plain(text), style=style, no_wrap=True, overflow="ellipsis")


def _filled(
    table: Table, rows: Sequence[dict[str, Any]], row: Callable[[dict[str, Any]], _Row], most: int
) -> RenderableType:
    """The table with its rows, or as many as fit, and then how many more there are."""
    if len(rows) <= most:
        for one in rows:
            table.add_row(*row(one))
        return table
    for one in rows[: most - 1]:
        table.add_row(*row(one))
    return Group(table, Text(f"and {len(rows) - most + 1:,} more", style="dim"))


def _bar(used: float) -> ProgressBar:
    style = "green" if used < 0.7 else "yellow" if used < 0.9 else _GRAVE
    return ProgressBar(total=1.0, completed=min(used, 1.0), complete_style=style, finished_style=style)


# -- words


def _money(cost_usd: float | None, unpriced: int) -> str:
    return dollars(cost_usd) if cost_usd is not None else UNKNOWN if unpriced else ""


def _number(count: int, noun: str) -> str:
    return f"{_count(count)} {noun}" + ("" if count == 1 else "s")


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):,.4g}{letter}"
    return f"{value:,.0f}"


def _clock(at: float, now: float) -> str:
    """A time of day, with its date where that is not soon."""
    return f"{datetime.fromtimestamp(at):%H:%M}" if at - now < _SOON_S else f"{datetime.fromtimestamp(at):%d %b %H:%M}"


def _per(period: float) -> str:
    names = {1.0: "/s", 60.0: "/min", 3600.0: "/h", 86_400.0: "/day"}
    return names.get(period, f" in {_span(period)}")


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} days"
