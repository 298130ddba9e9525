"""The journal: what has happened is on record whatever becomes of the process, and once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from keyrouter_openai.core.model import Attempt, Fault, Usage
from keyrouter_openai.ledger import Ledger, database, journal, records
from keyrouter_openai.ledger.records import Kind
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from killing import hours_that_differ, kill

from .support import attempt, request_ids, run, start

ESTIMATE = Usage(prompt=9, estimated=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderSimulator]:
    """A provider whose keys and address are in the environment."""
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        monkeypatch.setenv("OPENAI_API_KEYS", ",".join(sim.keys.values()))
        monkeypatch.setenv("OPENAI_BASE_URL", sim.url)
        yield sim


def journals(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if ".journal-" in file.name]


def leave(path: Path, source: str) -> None:
    """Have a process record and end without any farewell."""
    run(
        f"""
        import os, sys
        from keyrouter_openai.core.model import Fault, Usage
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        {source}
        os._exit(0)
        """,
        path,
    )


def outcomes(path: Path) -> list[tuple[object, object]]:
    return [(row["request_id"], row["outcome"]) for row in Ledger(path).attempts(newest_first=False)]


def test_what_reached_the_caller_is_on_record_after_kill_9(provider: ProviderSimulator, path: Path) -> None:
    killed = kill(path, kills=5, rng=Random(5))
    assert len(killed.printed) > 50
    assert killed.missing == set()
    assert killed.doubled == 0
    assert hours_that_differ(path) == 0
    assert len(killed.recorded) >= len(provider.calls), "each request that the provider has seen has a row"
    assert killed.abandoned, "some were under way"
    assert {(row["outcome"], row["usage_estimated"]) for row in killed.abandoned} == {("abandoned", True)}
    assert not journals(path)


def test_a_process_that_ends_without_farewell_has_recorded(path: Path) -> None:
    leave(path, "ledger.record(attempt())")
    assert len(journals(path)) == 1
    assert outcomes(path) == [("r1", "ok")]
    assert outcomes(path) == [("r1", "ok")]
    assert not journals(path)


def test_the_next_to_record_takes_in_what_was_left(path: Path) -> None:
    leave(path, "ledger.record(attempt(request_id='left'))")
    ledger = Ledger(path)
    ledger.record(attempt(request_id="new"))
    ledger.close()
    assert sorted(request_ids(path)) == ["left", "new"]
    assert not journals(path)


def test_what_was_written_before_the_end_is_not_written_again(path: Path) -> None:
    leave(path, "ledger.record(attempt(request_id='1')); ledger.flush(); ledger.record(attempt(request_id='2'))")
    assert outcomes(path) == [("1", "ok"), ("2", "ok")]
    assert hours_that_differ(path) == 0


def test_an_attempt_under_way_is_on_record_as_it_was_to_stand(path: Path) -> None:
    begin = """
        as_it_is_to_stand = dict(outcome=Fault.ABANDONED, usage=Usage(prompt=9, estimated=True), cost_microusd=70)
        for name in ("ended", "under way", "unsent"):
            ledger.began(attempt(request_id=name, **as_it_is_to_stand))
        ledger.record(attempt(request_id="ended"))
        ledger.withdraw(attempt(request_id="unsent"))
    """
    leave(path, begin)
    assert outcomes(path) == [("ended", "ok"), ("under way", "abandoned")]
    row = Ledger(path).attempts()[0]
    assert (row["usage_estimated"], row["prompt_tokens"], row["cost_microusd"]) == (True, 9, 70)


def test_an_attempt_that_ended_elsewhere_is_not_abandoned(path: Path) -> None:
    """Its beginning is still in the journal when its row was written from memory, as when the disk was full."""
    leave(path, "ledger.began(attempt(outcome=Fault.ABANDONED))")
    ledger = Ledger(path)
    (left,) = journals(path)
    kept = left.read_bytes()
    ledger.record(attempt())
    ledger.close()
    left.write_bytes(kept)
    assert Ledger(path).summary()[0]["attempts"] == len(request_ids(path))


def test_the_journal_of_a_process_that_lives_is_its_own(path: Path) -> None:
    script = """
        import os, sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        ledger.began(attempt(request_id="under way"))
        print("ready", flush=True)
        sys.stdin.readline()
        ledger.record(attempt(request_id="under way"))
        os._exit(0)
    """
    process = start(script, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    Ledger(path).record(attempt(request_id="other"))
    assert Ledger(path).attempts() == []
    assert len(journals(path)) == 2
    process.communicate("go\n", timeout=60)
    assert ("under way", "ok") in outcomes(path)


def test_of_many_who_find_a_journal_one_takes_it_in(path: Path) -> None:
    leave(path, "for number in range(2_000): ledger.record(attempt(request_id=str(number)))")
    script = """
        import sys
        from keyrouter_openai.ledger import Ledger
        print("ready", flush=True)
        sys.stdin.readline()
        Ledger(sys.argv[1]).summary()
    """
    processes = [start(script, path) for _ in range(5)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    assert [process.communicate("go\n", timeout=60) for process in processes] == [("", "")] * 5
    assert sorted(request_ids(path)) == sorted(map(str, range(2_000)))
    assert hours_that_differ(path) == 0


def test_damage_costs_what_is_damaged_and_no_more(path: Path) -> None:
    leave(path, "for number in range(9): ledger.record(attempt(request_id=f'call {number}'))")
    (left,) = journals(path)
    data = bytearray(left.read_bytes())
    data[data.index(b"call 4")] ^= 1
    left.write_bytes(bytes(data[:-5]))
    assert [id for id, _ in outcomes(path)] == [f"call {number}" for number in range(8) if number != 4]


def test_a_journal_stays_short_and_keeps_what_is_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_LONG", 20_000)
    ledger = Ledger(path)
    ledger.began(attempt(request_id="long", outcome=Fault.ABANDONED, usage=ESTIMATE))
    for number in range(3_000):
        ledger.began(attempt(request_id=str(number), outcome=Fault.ABANDONED))
        ledger.record(attempt(request_id=str(number)))
        if number % 100 == 0:
            assert ledger.flush(30)
            assert sum(file.stat().st_size for file in journals(path)) < 60_000
    ledger.close()
    found = list(journal_attempts(path))
    assert [one.request_id for one in found] == ["long"], "closing leaves what is under way"
    ledger.record(attempt(request_id="long"))
    ledger.close()
    assert not journals(path)
    assert sorted(request_ids(path)) == sorted([*map(str, range(3_000)), "long"])
    assert hours_that_differ(path) == 0


def journal_attempts(path: Path) -> list[Attempt]:
    """What is in the journals of an attempt under way, in the latest file."""
    found = [values for file in journals(path) for values, _, _ in records.decoded(file.read_bytes())]
    ended = {records.subject_of(values) for values in found if values[0] == Kind.ENDED}
    begun = [values for values in found if values[0] == Kind.BEGAN and records.subject_of(values) not in ended]
    return [records.attempt_of(values) for values in begun]


def test_a_deleted_journal_is_made_anew(path: Path) -> None:
    ledger = Ledger(path)
    ledger.began(attempt(request_id="1", outcome=Fault.ABANDONED))
    journals(path)[0].unlink()
    ledger.record(attempt(request_id="2"))
    assert ledger.flush(30)
    assert [one.request_id for one in journal_attempts(path)] == ["1"]
    ledger.record(attempt(request_id="1"))
    ledger.close()
    assert request_ids(path) == ["2", "1"]
    assert not journals(path)


def test_a_journal_of_another_version_is_read_by_the_names_of_its_values(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = attempt(request_id="theirs")._asdict()
    values |= {"outcome": "on_strike", "tags": {"tenant": "t1"}, "usage": (5, True), "of_later": 1}
    del values["budgets"], values["waited_s"]
    frames = [
        records.framed(Kind.LAYOUT, (tuple(values), ("completion", "estimated"))),
        records.framed(Kind.ENDED, values.values()),
    ]
    path.with_name("usage.db.journal-0").write_bytes(b"".join(frames))
    (row,) = Ledger(path).attempts()
    assert (row["request_id"], row["outcome"], row["waited_s"]) == ("theirs", "local", 0.0)
    assert (row["completion_tokens"], row["prompt_tokens"], row["usage_estimated"]) == (5, 0, True)
    assert row["tags"] == {"tenant": "t1"}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_forked_child_neither_holds_nor_closes_the_journal_of_its_parent(path: Path) -> None:
    script = """
        import os, sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        ledger.record(attempt(request_id="parent"))
        if os.fork() == 0:
            ledger.record(attempt(request_id="child"))
            print("ready", flush=True)
        sys.stdin.readline()
    """
    process = start(script, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.kill()
    process.wait(60)
    assert ("parent", "ok") in outcomes(path), "the child that lives does not hold it"
    process.communicate(timeout=60)


def test_what_a_killed_process_could_not_write_is_written_by_others(path: Path) -> None:
    """Another program keeps the file locked until the process is dead."""
    Ledger(path).remember("default", [])
    with database.opened(path) as connection:
        connection.execute("begin immediate")
        leave(path, "ledger.record(attempt())")
        connection.rollback()
    assert outcomes(path) == [("r1", "ok")]


@pytest.mark.skipif(sys.platform == "win32", reason="links take rights there")
def test_who_has_the_file_through_a_link_is_seen_to_live_by_others(path: Path, tmp_path: Path) -> None:
    first = Ledger(path)
    sql = "insert into allowances (budget, window, holder, microusd) values ('b', 0, ?, 5)"
    first.run(lambda connection: connection.execute(sql, (first.holder,))).result(30)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "usage.db"
    link.symlink_to(path)
    second = Ledger(link)
    left = second.run(lambda connection: connection.execute("select holder from allowances").fetchall())
    assert left.result(30) == [(first.holder,)]
    second.close()
    first.close()


def test_what_was_set_aside_for_a_dead_process_is_given_back(path: Path) -> None:
    script = """
        import os, sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1])
        sql = "insert into allowances (budget, window, holder, microusd) values ('b', 0, ?, 5)"
        ledger.run(lambda connection: connection.execute(sql, (ledger.holder,))).result(30)
        ledger.run(lambda connection: connection.execute(sql, ("gone",))).result(30)
        count = "select count(*) from allowances"
        print(ledger.run(lambda connection: connection.execute(count).fetchone()).result(30))
        os._exit(0)
    """
    assert run(script, path).stdout == "(2,)\n"
    ledger = Ledger(path)
    left = ledger.run(lambda connection: connection.execute("select holder from allowances").fetchall())
    assert left.result(30) == []
    ledger.close()
