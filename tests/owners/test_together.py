"""What a program makes without naming an account can be used together."""

from __future__ import annotations

from typing import Any

import pytest

from keyrouter_openai.testing import ProviderSimulator

from .support import Open, account, do, upload

pytestmark = pytest.mark.anyio


async def test_files_of_a_program_can_be_used_together(open_client: Open) -> None:
    client = open_client()
    files = [await upload(client) for _ in range(4)]
    conversation = await do(client, "conversations.create")
    store = await do(client, "vector_stores.create", name="s", file_ids=files)
    assert account(store) == account(conversation)


async def test_another_account_takes_over_where_one_fails(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    file: Any = {"file": ("a.txt", b"hello"), "purpose": "user_data"}
    first = account(await do(client, "files.create", **file))
    for label in sim.keys:
        if label.startswith(first):
            sim.revoke(label)
    for _ in range(3):
        await do(client, "files.create", **file)
    assert {account(await do(client, "files.create", **file)) for _ in range(4)} < {"A", "B", "C"} - {first}
