"""A call that reads what is in a resource shows by itself whose that is: no look-up goes before it."""

from __future__ import annotations

from pathlib import Path

import anyio
import openai
import pytest

from keyrouter_openai import route_of
from keyrouter_openai.testing import ProviderSimulator
from keyrouter_openai.testing.faults import respond as respond_with

from ..support import TurnedClock, make_pool
from .support import Open, account, do, foreign_file

pytestmark = pytest.mark.anyio


async def test_a_read_of_what_is_in_a_resource_needs_no_look_up(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    file = foreign_file(sim, "C")
    sim.reset_counts()
    content = await do(client, "files.content", file_id=file)
    assert content.read() if hasattr(content, "read") else content
    assert account(content) == "C"
    assert sim.count(path=f"/v1/files/{file}/content") == sim.count() <= 3
    sim.reset_counts()
    assert account(await do(client, "files.retrieve", file_id=file)) == "C"
    assert sim.count() == 1, "whose it is was learned from that"


async def test_what_lacks_its_content_is_there_all_the_same(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    file = foreign_file(sim, "C")
    sim.fail(respond_with(404, body={"error": {"message": "not ready"}}), account="C", times=1)
    with pytest.raises(openai.NotFoundError):
        await do(client, "files.content", file_id=file)
    assert account(await do(client, "files.retrieve", file_id=file)) == "C"


async def test_the_owner_says_best_why_a_read_is_refused(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    file = foreign_file(sim, "A")
    refusal = {"error": {"message": "Not allowed to download files of this purpose", "type": "invalid_request_error"}}
    sim.fail(respond_with(400, body=refusal), account="A")
    with pytest.raises(openai.BadRequestError, match="this purpose"):
        await do(client, "files.content", file_id=file)


async def test_many_who_read_what_nobody_has_are_told_by_one_search(sim: ProviderSimulator, tmp_path: Path) -> None:
    pool = make_pool(sim, tmp_path / "usage.db", TurnedClock())
    missed: list[object] = []

    async def read() -> None:
        try:
            await client.files.content("file-000000000000")
        except openai.NotFoundError as error:
            missed.append(error)

    async with pool.client() as client, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(read)
    assert len(missed) == 20
    assert sim.count() == 3
    pool.ledger.close()


async def test_who_could_not_say_at_first_does_not_have_the_last_word(
    open_client: Open, sim: ProviderSimulator
) -> None:
    client = open_client(max_retries=0)
    sim.fail("rate_limit", account="A", times=2)  # its keys have one limit
    with pytest.raises(openai.NotFoundError):
        await do(client, "files.content", file_id="file-000000000000")
    assert sim.count(status=404) == 3


async def test_what_is_missing_in_a_resource_is_said_by_its_owner(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    store = (await do(client.with_routing(account="A"), "vector_stores.create", name="a")).id
    with pytest.raises(openai.NotFoundError, match="No file found") as caught:
        await do(client, "vector_stores.files.retrieve", file_id="file-000000000000", vector_store_id=store)
    assert route_of(caught.value).account == "A"
