"""langchain-openai: its chat model on either API, plain and awaited, and its embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI

from .conftest import ASK_TOOL, FORECAST, HELLO, MODEL, City

langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
tools = pytest.importorskip("langchain_core.tools")


@pytest.fixture(params=["chat completions", "responses"])
def model(request: pytest.FixtureRequest, client: RoutedOpenAI, sync_client: SyncRoutedOpenAI) -> Any:
    return langchain.ChatOpenAI(
        model=MODEL,
        async_client=client.chat.completions,
        root_async_client=client,
        client=sync_client.chat.completions,
        root_client=sync_client,
        use_responses_api=request.param == "responses",
    )


async def test_plain(model: Any) -> None:
    assert (await model.ainvoke(HELLO)).text == HELLO
    assert model.invoke(HELLO).text == HELLO


async def test_stream(model: Any) -> None:
    assert "".join([chunk.text async for chunk in model.astream(HELLO)]) == HELLO
    assert "".join(chunk.text for chunk in model.stream(HELLO)) == HELLO


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_structured_output(model: Any, method: str) -> None:
    structured = model.with_structured_output(City, method=method)
    assert await structured.ainvoke("Oslo") == City(name="Oslo", inhabitants=4)
    assert structured.invoke("Oslo") == City(name="Oslo", inhabitants=4)


@pytest.mark.parametrize("sync", [False, True])
async def test_a_key_dies_while_a_tool_runs(model: Any, get_weather: Callable[[str], str], sync: bool) -> None:
    tool = tools.tool(get_weather)
    bound = model.bind_tools([tool])
    messages: list[Any] = [("user", ASK_TOOL)]
    messages.append(bound.invoke(messages) if sync else await bound.ainvoke(messages))
    messages += [tool.invoke(call) for call in messages[-1].tool_calls]
    assert (bound.invoke(messages) if sync else await bound.ainvoke(messages)).text == FORECAST


async def test_embeddings(client: RoutedOpenAI, sync_client: SyncRoutedOpenAI) -> None:
    embeddings = langchain.OpenAIEmbeddings(
        async_client=client.embeddings, client=sync_client.embeddings, check_embedding_ctx_length=False
    )
    assert await embeddings.aembed_query(HELLO) == embeddings.embed_query(HELLO)
