from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.model import Usage
from keyrouter_openai.core.stream import BodyWatch, Phase, StreamWatch

DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    body = {"id": "c", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


ROLE = chunk({"role": "assistant", "content": ""})
HELLO = chunk({"content": "hello"})
STOP = chunk({}, "stop")
USAGE = chunk(None, usage={"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10})
CREATED = event("response.created", response={"id": "r"})
DELTA = event("response.output_text.delta", delta="hi")
COMPLETED = event("response.completed", response={"usage": {"input_tokens": 5, "output_tokens": 2}})


def run(*parts: bytes, hide_usage: bool = False, choices: int = 1) -> tuple[StreamWatch, list[bytes]]:
    watch = StreamWatch(hide_usage=hide_usage, choices=choices)
    out = [watch.feed(part) for part in parts]
    out.append(watch.finish())
    return watch, out


def test_start_up_events_are_held_until_content() -> None:
    watch = StreamWatch(hide_usage=False)
    assert watch.feed(ROLE) == b""
    assert watch.phase is Phase.STARTING
    assert watch.feed(HELLO) == ROLE + HELLO
    assert watch.phase is Phase.FLOWING


def test_a_whole_chat_stream_passes_unchanged() -> None:
    watch, out = run(ROLE, HELLO, STOP, USAGE, DONE)
    assert b"".join(out) == ROLE + HELLO + STOP + USAGE + DONE
    assert watch.phase is Phase.COMPLETE
    assert watch.receipt.usage == Usage(prompt=7, completion=3)
    assert watch.receipt.model == "gpt-4o"


def test_usage_that_the_router_asked_for_is_hidden() -> None:
    watch, out = run(ROLE, HELLO, STOP, USAGE, DONE, hide_usage=True)
    assert b"".join(out) == ROLE + HELLO + STOP + DONE
    assert watch.receipt.usage == Usage(prompt=7, completion=3)


def test_a_usage_chunk_that_holds_more_is_not_hidden() -> None:
    more = chunk(None, usage={"prompt_tokens": 1, "completion_tokens": 1}, moderation={"flagged": True})
    _, out = run(HELLO, STOP, more, DONE, hide_usage=True)
    assert more in b"".join(out)


def test_usage_in_the_finish_chunk_is_read_and_kept() -> None:
    last = chunk({}, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2})
    watch, out = run(HELLO, last, hide_usage=True)
    assert out[1] == last
    assert watch.receipt.usage == Usage(prompt=1, completion=2)


def test_a_service_tier_counts_that_only_the_first_chunk_names() -> None:
    watch, _ = run(chunk({"role": "assistant"}, service_tier="flex"), HELLO, STOP, USAGE, DONE)
    assert watch.receipt.tier == "flex"
    assert watch.receipt.usage == Usage(prompt=7, completion=3)


def test_responses_events() -> None:
    watch, out = run(CREATED, DELTA, COMPLETED)
    assert out[0] == b""
    assert b"".join(out) == CREATED + DELTA + COMPLETED
    assert watch.phase is Phase.COMPLETE
    assert watch.receipt.usage == Usage(prompt=5, completion=2)


@pytest.mark.parametrize(
    "error",
    [
        b'data: {"error": {"message": "no", "code": "server_error"}}\n\n',
        b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n',
        event("error", code="rate_limit_exceeded", message="no"),
        event("response.failed", response={"error": {"code": "server_error"}}),
        b'data: {"rate_limit_usage": {\\\n\n',
        b'{"error": {"message": "plain JSON in a 200"}}',
        b"<html><body>oops</body></html>",
    ],
)
def test_an_error_before_content_is_kept_from_the_caller(error: bytes) -> None:
    for start in ((), (ROLE,), (CREATED,)):
        watch, out = run(*start, error)
        assert watch.phase is Phase.FAILED
        assert b"".join(out) == b""
        assert watch.failure


def test_an_error_after_content_is_passed_on() -> None:
    error = b'data: {"error": {"message": "no"}}\n\n'
    watch, out = run(HELLO, error)
    assert b"".join(out) == HELLO + error
    assert watch.phase is Phase.BROKEN


def test_an_end_before_content_fails_and_after_content_breaks() -> None:
    assert run()[0].phase is Phase.FAILED
    assert run(ROLE)[0].phase is Phase.FAILED
    assert run(HELLO)[0].phase is Phase.BROKEN
    assert run(DELTA)[0].phase is Phase.BROKEN


def test_any_one_final_mark_is_enough() -> None:
    assert run(HELLO, STOP)[0].phase is Phase.COMPLETE
    assert run(HELLO, DONE)[0].phase is Phase.COMPLETE
    assert run(DELTA, event("response.incomplete", response={}))[0].phase is Phase.COMPLETE
    assert run(DONE)[0].phase is Phase.COMPLETE, "an empty stream that says so is whole"


def test_events_of_an_unknown_kind_end_with_the_body() -> None:
    watch, out = run(b'data: {"custom": 1}\n\n', b'data: {"custom": 2}\n\n')
    assert watch.phase is Phase.COMPLETE
    assert out[0]


def test_comments_are_held_with_the_start() -> None:
    keep_alive = b": OPENROUTER PROCESSING\n\n"
    watch = StreamWatch(hide_usage=False)
    assert watch.feed(keep_alive) == b""
    assert watch.feed(HELLO) == keep_alive + HELLO


def test_text_that_looks_like_a_mark_is_none() -> None:
    tricky = chunk({"content": '"finish_reason":"stop" data: [DONE] "error": {"x"'})
    assert run(HELLO, tricky)[0].phase is Phase.BROKEN


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_separators_that_json_may_hold_raw_end_no_line(separator: str) -> None:
    text = f"one{separator}two"
    created = b"data: " + json.dumps({"type": "response.created", "text": text}, ensure_ascii=False).encode() + b"\n\n"
    watch, out = run(created, DELTA, COMPLETED)
    assert watch.phase is Phase.COMPLETE
    assert b"".join(out) == created + DELTA + COMPLETED


def test_a_stream_of_several_choices_ends_with_the_last() -> None:
    def of(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        body = {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}
        return b"data: " + json.dumps(body).encode() + b"\n\n"

    both = [of(0, {"content": "a"}), of(1, {"content": "b"}), of(0, {}, "stop")]
    assert run(*both, choices=2)[0].phase is Phase.BROKEN
    assert run(*both, of(1, {}, "stop"), choices=2)[0].phase is Phase.COMPLETE
    late = [of(0, {"content": "a"}), of(0, {}, "stop"), of(1, {"content": "b"})]
    assert run(*late, choices=2)[0].phase is Phase.BROKEN
    assert run(*late, DONE, choices=2)[0].phase is Phase.COMPLETE


def test_nothing_is_held_where_nobody_could_take_over() -> None:
    watch = StreamWatch(hide_usage=False, hold=False)
    assert watch.feed(ROLE) == ROLE


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@given(data=st.data())
def test_how_the_bytes_are_cut_makes_no_difference(newline: bytes, data: st.DataObject) -> None:
    body = (ROLE + HELLO + HELLO + STOP + USAGE + DONE).replace(b"\n", newline)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(body)), max_size=12)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    watch, out = run(*parts, hide_usage=True)
    assert b"".join(out) == (ROLE + HELLO + HELLO + STOP + DONE).replace(b"\n", newline)
    assert watch.phase is Phase.COMPLETE
    assert watch.receipt.usage == Usage(prompt=7, completion=3)


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_upset_it(body: bytes, hold: bool) -> None:
    watch = StreamWatch(hide_usage=True, hold=hold)
    watch.feed(body[:100])
    watch.feed(body[100:])
    watch.finish()
    assert watch.phase is not Phase.STARTING


def test_a_body_that_is_no_stream_passes_and_tells_its_usage_at_the_end() -> None:
    watch = BodyWatch()
    body = json.dumps({"model": "m", "data": "x" * 50_000, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()
    assert b"".join(watch.feed(body[i : i + 1000]) for i in range(0, len(body), 1000)) == body
    assert watch.finish() == b""
    assert watch.receipt.usage == Usage(prompt=3)
    assert watch.receipt.model == "m"
