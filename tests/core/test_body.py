from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.body import ATTACHMENT_TOKENS, estimate, find_model, find_usage, holds_error
from keyrouter_openai.core.model import Estimate, Usage

CHAT = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8, "audio_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 4},
}
RESPONSES = {
    "input_tokens": 100,
    "output_tokens": 50,
    "input_tokens_details": {"cached_tokens": 64},
    "output_tokens_details": {"reasoning_tokens": 20},
}
DEEPSEEK = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "prompt_cache_hit_tokens": 64,
    "prompt_cache_miss_tokens": 36,
}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (CHAT, Usage(100, 50, cached=64, cache_written=8, reasoning=20, audio=7)),
        (RESPONSES, Usage(100, 50, cached=64, reasoning=20)),
        (DEEPSEEK, Usage(100, 50, cached=64)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
        ({"type": "duration", "seconds": 3}, None),
        ({}, None),
    ],
)
def test_usage_in_every_shape(usage: dict[str, Any], expected: Usage | None) -> None:
    assert find_usage(json.dumps({"id": "x", "model": "m", "usage": usage}).encode()) == expected


def test_usage_in_a_models_text_is_not_taken_for_the_answers() -> None:
    text = '{"usage": {"prompt_tokens": 999}}'
    body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    assert find_usage(json.dumps(body).encode()) == Usage(1, 2)
    assert find_usage(json.dumps({"choices": [{"message": {"content": text}}]}).encode()) is None


def test_the_model_that_served() -> None:
    assert find_model(b'{"id":"x","model": "gpt-4o-2024-08-06","choices":[]}') == "gpt-4o-2024-08-06"
    assert find_model(b"{}") is None


@given(st.binary(max_size=300))
def test_no_bytes_upset_the_readers(data: bytes) -> None:
    find_usage(data)
    find_usage(b'{"usage":' + data)
    find_model(data)
    holds_error(b'{"error": {' + data)


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no", "code": 502}},
        {"error": {"message": "no"}, "user_id": "u"},
        {"error": "text"},
        {"object": "error", "error": {"message": "no"}},
        {"id": "gen-1", "choices": None, "error": {"code": 429}},
        [{"error": {"code": 400}}],
    ],
)
def test_an_error_in_the_guise_of_a_success(body: Any) -> None:
    assert holds_error(json.dumps(body).encode())


NO_ERRORS: list[Any] = [
    {"id": "resp_1", "object": "response", "status": "failed", "error": {"code": "server_error"}},
    {"id": "resp_1", "error": {"code": "server_error"}},
    {"object": "batch", "error": {"x": 1}},
    {"choices": [{"message": {"content": '"error": {'}}], "error": None},
    {"choices": [{"message": {}}], "error": {"code": 1}},
    {"data": [1], "error": {}},
]


@pytest.mark.parametrize("body", NO_ERRORS)
def test_an_object_with_a_field_of_that_name_is_none(body: Any) -> None:
    assert not holds_error(json.dumps(body).encode())


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_the_prompt_is_a_quarter_of_its_characters_rounded_up() -> None:
    assert estimate({"messages": said("x" * 400)}) == Estimate(101), "role and text"
    assert estimate({"messages": said("x" * 401)}) == Estimate(102)
    assert estimate({"input": ["a" * 40, "b" * 40]}) == Estimate(20)
    assert estimate({"input": [[1, 2, 3], [4, 5]]}) == Estimate(5), "tokens already"
    schema = {"type": ["string", "null"], "enum": ["abcd", None]}
    assert estimate({"tools": [{"parameters": {"properties": {"x": schema}}}]}) == Estimate(4)
    assert estimate({}) == estimate(None) == estimate([1]) == Estimate()


PICTURE = "data:image/png;base64," + "A" * 100_000
ATTACHED: list[Any] = [
    {"type": "image_url", "image_url": {"url": PICTURE}},
    {"type": "image_url", "image_url": {"url": "https://example.com/" + "a" * 100}},
    {"type": "input_image", "image_url": PICTURE},
    {"type": "input_audio", "input_audio": {"data": "A" * 100_000, "format": "wav"}},
    {"type": "file", "file": {"file_data": "A" * 100_000}},
    {"type": "computer_call_output", "output": PICTURE},
]


@pytest.mark.parametrize("part", ATTACHED)
def test_an_attachment_is_a_flat_guess_however_long(part: Any) -> None:
    text = {"type": "text", "text": "a" * 32}
    both = estimate({"messages": [{"content": [part, text]}]})
    alone = estimate({"messages": [{"content": [text]}]})
    assert ATTACHMENT_TOKENS <= both.prompt - alone.prompt <= ATTACHMENT_TOKENS + 10


@pytest.mark.parametrize(
    ("caps", "answer"),
    [
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 60, "max_tokens": 50}, 60),
        ({"max_output_tokens": 70}, 70),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"max_tokens": 50, "n": 2, "best_of": 4}, 200),
        ({"n": 3}, 0),
        ({"max_tokens": -1}, 0),
        ({"max_tokens": "many"}, 0),
        ({"max_tokens": None, "n": None}, 0),
    ],
)
def test_the_answer_is_its_cap_times_the_choices(caps: dict[str, Any], answer: int) -> None:
    assert estimate({"messages": said("hello"), **caps}).answer == answer


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "n", "max_tokens", "content"]), inner),
)


@given(JSON)
def test_any_body_has_an_estimate(body: Any) -> None:
    found = estimate(body)
    assert found.prompt >= 0
    assert found.answer >= 0
