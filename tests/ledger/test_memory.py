"""What was learned is there after a restart, whoever learned it; and no more than that."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest

from keyrouter_openai.core.memory import Learned, LearnedAccount, LearnedLimit
from keyrouter_openai.core.model import DAY, MINUTE, Dimension
from keyrouter_openai.keys import Key
from keyrouter_openai.ledger import Ledger, Registry, database

from .support import attempt, request_ids, run, start

VERSION_1 = Path(__file__).with_name("version_1.sql")
MONTH = 30 * DAY


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "usage.db")
    yield ledger
    ledger.close()


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A file of version 1, with two keys and two attempts."""
    path = tmp_path / "usage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1.read_text())
    return path


def a_limit(*, ago: float = 0.0, account: str = "acme", limit: float = 500.0) -> LearnedLimit:
    return LearnedLimit(
        account=account,
        family="gpt-4o",
        dimension=Dimension.REQUESTS,
        period=MINUTE,
        limit=limit,
        burst=8.5,
        level=-1.5,
        at=time.time() - ago,
    )


def an_account(*, ago: float = 0.0, key: str = "a", account: str = "acme") -> LearnedAccount:
    return LearnedAccount(key=key, account=account, evidence="openai-organization header", at=time.time() - ago)


def remembered(ledger: Ledger, *values: Learned, pool: str = "team") -> tuple[Learned, ...]:
    """What another ledger finds in the file after this one took `values`."""
    ledger.remember(pool, values)
    assert ledger.flush()
    return Ledger(ledger.path).recall(pool)


def columns(path: Path, sql: str) -> list[object]:
    """The first column of a query, by nothing but sqlite3."""
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute(sql)]


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    script = """
        import sys, time
        from keyrouter_openai.core.memory import LearnedAccount, LearnedLimit
        from keyrouter_openai.core.model import Dimension
        from keyrouter_openai.ledger import Ledger
        at = time.time()
        values = [
            LearnedLimit("acme", "gpt-4o", Dimension.TOKENS, 86400.0, 1e6, 12.5, -3.25, at),
            LearnedLimit("key:a", "", Dimension.REQUESTS, 60.0, 90.0, 3.0, 0.5, at, guessed=True),
            LearnedAccount("a", "acme", "openai-organization header", at),
        ]
        ledger = Ledger(sys.argv[1])
        print(ledger.recall("team"))
        ledger.remember("team", values)
        print((values[2], values[0], values[1]))  # accounts come first
    """
    path = tmp_path / "usage.db"
    before, expected = run(script, path).stdout.splitlines()
    assert before == "()"
    assert repr(Ledger(path).recall("team")) == expected


def test_a_later_value_replaces_an_earlier_one_and_never_the_other_way(ledger: Ledger) -> None:
    old, new = a_limit(ago=60, limit=500), a_limit(ago=30, limit=1000)
    was, found = an_account(ago=60), an_account(ago=30, account="other")
    assert remembered(ledger, old, was) == (was, old)
    assert remembered(ledger, new, found) == (found, new)
    assert remembered(ledger, old, was) == (found, new), "another process was slow to write"
    assert remembered(ledger, replace(new, guessed=True)) == (found, replace(new, guessed=True)), "at the same time"


def test_limits_that_differ_in_anything_are_kept_apart(ledger: Ledger) -> None:
    base = a_limit()
    others = (
        replace(base, account="other"),
        replace(base, family=""),
        replace(base, dimension=Dimension.TOKENS),
        replace(base, period=DAY),
    )
    assert set(remembered(ledger, base, *others)) == {base, *others}
    assert remembered(ledger, an_account(key="b"), pool="other") == Ledger(ledger.path).recall("other")
    assert set(Ledger(ledger.path).recall("team")) == {base, *others}, "pools have nothing to do with each other"


def test_values_wait_for_a_locked_file_one_for_each_subject(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    told: list[int] = []

    def on_trouble(problem: str, waiting: int) -> None:
        told.append(waiting)

    ledger.on_trouble = on_trouble
    ledger.record(attempt(request_id="1"))
    assert ledger.flush()
    newest = a_limit()
    with closing(sqlite3.connect(ledger.path)) as other:
        other.execute("begin immediate")
        ledger.record(attempt(request_id="2"))
        ledger.remember("team", [a_limit(ago=10, limit=1), newest, a_limit(ago=20, limit=2)])
        ledger.remember("team", [a_limit(ago=15, limit=3)])
        assert not ledger.flush(0.3)
        assert ledger.recall("team") == (), "reading goes on"
    assert ledger.flush(30)
    assert told == [2, 0]
    assert ledger.recall("team") == (newest,)
    assert request_ids(ledger.path) == ["1", "2"]


def test_what_is_old_is_forgotten(ledger: Ledger) -> None:
    old, recent = a_limit(ago=MONTH + 60), a_limit(ago=MONTH - 60, account="other")
    assert remembered(ledger, old, recent, an_account(ago=MONTH + 60)) == (recent,)
    ledger.close()
    assert remembered(ledger, an_account(key="b")) == (*Ledger(ledger.path).recall("team")[:1], recent)
    assert columns(ledger.path, "select account from learned_limits") == ["other"], "the file does not grow for ever"
    assert columns(ledger.path, "select key from learned_accounts") == ["b"]


def test_a_clock_that_was_ahead_does_no_lasting_harm(ledger: Ledger) -> None:
    assert remembered(ledger, a_limit(ago=-DAY, limit=1), an_account(ago=-DAY, account="wrong")) == ()
    ledger.close()
    right, found = a_limit(limit=2), an_account()
    assert remembered(ledger, right, found) == (found, right)


def test_values_that_sqlite_refuses_hold_up_nothing(ledger: Ledger) -> None:
    good, endless = a_limit(), replace(a_limit(account="endless"), burst=inf)
    ledger.record(attempt())
    found = remembered(
        ledger,
        replace(a_limit(account="none"), level=nan),
        replace(a_limit(account="huge"), limit=2**70),
        a_limit(account="half \ud83d"),
        endless,
        good,
    )
    assert {value.account for value in found} == {"acme", "endless", "half ?"}
    assert {good, endless} <= set(found)
    assert request_ids(ledger.path) == ["r1"]


def test_a_limit_of_a_kind_that_another_version_knows_is_passed_over(ledger: Ledger) -> None:
    remembered(ledger, a_limit(account="other"))
    with closing(sqlite3.connect(ledger.path)) as connection, connection:
        connection.execute("update learned_limits set dimension = 'images'")
    known = a_limit()
    assert remembered(ledger, known) == (known,)


def test_nothing_is_recalled_where_there_is_no_file_and_none_is_made(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "new" / "usage.db").recall("team") == ()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("problem", ["is not a database", "newer keyrouter-openai"])
def test_a_file_that_cannot_be_read_is_said_and_harms_nothing(
    tmp_path: Path, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.db"
    if problem == "is not a database":
        path.write_text("at,key,model\n" * 100)
    else:
        with closing(sqlite3.connect(path)) as newer:
            newer.execute("pragma user_version = 7")
    assert Ledger(path).recall("team") == ()
    assert "what was learned of pool 'team' cannot be read: ledger" in caplog.text
    assert problem in caplog.text


def test_a_file_of_version_1_is_read_as_it_is(version_1: Path) -> None:
    before = version_1.read_bytes()
    ledger = Ledger(version_1)
    assert ledger.recall("team") == ()
    assert [row["request_id"] for row in ledger.attempts()] == ["r2", "r1"]
    assert [key.name for key in Registry(version_1).keys("team")] == ["a", "b"]
    assert version_1.read_bytes() == before


def test_a_file_of_version_1_is_brought_up_to_date_and_keeps_what_is_in_it(version_1: Path, ledger: Ledger) -> None:
    learned = a_limit()
    assert remembered(ledger, learned) == (learned,)
    ledger.record(attempt(request_id="r3"))
    rows = {row["request_id"]: row for row in ledger.attempts()}
    assert set(rows) == {"r1", "r2", "r3"}
    assert (rows["r1"]["prompt_tokens"], rows["r1"]["tags"]) == (100, {"tenant": "t1"})
    assert Registry(version_1).keys("team") == [
        Key(name="a", account="acme", models=("gpt-4o*",)),
        Key(name="b", provider="groq", enabled=False),
    ]
    assert columns(version_1, "pragma user_version") == [4]


def test_a_removed_key_takes_what_was_learned_of_it_along(ledger: Ledger) -> None:
    registry = Registry(ledger.path)
    registry.add("team", Key(name="a"))
    shared, other = a_limit(), an_account(key="b")
    remembered(ledger, an_account(key="a"), a_limit(account="key:a"), shared, other)
    registry.remove("team", "a")
    assert ledger.recall("team") == (other, shared)


def test_of_several_processes_the_latest_word_stands(tmp_path: Path) -> None:
    script = """
        import sys, time
        from dataclasses import replace
        from keyrouter_openai.core.memory import LearnedLimit
        from keyrouter_openai.core.model import Dimension
        from keyrouter_openai.ledger import Ledger
        ledger = Ledger(sys.argv[1], on_trouble=lambda problem, waiting: print("trouble", problem, file=sys.stderr))
        for number in range(200):
            last = LearnedLimit("acme", "gpt-4o", Dimension.TOKENS, 60.0, number, 1.0, 1.0, time.time())
            ledger.remember("team", [last, replace(last, account=sys.argv[2])])
            if number % 10 == 0:
                assert ledger.flush(30)
        ledger.close()
        print(last.at)
    """
    path = tmp_path / "usage.db"
    processes = [start(script, path, name) for name in "abc"]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [err for _, err in outputs] == [""] * 3
    last = {name: float(out) for name, (out, _) in zip("abc", outputs, strict=True)}
    found = {value.account: value.at for value in Ledger(path).recall("team") if isinstance(value, LearnedLimit)}
    assert found == {**last, "acme": max(last.values())}


def test_a_forked_child_leaves_what_its_parent_learned_to_the_parent(tmp_path: Path) -> None:
    script = """
        import os, sys, time
        from keyrouter_openai.core.memory import LearnedAccount
        from keyrouter_openai.ledger import Ledger
        ledger = Ledger(sys.argv[1])
        ledger.remember("team", [LearnedAccount("parent", "acme", "", time.time())])
        pid = os.fork()
        if pid == 0:
            ledger.remember("team", [LearnedAccount("child", "acme", "", time.time())])
            ledger.close()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print("child" in {value.key for value in ledger.recall("team")})
        ledger.close()
    """
    path = tmp_path / "usage.db"
    assert run(script, path).stdout == "True\n"
    assert sorted(str(name) for name in columns(path, "select key from learned_accounts")) == ["child", "parent"]


def test_the_calls_of_each_hour_are_found_by_pool(ledger: Ledger) -> None:
    hour = time.time() // 3600 * 3600 - 7200
    for at in (hour, hour + 10, hour + 3600, hour - 15 * DAY):
        ledger.record(attempt(at=at, pool="team"))
    ledger.record(attempt(at=hour, pool="other"))
    ledger.flush()
    assert Ledger(ledger.path).calls_by_hour("team") == ((hour, 2.0), (hour + 3600, 1.0))


def test_no_calls_are_found_where_no_file_is(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "new" / "usage.db").calls_by_hour("team") == ()
    assert not (tmp_path / "new").exists()


def test_a_file_without_hours_has_no_calls_by_hour(version_1: Path) -> None:
    assert Ledger(version_1).calls_by_hour("default") == ()
