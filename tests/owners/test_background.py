"""Work in the background stays with its owner, through restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from keyrouter_openai import SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from ..ledger.support import run
from .support import Open, account, do, owners_on_record, respond, upload

pytestmark = pytest.mark.anyio


async def test_work_in_the_background_stays_with_its_owner(
    open_client: Open, sim: ProviderSimulator, tmp_path: Path
) -> None:
    client = open_client()
    started = [await respond(client, background=True) for _ in range(4)]
    assert owners_on_record(tmp_path / "usage.db").items() >= {work.id: account(work) for work in started}.items()
    again = open_client()
    for work in started:
        polled = work
        while polled.status in ("queued", "in_progress"):
            polled = await do(again, "responses.retrieve", response_id=work.id)
            assert account(polled) == account(work)
        assert polled.status == "completed"
    last = await respond(client, background=True)
    assert account(await do(again, "responses.cancel", response_id=last.id)) == account(last)
    assert sim.count(status=404) == 0


async def test_a_stream_in_the_background_is_resumed_by_another_process(
    open_client: Open, sim: ProviderSimulator
) -> None:
    client, again = open_client(), open_client()
    for _ in range(3):
        stream = await respond(client, background=True, stream=True)
        first = next(stream) if isinstance(client, SyncRoutedOpenAI) else await anext(stream)
        assert first.type == "response.created"
        assert client.router.owners.place(first.response.id) is not None, "known before anything else comes"
        client.ledger.flush()
        resumed = await do(again, "responses.retrieve", response_id=first.response.id, stream=True, starting_after=0)
        kinds = (
            [event.type for event in resumed]
            if isinstance(again, SyncRoutedOpenAI)
            else [event.type async for event in resumed]
        )
        assert kinds[0] == "response.in_progress"
        assert kinds[-1] == "response.completed"
        stream.close() if isinstance(client, SyncRoutedOpenAI) else await stream.close()
    assert sim.count(status=404) == 0


async def test_poll_helpers_ask_the_owner(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    store = await do(client, "vector_stores.create", name="s")
    done = await do(
        client,
        "vector_stores.file_batches.create_and_poll",
        vector_store_id=store.id,
        file_ids=[await upload(client, account(store))],
        poll_interval_ms=1,
    )
    assert done.status == "completed"
    assert sim.count(status=404) == 0


def test_another_process_goes_on_with_what_one_has_begun(tmp_path: Path) -> None:
    script = """
        import sys
        from keyrouter_openai import Key, SyncRoutedOpenAI, route_of
        path, url, file, *secrets = sys.argv[1:]
        keys = [Key(name=name, account=name, secret=secret, base_url=url) for name, secret in zip("ABC", secrets)]
        client = SyncRoutedOpenAI(keys=keys, ledger=path)
        if not file:
            made = client.with_routing(account="B").files.create(file=("a", b"b"), purpose="user_data")
            print(made.id, flush=True)
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        print(route_of(client.files.retrieve(file)).account)
        client.close()
    """
    with ProviderSimulator([SimAccount("A"), SimAccount("B"), SimAccount("C")]) as sim:
        arguments = (sim.url, *sim.keys.values())
        path = tmp_path / "usage.db"
        made = run(script, path, arguments[0], "", *arguments[1:], check=False).stdout.strip()
        assert run(script, path, arguments[0], made, *arguments[1:]).stdout == "B\n"
        assert sim.count() == 2


@pytest.mark.parametrize("given", [{"background": True}, {"extra_body": {"background": True}}])
async def test_work_in_the_background_is_not_started_twice(
    open_client: Open, sim: ProviderSimulator, given: dict[str, Any]
) -> None:
    client = open_client()
    sim.fail("stream_cut")
    with pytest.raises(openai.APIError):
        stream = await respond(client, stream=True, **given)
        list(stream) if isinstance(client, SyncRoutedOpenAI) else [event async for event in stream]
    assert sim.count(path="/v1/responses") == 1
