"""Whose resources are, in the file: what is found again, what goes, and several processes."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from keyrouter_openai import Key
from keyrouter_openai.core.memory import LearnedAccount, LearnedOwner
from keyrouter_openai.ledger import Ledger, Registry, owners

from .support import attempt, request_ids, run, start

DAY = 86400.0


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "usage.db")


def an_owner(id: str = "file-1", *, key: str = "a", account: str = "acme", ago: float = 0.0) -> LearnedOwner:
    return LearnedOwner(id, key, account, time.time() - ago)


def remembered(ledger: Ledger, *values: LearnedOwner, pool: str = "team") -> set[str]:
    """What is found of these once they are in the file."""
    ledger.remember(pool, values)
    assert ledger.flush()
    return set(ledger.owners(pool, [value.id for value in values]))


def test_an_owner_is_found_again_in_its_pool_alone(ledger: Ledger) -> None:
    file, response = an_owner(), an_owner("resp_1", key="b", account="other")
    assert remembered(ledger, file, response) == {"file-1", "resp_1"}
    ledger.close()
    again = Ledger(ledger.path)
    assert again.owners("team", ["file-1", "resp_1", "file-2"]) == {"file-1": file, "resp_1": response}
    assert again.owners("other", ["file-1"]) == {}
    assert again.owners("team", []) == {}


def test_owners_are_not_recalled_at_the_start(ledger: Ledger) -> None:
    account = LearnedAccount("a", "acme", "", time.time())
    ledger.remember("team", [account, an_owner()])
    assert ledger.flush()
    assert ledger.recall("team") == (account,)


def test_the_latest_word_stands(ledger: Ledger) -> None:
    old, new = an_owner(key="old", ago=10), an_owner(key="new")
    for values in ((old, new), (new, old)):
        ledger.remember("team", values)
        assert ledger.flush()
        assert ledger.owners("team", ["file-1"]) == {"file-1": new}


def test_many_ids_at_once(ledger: Ledger) -> None:
    many = [an_owner(f"file-{number}") for number in range(1234)]
    assert len(remembered(ledger, *many)) == 1234


def test_responses_are_forgotten_after_30_days_and_files_are_not(ledger: Ledger) -> None:
    old = [an_owner(id, ago=31 * DAY) for id in ("file-1", "resp_1", "msg_1")]
    remembered(ledger, *old)
    ledger.close()
    again = Ledger(ledger.path)
    assert remembered(again, an_owner("resp_2")) == {"resp_2"}
    assert set(again.owners("team", ["file-1", "resp_1", "msg_1"])) == {"file-1"}


def test_a_clock_that_was_ahead_does_no_lasting_harm(ledger: Ledger) -> None:
    remembered(ledger, an_owner(key="wrong", ago=-DAY))
    ledger.close()
    right = an_owner()
    remembered(ledger, right)
    assert ledger.owners("team", ["file-1"]) == {"file-1": right}


def test_of_each_pool_the_oldest_go_where_there_are_too_many(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "MOST", 20)
    monkeypatch.setattr(owners, "SWEEP_EVERY", 10)
    files = [an_owner(f"file-{number}") for number in range(5)]
    remembered(ledger, *files)
    remembered(ledger, *files, pool="other")
    for number in range(100):
        remembered(ledger, an_owner(f"resp_{number}"))
    found = ledger.owners("team", [f"resp_{number}" for number in range(100)])
    assert 20 <= len(found) <= 31
    assert f"resp_{99}" in found
    assert "resp_0" not in found
    ids = [file.id for file in files]
    assert len(ledger.owners("team", ids)) == len(ledger.owners("other", ids)) == 5, "what lasts is not crowded out"


def test_a_removed_key_leaves_what_its_account_owns(ledger: Ledger) -> None:
    registry = Registry(ledger.path)
    registry.add("team", Key(name="a"))
    shared, own, other = an_owner("file-1"), an_owner("file-2", account="key:a"), an_owner("file-3", key="b")
    remembered(ledger, shared, own, other)
    registry.remove("team", "a")
    found = ledger.owners("team", ["file-1", "file-2", "file-3"])
    assert found == {"file-1": replace(shared, key=""), "file-3": other}


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_file_is_read_as_it_is_and_brought_up_to_date_when_written(tmp_path: Path, version: int) -> None:
    path = tmp_path / "usage.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(Path(__file__).with_name("version_1.sql").read_text())
        if version == 2:
            connection.executescript(VERSION_2)
    before = path.read_bytes()
    ledger = Ledger(path)
    assert ledger.owners("team", ["file-1"]) == {}
    assert path.read_bytes() == before
    assert remembered(ledger, an_owner()) == {"file-1"}
    ledger.record(attempt(request_id="r3"))
    ledger.close()
    assert request_ids(path) == ["r1", "r2", "r3"]
    if version == 2:
        assert [value.account for value in ledger.recall("team")] == ["acme"]


# What version 2 has beside version 1, as it wrote it.
VERSION_2 = """
    CREATE TABLE "learned_limits" (
       "pool" TEXT NOT NULL, "account" TEXT NOT NULL, "family" TEXT NOT NULL, "dimension" TEXT NOT NULL,
       "period" REAL NOT NULL, "limit" REAL NOT NULL, "burst" REAL NOT NULL, "level" REAL NOT NULL,
       "at" REAL NOT NULL, "guessed" INTEGER NOT NULL,
       PRIMARY KEY ("pool", "account", "family", "dimension", "period")
    );
    CREATE TABLE "learned_accounts" (
       "pool" TEXT NOT NULL, "key" TEXT NOT NULL, "account" TEXT NOT NULL, "evidence" TEXT NOT NULL,
       "at" REAL NOT NULL, PRIMARY KEY ("pool", "key")
    );
    INSERT INTO learned_accounts VALUES ('team', 'a', 'acme', '', unixepoch());
    INSERT INTO _sqlite_migrations VALUES (2, 'keyrouter_openai', 'learned_limits_and_accounts', '2026-11-25');
    PRAGMA user_version = 2;
"""


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
    assert Ledger(path).owners("team", ["file-1"]) == {}
    assert "owners in pool 'team' cannot be read: ledger" in caplog.text
    assert problem in caplog.text


def test_nothing_is_found_where_there_is_no_file_and_none_is_made(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "new" / "usage.db").owners("team", ["file-1"]) == {}
    assert not list(tmp_path.iterdir())


def test_several_processes_share_the_file(tmp_path: Path) -> None:
    script = """
        import sys, time
        from keyrouter_openai.core.memory import LearnedOwner
        from keyrouter_openai.ledger import Ledger
        ledger = Ledger(sys.argv[1], on_trouble=lambda problem, waiting: print("trouble", problem, file=sys.stderr))
        for number in range(100):
            ledger.remember("team", [LearnedOwner(f"file-{sys.argv[2]}{number}", sys.argv[2], "acme", time.time())])
            if number % 10 == 0:
                assert ledger.flush(30)
        ledger.close()
    """
    path = tmp_path / "usage.db"
    processes = [start(script, path, name) for name in "abc"]
    assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 3
    found = Ledger(path).owners("team", [f"file-{name}{number}" for name in "abc" for number in range(100)])
    assert len(found) == 300
    assert all(owner.key in id for id, owner in found.items())


def test_a_process_that_is_killed_after_a_flush_loses_nothing(tmp_path: Path) -> None:
    script = """
        import os, signal, sys, time
        from keyrouter_openai.core.memory import LearnedOwner
        from keyrouter_openai.ledger import Ledger
        ledger = Ledger(sys.argv[1])
        ledger.remember("team", [LearnedOwner("file-1", "a", "acme", time.time())])
        assert ledger.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "usage.db"
    run(script, path, check=False)
    assert set(Ledger(path).owners("team", ["file-1"])) == {"file-1"}
