"""semantic-kernel: its chat completion service, with a kernel's functions, and its embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyrouter_openai import RoutedOpenAI

from .conftest import FORECAST, HELLO, MODEL, City

semantic_kernel = pytest.importorskip("semantic_kernel", reason="semantic-kernel is not installed")
open_ai = pytest.importorskip("semantic_kernel.connectors.ai.open_ai")
behavior = pytest.importorskip("semantic_kernel.connectors.ai.function_choice_behavior")
contents = pytest.importorskip("semantic_kernel.contents")
functions = pytest.importorskip("semantic_kernel.functions")


@pytest.fixture
def service(client: RoutedOpenAI) -> Any:
    return open_ai.OpenAIChatCompletion(ai_model_id=MODEL, async_client=client)


def asking(text: str, **settings: Any) -> tuple[Any, Any]:
    history = contents.ChatHistory()
    history.add_user_message(text)
    return history, open_ai.OpenAIChatPromptExecutionSettings(**settings)


def kernel_with(tool: Callable[[str], str]) -> Any:
    kernel = semantic_kernel.Kernel()
    kernel.add_function("weather", functions.kernel_function(tool))
    return kernel


async def test_plain(service: Any) -> None:
    answer = await service.get_chat_message_content(*asking(HELLO))
    assert str(answer) == HELLO


async def test_stream(service: Any) -> None:
    chunks = service.get_streaming_chat_message_content(*asking(HELLO))
    assert "".join([str(chunk) async for chunk in chunks]) == HELLO


async def test_structured_output(service: Any) -> None:
    answer = await service.get_chat_message_content(*asking("Oslo", response_format=City))
    assert City.model_validate_json(str(answer)) == City(name="Oslo", inhabitants=4)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_dies_while_a_tool_runs(service: Any, get_weather: Callable[[str], str], stream: bool) -> None:
    question = asking(
        "What does weather-get_weather say of Oslo?", function_choice_behavior=behavior.FunctionChoiceBehavior.Auto()
    )
    kernel = kernel_with(get_weather)
    if stream:
        chunks = [chunk async for chunk in service.get_streaming_chat_message_content(*question, kernel=kernel)]
        assert "".join(map(str, chunks)).endswith(FORECAST)
    else:
        assert str(await service.get_chat_message_content(*question, kernel=kernel)) == FORECAST


async def test_embeddings(client: RoutedOpenAI) -> None:
    service = open_ai.OpenAITextEmbedding(ai_model_id="text-embedding-3-small", async_client=client)
    assert (await service.generate_embeddings([HELLO, HELLO])).shape == (2, 1536)
