"""The registry of keys: what is stored, what is refused, and that no secret is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import SecretStr

from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key, Limits
from keyrouter_openai.ledger import Ledger, Registry, database

from .support import attempt, start

SECRET = "sk-canary-4b1d7f"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "usage.db")


def test_keys_come_back_as_they_were_added_without_their_secrets(registry: Registry) -> None:
    full = Key(
        name="full",
        secret=SecretStr(SECRET),
        provider="compatible",
        base_url="https://llm.example/v1",
        organization="org-1",
        project="proj-1",
        account="acme",
        weight=2.5,
        models=("gpt-4o*",),
        model_map={"gpt-4o": "llama"},
        limits={"gpt-4o*": Limits(rpm=500, tpm=200_000), "*": Limits(rpd=1000, tpd=10**6, concurrent=8)},
        price_multiplier=0.9,
        quality=0.5,
        tags=("eu", "ü"),
        enabled=False,
    )
    registry.add("team", full)
    registry.add("team", Key(name="a"))
    registry.add("default", Key(name="a", provider="groq"))
    assert registry.keys("team") == [full.model_copy(update={"secret": None}), Key(name="a")]
    assert registry.keys("default") == [Key(name="a", provider="groq")]
    assert registry.keys("other") == []
    assert registry.pools() == ["default", "team"]


def test_no_secret_reaches_the_disk(registry: Registry, tmp_path: Path) -> None:
    registry.add("default", Key(name="a", secret=SecretStr(SECRET)))
    ledger = Ledger(registry.path)
    ledger.record(attempt())
    ledger.flush()
    with pytest.raises(ConfigError) as caught:
        registry.add("default", Key(name="a", secret=SecretStr(SECRET)))
    contents = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(contents) == {"usage.db", "usage.db-wal", "usage.db-shm", f"usage.db.journal-{ledger.holder}"}
    assert not [name for name, content in contents.items() if SECRET.encode() in content]
    assert SECRET not in str(caught.value)
    ledger.close()


def test_a_name_that_is_taken_is_refused_and_the_key_kept(registry: Registry) -> None:
    registry.add("team", Key(name="a", weight=2))
    with pytest.raises(ConfigError, match="pool 'team' already has a key 'a': choose another name"):
        registry.add("team", Key(name="a", weight=3))
    assert registry.keys("team") == [Key(name="a", weight=2)]


def test_a_pool_name_must_be_usable(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="'a/b' is not a usable name for a pool"):
        registry.add("a/b", Key(name="a"))
    assert not registry.path.exists()


def test_keys_are_disabled_enabled_and_removed(registry: Registry) -> None:
    registry.add("team", Key(name="a"))
    registry.add("team", Key(name="b"))
    registry.set_enabled("team", "a", enabled=False)
    assert [(key.name, key.enabled) for key in registry.keys("team")] == [("a", False), ("b", True)]
    registry.set_enabled("team", "a", enabled=True)
    registry.remove("team", "b")
    assert registry.keys("team") == [Key(name="a")]
    registry.remove("team", "a")
    assert registry.pools() == []


def test_a_key_that_is_not_there_is_refused_with_those_that_are(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="pool 'team' has no key 'c': it has none"):
        registry.remove("team", "c")
    assert not registry.path.exists()
    registry.add("team", Key(name="a"))
    registry.add("team", Key(name="b"))
    for change in (lambda: registry.remove("team", "c"), lambda: registry.set_enabled("team", "c", enabled=True)):
        with pytest.raises(ConfigError, match="pool 'team' has no key 'c': it has a, b"):
            change()
    assert [key.name for key in registry.keys("team")] == ["a", "b"]


def test_reading_where_there_is_no_file_makes_none(registry: Registry, tmp_path: Path) -> None:
    assert registry.keys("default") == []
    assert registry.pools() == []
    assert not list(tmp_path.iterdir())


def test_a_key_that_cannot_be_read_is_named_and_can_be_removed(registry: Registry) -> None:
    registry.add("team", Key(name="a"))
    with closing(sqlite3.connect(registry.path)) as connection, connection:
        connection.execute("""update keys set metadata = '{"colour": "red"}'""")
    with pytest.raises(ConfigError, match="key 'a': colour"):
        registry.keys("team")
    registry.remove("team", "a")
    assert registry.keys("team") == []


def test_a_locked_file_is_said_and_nothing_changes(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    registry.add("team", Key(name="a"))
    with closing(sqlite3.connect(registry.path)) as other:
        other.execute("begin immediate")
        with pytest.raises(ConfigError, match="database is locked: another program keeps the file locked"):
            registry.add("team", Key(name="b"))
        assert registry.keys("team") == [Key(name="a")], "reading goes on"


def test_several_processes_add_keys_at_once(registry: Registry) -> None:
    script = """
        import sys
        from keyrouter_openai.keys import Key
        from keyrouter_openai.ledger import Registry
        registry = Registry(sys.argv[1])
        for number in range(20):
            registry.add("team", Key(name=f"{sys.argv[2]}{number}"))
    """
    processes = [start(script, registry.path, name) for name in "abc"]
    assert [process.communicate(timeout=60) for process in processes] == [("", "")] * 3
    names = {key.name for key in registry.keys("team")}
    assert names == {f"{name}{number}" for name in "abc" for number in range(20)}
