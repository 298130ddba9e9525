"""Every endpoint through the plain SDK: what it parses must be what was asked for."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pydantic
import pytest

from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .conftest import FakeClock

HELLO = "Hello, what is the weather like?"


class Weather(pydantic.BaseModel):
    city: str
    degrees: int
    tomorrow: Weather | None


def test_chat_echoes_the_last_user_message(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "First."},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": [{"type": "text", "text": HELLO}]},
        ],
    )
    assert answer.choices[0].message.content == HELLO
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "gpt-4o"
    assert answer.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (13, 8)
    assert answer.usage.total_tokens == 21


def test_max_tokens_cuts_the_answer_and_n_repeats_it(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": HELLO}], max_completion_tokens=2, n=3
    )
    assert [choice.message.content for choice in answer.choices] == ["Hello, w"] * 3
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert answer.usage
    assert answer.usage.completion_tokens == 6


@pytest.mark.parametrize("with_usage", [True, False])
def test_chat_stream(client: openai.OpenAI, with_usage: bool) -> None:
    chunks = list(
        client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": HELLO}],
            stream=True,
            stream_options={"include_usage": True} if with_usage else openai.omit,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == HELLO
    if not with_usage:
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert not any("usage" in chunk.to_dict() for chunk in chunks)
        return
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 16
    assert all(chunk.to_dict()["usage"] is None for chunk in chunks[:-1])


def test_chat_stream_ends_with_done(raw: httpx2.Client) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
    answer = raw.post("/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.endswith("data: [DONE]\n\n")


def test_chat_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": HELLO}]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == HELLO
    assert {"chunk", "content.delta", "content.done"} == set(kinds)


def test_structured_chat_fits_the_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="m", messages=[{"role": "user", "content": "Oslo"}], response_format=Weather
    )
    parsed = answer.choices[0].message.parsed
    assert parsed
    assert parsed.city == "Oslo"


def test_json_mode(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Oslo"}], response_format={"type": "json_object"}
    )
    assert answer.choices[0].message.content == '{"text": "Oslo"}'


def test_response_echoes_the_input(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="m", input=HELLO, instructions="Be brief.", temperature=0.5)
    assert answer.output_text == HELLO
    assert answer.status == "completed"
    assert (answer.instructions, answer.temperature) == ("Be brief.", 0.5)
    assert answer.usage
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 8)
    listed = client.responses.create(model="m", input=[{"role": "user", "content": HELLO}])
    assert listed.output_text == HELLO


def test_response_cut_short_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="m", input=HELLO, max_output_tokens=1)
    assert (answer.status, answer.output_text) == ("incomplete", "Hell")
    assert answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_response_stream_has_the_typed_events_in_order(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="m", input="Hello", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(10))
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Hello"
    assert last.response.usage
    assert last.response.usage.total_tokens == 4


def test_response_stream_helper_and_parse(client: openai.OpenAI) -> None:
    with client.responses.stream(model="m", input=HELLO) as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == HELLO
    parsed = client.responses.parse(model="m", input="Oslo", text_format=Weather).output_parsed
    assert parsed
    assert parsed.city == "Oslo"


def function(name: str) -> dict[str, Any]:
    return {"name": name, "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def chat_tools(*names: str) -> Any:
    return [{"type": "function", "function": function(name)} for name in names]


def response_tools(*names: str) -> Any:
    return [{"type": "function", "strict": True, **function(name)} for name in names]


def test_chat_calls_the_tools_that_the_user_names(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "Ask weather and time."}]
    tools = chat_tools("weather", "time", "other")
    answer = client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0]
    with client.chat.completions.stream(model="m", messages=messages, tools=tools) as stream:
        streamed = stream.get_final_completion().choices[0]
    for choice in (answer, streamed):
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]
        assert [call.function.name for call in calls] == ["weather", "time"]
        assert {call.function.arguments for call in calls} == {'{"city": "Ask weather and time."}'}
        assert len({call.id for call in calls}) == 2
    messages += [answer.message, {"role": "tool", "tool_call_id": "call_1", "content": "Rain, says weather."}]
    last = client.chat.completions.create(model="m", messages=messages, tools=tools).choices[0]
    assert (last.message.content, last.finish_reason) == ("Rain, says weather.", "stop")


def test_a_response_calls_the_tools_that_the_user_names(client: openai.OpenAI) -> None:
    tools = response_tools("weather", "time", "other")
    answer = client.responses.create(model="m", input="Ask weather and time.", tools=tools)
    with client.responses.stream(model="m", input="Ask weather and time.", tools=tools) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert kinds[2] == "response.output_item.added"
    assert kinds[-3:] == ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    for response in (answer, streamed):
        calls = [item for item in response.output if item.type == "function_call"]
        assert [call.name for call in calls] == ["weather", "time"]
        assert {call.arguments for call in calls} == {'{"city": "Ask weather and time."}'}
    output: Any = [{"type": "function_call_output", "call_id": "call_1", "output": "Rain, says weather."}]
    last = client.responses.create(model="m", input=output, previous_response_id=answer.id, tools=tools)
    assert last.output_text == "Rain, says weather."


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("auto", []),
        ("required", ["second"]),
        ({"type": "function", "name": "first", "function": {"name": "first"}}, ["first"]),
        ("none", []),
    ],
)
def test_the_choice_of_tools(client: openai.OpenAI, choice: Any, called: list[str]) -> None:
    messages: Any = [{"role": "user", "content": "Hello"}]
    names = ("first", "second")
    answer = client.chat.completions.create(model="m", messages=messages, tools=chat_tools(*names), tool_choice=choice)
    calls = [call for call in answer.choices[0].message.tool_calls or [] if call.type == "function"]
    assert [call.function.name for call in calls] == called
    response = client.responses.create(model="m", input=messages, tools=response_tools(*names), tool_choice=choice)
    assert [item.name for item in response.output if item.type == "function_call"] == called


def test_any_text_is_echoed(client: openai.OpenAI, raw: httpx2.Client) -> None:
    text = "Grüße, 你好 \U0001f680\n\r\u2028\x00"
    assert client.responses.create(model="m", input=text).output_text == text
    with client.chat.completions.stream(model="m", messages=[{"role": "user", "content": text}]) as stream:
        assert stream.get_final_completion().choices[0].message.content == text
    half = b'{"model": "m", "input": "\\ud83d"}'
    assert raw.post("/embeddings", content=half).status_code == 200
    assert b"\\ud83d" in raw.post("/responses", content=half).content


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="m", prompt=["one", "two"])
    assert [choice.text for choice in answer.choices] == ["one", "two"]
    chunks = list(client.completions.create(model="m", prompt=HELLO, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == HELLO


def test_embeddings_depend_on_the_text_alone(client: openai.OpenAI) -> None:
    packed = client.embeddings.create(model="m", input=["a", "b", "a"], dimensions=8)
    plain = client.embeddings.create(model="m", input=["a"], dimensions=8, encoding_format="float")
    first, second, third = (item.embedding for item in packed.data)
    assert first == third != second
    assert len(first) == 8
    assert all(abs(a - b) < 1e-6 for a, b in zip(first, plain.data[0].embedding, strict=True))
    assert abs(sum(value * value for value in first) - 1.0) < 1e-5
    assert packed.usage.prompt_tokens == 1
    assert client.embeddings.create(model="m", input=[1, 2, 3]).usage.prompt_tokens == 3
    assert len(client.embeddings.create(model="m", input="a").data[0].embedding) == 1536


def test_images(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="gpt-image-1", prompt="A red fox", n=2)
    assert answer.data
    assert len(answer.data) == 2
    assert base64.b64decode(answer.data[0].b64_json or "").startswith(b"\x89PNG")
    assert answer.usage
    assert answer.usage.total_tokens == 3 + 2 * 1056


def test_models(client: openai.OpenAI) -> None:
    assert "gpt-4o" in [model.id for model in client.models.list()]
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    with ProviderSimulator([SimAccount("a", models=["only"])]) as other:
        client = client.with_options(base_url=other.url, api_key=other.keys["a/key-1"])
        assert [model.id for model in client.models.list()] == ["only"]
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-4o")


def test_files_belong_to_a_project(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    content = b"\r\n--not the end\r\n\x00\xff"
    made = client.files.create(file=("data.bin", content), purpose="batch")
    assert (made.bytes, made.filename, made.purpose) == (len(content), "data.bin", "batch")
    colleague = client.with_options(api_key=sim.keys["a/key-2"])
    assert colleague.files.retrieve(made.id) == made
    assert colleague.files.content(made.id).content == content
    stranger = client.with_options(api_key=sim.keys["b/key-1"])
    with pytest.raises(openai.NotFoundError, match=f"No such File object: {made.id}"):
        stranger.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        stranger.files.delete(made.id)
    assert stranger.files.list().data == []
    assert colleague.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)


def test_files_are_listed_in_pages(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    made = [client.files.create(file=b"x", purpose="batch").id for _ in range(5)]
    sim.reset_counts()
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert sim.count(path="/v1/files") == 3
    assert [file.id for file in client.files.list(order="asc", after=made[2])] == made[3:]
    assert client.files.list(purpose="vision").data == []


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/chat/completions", b"{", "We could not parse the JSON body of your request."),
        ("/chat/completions", b"\xff", "We could not parse the JSON body of your request."),
        ("/chat/completions", b"[]", "you must provide a model parameter"),
        ("/chat/completions", b'{"model": "m"}', "Missing required parameter: 'messages'."),
        ("/chat/completions", b'{"model": "m", "messages": "x"}', "Invalid type for 'messages'."),
        ("/chat/completions", b'{"model": "m", "messages": []}', "Invalid 'messages': empty array."),
        ("/chat/completions", b'{"model": "m", "messages": ["x"], "max_tokens": 0}', "Invalid 'max_tokens'"),
        ("/responses", b'{"model": "m"}', "Missing required parameter: 'input'."),
        ("/embeddings", b'{"model": "m", "input": "x", "dimensions": -1}', "Invalid 'dimensions'"),
        ("/images/generations", b'{"model": "m", "prompt": 1}', "Invalid type for 'prompt'."),
        ("/files", b"", "Invalid content type: expected multipart/form-data"),
    ],
)
def test_malformed_requests_are_refused(raw: httpx2.Client, path: str, body: bytes, message: str) -> None:
    answer = raw.post(path, content=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"].startswith(message)
    assert error["type"] == "invalid_request_error"


def test_a_malformed_request_counts(clock: FakeClock) -> None:
    with ProviderSimulator([SimAccount("a", rpm=2)], clock=clock) as sim:
        http = httpx2.Client(base_url=sim.url, headers={"Authorization": f"Bearer {sim.keys['a/key-1']}"})
        with http:
            for _ in range(2):
                assert http.post("/chat/completions", json={"model": "m"}).status_code == 400
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
            assert http.post("/chat/completions", json=body).status_code == 429


@pytest.mark.parametrize(("method", "path"), [("POST", "/nothing"), ("GET", "/responses"), ("PUT", "/files")])
def test_unknown_routes(raw: httpx2.Client, method: str, path: str) -> None:
    answer = raw.request(method, path)
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == f"Invalid URL ({method} /v1{path})"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, None),
        ({"Authorization": "Bearer sk-unknown-0123456789"}, "invalid_api_key"),
        ({"OpenAI-Organization": "org-b"}, "mismatched_organization"),
        ({"OpenAI-Project": "proj_b"}, "mismatched_project"),
    ],
)
def test_wrong_credentials(sim: ProviderSimulator, headers: dict[str, str], code: str | None) -> None:
    known = {"Authorization": f"Bearer {sim.keys['a/key-1']}"} if code and code.startswith("mismatch") else {}
    answer = httpx2.get(f"{sim.url}/models", headers={**known, **headers})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code
    assert "sk-unknown-0123456789" not in answer.text
    assert "openai-organization" not in answer.headers
