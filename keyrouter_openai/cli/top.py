"""`keyrouter-openai top`: what each key does now, by what running programs say and by the record."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from math import isfinite
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from keyrouter_openai.core.budget import window_at
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.ledger import Ledger, default_path
from keyrouter_openai.ledger.screens import Sight, running, sight, watch

from .keyboard import keyboard
from .output import json_option
from .sums import total_of

_EVERY_S = 1.0
"""Seconds between two frames; programs that run say of themselves about as often."""
_FRESH_S = 5.0
"""Seconds for which what a program said holds; it is asked for as long with each frame."""
_PATIENCE_S = 3.0
"""Seconds that a single frame waits for programs to answer."""
_LOOK_EVERY_S = 0.05
_GRAVER = ("available", "suspect", "throttled", "exhausted", "invalid", "disabled")
"""States of keys, each graver than those before it."""


@click.command()
@click.option("--once", is_flag=True, help="Show one frame and end, as without a terminal.")
@json_option
def top(once: bool, as_json: bool) -> None:
    """Show live what each key does, until q or Ctrl-C.

    Programs that run with this ledger say once a second how their keys stand while somebody looks, one that makes
    no calls from its next one on. Where two see the same key or limit, the graver of their views is shown. Where
    no program says anything, the record tells how each key last fared. The day begins at midnight, local time;
    budgets go by their own time zones. A limit with a ~ is one that no provider named.

    With --json, one object for one moment: at, programs, keys, parked, running_dry (forecasts), limits, budgets,
    minute and today (sums as of `usage`). Times are seconds since the epoch; what is not known is null.

    \b
    Example:
      keyrouter-openai top
      keyrouter-openai top --once --json
    """
    path = default_path()
    if as_json:
        click.echo(json.dumps(_first_view(path), indent=2))
    elif once or not sys.stdout.isatty():
        _print_once(path)
    else:
        _live(path)


def _print_once(path: Path) -> None:
    from .frame import console, frame

    screen = console()
    screen.print(frame(_first_view(path), width=screen.width))


def _live(path: Path) -> None:
    from rich.live import Live

    from .frame import console, frame

    screen = console()
    view = _view(path)
    try:
        with keyboard() as pressed, Live(console=screen, screen=True, auto_refresh=False) as live:
            while True:
                live.update(frame(view, width=screen.width, height=screen.height), refresh=True)
                if pressed(_EVERY_S) in ("q", "Q"):
                    return
                try:
                    view = _view(path)
                except ConfigError as error:  # it may pass: what was seen last stays, with the reason
                    view = view | {"trouble": str(error)}
    except KeyboardInterrupt:
        return


# -- what is shown


def _first_view(path: Path) -> dict[str, Any]:
    """A view that gives the programs which run the time to answer."""
    asked = time.time()
    _ask(path)
    while (now := time.time()) < asked + _PATIENCE_S:
        if running(path) <= {said["holder"] for said in sight(path, since=asked).live}:
            break
        time.sleep(_LOOK_EVERY_S)
    return _view(path, now)


def _ask(path: Path) -> str:
    """Ask programs to say of themselves; what went wrong, or an empty string."""
    if not path.exists():
        return ""
    try:
        watch(path, time.time() + _FRESH_S)
    except ConfigError as error:
        return str(error)
    return ""


def _view(path: Path, now: float | None = None) -> dict[str, Any]:
    """Everything that a frame shows, as `--json` prints it."""
    trouble = _ask(path)
    now = time.time() if now is None else now
    ledger = Ledger(path)
    midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    minute, today = ledger.summary("key", since=now - 60), ledger.summary("key", since=midnight)
    seen = sight(path, since=now - _FRESH_S)
    said = [status for one in seen.live for status in one["status"]]
    return {
        "at": now,
        "ledger": str(path),
        "trouble": trouble,
        "programs": _programs(seen, running(path)),
        "keys": _keys(seen, said, minute, today),
        "parked": _parked(said, now),
        "running_dry": _running_dry(said),
        "limits": _limits(said),
        "budgets": _budgets(seen.budgets, now),
        "minute": total_of(minute),
        "today": total_of(today),
    }


def _programs(seen: Sight, names: set[str]) -> list[dict[str, Any]]:
    """The pools of each program; those of one that has made no call while it was asked are not known."""
    said = [
        {"program": one["holder"], "pool": status["pool"], "in_flight": status["in_flight"]}
        for one in seen.live
        for status in one["status"]
    ]
    quiet = names - {one["holder"] for one in seen.live}
    return said + [{"program": name, "pool": None, "in_flight": None} for name in sorted(quiet)]


def _keys(
    seen: Sight, said: list[dict[str, Any]], minute: list[dict[str, Any]], today: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """All keys that a program has or that were used of late, the busiest first."""
    stated: dict[tuple[str, str], dict[str, Any]] = {}
    for status in said:
        for key in status["keys"]:
            name = status["pool"], key["name"]
            known = stated.get(name)
            graver = key if known is None or _gravity(key) > _gravity(known) else known
            stated[name] = graver | {"in_flight": key["in_flight"] + (known["in_flight"] if known else 0)}
    last = {(row["pool"], row["key"]): row for row in seen.last}
    lately, all_day = ({(row["pool"], row["key"]): row for row in rows} for rows in (minute, today))
    nothing: dict[str, Any] = {}
    keys: list[dict[str, Any]] = []
    for name in dict.fromkeys([*stated, *last, *all_day]):
        state, latest = stated.get(name, nothing), last.get(name, nothing)
        now, day = (
            total_of([lately[name]] if name in lately else []),
            total_of([all_day[name]] if name in all_day else []),
        )
        keys.append(
            {
                "pool": name[0],
                "key": name[1],
                "provider": state.get("provider", latest.get("provider")),
                "account": state.get("account", latest.get("account")),
                "state": state.get("state"),
                "reason": state.get("reason"),
                "until": state.get("until"),
                "in_flight": state.get("in_flight"),
                "attempts_last_minute": now["attempts"] or 0,
                "tokens_last_minute": (now["prompt_tokens"] or 0) + (now["completion_tokens"] or 0),
                "cost_usd_today": day["cost_usd"],
                "unpriced_today": day["unpriced"] or 0,
                "last_used": latest.get("at"),
                "last_outcome": latest.get("outcome"),
            }
        )
    return sorted(keys, key=_busyness)


def _busyness(key: dict[str, Any]) -> tuple[Any, ...]:
    return (
        -(key["in_flight"] or 0),
        -key["attempts_last_minute"],
        -(key["cost_usd_today"] or 0),
        -(key["last_used"] or 0),
        key["pool"],
        key["key"],
    )


def _gravity(key: dict[str, Any]) -> tuple[int, float]:
    return _GRAVER.index(key["state"]), key["until"] or 0.0


def _accounts(said: list[dict[str, Any]]) -> Iterable[tuple[str, dict[str, Any]]]:
    return ((status["pool"], account) for status in said for account in status["accounts"])


def _parked(said: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    """Which model families of which accounts wait until when, the longest last."""
    until: dict[tuple[str, str, str], float] = {}
    for pool, account in _accounts(said):
        for family, end in account["parked"].items():
            name = pool, account["name"], family
            until[name] = max(end, until.get(name, now))
    parked = ({"pool": n[0], "account": n[1], "family": n[2], "until": end} for n, end in until.items() if end > now)
    return sorted(parked, key=lambda one: one["until"])


def _running_dry(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is foretold to be used up before it is there again, by the earliest forecast, the first to end first."""
    dry: dict[tuple[Any, ...], dict[str, Any]] = {}
    for status in said:
        for one in status["forecasts"]:
            forecast = {"pool": status["pool"], **one["subject"], **one["forecast"]}
            name = status["pool"], *one["subject"].values()
            if forecast["at"] is not None and (name not in dry or forecast["at"] < dry[name]["at"]):
                dry[name] = forecast
    return sorted(dry.values(), key=lambda one: one["at"])


def _limits(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each limit by the view that leaves least of it, the most used first."""
    limits: dict[tuple[Any, ...], dict[str, Any]] = {}
    for pool, account in _accounts(said):
        for bucket in account["buckets"]:
            name = pool, account["name"], bucket["family"], bucket["dimension"], bucket["period"]
            limit = {"pool": pool, "account": account["name"], **bucket, "used": _used(bucket)}
            if name not in limits or limit["used"] > limits[name]["used"]:
                limits[name] = limit
    return sorted(limits.values(), key=lambda limit: -limit["used"])


def _used(bucket: dict[str, Any]) -> float:
    """The part of a limit that is used up, from 0 to 1."""
    return 1 - min(max(bucket["level"] / bucket["limit"], 0.0), 1.0) if bucket["limit"] else 1.0


def _budgets(rows: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    """What was spent of each budget that was declared or used in its window that is open now, the most used first."""
    budgets: dict[str, dict[str, Any]] = {}
    for row in rows:
        declared = row["declaration"]
        window = window_at(declared["per"], ZoneInfo(declared["zone"]), now)
        budget = {
            "budget": declared["name"],
            "pool": declared["pool"],
            "scope": declared["scope"],
            "per": declared["per"],
            "action": declared["action"],
            "limit_usd": declared["microusd"] / 1_000_000,
            "spent_usd": None,
            "held_usd": None,
            "until": window.end if isfinite(window.end) else None,
        }
        if row["window"] == window.start:
            budget |= {name: row[f"{name[:-4]}_microusd"] / 1_000_000 for name in ("spent_usd", "held_usd")}
            budgets[row["id"]] = budget
        elif row["at"] >= window.start:
            budgets.setdefault(row["id"], budget)
    return sorted(budgets.values(), key=lambda one: -(one["spent_usd"] or 0.0) / (one["limit_usd"] or 1.0))
