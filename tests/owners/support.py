"""What the tests of owners share: calls on both clients, and what they leave behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio.to_thread
from openai import OpenAI

from keyrouter_openai import Key, RoutedOpenAI, SyncRoutedOpenAI, route_of
from keyrouter_openai.testing import ProviderSimulator

Client = RoutedOpenAI | SyncRoutedOpenAI
Open = Callable[..., Client]
"""Opens a client of either kind, by default over all keys with their accounts declared."""


def keys_of(sim: ProviderSimulator, **arguments: Any) -> list[Key]:
    return [
        Key(name=label.replace("/key-", ""), secret=secret, base_url=sim.url, **arguments)
        for label, secret in sim.keys.items()
    ]


def accounts_of(sim: ProviderSimulator) -> list[Key]:
    """The keys, each with its account declared."""
    return [key.model_copy(update={"account": key.name[0], "secret": key.secret}) for key in keys_of(sim)]


async def do(client: Any, method: str, **arguments: Any) -> Any:
    """Call a method of either client."""
    call = partial(attrgetter(method)(client), **arguments)
    return await anyio.to_thread.run_sync(call) if isinstance(client, SyncRoutedOpenAI) else await call()


async def upload(client: Any, account: str | None = None) -> str:
    """The id of a file that is made, in an account if one is named."""
    pinned = client if account is None else client.with_routing(account=account)
    return (await do(pinned, "files.create", file=("a.txt", b"hello"), purpose="user_data")).id


async def respond(client: Any, *files: str, **arguments: Any) -> Any:
    """A response to some files."""
    parts = [{"type": "input_file", "file_id": file} for file in files]
    content = [{"type": "input_text", "text": "Hello"}, *parts]
    return await do(
        client, "responses.create", model="gpt-4o", input=[{"role": "user", "content": content}], **arguments
    )


def foreign_file(sim: ProviderSimulator, account: str) -> str:
    """A file of which no router knows."""
    with OpenAI(api_key=sim.keys[f"{account}/key-1"], base_url=sim.url) as plain:
        return plain.files.create(file=("a.txt", b"hello"), purpose="user_data").id


def account(result: object) -> str:
    """Which account has served a call, and at its first attempt."""
    route = route_of(result)
    assert len(route.attempts) == 1
    return route.account


def owners_on_record(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("select id, account from owners"))
