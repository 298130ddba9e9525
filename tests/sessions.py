"""One way to use the websockets of both clients, and what was seen of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import openai
import pytest

from keyrouter_openai.testing import ProviderSimulator
from tests.support import ECHO, Pool

MODEL = "gpt-realtime"
MESSAGE: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ECHO}]}
BOTH = pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])


async def realtime(client: Any, *, turns: int = 1, **arguments: Any) -> list[Any]:
    """The events of a session in which the user says the same some times."""
    arguments = {"model": MODEL, **arguments}
    if isinstance(client, openai.OpenAI):
        return await anyio.to_thread.run_sync(partial(_realtime_sync, client, turns, arguments))
    events: list[Any] = []
    async with client.realtime.connect(**arguments) as connection:
        for _ in range(turns):
            await connection.conversation.item.create(item=MESSAGE)
            await connection.response.create()
            async for event in connection:
                events.append(event)
                if event.type in ("response.done", "error"):
                    break
    await client.close()
    return events


def _realtime_sync(client: openai.OpenAI, turns: int, arguments: dict[str, Any]) -> list[Any]:
    events: list[Any] = []
    with client.realtime.connect(**arguments) as connection:
        for _ in range(turns):
            connection.conversation.item.create(item=MESSAGE)
            connection.response.create()
            for event in connection:
                events.append(event)
                if event.type in ("response.done", "error"):
                    break
    client.close()
    return events


async def responses(client: Any) -> list[Any]:
    """The events of one response over a websocket."""
    if isinstance(client, openai.OpenAI):
        return await anyio.to_thread.run_sync(partial(_responses_sync, client))
    events: list[Any] = []
    async with client.responses.connect() as connection:
        await connection.response.create(model="gpt-4o", input=ECHO)
        async for event in connection:
            events.append(event)
            if event.type == "response.completed":
                break
    await client.close()
    return events


def _responses_sync(client: openai.OpenAI) -> list[Any]:
    events: list[Any] = []
    with client.responses.connect() as connection:
        connection.response.create(model="gpt-4o", input=ECHO)
        for event in connection:
            events.append(event)
            if event.type == "response.completed":
                break
    client.close()
    return events


def client_of(pool: Pool, *, sync: bool, **arguments: Any) -> Any:
    return pool.client_sync(**arguments) if sync else pool.client(**arguments)


def plain(sim: ProviderSimulator, *, sync: bool) -> Any:
    kind = openai.OpenAI if sync else openai.AsyncOpenAI
    return kind(base_url=sim.url, api_key=sim.keys["A/key-1"])


def outcomes(pool: Pool) -> list[str]:
    return [row["outcome"] for row in pool.rows()]


def contents(directory: Path) -> list[str]:
    """What is in the files of a directory."""
    return [path.read_bytes().decode("latin-1") for path in directory.iterdir()]


def upgrades(sim: ProviderSimulator) -> list[tuple[str | None, int | None]]:
    """The key and the status of each attempt to open a connection."""
    return [(call.key, call.status) for call in sim.calls if call.method == "GET"]
