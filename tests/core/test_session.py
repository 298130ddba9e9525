from __future__ import annotations

import json
from typing import Any

import pytest

from keyrouter_openai.core.model import Dimension, Reading, Usage
from keyrouter_openai.core.session import SessionWatch

DELTA = {"type": "response.output_audio.delta", "delta": "UklGRg=="}
CREATED = {"type": "response.created", "response": {"id": "resp_1", "status": "in_progress", "usage": None}}


def feed(watch: SessionWatch, *events: dict[str, Any]) -> list[Any]:
    return [watch.feed(json.dumps(event, separators=(",", ":")).encode()) for event in events]


def done(prompt: int, completion: int, *, status: str = "completed", **response: Any) -> dict[str, Any]:
    usage = {
        "total_tokens": prompt + completion,
        "input_tokens": prompt,
        "output_tokens": completion,
        "input_token_details": {"text_tokens": prompt, "audio_tokens": 2, "cached_tokens": 1},
    }
    return {"type": "response.done", "response": {"id": "resp_1", "status": status, "usage": usage, **response}}


def test_the_usage_of_all_responses_is_summed() -> None:
    watch = SessionWatch()
    feed(watch, CREATED, DELTA, done(10, 3), CREATED, DELTA, DELTA, done(20, 4))
    assert watch.usage == Usage(prompt=30, completion=7, cached=2, audio=4, longest_prompt=20)
    assert not watch.unfinished


def test_a_response_that_did_not_end_is_estimated() -> None:
    watch = SessionWatch()
    feed(watch, CREATED, DELTA, done(10, 3), CREATED, DELTA, DELTA)
    assert watch.unfinished
    assert watch.usage == Usage(prompt=10, completion=5, cached=1, audio=2, longest_prompt=10, estimated=True)


def test_where_nothing_tells_of_usage_it_is_an_estimate() -> None:
    watch = SessionWatch()
    feed(watch, {"type": "session.created", "session": {"model": "gpt-realtime"}})
    assert watch.usage == Usage(estimated=True)
    assert watch.model == "gpt-realtime"


def test_seconds_of_audio_are_told_from_the_beginning() -> None:
    watch = SessionWatch()
    feed(watch, *({"type": "session.usage.updated", "usage": {"seconds": seconds}} for seconds in (5, 12)))
    assert watch.usage == Usage(seconds=12)


def test_events_within_events_count() -> None:
    """Live sessions wrap those of the responses that they delegate."""
    watch = SessionWatch()
    inner = {"type": "response.completed", "response": done(5, 2)["response"]}
    (told,) = feed(watch, {"type": "response.event", "event": inner})
    assert (watch.usage.prompt, watch.usage.completion) == (5, 2)
    assert told.response is not None and told.response["id"] == "resp_1"


def test_transcriptions_count() -> None:
    watch = SessionWatch()
    usage = {"type": "tokens", "total_tokens": 9, "input_tokens": 7, "output_tokens": 2}
    feed(watch, {"type": "conversation.item.input_audio_transcription.completed", "usage": usage})
    assert (watch.usage.prompt, watch.usage.completion) == (7, 2)


def test_limits_are_read() -> None:
    limits = [
        {"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 0.06},
        {"name": "tokens", "limit": 50_000, "remaining": 49_950},
        {"name": "frames", "limit": 1},
        None,
    ]
    (told,) = feed(SessionWatch(), {"type": "rate_limits.updated", "rate_limits": limits})
    assert told.readings == (
        Reading(Dimension.REQUESTS, None, 1000.0, 999.0, 0.06),
        Reading(Dimension.TOKENS, None, 50_000.0, 49_950.0, None),
    )


def test_an_error_is_kept_until_a_response_succeeds() -> None:
    watch = SessionWatch()
    error = {"type": "error", "error": {"type": "server_error", "message": "Sorry"}}
    assert [told.failed for told in feed(watch, error)] == [True]
    assert b"Sorry" in watch.failure
    feed(watch, CREATED, done(1, 1))
    assert watch.failure == b""


def test_a_response_that_failed_is_an_error() -> None:
    watch = SessionWatch()
    (told,) = feed(watch, done(0, 0, status="failed", status_details={"error": {"code": "insufficient_quota"}}))
    assert told.failed and b"insufficient_quota" in watch.failure


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1, 2]", b'{"usage": ', b'"error"', b'{"error":{},"type":[1]}'])
def test_anything_at_all_may_come(data: bytes) -> None:
    assert SessionWatch().feed(data).response is None
