"""Attempts go in and come out again, and what they add up to."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import tzset

import pytest

from keyrouter_openai.core.model import Attempt, Fault, Usage
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.ledger import Ledger, screens

from .support import attempt

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "usage.db")
    yield ledger
    ledger.close()


@pytest.fixture
def tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is nine hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    tzset()
    yield
    monkeypatch.undo()
    tzset()


def ids(rows: list[dict[str, object]]) -> list[object]:
    return [row["request_id"] for row in rows]


def test_every_field_of_an_attempt_comes_back(ledger: Ledger) -> None:
    full = Attempt(
        at=1.5,
        request_id="r9",
        number=2,
        pool="team",
        key="a",
        account="acme",
        provider="groq",
        endpoint="/files/{id}",
        outcome=Fault.RATE_LIMIT,
        model="gpt-4o",
        served_model="gpt-4o-2024",
        status=429,
        detail="slow_down",
        stream=True,
        usage=Usage(
            prompt=7,
            completion=6,
            cached=5,
            cache_written=4,
            reasoning=3,
            audio=2,
            audio_answer=1,
            image=7,
            image_answer=1,
            estimated=True,
        ),
        cost_microusd=1234,
        price_source="provider",
        service_tier="flex",
        first_byte_s=0.25,
        seconds=0.5,
        waited_s=0.125,
        provider_request_id="req_1",
        tags={"tenant": 'Ö "1"'},
    )
    ledger.record(full)
    (row,) = ledger.attempts()
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 6,
        "cached_tokens": 5,
        "cache_written_tokens": 4,
        "reasoning_tokens": 3,
        "audio_tokens": 3,
        "image_tokens": 8,
        "usage_estimated": True,
    }
    plain = {name: value for name, value in full._asdict().items() if name not in ("usage", "budgets")}
    assert row == plain | usage
    assert row["stream"] is True
    assert row["usage_estimated"] is True


def test_what_is_not_known_is_none(ledger: Ledger) -> None:
    ledger.record(attempt())
    (row,) = ledger.attempts()
    assert {name for name, value in row.items() if value is None} == {
        *("model", "served_model", "status", "first_byte_s", "provider_request_id"),
        *("prompt_tokens", "completion_tokens", "cached_tokens", "cache_written_tokens"),
        *("reasoning_tokens", "audio_tokens", "image_tokens", "usage_estimated"),
        *("cost_microusd", "price_source", "service_tier"),
    }
    assert row["tags"] == {}


def test_attempts_are_ordered_and_filtered(ledger: Ledger) -> None:
    ledger.record(attempt(request_id="1", at=1.0, key="a", account="x", model="m"))
    ledger.record(attempt(request_id="2", at=2.0, key="b", account="x", model="m"))
    ledger.record(attempt(request_id="3", at=2.0, key="b", account="y"))
    assert ids(ledger.attempts()) == ["3", "2", "1"]
    assert ids(ledger.attempts(newest_first=False)) == ["1", "2", "3"]
    assert ids(ledger.attempts(limit=2)) == ["3", "2"]
    assert ids(ledger.attempts(key="b", account="x")) == ["2"]
    assert ids(ledger.attempts(model="m")) == ["2", "1"]
    assert ids(ledger.attempts(since=2)) == ["3", "2"]
    assert ids(ledger.attempts(until=2)) == ["1"], "until is not included"


@pytest.mark.usefixtures("tokyo")
@pytest.mark.parametrize(
    "noon",
    [
        NOON,
        NOON.timestamp(),
        datetime(2026, 3, 1, 21),  # naive: local
        datetime(2026, 3, 1, 7, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_moments_are_datetimes_or_seconds(ledger: Ledger, noon: datetime | float) -> None:
    for seconds in (-1, 0, 1):
        ledger.record(attempt(request_id=str(seconds), at=NOON.timestamp() + seconds))
    assert ids(ledger.attempts(since=noon)) == ["1", "0"]
    assert ids(ledger.attempts(until=noon)) == ["-1"]
    (summed,) = ledger.summary("account", since=noon)
    assert summed["attempts"] == 2


@pytest.mark.usefixtures("tokyo")
def test_summary_by_day_goes_by_local_days(ledger: Ledger) -> None:
    ledger.record(attempt(at=datetime(2026, 3, 1, 14, 59, tzinfo=UTC).timestamp()))
    ledger.record(attempt(at=datetime(2026, 3, 1, 15, 0, tzinfo=UTC).timestamp()))
    assert [row["day"] for row in ledger.summary("day")] == ["2026-03-01", "2026-03-02"]


def test_summary_adds_up(ledger: Ledger) -> None:
    usage = Usage(prompt=100, completion=20, cached=60)
    ledger.record(attempt(usage=usage, cost_microusd=1_500_000))
    ledger.record(attempt(usage=usage, cost_microusd=1))
    ledger.record(attempt(outcome=Fault.RATE_LIMIT))
    assert ledger.summary("key") == [
        {
            "pool": "default",
            "key": "a",
            "attempts": 3,
            "succeeded": 2,
            "failed": 1,
            "prompt_tokens": 200,
            "cached_tokens": 120,
            "completion_tokens": 40,
            "cost_usd": 1.500001,
            "unpriced": 0,
        }
    ]


def test_an_unknown_sum_is_none_and_never_zero(ledger: Ledger) -> None:
    ledger.record(attempt(key="free", usage=Usage(prompt=5), cost_microusd=0))
    ledger.record(attempt(key="unknown", outcome=Fault.NETWORK))
    free, unknown = ledger.summary("key")
    assert (free["prompt_tokens"], free["cost_usd"]) == (5, 0.0)
    assert (unknown["prompt_tokens"], unknown["cost_usd"]) == (None, None)


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("account", ["x", "y"]),
        ("provider", ["groq", "openai"]),
        ("model", [None, "gpt-4o"]),
        ("outcome", ["network", "ok"]),
        ("tag:tenant", [None, "t1"]),
        ('tag:odd "name" $.', [None, "t2"]),
    ],
)
def test_summary_groups(ledger: Ledger, by: str, groups: list[str | None]) -> None:
    ledger.record(attempt(account="x", model="gpt-4o", tags={"tenant": "t1", 'odd "name" $.': "t2", "key": "t3"}))
    ledger.record(attempt(account="y", provider="groq", outcome=Fault.NETWORK))
    rows = ledger.summary(by)
    assert [row[by] for row in rows] == groups
    assert [row["attempts"] for row in rows] == [1, 1]


def test_keys_of_one_name_in_two_pools_are_two_keys(ledger: Ledger) -> None:
    ledger.record(attempt(pool="one"))
    ledger.record(attempt(pool="two"))
    assert [(row["pool"], row["key"]) for row in ledger.summary("key")] == [("one", "a"), ("two", "a")]


@pytest.mark.parametrize("by", ["", "keys", "tag:", "at; drop table attempts"])
def test_a_summary_by_nothing_known_says_what_there_is(ledger: Ledger, by: str) -> None:
    with pytest.raises(ConfigError, match=r"use one of key, account, .*, or tag:NAME"):
        ledger.summary(by)


def test_a_ledger_without_a_file_is_empty_and_makes_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "new" / "usage.db")
    assert ledger.attempts() == []
    assert ledger.summary() == []
    assert ledger.flush()
    ledger.close()
    assert not list(tmp_path.iterdir())


def test_threads_record_at_once_and_nothing_is_lost(ledger: Ledger) -> None:
    def record(thread: int) -> None:
        for number in range(1_000):
            ledger.record(attempt(request_id=f"{thread}/{number}"))

    threads = [Thread(target=record, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{thread}/{number}" for thread in range(8) for number in range(1_000)}
    rows = ids(ledger.attempts())
    assert len(rows) == len(expected)
    assert set(rows) == expected


def test_a_closed_ledger_records_on(ledger: Ledger) -> None:
    for number in range(3):
        ledger.record(attempt(request_id=str(number)))
        ledger.close()
        ledger.close()
    assert ids(ledger.attempts()) == ["2", "1", "0"]


def test_values_that_sqlite_refuses_cost_no_attempt(ledger: Ledger) -> None:
    ledger.record(attempt(request_id="before"))
    ledger.record(attempt(request_id="surrogate", model="half \ud83d", tags={"n": 5}))
    ledger.record(attempt(request_id="huge", usage=Usage(prompt=2**70, completion=1)))
    ledger.record(attempt(request_id="object", model=Path("gpt")))
    ledger.record(attempt(request_id="after"))
    rows = {row["request_id"]: row for row in ledger.attempts()}
    assert list(rows) == ["after", "object", "huge", "surrogate", "before"]
    assert (rows["surrogate"]["model"], rows["surrogate"]["tags"]) == ("half ?", {"n": "5"})
    assert (rows["huge"]["prompt_tokens"], rows["huge"]["completion_tokens"]) == (None, 1)
    assert rows["object"]["model"] == "gpt"


def test_what_has_no_price_yet_is_priced_before_it_is_written(ledger: Ledger) -> None:
    ledger.pricing = lambda attempt: attempt._replace(cost_microusd=7, price_source="late")
    ledger.record(attempt(request_id="priced late", usage=Usage(prompt=1)))
    ledger.record(attempt(request_id="priced", usage=Usage(prompt=1), cost_microusd=5, price_source="soon"))
    ledger.record(attempt(request_id="unknown", usage=Usage(prompt=1), price_source="unknown"))
    ledger.record(attempt(request_id="nothing used"))
    assert [(row["cost_microusd"], row["price_source"]) for row in ledger.attempts(newest_first=False)] == [
        (7, "late"),
        (5, "soon"),
        (None, "unknown"),
        (None, None),
    ]


def test_work_is_one_transaction_undone_if_it_raises(ledger: Ledger) -> None:
    def insert(connection: sqlite3.Connection, *, fails: bool) -> str:
        connection.execute("insert into budgets (id, declaration, at) values ('b', '{}', 0)")
        if fails:
            raise LookupError
        return "done"

    with pytest.raises(LookupError):
        ledger.run(lambda connection: insert(connection, fails=True)).result(30)
    assert ledger.run(lambda connection: insert(connection, fails=False)).result(30) == "done"


def test_work_on_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(ConfigError, match="is a folder"):
        ledger.run(lambda connection: connection.execute("select 1")).result(30)
    ledger.close()


def test_a_snapshot_is_shown_while_somebody_watches(ledger: Ledger) -> None:
    def shown() -> list[object]:
        found = ledger.run(lambda connection: connection.execute("select holder, status from live").fetchall())
        return list(found.result(30))

    snapshots = SimpleQueue[str]()
    ledger.snapshot = lambda: snapshots.put("taken") or "all is well"
    ledger.record(attempt())
    assert ledger.flush(30)
    assert shown() == []
    screens.watch(ledger.path, time.time() + 60)
    ledger.record(attempt())
    snapshots.get(timeout=30)
    snapshots.get(timeout=30)
    assert shown() == [(ledger.holder, "all is well")]
    ledger.close()
    assert shown() == []
