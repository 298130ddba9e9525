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

_PIPE_WIDTH = 10_000
"""Columns of an output that is no terminal: nothing is to be wrapped or cut there."""


def print_rows(rows: Rows, *, as_json: bool, if_empty: str = "", formats: Formats | None = None) -> None:
    """Print rows that all have the same columns; where there is none, say `if_empty` on standard error.

    `formats` says how the values of some columns look in the table. The table leaves out empty columns.
    """
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows, formats or {})
    else:
        click.echo(if_empty, err=True)


def _print_table(rows: Rows, formats: Formats) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns = [name for name in rows[0] if any(not _is_empty(row[name]) for row in rows)]
    for name in columns:
        numeric = all(type(row[name]) in (int, float, NoneType) for row in rows)
        table.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[name], formats.get(name, _text)) for name in columns))
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def _is_empty(value: object) -> bool:
    return value in (None, "", (), [], {})


def _cell(value: object, text: Callable[[Any], str]) -> str:
    shown = "" if _is_empty(value) else text(value)
    # Some of it comes from providers, and is not to drive anyone's terminal.
    return "".join(char if char.isprintable() else "?" for char in shown)


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
