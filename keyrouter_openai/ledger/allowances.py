"""What processes may spend of budgets, set aside for them in the ledger before they spend it.

Of each budget and window the ledger knows what was spent (`budget_windows`) and what is set aside for each router of
each process (`allowances`; a holder is the name of the process's journal, and what the router adds to it). Both
together never exceed the budget when something is granted, so all processes together never do.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from keyrouter_openai.core.budget import EASING, Rule, Window
from keyrouter_openai.core.model import Attempt

from .memory import Change

_HOUR = 3600


class Wish(NamedTuple):
    """What a process asks of a budget: `wanted` micro-dollars more, and nothing if there is not even `least`."""

    rule: Rule
    window: Window
    wanted: int
    least: int


class Grant(NamedTuple):
    """What it gets. Amounts are micro-dollars."""

    spent: int
    """By all processes, as far as their attempts are written."""
    left: int
    """What is set aside for nobody now."""
    granted: int
    own: int
    """What is set aside for this process now, its attempts that are not written yet included."""
    holders: int
    """For how many processes something is set aside, this one counted."""


def declare(connection: sqlite3.Connection, rules: Sequence[Rule]) -> None:
    """Put on record what budgets there are, for those who look."""
    connection.executemany(
        "insert or replace into budgets (id, declaration, at) values (?, ?, ?)",
        [(rule.id, json.dumps(rule.declaration()), time.time()) for rule in rules],
    )


def ask(connection: sqlite3.Connection, holder: str, wishes: Sequence[Wish]) -> list[Grant]:
    """Grant what is wished for as far as it is there, and a little more where there is much. One transaction."""
    return [_grant(connection, holder, wish) for wish in wishes]


def give_back(connection: sqlite3.Connection, holder: str, amounts: Sequence[tuple[str, int, int]]) -> None:
    """Take back what a process leaves of its allowances: of each budget and window so many micro-dollars."""
    connection.executemany(
        "update allowances set microusd = microusd - ? where budget = ? and window = ? and holder = ?",
        [(amount, budget, window, holder) for budget, window, amount in amounts],
    )


def charging(holder: str, attempts: Sequence[Attempt]) -> list[Change]:
    """What charges attempts to their budgets, and to the process's allowances, in the transaction that writes them.

    A window that nobody has looked at yet is not charged: the first look adds up what is written.
    """
    sums: dict[tuple[str, int, str], int] = defaultdict(int)
    for attempt in attempts:
        if attempt.budgets and attempt.cost_microusd:
            for charged in attempt.budgets:
                sums[charged] += attempt.cost_microusd
    if not sums:
        return []
    return [
        (
            "update budget_windows set spent_microusd = spent_microusd + ? where budget = ? and window = ?",
            [(cost, budget, window) for (budget, window, _), cost in sums.items()],
        ),
        (
            "update allowances set microusd = microusd - ? where budget = ? and window = ? and holder = ?",
            [(cost, budget, window, holder + own) for (budget, window, own), cost in sums.items()],
        ),
    ]


def releasing(holder: str) -> list[Change]:
    """What gives back all that is set aside for a process which has ended, after its attempts were charged."""
    return [("delete from allowances where holder = ? or holder like ? || '/%'", [(holder, holder)])]


def is_held(connection: sqlite3.Connection, holder: str) -> bool:
    """Whether anything is set aside for a process, which then may spend it without asking."""
    found = "select 1 from allowances where (holder = ? or holder like ? || '/%') and microusd > 0"
    return connection.execute(found, (holder, holder)).fetchone() is not None


def release(connection: sqlite3.Connection, holder: str) -> None:
    """Give back all that is set aside for a router that is no more, after its attempts were charged."""
    connection.execute("delete from allowances where holder = ?", (holder,))


def _grant(connection: sqlite3.Connection, holder: str, wish: Wish) -> Grant:
    rule, start = wish.rule, wish.window.start
    place = (rule.id, start)
    found = connection.execute("select spent_microusd from budget_windows where budget = ? and window = ?", place)
    spent: int | None = next((row[0] for row in found), None)
    if spent is None:
        spent = _on_record(connection, rule, wish.window)
        connection.execute("insert into budget_windows values (?, ?, ?)", (*place, spent))
    # An allowance below 0 was overdrawn, by attempts that cost more than they were expected to at most: what is above
    # it is in what was spent, and is not there twice.
    held: dict[str, int] = dict(
        connection.execute("select holder, microusd from allowances where budget = ? and window = ?", place)
    )
    own = held.pop(holder, None)
    if own is None:
        over = "delete from allowances where budget = ? and window < ? and holder = ? and microusd <= 0"
        connection.execute(over, (*place, holder))
        connection.execute("insert into allowances values (?, ?, ?, 0)", (*place, holder))
        own = 0
    others = [microusd for microusd in held.values() if microusd > 0]
    holders = len(others) + 1
    left = max(rule.microusd - spent - sum(others) - max(own, 0), 0)
    granted = min(left, wish.wanted + left // (EASING * holders)) if wish.wanted and left >= wish.least else 0
    changed = max(own, 0) + granted if granted else own
    if granted:
        connection.execute(
            "update allowances set microusd = ? where budget = ? and window = ? and holder = ?",
            (changed, *place, holder),
        )
    return Grant(spent, left - granted, changed - own, changed, holders)


def _on_record(connection: sqlite3.Connection, rule: Rule, window: Window) -> int:
    """What attempts that are written have cost in a window: whole hours from the roll-ups, the rest from the rows."""
    first_hour = -(-window.start // _HOUR) * _HOUR
    end_hour = window.end if window.end == float("inf") else window.end // _HOUR * _HOUR
    spans = [
        ("hours", "hour", first_hour, max(end_hour, first_hour)),
        ("attempts", "at", window.start, min(first_hour, window.end)),
        ("attempts", "at", max(end_hour, first_hour), window.end),
    ]
    return sum(_sum(connection, rule, *span) for span in spans if span[2] < span[3])


def _sum(connection: sqlite3.Connection, rule: Rule, table: str, column: str, start: float, end: float) -> int:
    """The cost of what a budget is for, in one table."""
    where, values = f"pool = ? and {column} >= ? and {column} < ?", [rule.pool, start, min(end, 2**62)]
    if rule.kind in ("key", "account"):
        where += f" and {rule.kind} = ?"
        values.append(rule.value)
    elif rule.kind == "tag":
        tag, _, value = rule.value.partition("=")
        where += " and exists (select 1 from json_each(tags) where json_each.key = ? and json_each.value = ?)"
        values += [tag, value]
    # Patterns of models mean something else to SQLite than to Python.
    sums = connection.execute(
        f"select coalesce(model, ''), sum(cost_microusd) from {table} where {where} group by 1", values
    )
    return sum(cost or 0 for model, cost in sums if rule.kind != "model" or fnmatchcase(model, rule.value))
