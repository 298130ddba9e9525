"""Sums come from roll-ups of hours and are those of the rows; old rows go, their sums stay."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from time import tzset
from typing import Any

import pytest

from keyrouter_openai.core.model import Fault, Usage
from keyrouter_openai.ledger import Ledger, database, queries, upkeep
from keyrouter_openai.ledger.upkeep import check, compact
from killing import hours_that_differ

from .support import attempt, request_ids, start

HOUR = 3600.0
START = 1_790_000_000.0 - 1_790_000_000.0 % HOUR
BY = ("key", "account", "pool", "model", "provider", "outcome", "tag:tenant", "day")


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the local time zone."""

    def set_to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        tzset()

    yield set_to
    monkeypatch.undo()
    tzset()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Some hundred attempts of three days, written by many transactions."""
    ledger = Ledger(tmp_path / "usage.db")
    rng = Random(3)
    for number in range(600):
        usage = rng.choice([None, Usage(prompt=rng.randrange(100), completion=7, cached=3)])
        ledger.record(
            attempt(
                request_id=str(number),
                at=START + rng.random() * 72 * HOUR,
                key=rng.choice("abc"),
                account=rng.choice("xy"),
                pool=rng.choice(["one", "two"]),
                model=rng.choice([None, "gpt-4o", "o3"]),
                outcome=rng.choice([Fault.NONE, Fault.NONE, Fault.RATE_LIMIT]),
                usage=usage,
                cost_microusd=rng.choice([None, rng.randrange(100_000)]) if usage else None,
                tags=rng.choice([{}, {"tenant": "t1"}, {"tenant": "t2", "feature": "f"}]),
            )
        )
        if number % 60 == 0:
            assert ledger.flush(30)
    assert ledger.flush(30)
    yield ledger
    ledger.close()


def from_rows(path: Path, by: str, since: float | None, until: float | None) -> list[dict[str, Any]]:
    """The same summary with no roll-up to look at: those of a copy of the file are made to cover nothing."""
    copy = path.with_name("rows.db")
    with closing(sqlite3.connect(path)) as original, closing(sqlite3.connect(copy)) as connection:
        original.backup(connection)
        connection.execute("pragma user_version = 3")  # the last one without
    return queries.summary(copy, by, since=since, until=until)


@pytest.mark.parametrize("name", ["UTC", "Asia/Tokyo", "Asia/Kathmandu", "Australia/Lord_Howe", "America/St_Johns"])
def test_sums_are_those_of_the_rows(ledger: Ledger, zone: Callable[[str], None], name: str) -> None:
    zone(name)
    rng = Random(4)
    bounds: list[tuple[float | None, float | None]] = [(None, None), (START + 5 * HOUR, START + 9 * HOUR)]
    bounds += [(START + rng.random() * 30 * HOUR, START + rng.random() * 72 * HOUR) for _ in range(4)]
    bounds += [(START + 1.2 * HOUR, START + 1.7 * HOUR), (None, START + 40.1 * HOUR), (START + 40.1 * HOUR, None)]
    for by in BY:
        for since, until in bounds:
            assert ledger.summary(by, since=since, until=until) == from_rows(ledger.path, by, since, until)
    assert hours_that_differ(ledger.path) == 0


def test_attempts_without_a_known_price_are_counted(ledger: Ledger) -> None:
    rows = ledger.attempts()
    unpriced = sum(row["prompt_tokens"] is not None and row["cost_microusd"] is None for row in rows)
    cost = sum(row["cost_microusd"] or 0 for row in rows)
    sums = ledger.summary("provider")[0]
    assert (sums["unpriced"], sums["cost_usd"]) == (unpriced, cost / 1e6)


def test_what_was_there_before_the_roll_ups_is_in_them(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(__file__).with_name("version_1.sql").read_text())
    assert Ledger(path).summary("key")[0]["attempts"] == 2
    ledger = Ledger(path)
    ledger.record(attempt())
    ledger.close()
    assert sum(row["attempts"] for row in Ledger(path).summary("key")) == 3
    assert hours_that_differ(path) == 0


def test_what_a_program_of_an_older_version_goes_on_to_write_is_added_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    ledger.record(attempt(at=START))
    assert ledger.flush(30)
    with closing(sqlite3.connect(ledger.path)) as old, old:
        names = [name for _, name, *_ in old.execute("pragma table_info(attempts)")][1:]
        columns = ", ".join(name for name in names if name not in ("image_tokens", "service_tier"))
        old.execute(f"insert into attempts ({columns}) select {columns} from attempts")
    ledger.record(attempt(at=START, request_id="r2"))
    ledger.close()
    assert ledger.summary("key")[0]["attempts"] == 3
    assert check(ledger.path) == []


def test_a_tag_that_is_no_utf_8_spoils_no_sums(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    for value in ("\ud800", "x"):
        ledger.record(attempt(tags={"tenant": value}))
    ledger.close()
    assert [row["attempts"] for row in ledger.summary("tag:tenant")] == [1, 1]


def test_old_rows_go_and_their_sums_stay(ledger: Ledger) -> None:
    before = {by: ledger.summary(by) for by in BY}
    cut = START + 50.5 * HOUR
    old = sum(row["at"] < START + 50 * HOUR for row in ledger.attempts())
    ledger.close()
    done = compact(ledger.path, cut)
    assert (done.deleted, done.before, done.kept_size) == (old, START + 50 * HOUR, "")
    assert len(ledger.attempts()) == 600 - old
    assert {by: ledger.summary(by) for by in BY} == before
    assert check(ledger.path) == []
    since, until = START + 10.2 * HOUR, START + 12.9 * HOUR
    whole_hours = ledger.summary("provider", since=START + 10 * HOUR, until=START + 13 * HOUR)
    assert ledger.summary("provider", since=since, until=until) == whole_hours, "an hour without rows counts whole"
    assert compact(ledger.path, cut).deleted == 0
    ledger.record(attempt(at=START, request_id="late"))
    assert sum(row["attempts"] for row in ledger.summary("key")) == 601, "a late one adds to an hour that was cleared"
    assert check(ledger.path) == []


def test_what_comes_after_all_was_cleared_away_is_added_up(ledger: Ledger) -> None:
    ledger.close()
    assert compact(ledger.path, START + 80 * HOUR).deleted == 600
    for number in range(3):
        ledger.record(attempt(at=START, request_id=f"new {number}"))
    ledger.close()
    assert sum(row["attempts"] for row in ledger.summary("key")) == 603
    assert check(ledger.path) == []


def test_a_value_that_sqlite_refuses_spoils_no_group(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    for number in range(700):
        ledger.record(attempt(request_id=str(number), model="half \ud83d" if number == 650 else "gpt-4o"))
    ledger.close()
    assert sorted(map(int, request_ids(ledger.path))) == list(range(700))
    assert [row["attempts"] for row in ledger.summary("model")] == [699, 1]
    assert hours_that_differ(ledger.path) == 0


def test_clearing_away_makes_the_file_smaller_if_nobody_uses_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "usage.db")
    for number in range(5_000):
        ledger.record(attempt(request_id=str(number), tags={"note": "x" * 200}))
    assert ledger.flush(30)
    assert "uses it" in compact(ledger.path, START).kept_size
    ledger.record(attempt(at=START, request_id="new"))
    ledger.close()
    ledger.record(attempt(at=START + 2 * HOUR))
    assert ledger.flush(30)
    ledger.close()
    size = ledger.path.stat().st_size
    done = compact(ledger.path, START + HOUR)
    assert done.kept_size == ""
    assert ledger.path.stat().st_size == size - done.freed < size / 2


def test_others_write_while_old_rows_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "_AT_ONCE", 50)
    path = tmp_path / "usage.db"
    ledger = Ledger(path)
    for number in range(3_000):
        ledger.record(attempt(request_id=str(number)))
    ledger.close()
    script = """
        import sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1], on_trouble=lambda problem, waiting: print("trouble", problem))
        for number in range(100):
            ledger.record(attempt(at=1_790_000_000.0, request_id=f"new {number}"))
            assert ledger.flush(30)
            if number == 0:
                print("ready", flush=True)
    """
    process = start(script, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert compact(path, START).deleted == 3_000
    assert process.communicate(timeout=60) == ("", "")
    assert sorted(request_ids(path)) == sorted(f"new {number}" for number in range(100))
    assert check(path) == []


def test_a_file_that_does_not_add_up_is_seen(ledger: Ledger) -> None:
    ledger.close()
    assert check(ledger.path) == []
    with database.writing(ledger.path) as connection:
        connection.execute("update hours set attempts = attempts - 1 where hour = ?", (START,))
    (problem,) = check(ledger.path)
    assert problem == "the sums of the hour from 2026-09-21T14:00Z are not those of its attempts"


def test_a_damaged_file_is_seen(ledger: Ledger) -> None:
    ledger.close()
    data = bytearray(ledger.path.read_bytes())
    data[-4096:-3896] = b"\xff" * 200
    ledger.path.write_bytes(bytes(data))
    assert check(ledger.path)


def test_there_is_nothing_to_do_where_there_is_no_file(tmp_path: Path) -> None:
    assert compact(tmp_path / "usage.db", START).deleted == 0
    assert check(tmp_path / "usage.db") == []
    assert not list(tmp_path.iterdir())
