from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.affinity import LENGTHS
from keyrouter_openai.prefix import prefixes

CHAT = "/chat/completions"


def words(tokens: int, of: str = "word") -> str:
    """A text of so many tokens, at four characters each."""
    return (of * tokens)[: 4 * tokens]


def chat(*texts: str, **more: Any) -> dict[str, Any]:
    roles = ("system", *("user", "assistant") * len(texts))
    return {"model": "m", "messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)], **more}


def in_common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many beginnings two prompts share; what follows the first that differs must differ too."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    assert same == sorted(same, reverse=True)
    assert set(one[sum(same) :]).isdisjoint(other[sum(same) :])
    return sum(same)


texts = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20_000)), min_size=1, max_size=8)


@given(texts, texts, st.integers(0, 9_000))
def test_the_beginnings_of_a_longer_conversation_extend_those_of_a_shorter(
    said: list[tuple[str, int]], later: list[tuple[str, int]], more: int
) -> None:
    before = [letter * size for letter, size in said]
    after = [letter * size for letter, size in later]
    shorter = prefixes(chat(*before), CHAT)
    assert prefixes(chat(*before, *after), CHAT)[: len(shorter)] == shorter
    assert prefixes(chat(*before[:-1], before[-1] + "a" * more), CHAT)[: len(shorter)] == shorter
    size = sum(map(len, before)) / 4
    assert len(shorter) == sum(length <= size for length in LENGTHS)
    assert len(set(shorter)) == len(shorter)


def test_users_of_one_system_prompt_share_its_beginnings_and_no_more() -> None:
    system = words(5000)
    one = prefixes(chat(system, words(9000, "this")), CHAT)
    other = prefixes(chat(system, words(9000, "that")), CHAT)
    assert in_common(one, other) == sum(length <= 5000 for length in LENGTHS) == 5
    assert len(one) == len(other) == 8


def test_texts_that_part_within_one_message_share_what_is_before() -> None:
    common = words(3000)
    one = prefixes({"model": "m", "input": common + words(9000, "this")}, "/responses")
    other = prefixes({"model": "m", "input": common + words(9000, "that")}, "/responses")
    assert in_common(one, other) == 3


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (chat(words(5000)), CHAT),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": words(5000)}]}]}, CHAT),
        ({"messages": [{"role": "tool", "tool_call_id": "c", "content": words(5000)}]}, CHAT),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": words(5000)}}]}]}, CHAT),
        ({"tools": [{"type": "function", "function": {"description": words(5000)}}], "messages": []}, CHAT),
        ({"tools": [{"type": "function", "name": "f", "description": words(5000)}], "input": "x"}, "/responses"),
        ({"instructions": words(5000), "input": "x"}, "/responses"),
        ({"input": words(5000)}, "/responses"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": words(5000)}]}]}, "/responses"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": words(5000)}]}, "/responses"),
        ({"input": [{"type": "function_call", "call_id": "c", "arguments": words(5000)}]}, "/responses"),
        ({"prompt": words(5000)}, "/completions"),
    ],
)
def test_text_is_found_wherever_a_prompt_has_it(body: dict[str, Any], path: str) -> None:
    assert len(prefixes(body, path)) == 5


def test_tools_come_before_what_is_said_whatever_the_order_of_fields() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": words(3000, "tool")}}]
    body = chat(words(2000), words(8000), tools=tools)
    turned = {name: body[name] for name in reversed(body)}
    assert prefixes(turned, CHAT) == prefixes(body, CHAT)
    other = chat(words(2000, "else"), words(8000), tools=tools)
    assert in_common(prefixes(body, CHAT), prefixes(other, CHAT)) == 3
    assert in_common(prefixes(body, CHAT), prefixes(chat(words(2000), words(8000)), CHAT)) == 0


def test_models_share_no_cache() -> None:
    body = chat(words(9000))
    assert in_common(prefixes(body, CHAT), prefixes({**body, "model": "n"}, CHAT)) == 0


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (chat(words(500), words(500)), CHAT),
        (chat("be brief", "hello"), CHAT),
        ({"model": "m", "input": words(5000)}, "/embeddings"),
        ({"model": "m", "prompt": words(5000)}, "/images/generations"),
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "data:" + words(5000)}}]}]}, CHAT),
        (None, "/models"),
        (b"bytes", CHAT),
    ],
)
def test_nothing_for_what_no_provider_caches(body: object, path: str) -> None:
    assert prefixes(body, path) == ()


def test_a_cache_key_keeps_short_calls_together() -> None:
    first = prefixes(chat("be brief", "hello", prompt_cache_key="user-1"), CHAT)
    assert first == prefixes(chat("be brief", "and now?", prompt_cache_key="user-1"), CHAT)
    assert len(first) == 1
    assert first != prefixes(chat("be brief", "hello", prompt_cache_key="user-2"), CHAT)


def test_a_cache_key_that_all_calls_share_does_not_hide_what_tells_them_apart() -> None:
    one = prefixes(chat(words(9000, "this"), prompt_cache_key="app"), CHAT)
    other = prefixes(chat(words(9000, "that"), prompt_cache_key="app"), CHAT)
    assert in_common(one, other) == 1
    assert in_common(one, prefixes(chat(words(9000, "this")), CHAT)) == 0


@pytest.mark.parametrize("name", ["conversation", "previous_response_id"])
def test_what_the_provider_remembers_counts_as_the_longest_beginning(name: str) -> None:
    def asked(text: str, id: object) -> tuple[int, ...]:
        return prefixes({"model": "m", "instructions": words(2000), "input": text, name: id}, "/responses")

    first = asked("hello", "id-1")
    assert asked("and now?", "id-1") == first
    assert in_common(first, asked("hello", "id-2")) == len(first) - 1 == 2
    assert asked("hello", {"id": "id-1"}) == first


def test_numbers_cannot_be_known_from_outside_the_process() -> None:
    code = "from keyrouter_openai.prefix import prefixes; print(prefixes({'prompt': 'x' * 9000}, '/completions'))"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    outputs = {subprocess.run(command, env=environment, check=True, capture_output=True).stdout for _ in range(2)}
    assert len(outputs) == 2


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
names = st.sampled_from(["model", "messages", "input", "tools", "content", "function", "text", "conversation", "id"])
bodies = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20)


@given(bodies, st.sampled_from([CHAT, "/responses"]))
def test_no_body_is_too_odd(body: object, path: str) -> None:
    assert all(isinstance(number, int) for number in prefixes(body, path))


def test_no_body_is_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert prefixes({"messages": deep}, CHAT) == ()
