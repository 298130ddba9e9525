"""Typical calls of the SDK's clients, never run: `test_checkers` has them checked, also with ours in their place."""

from __future__ import annotations

from typing import assert_type

import openai
from openai import AsyncOpenAI, OpenAI
from openai.pagination import AsyncCursorPage, SyncCursorPage
from openai.types import Batch, CreateEmbeddingResponse, FileObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageParam, ParsedChatCompletion
from openai.types.responses import ParsedResponse, Response, ResponseStreamEvent
from pydantic import BaseModel

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Which city?"}]


class City(BaseModel):
    name: str


async def completions(client: AsyncOpenAI, flag: bool) -> None:
    create = client.chat.completions.create
    assert_type(await create(model="gpt-4o", messages=MESSAGES), ChatCompletion)
    assert_type(await create(model="gpt-4o", messages=MESSAGES, stream=False), ChatCompletion)
    stream = await create(model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True})
    assert_type(stream, openai.AsyncStream[ChatCompletionChunk])
    async for chunk in stream:
        assert_type(chunk.choices[0].delta.content, str | None)
    either = await create(model="gpt-4o", messages=MESSAGES, stream=flag)
    assert_type(either, ChatCompletion | openai.AsyncStream[ChatCompletionChunk])
    parsed = await client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=City)
    assert_type(parsed, ParsedChatCompletion[City])
    assert_type(parsed.choices[0].message.parsed, City | None)
    async with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES, response_format=City) as events:
        async for event in events:
            if event.type == "content.delta":
                assert_type(event.delta, str)
        assert_type(await events.get_final_completion(), ParsedChatCompletion[City])


async def responses(client: AsyncOpenAI) -> None:
    answer = await client.responses.create(model="gpt-4o", input="Which city?", timeout=5.0, extra_headers={"x-a": "b"})
    assert_type(answer, Response)
    assert_type(answer.output_text, str)
    stream = await client.responses.create(model="gpt-4o", input="Which city?", stream=True)
    assert_type(stream, openai.AsyncStream[ResponseStreamEvent])
    parsed = await client.responses.parse(model="gpt-4o", input="Which city?", text_format=City)
    assert_type(parsed, ParsedResponse[City])
    assert_type(parsed.output_parsed, City | None)
    async with client.responses.stream(model="gpt-4o", input="Which city?", text_format=City) as events:
        assert_type(await events.get_final_response(), ParsedResponse[City])


async def resources(client: AsyncOpenAI) -> None:
    assert_type(await client.embeddings.create(model="text-embedding-3-small", input=["a"]), CreateEmbeddingResponse)
    assert_type(await client.files.create(file=("a.jsonl", b"{}"), purpose="batch"), FileObject)
    batch = await client.batches.create(
        input_file_id="file-a", endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    assert_type(batch, Batch)
    page = await client.batches.list(limit=2)
    assert_type(page, AsyncCursorPage[Batch])
    assert_type(await page.get_next_page(), AsyncCursorPage[Batch])
    async for model in client.models.list():
        assert_type(model, Model)


async def other_forms(client: AsyncOpenAI) -> None:
    raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert_type(raw.parse(), ChatCompletion)
    assert_type(raw.status_code, int)
    async with client.files.with_streaming_response.content("file-a") as content:
        async for data in content.iter_bytes():
            assert_type(data, bytes)
    whole = client.with_raw_response
    assert_type((await whole.models.retrieve("gpt-4o")).parse(), Model)
    assert_type(await client.get("/models", cast_to=object), object)


class OurClient(AsyncOpenAI):
    async def name_of(self, text: str) -> str:
        return (await self.responses.create(model="gpt-4o", input=text)).output_text


async def a_library(client: openai.AsyncOpenAI, plain: openai.OpenAI) -> None:
    assert_type(client.api_key, str)
    assert_type(plain.models.retrieve("gpt-4o"), Model)


async def clients() -> None:
    async with AsyncOpenAI(api_key="sk-a", max_retries=3, timeout=openai.Timeout(10.0)) as client:
        await a_library(client, OpenAI())
        assert_type(client.with_options(timeout=1.0, max_retries=0), AsyncOpenAI)
        assert_type(await client.with_options(timeout=1.0).models.retrieve("gpt-4o"), Model)
        assert_type(client.copy(default_headers={"x-a": "b"}), AsyncOpenAI)
    ours = OurClient(api_key="sk-a", base_url="https://api.openai.com/v1", default_query={"a": 1})
    assert_type(ours.with_options(max_retries=1), OurClient)
    assert_type(await ours.name_of("Which city?"), str)
    try:
        await responses(ours)
    except openai.APIStatusError as error:
        assert_type(error.status_code, int)


def sync(client: OpenAI, flag: bool) -> None:
    create = client.chat.completions.create
    assert_type(create(model="gpt-4o", messages=MESSAGES), ChatCompletion)
    for chunk in create(model="gpt-4o", messages=MESSAGES, stream=True):
        assert_type(chunk, ChatCompletionChunk)
    either = create(model="gpt-4o", messages=MESSAGES, stream=flag)
    assert_type(either, ChatCompletion | openai.Stream[ChatCompletionChunk])
    parsed = client.responses.parse(model="gpt-4o", input="Which city?", text_format=City)
    assert_type(parsed.output_parsed, City | None)
    with client.responses.stream(model="gpt-4o", input="Which city?") as events:
        for event in events:
            if event.type == "response.output_text.delta":
                assert_type(event.delta, str)
    with client.chat.completions.with_streaming_response.create(model="gpt-4o", messages=MESSAGES) as streaming:
        assert_type(streaming.parse(), ChatCompletion)
    assert_type(client.batches.list(), SyncCursorPage[Batch])
    assert_type(client.with_options(timeout=1.0).files.retrieve("file-a"), FileObject)
