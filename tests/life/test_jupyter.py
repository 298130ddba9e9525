"""One client over several cells of a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyrouter_openai import Ledger
from keyrouter_openai.testing import ProviderSimulator

pytest.importorskip("ipykernel", reason="needs ipykernel and jupyter_client")
manager: Any = pytest.importorskip("jupyter_client.manager", reason="needs ipykernel and jupyter_client")

CELLS = [
    """
        from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI
        chat = {"model": "gpt-4o", "messages": [{"role": "user", "content": "The quick brown fox."}]}
        client, sync = RoutedOpenAI(), SyncRoutedOpenAI()
    """,
    """
        answer = await client.chat.completions.create(**chat)
        assert answer.choices[0].message.content == "The quick brown fox."
    """,
    """
        import asyncio
        stream = await client.chat.completions.create(**chat, stream=True)
        waiting = asyncio.gather(*(client.chat.completions.create(**chat) for _ in range(3)))
    """,
    """
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
        assert text == "The quick brown fox."
    """,
    "assert sync.chat.completions.create(**chat).choices[0].message.content == 'The quick brown fox.'",
    "assert len(await waiting) == 3; await client.close()",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of jupyter_client's own
def test_a_client_serves_several_cells(sim: ProviderSimulator, tmp_path: Path) -> None:
    kernels, kernel = manager.start_new_kernel(kernel_name="python3")
    try:
        for cell in CELLS:
            reply = kernel.execute_interactive("\n".join(line.strip() for line in cell.splitlines()), timeout=60)
            assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        kernel.stop_channels()
        kernels.shutdown_kernel()
    assert [row["outcome"] for row in Ledger(tmp_path / "usage.db").attempts()] == ["ok"] * 6
