"""What the bytes of a body say: tokens used, the model that served, an error where none was expected.

Also the estimate of what a request will be charged before it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from .model import Usage

CHARS_PER_TOKEN = 4
"""OpenAI charges its rate limits by a count of characters (its rate-limit guide); 4 fits English."""

_DECODER = json.JSONDecoder()
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_ERROR = re.compile(rb'"error"\s*:\s*[{"\[]')
_LONGEST_ERROR = 64 * 1024


def find_usage(data: bytes) -> Usage | None:
    """The last `usage` object in an answer's bytes, JSON or event stream, in any of OpenAI's shapes.

    Inside a JSON string quotes are escaped, so `"usage"` can only be a real key.
    """
    end = len(data)
    while (at := data.rfind(b'"usage"', 0, end)) >= 0:
        brace = data.find(b"{", at, at + 16)
        if brace >= 0 and data[at + 7 : brace].strip() == b":":
            try:
                found, _ = _DECODER.raw_decode(data[brace : brace + 4096].decode("utf-8", "replace"))
            except ValueError:
                return None
            return read_usage(found)
        end = at
    return None


def read_usage(usage: Mapping[str, Any]) -> Usage | None:
    """A provider's usage object in the router's words, or None if it holds no token counts."""
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens"))
    if not isinstance(prompt, int) and not isinstance(completion, int):
        return None
    before = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    after = _details(usage, "completion_tokens_details", "output_tokens_details")
    cached = _count(before, "cached_tokens") or _count(usage, "prompt_cache_hit_tokens", "cached_tokens")
    return Usage(
        prompt=_count(usage, "prompt_tokens", "input_tokens"),
        completion=_count(usage, "completion_tokens", "output_tokens"),
        cached=cached,
        cache_written=_count(before, "cache_write_tokens"),
        reasoning=_count(after, "reasoning_tokens"),
        audio=_count(before, "audio_tokens") + _count(after, "audio_tokens"),
    )


def find_model(data: bytes) -> str | None:
    """The first `model` in an answer's bytes."""
    match = _MODEL.search(data, 0, 4096)
    return match[1].decode("utf-8", "replace") if match else None


def holds_error(data: bytes) -> bool:
    """Whether the JSON body of a 200 is an error after all, as some gateways send it.

    An object that merely has a field `error` (a failed response, a batch) says in `object` what it is, has an
    id, or carries what was asked for.
    """
    if len(data) > _LONGEST_ERROR or not _ERROR.search(data):
        return False
    try:
        body = json.loads(data)
    except ValueError:
        return False
    if isinstance(body, list) and body:
        body = cast("list[object]", body)[0]
    if not isinstance(body, dict):
        return False
    fields = cast("dict[str, object]", body)
    carries = any(fields.get(name) for name in ("choices", "output", "data", "content"))
    is_object = fields.get("object") not in (None, "error") or ("id" in fields and "choices" not in fields)
    return bool(fields.get("error")) and not carries and not is_object


def estimate_tokens(body: object) -> int:
    """Tokens a request is charged before it runs: its answer's cap or its characters / 4, whichever is more.

    Source: OpenAI's rate-limit guide (charge = max(max_tokens, estimate from character count)).
    """
    chars = text_length(body)
    cap = 0
    if isinstance(body, Mapping):
        fields = cast("Mapping[str, object]", body)
        for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            value = fields.get(name)
            if isinstance(value, int):
                cap = max(cap, value)
    return max(cap, -(-chars // CHARS_PER_TOKEN), 1)


def text_length(value: object) -> int:
    """Characters in all strings of a request body; data URLs (images, audio) are no text."""
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not item.startswith("data:"):
                total += len(item)
        elif isinstance(item, Mapping):
            stack.extend(cast("Mapping[object, object]", item).values())
        elif isinstance(item, list | tuple):
            stack.extend(cast("list[object]", item))
    return total


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = usage.get(name)
        if isinstance(found, Mapping):
            return cast("Mapping[str, Any]", found)
    return {}


def _count(fields: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and value >= 0:
            return value
    return 0
