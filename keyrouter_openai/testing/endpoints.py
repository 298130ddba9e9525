"""The endpoints that call a model: what a request must have, and what is answered. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from . import responses
from .errors import invalid
from .generate import (
    CHARS_PER_TOKEN,
    batch,
    embedding,
    example,
    image,
    last_text,
    packed,
    pieces,
    text_of,
)
from .tools import ToolCall, tool_calls
from .wire import Event, Json, Refused, Reply, as_object, count_tokens, json_reply, to_json

# The API reference's default of `max_tokens` for completions.
DEFAULT_MAX_TOKENS = 16
DEFAULT_DIMENSIONS = 1536
# What one image of standard quality uses.
IMAGE_TOKENS = 1056

_MAX_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens")


@dataclass(frozen=True, slots=True)
class Work:
    """A valid call to a model. `charge` is what the token limit is charged up front."""

    endpoint: Endpoint
    fields: Json
    model: str
    stream: bool
    copies: int
    dimensions: int
    prompt_tokens: int
    max_tokens: int | None
    charge: int
    cached_tokens: int = 0
    """How many of the prompt's tokens the cache has."""

    @property
    def tier(self) -> str:
        """The service tier that serves it."""
        return responses.tier(self.fields)

    def answer(self, ident: str, created: int) -> Reply:
        """The answer; `ident` becomes a part of its id."""
        return self.endpoint.answer(self, ident, created)

    def text(self, echo: str) -> tuple[str, bool]:
        """What the model says (the echo, or JSON if asked for), and whether `max_tokens` cut it short."""
        wanted = as_object(self.fields.get("response_format")) or as_object(
            as_object(self.fields.get("text")).get("format")
        )
        said = echo or "ok"
        if wanted.get("type") == "json_schema":
            schema = as_object(wanted.get("json_schema")) or wanted
            said = example(as_object(schema.get("schema")), said)
        elif wanted.get("type") == "json_object":
            said = json.dumps({"text": said})
        room = len(said) if self.max_tokens is None else self.max_tokens * CHARS_PER_TOKEN
        return said[:room], len(said) > room


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path that calls a model. `prompt` is the field that holds the prompt, `types` what it may be."""

    prompt: str
    types: tuple[type, ...]
    answer: Callable[[Work, str, int], Reply]
    generates: bool = True
    """Whether it answers with text, whose length `max_tokens` bounds."""

    def read(self, fields: Json) -> Work:
        """Check a request as OpenAI does.

        Raises:
            Refused: something is missing or of the wrong kind.
        """
        model, prompt, name = fields.get("model"), fields.get(self.prompt), self.prompt
        if not isinstance(model, str) or not model:
            raise Refused(invalid("you must provide a model parameter"))
        if prompt is None:
            text = f"Missing required parameter: '{name}'."
            raise Refused(invalid(text, name, "missing_required_parameter"))
        if not isinstance(prompt, self.types):
            raise Refused(invalid(f"Invalid type for '{name}'.", name, "invalid_type"))
        if prompt == []:
            text = f"Invalid '{name}': empty array. Expected an array with minimum length 1."
            raise Refused(invalid(text, name, "empty_array"))
        limits = (_positive(fields, limit) for limit in _MAX_TOKENS)
        max_tokens = next((limit for limit in limits if limit), None)
        prompt_tokens = count_tokens(text_of(prompt) + text_of(fields.get("instructions")))
        charge = max(max_tokens or DEFAULT_MAX_TOKENS, prompt_tokens) if self.generates else prompt_tokens
        return Work(
            self,
            fields,
            model,
            stream=self.generates and fields.get("stream") is True,
            copies=_positive(fields, "n") or 1,
            dimensions=_positive(fields, "dimensions") or DEFAULT_DIMENSIONS,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            charge=charge,
        )


def _positive(fields: Json, name: str) -> int | None:
    """The number in an optional field.

    Raises:
        Refused: there is something else.
    """
    value = fields.get(name)
    if value is None or (isinstance(value, int) and value > 0):
        return value
    text = f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead."
    raise Refused(invalid(text, name, "integer_below_min_value"))


def _usage(work: Work, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": work.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": work.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": work.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of those that a call can ask for: whole, and as what a stream brings piece by piece."""

    whole: Json
    deltas: list[Json]
    tokens: int
    finish: str


def _chat(work: Work, ident: str, created: int) -> Reply:
    messages = work.fields["messages"]
    calls = tool_calls(work.fields, messages, ident)
    if calls:
        choice = _calling(calls)
    else:
        said = work.text(last_text(messages))
        choice = _said(said, lambda text: {"message": _message(text)}, lambda text: {"delta": {"content": text}})
    head: Json = {"id": f"chatcmpl-{ident}", "object": "chat.completion", "created": created, "model": work.model}
    if work.stream:
        head["object"] = "chat.completion.chunk"
        opening: Json = {"role": "assistant", "content": None if calls else "", "refusal": None}
        return _stream(work, head, [choice] * work.copies, {"delta": opening}, {"delta": {}})
    return _plain(work, head, [choice] * work.copies)


def _said(answer: tuple[str, bool], whole: Callable[[str], Json], delta: Callable[[str], Json]) -> Choice:
    text, cut = answer
    deltas = [delta(piece) for piece in pieces(text)]
    return Choice(whole(text), deltas, count_tokens(text), "length" if cut else "stop")


def _message(text: str | None) -> Json:
    return {"role": "assistant", "content": text, "refusal": None, "annotations": []}


def _calling(calls: list[ToolCall]) -> Choice:
    whole: list[Json] = []
    deltas: list[Json] = []
    for index, call in enumerate(calls):
        head = {"id": call.id, "type": "function"}
        whole.append({**head, "function": {"name": call.name, "arguments": call.arguments}})
        deltas.append({"index": index, **head, "function": {"name": call.name, "arguments": ""}})
        deltas += [{"index": index, "function": {"arguments": piece}} for piece in pieces(call.arguments)]
    message = {**_message(None), "tool_calls": whole}
    tokens = sum(call.tokens for call in calls)
    return Choice({"message": message}, [{"delta": {"tool_calls": [delta]}} for delta in deltas], tokens, "tool_calls")


def _completion(work: Work, ident: str, created: int) -> Reply:
    said = (work.text(text) for text in batch(work.fields["prompt"]) for _ in range(work.copies))
    choices = [_said(each, lambda text: {"text": text}, lambda text: {"text": text}) for each in said]
    head: Json = {"id": f"cmpl-{ident}", "object": "text_completion", "created": created, "model": work.model}
    return _stream(work, head, choices, None, {"text": ""}) if work.stream else _plain(work, head, choices)


def _plain(work: Work, head: Json, choices: list[Choice]) -> Reply:
    made = sum(choice.tokens for choice in choices)
    listed = [
        {"index": index, **choice.whole, "logprobs": None, "finish_reason": choice.finish}
        for index, choice in enumerate(choices)
    ]
    body = {**head, "choices": listed, "usage": _usage(work, made), "service_tier": work.tier}
    return _used(json_reply(body), work.prompt_tokens, made)


def _stream(work: Work, head: Json, choices: list[Choice], opening: Json | None, closing: Json) -> Reply:
    made = sum(choice.tokens for choice in choices)
    with_usage = as_object(work.fields.get("stream_options")).get("include_usage") is True
    usage: Json = {"usage": None} if with_usage else {}

    def chunk(index: int, content: Json, finish: str | None = None) -> bytes:
        choice = {"index": index, **content, "logprobs": None, "finish_reason": finish}
        return _sse({**head, "service_tier": work.tier, "choices": [choice], **usage})

    def events() -> Iterator[Event]:
        if opening is not None:
            for index in range(len(choices)):
                yield Event(chunk(index, opening))
        for index, choice in enumerate(choices):
            for delta in choice.deltas:
                yield Event(chunk(index, delta), content=True)
            yield Event(chunk(index, closing, choice.finish))
        if with_usage:
            yield Event(_sse({**head, "service_tier": work.tier, "choices": [], "usage": _usage(work, made)}))
        yield Event(b"data: [DONE]\n\n")

    return _used(event_stream(tuple(events())), work.prompt_tokens, made)


def _response(work: Work, ident: str, created: int) -> Reply:
    prompt = work.fields["input"]
    calls = tool_calls(work.fields, prompt, ident)
    text, cut = ("", False) if calls else work.text(last_text(prompt))
    output = responses.calling(calls) if calls else responses.saying(ident, text, cut=cut)
    made = sum(call.tokens for call in calls) or count_tokens(text)
    usage = responses.usage(work.prompt_tokens, work.cached_tokens, made)
    body = responses.body(work.fields, ident, created, output, usage, cut=cut)
    reply = event_stream(responses.events(body)) if work.stream else json_reply(body)
    return _used(reply, work.prompt_tokens, made)


def _embeddings(work: Work, ident: str, created: int) -> Reply:
    vectors = [embedding(text, work.dimensions) for text in batch(work.fields["input"])]
    base64 = work.fields.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": packed(vector) if base64 else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": work.prompt_tokens, "total_tokens": work.prompt_tokens}
    return _used(
        json_reply({"object": "list", "data": data, "model": work.model, "usage": usage}),
        work.prompt_tokens,
        0,
    )


def _images(work: Work, ident: str, created: int) -> Reply:
    prompt, copies = text_of(work.fields["prompt"]), work.copies
    made = IMAGE_TOKENS * copies
    usage = {
        "input_tokens": work.prompt_tokens,
        "input_tokens_details": {"text_tokens": work.prompt_tokens, "image_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": made},
        "total_tokens": work.prompt_tokens + made,
    }
    data = [{"b64_json": image(prompt)}] * copies
    body = {"created": created, "data": data, "output_format": "png", "size": "1024x1024", "usage": usage}
    return _used(json_reply(body), work.prompt_tokens, made)


def event_stream(events: tuple[Event, ...]) -> Reply:
    """An answer of server-sent events."""
    return Reply(200, {"content-type": "text/event-stream; charset=utf-8"}, events=events)


def _sse(value: object) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"


def _used(reply: Reply, prompt_tokens: int, completion_tokens: int) -> Reply:
    return replace(reply, tokens=prompt_tokens + completion_tokens, completion_tokens=completion_tokens)


ENDPOINTS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint("messages", (list,), _chat),
    "/v1/responses": Endpoint("input", (str, list), _response),
    "/v1/completions": Endpoint("prompt", (str, list), _completion),
    "/v1/embeddings": Endpoint("input", (str, list), _embeddings, generates=False),
    "/v1/images/generations": Endpoint("prompt", (str,), _images, generates=False),
}
