"""The shapes of the Responses API: the response object, and the events of a stream that builds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .wire import Event, Json, to_json

# Fields that the response repeats from the request, with their defaults.
_ECHOED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def usage(prompt_tokens: int, cached_tokens: int, made: int) -> Json:
    """What a response used: tokens of the prompt, those of them that were cached, and tokens that were made."""
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + made,
    }


def body(fields: Json, ident: str, created: int, text: str, usage: Json, *, cut: bool) -> Json:
    """The response object to a request with these fields; `cut` where `max_output_tokens` ended the text."""
    status = "incomplete" if cut else "completed"
    part: Json = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    message: Json = {
        "id": f"msg_{ident}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [part],
    }
    return {
        "id": f"resp_{ident}",
        "object": "response",
        "created_at": created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": fields["model"],
        "output": [message],
        "service_tier": "default",
        "usage": usage,
        **{name: fields.get(name, default) for name, default in _ECHOED.items()},
    }


def events(response: Json, deltas: list[str]) -> tuple[Event, ...]:
    """The stream that builds `response`, its text in these pieces."""
    return tuple(
        Event(
            f"event: {kind}\ndata: ".encode() + to_json({"type": kind, "sequence_number": number, **content}) + b"\n\n",
            content=kind == "response.output_text.delta",
        )
        for number, (kind, content) in enumerate(_steps(response, deltas))
    )


def _steps(response: Json, deltas: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    message: Json = response["output"][0]
    part: Json = message["content"][0]
    item = {"output_index": 0}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    started: Json = {
        **response,
        "status": "in_progress",
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    yield "response.created", {"response": started}
    yield "response.in_progress", {"response": started}
    yield "response.output_item.added", {**item, "item": {**message, "status": "in_progress", "content": []}}
    yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
    for delta in deltas:
        yield "response.output_text.delta", {**place, "delta": delta, "logprobs": []}
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}
    yield "response.output_item.done", {**item, "item": message}
    yield f"response.{response['status']}", {"response": response}
