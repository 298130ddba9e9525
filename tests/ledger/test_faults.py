"""What can go wrong around the file: no call fails, no attempt is lost silently."""

from __future__ import annotations

import gc
import logging
import signal
import sqlite3
import threading
import weakref
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import pytest

from keyrouter_openai.ledger import Ledger, backlog, database, writer
from keyrouter_openai.ledger.appender import Appender

from .support import attempt, request_ids, run, start

WAIT = 30.0
"""Seconds after which a test gives up waiting for something that should come at once."""


def wait_for_threads() -> None:
    """Wait until no ledger has a thread."""
    while threads := [thread for thread in threading.enumerate() if thread.name == "keyrouter-ledger"]:
        threads[0].join(WAIT)
        assert not threads[0].is_alive()


class Troubles:
    """Receives what a ledger says, and waits for it."""

    def __init__(self) -> None:
        self._said: SimpleQueue[tuple[str, int]] = SimpleQueue()

    def __call__(self, problem: str, waiting: int) -> None:
        self._said.put((problem, waiting))

    def next(self) -> tuple[str, int]:
        return self._said.get(timeout=WAIT)

    def no_more(self) -> bool:
        return self._said.empty()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked file counts as trouble soon."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)


def test_a_locked_file_is_said_once_and_written_when_it_is_free(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    troubles = Troubles()
    ledger = Ledger(tmp_path / "usage.db", on_trouble=troubles)
    ledger.record(attempt(request_id="1"))
    assert ledger.flush(WAIT)
    with closing(sqlite3.connect(ledger.path)) as other:
        other.execute("begin immediate")
        ledger.record(attempt(request_id="2"))
        problem, waiting = troubles.next()
        assert "database is locked: another program keeps the file locked: close it" in problem
        assert waiting == 1
        ledger.record(attempt(request_id="3"))
        assert not ledger.flush(0.2)
        assert not ledger.flush(0.2)
        assert troubles.no_more(), "said once"
    assert ledger.flush(WAIT)
    assert troubles.next() == ("", 0)
    ledger.close()
    assert request_ids(ledger.path) == ["1", "2", "3"]
    assert troubles.no_more()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "2 attempts" not in caplog.text.splitlines()[1]


def test_a_file_that_cannot_be_made_is_said_and_made_when_it_can_be(tmp_path: Path) -> None:
    obstacle = tmp_path / "data"
    obstacle.write_text("a file where the folder should be")
    troubles = Troubles()
    ledger = Ledger(obstacle / "usage.db", on_trouble=troubles)
    ledger.record(attempt())
    assert "data is no folder" in troubles.next()[0]
    obstacle.unlink()
    assert ledger.flush(WAIT)
    assert troubles.next() == ("", 0)
    assert request_ids(ledger.path) == ["r1"]
    ledger.close()


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("pragma user_version = 7")
    troubles = Troubles()
    ledger = Ledger(path, on_trouble=troubles)
    ledger.record(attempt())
    assert "newer keyrouter-openai (schema 7" in troubles.next()[0]
    ledger.close()
    with closing(sqlite3.connect(path)) as newer:
        assert newer.execute("select count(*) from sqlite_master").fetchone() == (0,)


@pytest.mark.parametrize("vanishes", ["file", "folder"])
def test_a_file_that_vanished_is_made_anew(tmp_path: Path, vanishes: str) -> None:
    ledger = Ledger(tmp_path / "data" / "usage.db")
    ledger.record(attempt(request_id="1"))
    assert ledger.flush(WAIT)
    for file in ledger.path.parent.iterdir():
        file.unlink()
    if vanishes == "folder":
        ledger.path.parent.rmdir()
    ledger.record(attempt(request_id="2"))
    assert ledger.flush(WAIT)
    assert request_ids(ledger.path) == ["2"]
    ledger.close()


def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    # The limit on the size of a file stands for the disk: SQLite's writes fail for real.
    script = """
        import resource, sys, threading
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        troubled = threading.Event()
        def on_trouble(problem, waiting):
            print(problem or "over", flush=True)
            troubled.set()
        ledger = Ledger(sys.argv[1], on_trouble=on_trouble)
        ledger.record(attempt(request_id="first"))
        assert ledger.flush(30)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
        for number in range(3_000):
            ledger.record(attempt(request_id=str(number)))
        assert troubled.wait(30)
        assert not ledger.flush(0.1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert ledger.flush(30)
    """
    path = tmp_path / "usage.db"
    problem, over = run(script, path).stdout.splitlines()
    assert "disk" in problem
    assert over == "over"
    assert request_ids(path) == ["first", *map(str, range(3_000))]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_waiting_attempts_are_bounded_and_the_newest_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_LONGEST_PAUSE_S", 0.1)  # taking all these attempts may outlast many a pause
    obstacle = tmp_path / "data"
    obstacle.write_text("a file where the folder should be")
    troubles = Troubles()
    ledger = Ledger(obstacle / "usage.db", on_trouble=troubles)
    recorded = backlog.MAX_WAITING + 5_000
    ledger.record(attempt(request_id="0"))
    assert troubles.next()[0]
    for number in range(1, recorded):
        ledger.record(attempt(request_id=str(number)))
    problem, _ = troubles.next()
    assert "the oldest attempts are dropped now, beyond 100,000" in problem
    obstacle.unlink()
    assert ledger.flush(WAIT)
    assert troubles.next()[0] == ""
    assert troubles.no_more()
    ledger.close()
    kept = request_ids(ledger.path)
    dropped = recorded - len(kept)
    assert dropped > 0
    assert kept == [str(number) for number in range(dropped, recorded)]
    assert f"{dropped} attempts were dropped" in caplog.text


def test_closing_in_trouble_ends_soon_and_says_what_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    obstacle = tmp_path / "data"
    obstacle.write_text("a file where the folder should be")
    ledger = Ledger(obstacle / "usage.db")
    ledger.record(attempt(request_id="1"))
    ledger.close(WAIT)
    assert "closed with 1 rows not written" in caplog.text
    obstacle.unlink()
    ledger.record(attempt(request_id="2"))
    ledger.close(WAIT)
    assert request_ids(ledger.path) == ["1", "2"]


def test_several_processes_write_one_file(tmp_path: Path) -> None:
    script = """
        import sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1], on_trouble=lambda problem, waiting: print("trouble", problem))
        for number in range(5_000):
            ledger.record(attempt(request_id=f"{sys.argv[2]}/{number}"))
            if number % 50 == 0:
                assert ledger.flush(30)
    """
    path = tmp_path / "usage.db"
    processes = [start(script, path, name) for name in "abc"]
    assert [process.communicate(timeout=60) for process in processes] == [("", "")] * 3
    assert sorted(request_ids(path)) == sorted(f"{name}/{number}" for name in "abc" for number in range(5_000))


def test_a_killed_process_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    script = """
        import sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        for number in range(1_000_000):
            ledger.record(attempt(request_id=str(number)))
            if number % 10 == 0:
                assert ledger.flush(30)
                print(number, flush=True)
    """
    path = tmp_path / "usage.db"
    process = start(script, path)
    assert process.stdout is not None
    for _ in range(100):
        process.stdout.readline()
    process.kill()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    flushed = int(out.splitlines()[-1] if out.splitlines() else 990)
    assert request_ids(path)[: flushed + 1] == list(map(str, range(flushed + 1)))


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)", "raise ValueError"])
def test_a_process_that_ends_by_itself_loses_nothing(tmp_path: Path, ending: str) -> None:
    script = f"""
        import sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        for number in range(500):
            ledger.record(attempt(request_id=str(number)))
        {ending}
    """
    path = tmp_path / "usage.db"
    run(script, path, check=False)
    assert request_ids(path) == list(map(str, range(500)))


def test_forked_children_and_their_parent_write_each_attempt_once(tmp_path: Path) -> None:
    # The parent forks in the midst of writing; children write while it goes on, and outlive its connection.
    script = """
        import os, sys, threading
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1], on_trouble=lambda problem, waiting: print("trouble", problem, flush=True))
        stop = threading.Event()
        def parent():
            number = 0
            while not stop.is_set():
                ledger.record(attempt(request_id=f"parent/{number}"))
                number += 1
                if number % 20 == 0:
                    ledger.flush(30)
            print(number)
        recorder = threading.Thread(target=parent)
        recorder.start()
        children = []
        for child in range(10):
            pid = os.fork()
            if pid == 0:
                for number in range(100):
                    ledger.record(attempt(request_id=f"{child}/{number}"))
                    if number % 10 == 0 and not ledger.flush(30):
                        os._exit(1)
                ledger.close()
                os._exit(0)
            children.append(pid)
        statuses = [os.waitpid(pid, 0)[1] for pid in children]
        stop.set()
        recorder.join()
        assert statuses == [0] * 10, statuses
        ledger.close()
    """
    path = tmp_path / "usage.db"
    done = run(script, path)
    by_parent = int(done.stdout)
    expected = [f"parent/{number}" for number in range(by_parent)]
    expected += [f"{child}/{number}" for child in range(10) for number in range(100)]
    assert sorted(request_ids(path)) == sorted(expected)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)


def test_a_forked_child_outlives_its_parents_connection(tmp_path: Path) -> None:
    # Closing the last connection deletes the -wal file. The parent must see that the child has it open.
    script = """
        import os, sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        ledger.record(attempt(request_id="parent"))
        assert ledger.flush(30)
        (from_child, to_parent), (from_parent, to_child) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            ledger.record(attempt(request_id="child 1"))
            assert ledger.flush(30)
            os.write(to_parent, b"1")
            os.read(from_parent, 1)
            ledger.record(attempt(request_id="child 2"))
            assert ledger.flush(30)
            os._exit(0)
        os.read(from_child, 1)
        ledger.close()
        os.write(to_child, b"1")
        assert os.waitpid(pid, 0)[1] == 0
    """
    path = tmp_path / "usage.db"
    run(script, path)
    assert request_ids(path) == ["parent", "child 1", "child 2"]


def test_an_attempt_that_comes_while_the_thread_ends_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_IDLE_S", 0.01)
    ledger = Ledger(tmp_path / "usage.db")
    close = Appender.close
    late = [attempt(request_id="late")]

    def close_slowly(appender: Appender) -> None:
        if late:
            ledger.record(late.pop())
        close(appender)

    monkeypatch.setattr(Appender, "close", close_slowly)
    ledger.record(attempt(request_id="early"))
    wait_for_threads()
    assert request_ids(ledger.path) == ["early", "late"]


def test_where_no_thread_can_be_had_flush_and_close_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(writer, "Thread", NoThread)
    ledger = Ledger(tmp_path / "usage.db")
    ledger.record(attempt(request_id="1"))
    assert ledger.flush()
    assert request_ids(ledger.path) == ["1"]
    ledger.record(attempt(request_id="2"))
    ledger.close()
    assert request_ids(ledger.path) == ["1", "2"]


def test_an_idle_ledger_ends_its_thread_and_can_be_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_IDLE_S", 0.01)
    ledger = Ledger(tmp_path / "usage.db")
    assert threading.active_count() == 1, "a ledger that was never used has no thread"
    for number in range(3):
        ledger.record(attempt(request_id=str(number)))
        wait_for_threads()
    assert request_ids(tmp_path / "usage.db") == ["0", "1", "2"]
    assert not (tmp_path / "usage.db-wal").exists(), "the file is closed"
    ledger.close()
    assert [file.name for file in tmp_path.iterdir()] == ["usage.db"]
    forgotten = weakref.ref(ledger)
    del ledger
    gc.collect()
    assert forgotten() is None
