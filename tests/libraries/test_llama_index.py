"""llama-index-llms-openai: both of its models, plain and awaited, and an agent that calls a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI

from .conftest import ASK_TOOL, FORECAST, HELLO, MODEL, City

openai_llms = pytest.importorskip("llama_index.llms.openai", reason="llama-index-llms-openai is not installed")
workflow = pytest.importorskip("llama_index.core.agent.workflow")

# Its agents look at all attributes of a pydantic model, those that are deprecated too.
pytestmark = pytest.mark.filterwarnings("ignore:.*attribute.* is deprecated:DeprecationWarning")


@pytest.fixture(params=["OpenAI", "OpenAIResponses"])
def model(request: pytest.FixtureRequest, client: RoutedOpenAI, sync_client: SyncRoutedOpenAI) -> Any:
    return getattr(openai_llms, request.param)(model=MODEL, async_openai_client=client, openai_client=sync_client)


async def test_plain(model: Any) -> None:
    assert (await model.acomplete(HELLO)).text == HELLO
    assert model.complete(HELLO).text == HELLO


async def test_stream(model: Any) -> None:
    assert "".join([part.delta async for part in await model.astream_complete(HELLO)]) == HELLO
    assert "".join(part.delta for part in model.stream_complete(HELLO)) == HELLO


async def test_structured_output(model: Any) -> None:
    structured = model.as_structured_llm(City)
    assert (await structured.acomplete("Oslo")).raw == City(name="Oslo", inhabitants=4)
    assert structured.complete("Oslo").raw == City(name="Oslo", inhabitants=4)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_dies_while_a_tool_runs(model: Any, get_weather: Callable[[str], str], stream: bool) -> None:
    agent = workflow.FunctionAgent(tools=[get_weather], llm=model, streaming=stream)
    assert str(await agent.run(ASK_TOOL)) == FORECAST
