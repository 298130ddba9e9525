"""What the ledger costs, beside the same rows put in by plain sqlite3 in the same run.

    python tests/benchmarks/ledger.py [ROWS]

CPU is that of the whole process, so the ledger's thread counts. A burst is recorded as fast as it goes. A trickle
is one attempt a millisecond, each with a commit of its own on caches gone cold; the pauses' own CPU is taken off.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from keyrouter_openai.core.model import Attempt, Fault, Usage
from keyrouter_openai.ledger import Ledger
from keyrouter_openai.ledger.schema import INSERT_ATTEMPT, attempt_row

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
        ledger.record(row)
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
    """Microseconds of CPU that one `record` takes from its caller."""
    began = time.thread_time()
    for row in rows:
        ledger.record(row)
    taken = time.thread_time() - began
    assert ledger.flush(600)
    return taken / len(rows) * 1e6


def main(number: int) -> None:
    rows = attempts(number)
    few = rows[: number // 25]
    with tempfile.TemporaryDirectory() as name, closing(new_ledger(Path(name), "ledger.db")) as ledger:
        plain_path = Path(name) / "plain.db"
        new_ledger(Path(name), plain_path.name).close()
        plain_burst, plain_rate = measure(lambda: plain(plain_path, rows), number)
        ledger_burst, ledger_rate = measure(lambda: burst(ledger, rows), number)
        with closing(open_plain(plain_path)) as connection:
            plain_trickle = trickle(lambda row: insert(connection, [row]), few)
        ledger_trickle = trickle(ledger.record, few)
        caller = on_the_callers_thread(ledger, rows)
    print(f"{'us of CPU an attempt':24}{'sqlite3':>10}{'ledger':>10}{'ratio':>8}")
    for label, base, ours in (
        ("burst", plain_burst, ledger_burst),
        ("trickle", plain_trickle, ledger_trickle),
    ):
        print(f"{label:24}{base:10.1f}{ours:10.1f}{ours / base:8.2f}")
    print(f"burst, rows a second    {plain_rate:10,.0f}{ledger_rate:10,.0f}{ledger_rate / plain_rate:8.2f}")
    print(f"record() takes {caller:.2f} us of CPU from its caller")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
