"""The file itself: what can be used, what is refused, and how it is made."""

from __future__ import annotations

import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier

import pytest

from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key
from keyrouter_openai.ledger import Ledger, Registry, check_path, default_path

from .support import attempt, request_ids, run, start


def on_disk(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder with its content and time of change."""
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def write_ledger(path: Path) -> None:
    ledger = Ledger(path)
    ledger.record(attempt())
    ledger.close()


def a_folder(path: Path) -> None:
    path.mkdir()


def a_text_file(path: Path) -> None:
    path.write_text("at,key,model\n" * 100)


def a_file_as_folder(path: Path) -> None:
    path.parent.write_text("not a folder")


def a_newer_schema(path: Path) -> None:
    write_ledger(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma user_version = 7")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that others can reach: root may write everywhere, so a script that may not becomes another user."""
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def add_a_key(path: Path) -> None:
    Registry(path).add("default", Key(name="a"))


UNUSABLE = pytest.mark.parametrize(
    ("make", "says"),
    [
        (a_folder, "is a folder: name a file in it, such as {path}/usage.db"),
        (a_text_file, "file is not a database: it is no SQLite database: use another file"),
        (a_file_as_folder, "{path.parent} is no folder"),
        (
            a_newer_schema,
            "was written by a newer keyrouter-openai (schema 7; this one knows 4): "
            "upgrade, or point KEYROUTER_DB at another file",
        ),
        (a_socket, "is no regular file"),
    ],
)


@UNUSABLE
@pytest.mark.parametrize("use", [check_path, add_a_key])
def test_an_unusable_path_is_refused_and_nothing_changes(
    tmp_path: Path, make: Callable[[Path], None], says: str, use: Callable[[Path], None]
) -> None:
    path = tmp_path / "data" / "usage.db"
    if make is not a_file_as_folder:
        path.parent.mkdir()
    make(path)
    before = on_disk(tmp_path)

    with pytest.raises(ConfigError) as caught:
        use(path)

    assert says.format(path=path) in str(caught.value)
    assert str(path) in str(caught.value)
    assert on_disk(tmp_path) == before


def test_a_newer_schema_is_seen_while_its_writer_has_the_file_open(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    write_ledger(path)
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("pragma user_version = 7")
        with pytest.raises(ConfigError, match="newer keyrouter-openai"):
            check_path(path)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        check_path(tmp_path / ("x" * 300))


def test_a_folder_that_may_not_be_written_is_refused(public_folder: Path) -> None:
    script = """
        import os, sys
        from keyrouter_openai.errors import ConfigError
        from keyrouter_openai.keys import Key
        from keyrouter_openai.ledger import Registry, check_path
        folder = sys.argv[1]
        os.chmod(folder, 0o555)
        if os.getuid() == 0:
            os.setuid(65534)
        path = os.path.join(folder, "new", "usage.db")
        check_path(path)  # a disk that cannot be written is no mistake of the settings
        try:
            Registry(path).add("default", Key(name="a"))
        except ConfigError as error:
            print(error)
    """
    assert "no folder that can be written" in run(script, public_folder).stdout


def test_a_ledger_is_read_where_nothing_can_be_written(public_folder: Path) -> None:
    script = """
        import os, sys
        from keyrouter_openai.keys import Key
        from keyrouter_openai.ledger import Registry
        folder = sys.argv[1]
        registry = Registry(os.path.join(folder, "usage.db"))
        registry.add("team", Key(name="a"))
        os.chmod(registry.path, 0o444)
        os.chmod(folder, 0o555)
        if os.getuid() == 0:
            os.setuid(65534)
        print([key.name for key in registry.keys("team")])
    """
    assert run(script, public_folder).stdout == "['a']\n"


@pytest.mark.parametrize("name", ["usage.db", "deep/er/usage.db", "a ?#%20 name.db"])
def test_a_path_that_can_become_a_ledger_is_taken_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    check_path(tmp_path / name)
    assert not list(tmp_path.iterdir())
    write_ledger(tmp_path / name)
    assert request_ids(tmp_path / name) == ["r1"]


def test_checking_a_ledger_leaves_everything_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    write_ledger(path)
    before = on_disk(tmp_path)
    check_path(path)
    assert on_disk(tmp_path) == before


def test_folder_and_files_are_the_users_alone(tmp_path: Path) -> None:
    path = tmp_path / "keyrouter-openai" / "usage.db"
    ledger = Ledger(path)
    ledger.record(attempt())
    ledger.flush()
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in [path.parent, *path.parent.iterdir()]}
    assert modes == {
        "keyrouter-openai": 0o700,
        "usage.db": 0o600,
        "usage.db-wal": 0o600,
        "usage.db-shm": 0o600,
        f"usage.db.journal-{ledger.holder}": 0o600,
    }
    ledger.close()
    assert [file.name for file in path.parent.iterdir()] == ["usage.db"]


def test_opening_again_migrates_once_and_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    write_ledger(path)
    write_ledger(path)
    with closing(sqlite3.connect(path)) as connection:
        applied = connection.execute("select count(*) from _sqlite_migrations").fetchone()
        version = connection.execute("pragma user_version").fetchone()
        mode = connection.execute("pragma journal_mode").fetchone()
    assert version == applied == (4,), "user_version is the number of migrations"
    assert mode == ("wal",)
    assert request_ids(path) == ["r1", "r1"]


def test_a_ledger_lives_beside_other_tables(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table orders (id)")
    assert Ledger(path).attempts() == []
    assert Registry(path).pools() == []
    write_ledger(path)
    assert request_ids(path) == ["r1"]


def test_processes_that_start_at_once_make_one_ledger(tmp_path: Path) -> None:
    script = """
        import sys
        from keyrouter_openai.ledger import Ledger
        from tests.ledger.support import attempt
        ledger = Ledger(sys.argv[1], on_trouble=lambda problem, waiting: print("trouble", problem))
        print("ready", flush=True)
        sys.stdin.readline()
        ledger.record(attempt(request_id=sys.argv[2]))
        ledger.close()
    """
    path = tmp_path / "new" / "usage.db"
    processes = [start(script, path, number) for number in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=60) for process in processes]
    assert outputs == [("", "")] * 6
    assert sorted(request_ids(path)) == list("012345")


def test_threads_that_start_at_once_make_one_ledger(tmp_path: Path) -> None:
    threads = 8
    barrier = Barrier(threads)

    def add(number: int) -> None:
        for round_ in range(10):
            barrier.wait(timeout=30)
            Registry(tmp_path / f"{round_}.db").add("team", Key(name=str(number)))

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(add, number) for number in range(threads)]:
            future.result()
    for round_ in range(10):
        assert len(Registry(tmp_path / f"{round_}.db").keys("team")) == threads


def test_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("KEYROUTER_DB", "~/mine.db")
    assert default_path() == tmp_path / "mine.db"
    monkeypatch.setenv("KEYROUTER_DB", "")
    in_data_folder = default_path()
    assert in_data_folder.parts[-2:] == ("keyrouter-openai", "usage.db")
    assert in_data_folder.is_relative_to(tmp_path)


def test_neither_importing_nor_recording_into_a_ledger_that_exists_loads_sqlite_utils(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    write_ledger(path)
    script = """
        import sys
        from keyrouter_openai.ledger import Ledger, Registry, check_path
        assert "platformdirs" not in sys.modules
        from tests.ledger.support import attempt
        check_path(sys.argv[1])
        Registry(sys.argv[1]).keys("default")
        ledger = Ledger(sys.argv[1])
        ledger.record(attempt())
        assert ledger.flush()
        print({"sqlite_utils", "click"} & set(sys.modules))
    """
    assert run(script, path).stdout == "set()\n"
