"""openai-agents: both of its models, the runner's tools, and its default of using the client's key for traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyrouter_openai import RoutedOpenAI
from tests.support import Pool

from .conftest import ASK_TOOL, FORECAST, HELLO, MODEL, City

agents = pytest.importorskip("agents", reason="openai-agents is not installed")
processors = pytest.importorskip("agents.tracing.processors")


@pytest.fixture(autouse=True)
def no_traces() -> None:
    agents.set_tracing_disabled(disabled=True)


@pytest.fixture(params=["OpenAIResponsesModel", "OpenAIChatCompletionsModel"])
def model(request: pytest.FixtureRequest, client: RoutedOpenAI) -> Any:
    return getattr(agents, request.param)(model=MODEL, openai_client=client)


async def test_plain(model: Any) -> None:
    result = await agents.Runner.run(agents.Agent(name="Greeter", model=model), HELLO)
    assert result.final_output == HELLO


async def test_stream(model: Any) -> None:
    result = agents.Runner.run_streamed(agents.Agent(name="Greeter", model=model), HELLO)
    events = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == HELLO


async def test_structured_output(model: Any) -> None:
    result = await agents.Runner.run(agents.Agent(name="Reader", model=model, output_type=City), "Oslo")
    assert result.final_output == City(name="Oslo", inhabitants=4)


@pytest.fixture
def forecaster(model: Any, get_weather: Callable[[str], str]) -> Any:
    tools = [agents.function_tool(get_weather)]
    return agents.Agent(name="Forecaster", model=model, tools=tools)


async def test_a_key_dies_while_a_tool_runs(forecaster: Any) -> None:
    result = await agents.Runner.run(forecaster, ASK_TOOL)
    assert result.final_output == FORECAST


async def test_a_key_dies_in_a_streamed_run(forecaster: Any) -> None:
    result = agents.Runner.run_streamed(forecaster, ASK_TOOL)
    assert [event.type async for event in result.stream_events()]
    assert result.final_output == FORECAST


async def test_the_default_client(client: RoutedOpenAI, pool: Pool) -> None:
    agents.set_default_openai_client(client)
    result = await agents.Runner.run(agents.Agent(name="Greeter", model=MODEL), HELLO)
    assert result.final_output == HELLO
    # Traces go to api.openai.com and nowhere else, with what the client has for a key: on a pool, a placeholder.
    exporter = processors.default_exporter()
    assert exporter.api_key == client.api_key
    assert exporter.api_key not in pool.sim.keys.values()
