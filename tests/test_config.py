"""Bad input, each a ConfigError that names the thing and the mend, with nothing changed; and where keys come from."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from keyrouter_openai import ConfigError, Key, Ledger, RoutedOpenAI, Router, SyncRoutedOpenAI, routing
from keyrouter_openai.ledger import Registry

CLIENTS = [RoutedOpenAI, SyncRoutedOpenAI]


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def newer(path: Path) -> Path:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 999")
        database.execute("CREATE TABLE attempts (x)")
    database.close()
    return path


def no_database(path: Path) -> Path:
    path.write_text("this is no database, but it is long enough to be read as one" * 10)
    return path


KEY = [Key(name="a", secret="sk-aaa")]

BAD: list[tuple[str, Callable[[Path], dict[str, Any]], tuple[str, ...]]] = [
    ("duplicate names", lambda _: {"keys": [*KEY, *KEY]}, ("'a'", "own name")),
    ("no keys", lambda _: {"keys": []}, ("no keys", "keys add")),
    ("bare secret that is empty", lambda _: {"keys": ["sk-a", ""]}, ("key-2", "empty")),
    ("bare secret with a newline", lambda _: {"keys": ["sk-a\nsk-b"]}, ("key-1", "newline")),
    ("keys and pool", lambda _: {"keys": KEY, "pool": "team"}, ("keys=", "pool=")),
    ("router and keys", lambda _: {"router": Router(KEY), "keys": KEY}, ("router=", "keys=")),
    ("a pool that does not exist", lambda _: {"pool": "team"}, ("'team'", "keys add NAME --pool team")),
    (
        "base_url without https",
        lambda _: {"keys": ["sk-a", "sk-b"], "base_url": "http://api.example.com/v1"},
        ("https",),
    ),
    ("a ledger path that is a folder", lambda p: {"keys": KEY, "ledger": folder(p / "d")}, ("folder",)),
    ("a ledger of another kind", lambda p: {"keys": KEY, "ledger": object()}, ("ledger=object", "Recorder")),
    ("a newer schema", lambda p: {"keys": KEY, "ledger": newer(p / "n.db")}, ("newer", "999")),
    ("a ledger that is no database", lambda p: {"keys": KEY, "ledger": no_database(p / "x.db")}, ("x.db",)),
    ("a string in place of a list", lambda _: {"keys": "sk-abc"}, ("keys=", "list")),
    ("a mapping in place of a list", lambda _: {"keys": {"a": "sk-abc"}}, ("keys=", "list")),
    ("no key in the list", lambda _: {"keys": [None]}, ("keys=", "list")),
    ("one secret twice", lambda _: {"keys": ["sk-same", "sk-same"]}, ("key-1", "key-2", "same secret")),
    ("one key without https", lambda _: {"keys": ["sk-a"], "base_url": "http://api.example.com/v1"}, ("https",)),
    ("a max_wait in words", lambda _: {"keys": KEY, "max_wait": "5"}, ("max_wait",)),
    ("half an attempt", lambda _: {"keys": KEY, "max_attempts": 1.5}, ("max_attempts",)),
    ("negative max_wait", lambda _: {"keys": KEY, "max_wait": -1}, ("max_wait", "0")),
    ("router and objective", lambda _: {"router": Router(KEY), "objective": "cost"}, ("router=", "objective=")),
    ("router and prices", lambda _: {"router": Router(KEY), "prices": {}}, ("router=", "prices=")),
    ("prices of no model", lambda _: {"keys": KEY, "prices": {"": {"input": 1}}}, ("prices", "pattern")),
    ("prices as a number", lambda _: {"keys": KEY, "prices": {"m": 2.5}}, ("'m'", "2.5", "per million")),
    ("no prices", lambda _: {"keys": KEY, "prices": {"m": {}}}, ("'m'", "{}", "per million")),
    ("a price below 0", lambda _: {"keys": KEY, "prices": {"m": {"input": -1}}}, ("'m'", "input=-1", "0 or more")),
    ("a price in words", lambda _: {"keys": KEY, "prices": {"m": {"input": "two"}}}, ("'m'", "input='two'")),
    ("a price of what is unknown", lambda _: {"keys": KEY, "prices": {"m": {"in": 1}}}, ("'m'", "'in'", "use input")),
    ("a list of prices", lambda _: {"keys": KEY, "prices": [1]}, ("prices=[1]", "mapping")),
    ("router and weights", lambda _: {"router": Router(KEY), "tenant_weights": {}}, ("router=", "tenant_weights=")),
    ("no such objective", lambda _: {"keys": KEY, "objective": "cheapest"}, ("'cheapest'", "cost", "your own")),
    ("an objective that ranks nothing", lambda _: {"keys": KEY, "objective": 5}, ("objective 5", "score(")),
    ("a weight of nothing", lambda _: {"keys": KEY, "tenant_weights": {"t1": 0}}, ("tenant_weights", "'t1'", "above")),
    ("a weight in words", lambda _: {"keys": KEY, "tenant_weights": {"t1": "2"}}, ("'t1'", "'2'", "number")),
    ("weights without tenants", lambda _: {"keys": KEY, "tenant_weights": [1, 2]}, ("tenant_weights", "mapping")),
    ("no attempts", lambda _: {"keys": KEY, "max_attempts": 0}, ("max_attempts", "1")),
]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("given", "named"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_arguments(
    tmp_path: Path, client: type, given: Callable[[Path], dict[str, Any]], named: tuple[str, ...]
) -> None:
    arguments: dict[str, Any] | None = None
    before: list[tuple[str, int]] = []
    with pytest.raises(ConfigError) as caught:
        arguments = given(tmp_path)
        before = [(str(p), p.stat().st_size) for p in sorted(tmp_path.rglob("*"))]
        client(**arguments)
    assert all(part in str(caught.value) for part in named), str(caught.value)
    assert isinstance(caught.value, openai.OpenAIError)
    if arguments is not None:
        assert [(str(p), p.stat().st_size) for p in sorted(tmp_path.rglob("*"))] == before, "nothing was changed"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"name": "a", "secret": ""}, ("'a'", "empty", "paste")),
        ({"name": "a", "secret": "  \n"}, ("'a'", "empty")),
        ({"name": "a", "secret": "sk-a\nb"}, ("'a'", "newline", "paste the key alone")),
        ({"name": "a", "base_url": "http://api.example.com/v1"}, ("'a'", "http://api.example.com/v1", "https")),
        ({"name": "a", "base_url": "api.example.com"}, ("'a'", "https://")),
        ({"name": "a", "base_url": "https://u:p@api.example.com"}, ("'a'", "password")),
        ({"name": "a", "provider": "acme"}, ("'a'", "'acme'", "openrouter")),
        ({"name": "a", "provider": "compatible"}, ("'a'", "base_url")),
        ({"name": "../a"}, ("'../a'", "letters")),
        ({"name": "sk-proj-abcdefghijklmnop1234"}, ("***", "looks like a secret")),
        ({"name": "a", "weight": 0}, ("'a'", "weight")),
        ({"name": "a", "organization": "a\nb"}, ("'a'", "organization")),
        ({"name": "a", "project": "Zoë"}, ("'a'", "project", "header")),
        ({"name": "a", "account": "key:b"}, ("'a'", "account")),
        ({"name": "a", "models": "gpt-*"}, ("'a'", "models", "list")),
        ({"name": "a", "models": []}, ("'a'", "models")),
        ({"name": "a", "base_url": "https://a.b:99999/v1"}, ("'a'", "port")),
        ({"name": "a", "base_url": "https://a.b/v1?x=1"}, ("'a'", "query")),
        ({"name": "a", "weigth": 1}, ("'a'", "weigth")),
    ],
)
def test_bad_keys(values: dict[str, Any], named: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        Key(**values)
    assert all(part in str(caught.value) for part in named), str(caught.value)
    secret = values.get("secret")
    assert not secret or not secret.strip() or secret not in str(caught.value)


@pytest.mark.parametrize("listed", ["sk-a,,sk-b", "sk-a sk-b", "a=sk-a", '"sk-a"', "sk-a;sk-b", "sk-a,sk-a"])
def test_a_malformed_list_of_keys(monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", listed)
    with pytest.raises(ConfigError, match="OPENAI_API_KEYS") as caught:
        RoutedOpenAI()
    assert "sk-a" not in str(caught.value)


def test_a_blank_list_of_keys_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEYS", " \n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    assert names(RoutedOpenAI()) == ["api_key"]


def test_a_pool_is_found_in_its_usual_place_when_the_ledger_is_elsewhere(tmp_path: Path) -> None:
    Registry(tmp_path / "usage.db").add("default", Key(name="registered"))
    assert names(RoutedOpenAI(ledger=tmp_path / "mine.db")) == ["registered"]


def test_routing_wishes_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_wait"), routing(max_wait=-1):
        pass


@pytest.mark.parametrize("client", CLIENTS)
def test_an_objective_of_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch, client: type) -> None:
    monkeypatch.setenv("KEYROUTER_OBJECTIVE", "cheapest")
    with pytest.raises(ConfigError, match="KEYROUTER_OBJECTIVE: objective 'cheapest' does not exist"):
        client(keys=KEY)
    client(keys=KEY, objective="cost")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_copy_shares_the_weights_of_its_router(client: Any) -> None:
    first = client(keys=KEY)
    with pytest.raises(ConfigError, match="prices=, tenant_weights= and budgets= to the constructor"):
        first.copy(tenant_weights={"t1": 2})
    with pytest.raises(ConfigError, match="'t1'"):
        first.copy(keys=KEY, tenant_weights={"t1": 0})
    own = client(keys=KEY, prices={"m": {"input": 1}})
    assert own.copy(keys=KEY).router.prices.own == {"m": {"input": 1}}
    assert own.copy(keys=KEY, prices={}).router.prices.own == {}
    assert first.copy(objective="cost").router is first.router
    assert first.copy(keys=KEY, tenant_weights={"t1": 2}).router is not first.router


# Where keys come from, in order


def names(client: Any) -> list[str]:
    return [key.name for key in client.router.keys]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_order_of_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, client: Any) -> None:
    with pytest.raises(openai.OpenAIError, match="Missing credentials"):
        client()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one")
    assert names(client()) == ["api_key"]
    assert client().api_key == "sk-one"
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-a, sk-b\nsk-c,")
    assert names(client()) == ["key-1", "key-2", "key-3"]
    path = tmp_path / "usage.db"
    Registry(path).add("default", Key(name="registered"))
    assert names(client()) == ["registered"]
    Registry(path).add("team", Key(name="of-the-team"))
    monkeypatch.setenv("KEYROUTER_POOL", "team")
    assert names(client()) == ["of-the-team"]
    assert names(client(pool="default")) == ["registered"]
    assert names(client(api_key="sk-x")) == ["api_key"]
    assert names(client(keys=["sk-a"])) == ["key-1"]
    router = Router([Key(name="mine", secret="sk-m")])
    assert client(router=router).router is router


def test_on_a_pool_the_api_key_is_a_placeholder() -> None:
    client = RoutedOpenAI(keys=["sk-real-1", "sk-real-2"])
    assert client.api_key
    assert "sk-real" not in client.api_key
    assert "sk-real" not in str(client.auth_headers)


def test_a_callable_api_key_is_the_sdks_own_matter() -> None:
    async def fetch() -> str:
        return "sk-fetched"

    assert names(RoutedOpenAI(api_key=fetch)) == ["api_key"]


def test_the_ledger_is_where_the_environment_says_and_not_made_before_it_is_needed(tmp_path: Path) -> None:
    client = RoutedOpenAI(keys=["sk-a"])
    assert client.ledger.path == tmp_path / "usage.db"
    assert not client.ledger.path.exists()
    with pytest.raises(ConfigError, match="no ledger"):
        _ = RoutedOpenAI(keys=["sk-a"], ledger=None).ledger
    ledger = Ledger(tmp_path / "other.db")
    assert RoutedOpenAI(keys=["sk-a"], ledger=ledger).ledger is ledger
