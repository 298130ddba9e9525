"""Results on standard output, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, cast

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

Rows = Sequence[Mapping[str, object]]
Formats = Mapping[str, Callable[[Any], str]]

UNKNOWN = "unknown"
"""What a table shows for a number that there is but nobody knows. It is no 0, and no empty cell either."""

_PIPE_WIDTH = 10_000
"""Columns of an output that is no terminal: nothing is to be wrapped or cut there."""
_LEAST_NAME = 16
"""Letters of a name that are to be on one line."""


def print_rows(
    rows: Rows,
    *,
    as_json: bool,
    if_empty: str = "",
    formats: Formats | None = None,
    total: Mapping[str, object] | None = None,
    spare: Sequence[str] = (),
) -> None:
    """Print rows that all have the same columns; where there is none, say `if_empty` on standard error.

    `formats` says how the values of some columns look in the table. The table leaves out empty columns, and on a
    narrow terminal those in `spare`, one after the other. It ends with the row `total`, if there is one.
    """
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows, formats or {}, total, spare)
    else:
        click.echo(if_empty, err=True)


def plain(text: str) -> str:
    """Text with a question mark for what is no letter, digit, sign or space.

    Some of what is shown comes from providers and callers, and is not to drive anyone's terminal.
    """
    return "".join(char if char.isprintable() else "?" for char in text)


def dollars(usd: float) -> str:
    """A sum of money to the hundredth of a cent; what is less than that, but something, does not look like nothing."""
    return "<0.0001" if 0 < usd < 0.00005 else f"{usd:,.4f}"


def in_full(usd: float) -> str:
    """A sum of money that someone has named: in cents, or as exactly as it was named."""
    whole, _, part = f"{usd:,.6f}".partition(".")
    return f"{whole}.{part.rstrip('0'):0<2}"


def _print_table(rows: Rows, formats: Formats, total: Mapping[str, object] | None, spare: Sequence[str]) -> None:
    from rich.box import SIMPLE, SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    names = [name for name in rows[0] if any(not _is_empty(row[name]) for row in rows)]
    lines = [*rows, *([total] if total else [])]
    cells = {name: [_cell(line[name], formats.get(name, _text)) for line in lines] for name in names}
    numeric = {n for n in names if all(type(r[n]) in (int, float, NoneType) or r[n] == UNKNOWN for r in rows)}
    least = {
        name: max(map(len, (*name.split("_"), *(cell if name in numeric else cell[:_LEAST_NAME] for cell in column))))
        for name, column in cells.items()
    }
    for name in spare:
        if sum(least.values()) + len(least) > console.width:
            least.pop(name, None)
    tight = sum(least.values()) + 3 * len(least) > console.width
    table = Table(
        box=SIMPLE if total else SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=0 if tight else (0, 1),
        show_footer=bool(total),
    )
    for name, column_width in least.items():
        table.add_column(
            name.replace("_", " "),
            cells[name][-1] if total else "",
            justify="right" if name in numeric else "left",
            overflow="fold",
            min_width=column_width if name in numeric else None,  # a number is not to be cut in two
        )
    for at in range(len(rows)):
        table.add_row(*(cells[name][at] for name in least))
    console.print(table)


def _is_empty(value: object) -> bool:
    return value in (None, "", (), [], {})


def _cell(value: object, text: Callable[[Any], str]) -> str:
    if _is_empty(value):
        return ""
    return plain(UNKNOWN if value == UNKNOWN else text(value))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in cast("dict[str, object]", value).items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast("Sequence[object]", value)))
    return str(value)
