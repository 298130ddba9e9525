"""What the bytes of a body say: tokens used, the model that served, an error where none was expected.

Also the estimate of what a request will use, before it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from .model import Estimate, Usage

CHARS_PER_TOKEN = 4
"""OpenAI charges its rate limits by a count of characters (its rate-limit guide); 4 fits English."""
ATTACHMENT_TOKENS = 1000
"""A guess for any image, recording or document: its size is not in its bytes. Of an image of 1024 x 1024 gpt-4o
makes 765 tokens, and Claude makes up to 1,600 of one (their guides to images)."""

_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LISTS = (list, tuple)
_ATTACHMENTS = ("image_url", "input_image", "input_audio", "file", "input_file")
"""Types of the parts of a message that are no text."""

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
    after = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
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


def estimate(body: object) -> Estimate:
    """What a request with this JSON body will use: its characters / 4, its attachments, and the cap of its answers."""
    if not isinstance(body, dict):
        return Estimate()
    fields = cast("dict[str, object]", body)
    cap = 0
    for name in _CAPS:
        if name in fields:
            cap = max(cap, _count(fields, name))
    if cap:
        cap *= max(_count(fields, "n"), _count(fields, "best_of"), 1)
    return Estimate(_prompt(fields), cap)


def _prompt(body: Mapping[str, object]) -> int:
    """Tokens in all that a body says: text, attachments, and what stands there as tokens already."""
    chars = tokens = 0
    stack: list[object] = [*body.values()]
    for item in stack:  # which grows as it is gone through
        if isinstance(item, str):
            if item[:5] == "data:":
                tokens += ATTACHMENT_TOKENS
            else:
                chars += len(item)
        elif isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            if "type" in fields and fields["type"] in _ATTACHMENTS:
                tokens += ATTACHMENT_TOKENS
            else:
                stack += fields.values()
        elif isinstance(item, _LISTS):
            items = cast("Sequence[object]", item)
            if items and isinstance(items[0], int):
                tokens += len(items)  # an embedding's input
            else:
                stack += items
    return tokens - (-chars // CHARS_PER_TOKEN)


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
