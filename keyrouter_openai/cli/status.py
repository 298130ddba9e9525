"""`keyrouter-openai status`: what the ledger knows of the keys of a pool."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import click

from keyrouter_openai.ledger import Ledger, default_path

from .keystore import open_keystore, pool_option
from .output import json_option, print_rows

_HOUR_S = 3600


@click.command()
@pool_option
@json_option
def status(pool: str, as_json: bool) -> None:
    """Show how each key of a pool last fared, by the record of all programs that use it.

    What a running program makes of it (which keys are throttled or exhausted, and until when) is known to
    that program alone: it is in `client.router.status()`.

    With --json, an array of objects: key, provider, enabled, account (as last seen; key:NAME while it is not
    known), last_used (seconds since the epoch), last_outcome, last_status (of HTTP), attempts_last_hour,
    failures_last_hour. What is not known is null.

    \b
    Example:
      keyrouter-openai status --pool default
    """
    keys = open_keystore().keys(pool)
    ledger = Ledger(default_path())
    hour = {row["key"]: row for row in ledger.summary("key", since=time.time() - _HOUR_S) if row["pool"] == pool}
    rows: list[dict[str, Any]] = []
    for key in keys:
        last = next(iter(ledger.attempts(pool=pool, key=key.name, limit=1)), dict[str, Any]())
        recent = hour.get(key.name, {})
        rows.append(
            {
                "key": key.name,
                "provider": key.provider,
                "enabled": key.enabled,
                "account": key.account or last.get("account"),
                "last_used": last.get("at"),
                "last_outcome": last.get("outcome"),
                "last_status": last.get("status"),
                "attempts_last_hour": recent.get("attempts", 0),
                "failures_last_hour": recent.get("failed", 0),
            }
        )
    print_rows(rows, as_json=as_json, formats={"last_used": _local_time, "last_status": str})


def _local_time(at: float) -> str:
    return datetime.fromtimestamp(at).isoformat(" ", "seconds")
