"""smolagents: its model, plain and streamed, and an agent that calls a tool. It knows the sync client only."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from keyrouter_openai import SyncRoutedOpenAI

from .conftest import ASK_TOOL, FORECAST, HELLO, MODEL, City

smolagents = pytest.importorskip("smolagents", reason="smolagents is not installed")


@pytest.fixture
def model(sync_client: SyncRoutedOpenAI) -> Any:
    return smolagents.OpenAIModel(MODEL, client=sync_client)


def asking(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}]


def test_plain(model: Any) -> None:
    assert model.generate(asking(HELLO)).content == HELLO


def test_stream(model: Any) -> None:
    assert "".join(delta.content or "" for delta in model.generate_stream(asking(HELLO))) == HELLO


def test_structured_output(model: Any) -> None:
    schema = {"name": "city", "schema": City.model_json_schema(), "strict": True}
    answer = model.generate(asking("Oslo"), response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(answer.content) == {"name": "Oslo", "inhabitants": 4}


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_dies_while_a_tool_runs(model: Any, get_weather: Callable[[str], str], stream: bool) -> None:
    agent = smolagents.ToolCallingAgent(
        [smolagents.tool(get_weather)], model, stream_outputs=stream, verbosity_level=-1
    )
    assert FORECAST in agent.run(ASK_TOOL)
