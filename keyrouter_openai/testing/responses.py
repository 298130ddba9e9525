"""The shapes of the Responses API: the response object, and the events of a stream that builds it."""

from __future__ import annotations

from collections.abc import Iterator

from .generate import pieces
from .tools import ToolCall
from .wire import Event, Json, to_json

Step = tuple[str, Json]

_CONTENT = ("response.output_text.delta", "response.function_call_arguments.delta")

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


def tier(fields: Json) -> str:
    """The service tier that serves a request with these fields."""
    asked = fields.get("service_tier")
    return asked if asked in ("flex", "priority") else "default"


def usage(prompt_tokens: int, cached_tokens: int, made: int) -> Json:
    """What a response used: tokens of the prompt, those of them that were cached, and tokens that were made."""
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt_tokens + made,
    }


def saying(ident: str, text: str, *, cut: bool) -> list[Json]:
    """The output of a model that says something; `cut` where `max_output_tokens` ended the text."""
    part: Json = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
    status = "incomplete" if cut else "completed"
    return [{"id": f"msg_{ident}", "type": "message", "status": status, "role": "assistant", "content": [part]}]


def calling(calls: list[ToolCall]) -> list[Json]:
    """The output of a model that calls functions."""
    return [
        {
            "id": call.id.replace("call_", "fc_"),
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for call in calls
    ]


def body(fields: Json, ident: str, created: int, output: list[Json], usage: Json, *, cut: bool) -> Json:
    """The response object to a request with these fields; `cut` where `max_output_tokens` ended the output."""
    return {
        "id": f"resp_{ident}",
        "object": "response",
        "created_at": created,
        "status": "incomplete" if cut else "completed",
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": fields["model"],
        "output": output,
        "service_tier": tier(fields),
        "usage": usage,
        **{name: fields.get(name, default) for name, default in _ECHOED.items()},
    }


def events(response: Json) -> tuple[Event, ...]:
    """The stream that builds `response`, its text and its arguments in pieces."""
    return tuple(
        Event(
            f"event: {kind}\ndata: ".encode() + to_json({"type": kind, "sequence_number": number, **content}) + b"\n\n",
            content=kind in _CONTENT,
        )
        for number, (kind, content) in enumerate(_steps(response))
    )


def _steps(response: Json) -> Iterator[Step]:
    started: Json = {
        **response,
        "status": "in_progress",
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    yield "response.created", {"response": started}
    yield "response.in_progress", {"response": started}
    for index, item in enumerate(response["output"]):
        is_call = item["type"] == "function_call"
        empty: Json = {"arguments": ""} if is_call else {"content": []}
        yield "response.output_item.added", {"output_index": index, "item": {**item, "status": "in_progress", **empty}}
        yield from (_call_steps if is_call else _text_steps)(item, {"item_id": item["id"], "output_index": index})
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{response['status']}", {"response": response}


def _text_steps(message: Json, place: Json) -> Iterator[Step]:
    place = {**place, "content_index": 0}
    part: Json = message["content"][0]
    yield "response.content_part.added", {**place, "part": {**part, "text": ""}}
    for delta in pieces(part["text"]):
        yield "response.output_text.delta", {**place, "delta": delta, "logprobs": []}
    yield "response.output_text.done", {**place, "text": part["text"], "logprobs": []}
    yield "response.content_part.done", {**place, "part": part}


def _call_steps(call: Json, place: Json) -> Iterator[Step]:
    for delta in pieces(call["arguments"]):
        yield "response.function_call_arguments.delta", {**place, "delta": delta}
    yield "response.function_call_arguments.done", {**place, "name": call["name"], "arguments": call["arguments"]}
