from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.body import estimate_tokens, find_model, find_usage, holds_error
from keyrouter_openai.core.model import Usage

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


def test_the_charge_is_the_cap_or_the_characters() -> None:
    messages = [{"role": "user", "content": "x" * 400}]
    assert estimate_tokens({"messages": messages, "max_tokens": 50}) == 101, "role and text"
    assert estimate_tokens({"messages": messages, "max_completion_tokens": 5000}) == 5000
    assert estimate_tokens({"input": ["a" * 40, "b" * 40]}) == 20
    assert estimate_tokens(None) == 1
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    assert estimate_tokens({"messages": [{"role": "user", "content": [image]}]}) < 20
