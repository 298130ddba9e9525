from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.body import ATTACHMENT_TOKENS, estimate, find_model, find_receipt, holds_error, read_stated
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
ANTHROPIC = {
    "input_tokens": 10,
    "output_tokens": 5,
    "cache_read_input_tokens": 60,
    "cache_creation_input_tokens": 30,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
}
IMAGES = {
    "input_tokens": 30,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 20},
    "output_tokens": 50,
    "output_tokens_details": {"text_tokens": 5, "image_tokens": 45},
}
REALTIME = {
    "input_tokens": 100,
    "output_tokens": 50,
    "input_token_details": {
        "text_tokens": 60,
        "audio_tokens": 30,
        "image_tokens": 10,
        "cached_tokens": 40,
        "cached_tokens_details": {"text_tokens": 25, "audio_tokens": 12, "image_tokens": 3},
    },
    "output_token_details": {"text_tokens": 10, "audio_tokens": 40},
}
THOUGHT = {"prompt_tokens": 758, "completion_tokens": 102, "total_tokens": 1725}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (CHAT, Usage(100, 50, cached=64, cache_written=8, reasoning=20, audio=3, audio_answer=4)),
        (RESPONSES, Usage(100, 50, cached=64, reasoning=20)),
        (DEEPSEEK, Usage(100, 50, cached=64)),
        (ANTHROPIC, Usage(100, 5, cached=60, cache_written=30, cache_written_1h=10)),
        (IMAGES, Usage(30, 50, image=20, image_answer=45)),
        (REALTIME, Usage(100, 50, cached=40, audio=30, image=10, cached_audio=12, cached_image=3, audio_answer=40)),
        (THOUGHT, Usage(758, 967, reasoning=865)),
        ({"prompt_tokens": 8, "total_tokens": 8}, Usage(8)),
        ({"type": "duration", "seconds": 3}, Usage(seconds=3)),
        ({"prompt_tokens": 2**62, "completion_tokens": 1}, None),
        ({"type": "duration", "seconds": 1e300}, None),
        ({}, None),
    ],
)
def test_usage_in_every_shape(usage: dict[str, Any], expected: Usage | None) -> None:
    assert find_receipt(json.dumps({"id": "x", "model": "m", "usage": usage}).encode()).usage == expected


def test_usage_in_a_models_text_is_not_taken_for_the_answers() -> None:
    text = '{"usage": {"prompt_tokens": 999}}'
    body = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    assert find_receipt(json.dumps(body).encode()).usage == Usage(1, 2)
    assert find_receipt(json.dumps({"choices": [{"message": {"content": text}}]}).encode()).usage is None


@pytest.mark.parametrize(
    ("usage", "microusd"),
    [
        ({"cost": 0.0123456}, 12346),
        ({"cost": 0}, 0),
        ({"cost": 0.0001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.002}}, 2100),
        ({"cost": 0.0021, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.002}}, 2100),
        ({"cost": 0.0001, "is_byok": True}, None),
        ({"cost_in_usd_ticks": 37_756_000}, 3776),
        ({"cost": None}, None),
        ({"cost": "0.1"}, None),
        ({"cost": -0.1}, None),
        ({"cost": 1e300}, None),
        ({"cost_in_usd_ticks": 10**30}, None),
        ({}, None),
    ],
)
def test_what_a_provider_says_that_it_costs(usage: dict[str, Any], microusd: int | None) -> None:
    assert read_stated(usage) == microusd


def test_the_tier_that_served_is_not_one_in_the_callers_own_words() -> None:
    response = {"object": "response", "service_tier": "flex", "usage": RESPONSES, "metadata": {"service_tier": "mine"}}
    assert find_receipt(json.dumps(response).encode()).tier == "flex"
    chat = {"choices": [{"text": '"service_tier": "mine"'}], "usage": CHAT, "service_tier": "priority"}
    assert find_receipt(json.dumps(chat).encode()).tier == "priority"
    chunk: dict[str, Any] = {"service_tier": "default", "choices": [], "usage": CHAT}
    assert find_receipt(b"data: " + json.dumps(chunk).encode() + b"\n\n").tier == "default"
    assert find_receipt(json.dumps({"usage": CHAT, "service_tier": None}).encode()).tier is None


def test_searches_are_counted_where_they_are_no_text() -> None:
    calls = [{"type": "web_search_call"}, {"type": "web_search_call"}, {"type": "file_search_call"}]
    text = {"type": "output_text", "text": '"type": "web_search_call"'}
    body = {"output": [*calls, {"type": "message", "content": [text]}], "usage": RESPONSES}
    usage = find_receipt(json.dumps(body).encode()).usage
    assert usage is not None
    assert (usage.web_searches, usage.file_searches) == (2, 1)


def test_the_model_that_served() -> None:
    assert find_model(b'{"id":"x","model": "gpt-4o-2024-08-06","choices":[]}') == "gpt-4o-2024-08-06"
    assert find_model(b"{}") is None


@given(st.binary(max_size=300))
def test_no_bytes_upset_the_readers(data: bytes) -> None:
    find_receipt(data)
    find_receipt(b'{"usage":' + data)
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
