"""Files that the SDK's helpers upload for a vector store go where the store is."""

from __future__ import annotations

from typing import Any

import pytest
from openai import OpenAI

from keyrouter_openai import OwnerError
from keyrouter_openai.testing import ProviderSimulator

from .support import Open, do

pytestmark = pytest.mark.anyio

FILE: Any = ("a.txt", b"hello")
HELPERS: list[tuple[str, dict[str, Any]]] = [
    ("files.upload", {"file": FILE}),
    ("files.upload_and_poll", {"file": FILE}),
    ("file_batches.upload_and_poll", {"files": [FILE] * 3}),
]


@pytest.mark.parametrize(("helper", "arguments"), HELPERS)
async def test_files_are_uploaded_to_where_the_store_is(
    open_client: Open, sim: ProviderSimulator, helper: str, arguments: dict[str, Any]
) -> None:
    client = open_client()
    with OpenAI(api_key=sim.keys["C/key-1"], base_url=sim.url) as plain:
        stores = {"C": plain.vector_stores.create(name="s").id}
    stores["B"] = (await do(client.with_routing(account="B"), "vector_stores.create", name="s")).id
    for account, store in stores.items():
        sim.reset_counts()
        await do(client, f"vector_stores.{helper}", vector_store_id=store, **arguments)
        uploads = [call for call in sim.calls if call.path == "/v1/files"]
        assert {call.account for call in uploads} == {account}


async def test_an_account_that_is_named_is_not_overruled(open_client: Open) -> None:
    client = open_client()
    store = await do(client.with_routing(account="B"), "vector_stores.create", name="s")
    with pytest.raises(OwnerError):
        await do(client.with_routing(account="A"), "vector_stores.files.upload", vector_store_id=store.id, file=FILE)
