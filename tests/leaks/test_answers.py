"""Whatever a provider answers, no secret is seen in errors, logs, events, status or ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import openai
import pytest

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI, route_of
from keyrouter_openai.testing import FAULTS, ProviderSimulator, respond

from .support import (
    PROMPT,
    Ask,
    Log,
    Pool,
    assert_clean,
    check,
    doors,
    plain_and_stream,
    seen_in_error,
)


@doors
@plain_and_stream
@pytest.mark.parametrize("fault", [name for name, fault in FAULTS.items() if fault.answer])
def test_a_call_that_fails(sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, stream: bool, fault: str) -> None:
    sim.fail(fault, wait=60)
    error = check(ask, pool, log, stream=stream)
    assert sim.calls
    assert error is not None
    assert_clean([repr(route_of(error))])


@doors
@pytest.mark.parametrize("events", [0, 2])
@pytest.mark.parametrize("fault", [name for name, fault in FAULTS.items() if fault.spoil])
def test_a_stream_that_breaks(sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, fault: str, events: int) -> None:
    sim.fail(fault, events=events)
    assert check(ask, pool, log, stream=True) is not None


@doors
@plain_and_stream
def test_a_call_that_is_rescued(sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, stream: bool) -> None:
    sim.fail("key_echo", times=1)
    sim.fail("rate_limit", times=1)
    assert check(ask, pool, log, stream=stream) is None
    assert len(sim.calls) == 3


_CHAT: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}],
}
_CHUNK: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion.chunk",
    "created": 1,
    "choices": [{"index": 0, "finish_reason": None, "delta": {"content": "ok"}}],
}


_ECHOING_HEADERS = ("x-request-id", "openai-organization", "openai-project", "www-authenticate")


def echoing(sim: ProviderSimulator, status: int, body: Callable[[str], object]) -> None:
    """Have the provider repeat the credential of each call wherever an answer has room for it."""
    for label, value in sim.keys.items():
        headers: dict[str, str] = dict.fromkeys(_ECHOING_HEADERS, value)
        sim.fail(respond(status, headers, body(value)), key=label)


def error_of(value: str) -> dict[str, object]:
    return {"error": {"message": f"no: {value}", "type": value, "code": value, "param": value}}


@doors
@plain_and_stream
@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500, 529])
def test_an_error_that_repeats_the_credential(
    sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, stream: bool, status: int
) -> None:
    echoing(sim, status, error_of)
    assert check(ask, pool, log, stream=stream) is not None


@doors
@pytest.mark.parametrize("events", [0, 1])
def test_a_stream_whose_error_repeats_the_credential(
    sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, events: int
) -> None:
    content = f"data: {json.dumps(_CHUNK)}\n\n" * events
    echoing(sim, 200, lambda value: f"{content}data: {json.dumps(error_of(value))}\n\n")
    assert check(ask, pool, log, stream=True) is not None


@doors
@plain_and_stream
def test_a_success_that_repeats_the_credential(
    sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask, stream: bool
) -> None:
    """What the answer says belongs to the caller; the log, the ledger, the events and the status must not have it."""
    if stream:
        echoing(sim, 200, lambda value: f"data: {json.dumps({**_CHUNK, 'model': value})}\n\ndata: [DONE]\n\n")
    else:
        echoing(sim, 200, lambda value: {**_CHAT, "model": value})
    assert check(ask, pool, log, stream=stream) is None


def test_a_raw_response_does_not_show_the_credential(sim: ProviderSimulator, pool: Pool) -> None:
    """As with the SDK, the request behind an answer has it, for who asks for that header by name."""
    with SyncRoutedOpenAI(**pool.settings) as client:
        raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=PROMPT)
        assert_clean([repr(raw), repr(raw.http_response), repr(raw.http_request), repr(raw.http_request.headers)])
        with client.chat.completions.create(model="gpt-4o", messages=PROMPT, stream=True) as stream:
            assert_clean([repr(stream), repr(vars(stream)), repr(stream.response.request.headers)])


@plain_and_stream
def test_a_call_that_its_caller_gives_up(sim: ProviderSimulator, pool: Pool, log: Log, stream: bool) -> None:
    sim.fail("stream_stall" if stream else "hang", events=1)

    async def call() -> None:
        async with RoutedOpenAI(**pool.settings) as client:
            with anyio.fail_after(0.1):
                answer = await client.with_options(timeout=60).chat.completions.create(
                    model="gpt-4o", messages=PROMPT, stream=stream
                )
                if isinstance(answer, openai.AsyncStream):
                    async for _ in answer:
                        pass

    with pytest.raises(TimeoutError) as caught:
        anyio.run(call)
    assert_clean(seen_in_error(caught.value))
    assert_clean(log.lines)
    assert_clean(pool.seen())
