"""pydantic-ai: both of its models, its two ways to structured output, and its copy of the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyrouter_openai import RoutedOpenAI
from tests.support import Pool

from .conftest import ASK_TOOL, FORECAST, HELLO, MODEL, City

pydantic_ai = pytest.importorskip("pydantic_ai", reason="pydantic-ai is not installed")
models = pytest.importorskip("pydantic_ai.models.openai")
providers = pytest.importorskip("pydantic_ai.providers.openai")


@pytest.fixture(params=["OpenAIChatModel", "OpenAIResponsesModel"])
def model(request: pytest.FixtureRequest, client: RoutedOpenAI) -> Any:
    provider = providers.OpenAIProvider(openai_client=client)
    return getattr(models, request.param)(MODEL, provider=provider)


async def test_plain(model: Any) -> None:
    result = await pydantic_ai.Agent(model).run(HELLO)
    assert result.output == HELLO


async def test_stream(model: Any) -> None:
    async with pydantic_ai.Agent(model).run_stream(HELLO) as result:
        assert "".join([text async for text in result.stream_text(delta=True)]) == HELLO


@pytest.mark.parametrize("kind", ["ToolOutput", "NativeOutput"])
async def test_structured_output(model: Any, kind: str) -> None:
    result = await pydantic_ai.Agent(model, output_type=getattr(pydantic_ai, kind)(City)).run("Oslo")
    assert result.output == City(name="Oslo", inhabitants=4)


async def test_a_key_dies_while_a_tool_runs(model: Any, get_weather: Callable[[str], str]) -> None:
    result = await pydantic_ai.Agent(model, tools=[get_weather]).run(ASK_TOOL)
    assert result.output == FORECAST


async def test_a_key_dies_in_a_streamed_run(model: Any, get_weather: Callable[[str], str]) -> None:
    async with pydantic_ai.Agent(model, tools=[get_weather]).run_stream(ASK_TOOL) as result:
        assert await result.get_output() == FORECAST


async def test_the_copy_that_it_makes_of_a_client_is_routed(model: Any, pool: Pool) -> None:
    pool.sim.fail("rate_limit", times=1)
    result = await pydantic_ai.Agent(model, model_settings={"max_retries": 0}).run(HELLO)
    assert result.output == HELLO
    assert [call.status for call in pool.sim.calls] == [429, 200]
