"""What the ledger costs and holds: CPU beside plain sqlite3 in the same run, size, sums over many rows, kill -9.

    python tests/benchmarks/ledger.py [--attempts 50000] [--rows 10000000] [--kills 200] [--json]

CPU is that of the whole process, so the ledger's thread counts. Each attempt is recorded as a call does it: when it
begins, and when it has ended. A burst goes as fast as it can. A trickle is one attempt a millisecond; plain sqlite3
commits each, on caches gone cold; the pauses' own CPU is taken off.

`--rows` fills a file with so many rows by SQL and compares the sums over it with those over a hundredth of them.
`--kills` kills so many processes with -9 that make calls on a simulated provider, at random moments, and looks for
answers that had reached their callers and are not on record.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random

from keyrouter_openai.core.model import Attempt, Fault, Usage
from keyrouter_openai.ledger import Ledger, rollups
from keyrouter_openai.ledger.schema import ATTEMPT_COLUMNS, INSERT_ATTEMPT, attempt_row
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from killing import budgets_that_differ, hours_that_differ, kill

BATCH = 1_000


def attempts(number: int) -> list[Attempt]:
    usage = Usage(prompt=1200, completion=300, cached=1024)
    return [
        Attempt(
            at=1_700_000_000.0 + i,
            request_id=f"{i:032x}",
            number=1,
            pool="default",
            key=f"key-{i % 8}",
            account=f"account-{i % 4}",
            provider="openai",
            endpoint="/chat/completions",
            outcome=Fault.NONE,
            model="gpt-4o-mini",
            served_model="gpt-4o-mini-2024-07-18",
            status=200,
            usage=usage,
            first_byte_s=0.4,
            seconds=1.2,
            provider_request_id=f"req_{i:032x}",
            tags={"tenant": "t1"},
        )
        for i in range(number)
    ]


def new_ledger(folder: Path, name: str) -> Ledger:
    """A ledger whose file is made and open, so that only the attempts are measured."""
    ledger = Ledger(folder / name)
    ledger.record(attempts(1)[0])
    ledger.flush(60)
    return ledger


def burst(ledger: Ledger, rows: list[Attempt]) -> None:
    for row in rows:
        record(ledger, row)
    assert ledger.flush(600)


def open_plain(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    connection.execute("pragma synchronous = normal")
    return connection


def insert(connection: sqlite3.Connection, rows: list[Attempt]) -> None:
    with connection:
        connection.executemany(INSERT_ATTEMPT, [attempt_row(row) for row in rows])


def plain(path: Path, rows: list[Attempt]) -> None:
    with closing(open_plain(path)) as connection:
        for start in range(0, len(rows), BATCH):
            insert(connection, rows[start : start + BATCH])


def trickle(put: Callable[[Attempt], None], rows: list[Attempt]) -> float:
    """Microseconds of CPU a row."""

    def cpu(action: Callable[[Attempt], object]) -> float:
        began = time.process_time()
        for row in rows:
            action(row)
            time.sleep(0.001)
        return time.process_time() - began

    return (cpu(put) - cpu(id)) / len(rows) * 1e6


def measure(action: Callable[[], None], rows: int) -> tuple[float, float]:
    """Microseconds of CPU a row, and rows a second."""
    began, cpu = time.perf_counter(), time.process_time()
    action()
    return (time.process_time() - cpu) / rows * 1e6, rows / (time.perf_counter() - began)


def on_the_callers_thread(ledger: Ledger, rows: list[Attempt]) -> float:
    """Microseconds of CPU that one attempt takes from its caller: `began` and `record`."""
    taken = 0.0
    for start in range(0, len(rows), BATCH):
        began = time.thread_time()
        for row in rows[start : start + BATCH]:
            ledger.began(row)
            ledger.record(row)
        taken += time.thread_time() - began
        assert ledger.flush(600)  # else the thread contends for the interpreter, as it does not with calls
    return taken / len(rows) * 1e6


def record(ledger: Ledger, row: Attempt) -> None:
    ledger.began(row)
    ledger.record(row)


def cost(number: int) -> dict[str, float]:
    """Of one attempt."""
    rows = attempts(number)
    few = rows[: number // 25]
    with tempfile.TemporaryDirectory() as name, closing(new_ledger(Path(name), "ledger.db")) as ledger:
        plain_path = Path(name) / "plain.db"
        new_ledger(Path(name), plain_path.name).close()
        plain_burst, plain_rate = measure(lambda: plain(plain_path, rows), number)
        ledger_burst, ledger_rate = measure(lambda: burst(ledger, rows), number)
        with closing(open_plain(plain_path)) as connection:
            plain_trickle = trickle(lambda row: insert(connection, [row]), few)
        ledger_trickle = trickle(lambda row: record(ledger, row), few)
        caller = on_the_callers_thread(ledger, rows)
    return {
        "burst_us": ledger_burst,
        "burst_ratio": ledger_burst / plain_burst,
        "trickle_us": ledger_trickle,
        "trickle_ratio": ledger_trickle / plain_trickle,
        "rows_a_second": ledger_rate,
        "rows_a_second_ratio": ledger_rate / plain_rate,
        "caller_us": caller,
    }


def fill(path: Path, rows: int) -> None:
    """A ledger of so many attempts in 30 days, by 20 keys, 4 models and 5 tenants, made by SQL."""
    new_ledger(path.parent, path.name).close()
    columns = [name for name in ATTEMPT_COLUMNS if name not in ("id", "at", "request_id", "key", "model", "tags")]
    with closing(open_plain(path)) as connection, connection:
        connection.execute("create temp table first as select * from attempts limit 1")
        connection.execute("delete from attempts")
        connection.execute("delete from hours")
        connection.execute(
            f"""
            with recursive n(i) as (select 0 union all select i + 1 from n where i + 1 < ?)
            insert into attempts (at, request_id, key, model, tags, {", ".join(columns)})
            select 1.7e9 + i * 2592000.0 / ?, printf('%016x', i * 2654435761), 'key-' || (i % 20),
                'model-' || (i / 20 % 4), '{{"tenant": "t' || (i / 80 % 5) || '"}}', {", ".join(columns)} from n, first
            """,
            (rows, rows),
        )
        connection.execute(f"insert into hours {rollups.ADDED_UP}", (0,))


def sums(rows: int) -> dict[str, float]:
    """Milliseconds of CPU for sums over so many rows, and how much longer that is than for a hundredth of them."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        many, few = Path(name) / "many.db", Path(name) / "few.db"
        fill(many, rows)
        fill(few, rows // 100)
        found["bytes_a_row"] = many.stat().st_size / rows
        with closing(open_plain(many)) as connection:
            found["roll_ups"] = connection.execute("select count(*) from hours").fetchone()[0]
        for by, since in (("key", None), ("day", None), ("tag:tenant", None), ("key", 1.7e9 + 23.01 * 86400)):
            label = f"by {by}" + (", 7 days" if since else "")
            found[f"{label}, ms"] = best(lambda by=by, since=since: Ledger(many).summary(by, since=since))
            few_ms = best(lambda by=by, since=since: Ledger(few).summary(by, since=since))
            found[f"{label}, ratio"] = found[f"{label}, ms"] / few_ms
    return found


def best(action: Callable[[], object]) -> float:
    """Milliseconds of CPU, of three times the shortest."""

    def once() -> float:
        began = time.process_time()
        action()
        return (time.process_time() - began) * 1e3

    return min(once() for _ in range(3))


def kills(number: int) -> dict[str, float]:
    """What became of the calls of so many processes that were killed."""
    with tempfile.TemporaryDirectory() as name, ProviderSimulator([SimAccount("A"), SimAccount("B")]) as provider:
        os.environ["OPENAI_API_KEYS"] = ",".join(provider.keys.values())
        os.environ["OPENAI_BASE_URL"] = provider.url
        path = Path(name) / "usage.db"
        killed = kill(path, number, Random(number))
        return {
            "kills": number,
            "printed": len(killed.printed),
            "printed_and_missing": len(killed.missing),
            "seen_by_the_provider": len(provider.calls),
            "recorded": len(killed.recorded),
            "doubled": killed.doubled,
            "abandoned": len(killed.abandoned),
            "wrong_hours": hours_that_differ(path),
            "wrong_budgets": budgets_that_differ(path),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=50_000)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = cost(arguments.attempts)
    if arguments.rows:
        found |= sums(arguments.rows)
    if arguments.kills:
        found |= kills(arguments.kills)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:24}{value:16,.2f}")


if __name__ == "__main__":
    main()
