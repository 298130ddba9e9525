"""What the bytes of a body say: tokens used, the model that served, an error where none was expected.

Also the estimate of what a request will use, before it runs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

from .model import Estimate, Usage

CHARS_PER_TOKEN = 4
"""OpenAI charges its rate limits by a count of characters (its rate-limit guide); 4 fits English."""
ATTACHMENT_TOKENS = 1000
"""A guess for any image, recording or document: its size is not in its bytes. Of an image of 1024 x 1024 gpt-4o
makes 765 tokens, and Claude makes up to 1,600 of one (their guides to images)."""

_MOST_TOKENS = 10**12
_MOST_USD = 10**6
"""What an answer says beyond these is no count and no price: the sums of a ledger have 63 bits."""

_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LISTS = (list, tuple)
ATTACHMENTS = ("image_url", "input_image", "input_audio", "file", "input_file")
"""Types of the parts of a message that are no text."""
_DATA_URL = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")

_DECODER = json.JSONDecoder()
_TIER = re.compile(rb'"service_tier"\s*:\s*"([a-z_]{1,40})"')
_SEARCH_CALL = b'_search_call"'
_SEARCH = re.compile(rb'"type"\s*:\s*"(web|file)_search_call"')
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens")
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_ERROR = re.compile(rb'"error"\s*:\s*[{"\[]')
_LONGEST_ERROR = 64 * 1024


class Receipt(NamedTuple):
    """What an answer says of itself: what it used, who served it, and what that costs."""

    usage: Usage | None = None
    model: str | None = None
    tier: str | None = None
    stated_microusd: int | None = None
    """Micro-dollars that the provider itself asks, where it says so."""


def find_receipt(data: bytes) -> Receipt:
    """What an answer's bytes say, JSON or one or more events of a stream, in any of OpenAI's shapes.

    Inside a JSON string quotes are escaped, so `"usage"` can only be a real key.
    """
    end = len(data)
    while (at := data.rfind(b'"usage"', 0, end)) >= 0:
        brace = data.find(b"{", at, at + 16)
        if brace >= 0 and data[at + 7 : brace].strip() == b":":
            try:
                found, _ = _DECODER.raw_decode(data[brace : brace + 4096].decode("utf-8", "replace"))
            except ValueError:
                break
            return _receipt(data, at, found)
        end = at
    return Receipt(model=find_model(data))


def _receipt(data: bytes, at: int, used: Mapping[str, Any]) -> Receipt:
    usage, tier = read_usage(used), None
    if usage is not None and usage.completion:  # an embedding has no tier, and is long
        # A response has it before its usage, and after that the caller's own metadata; a completion, behind or in it.
        sides = ((0, at), (at, len(data))) if "input_tokens" in used else ((at, len(data)), (0, at))
        tier = next(filter(None, (_find_tier(data, *side) for side in sides)), None)
        if "input_tokens" in used and _SEARCH_CALL in data:
            calls = Counter(_SEARCH.findall(data))
            usage = usage._replace(web_searches=calls[b"web"], file_searches=calls[b"file"])
    return Receipt(usage, find_model(data), tier, read_stated(used))


def _find_tier(data: bytes, start: int, end: int) -> str | None:
    at = data.rfind(b'"service_tier"', start, end)
    match = _TIER.match(data, at) if at >= 0 else None
    return match[1].decode() if match else None


def read_usage(usage: Mapping[str, Any]) -> Usage | None:
    """A provider's usage object in the router's words, or None if it holds no counts."""
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    completion = usage.get("completion_tokens", usage.get("output_tokens"))
    if not isinstance(prompt, int) and not isinstance(completion, int):
        seconds = usage.get("seconds")
        return (
            Usage(seconds=float(seconds)) if isinstance(seconds, int | float) and 0 <= seconds <= _MOST_TOKENS else None
        )
    if any(isinstance(count, int) and count > _MOST_TOKENS for count in (prompt, completion)):
        return None
    before = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    after = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    kept, reused = _details(usage, "cache_creation"), _details(before, "cached_tokens_details")
    cached = _count(before, "cached_tokens") or _count(usage, *_CACHED)
    written = _count(before, "cache_write_tokens") or _count(usage, "cache_creation_input_tokens")
    prompt, completion = (
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )
    if "cache_read_input_tokens" in usage and "prompt_tokens" not in usage:
        prompt += cached + written  # Anthropic's own format counts them beside the prompt
    # Gemini and xAI count what was thought in the total alone, and charge it as output.
    unseen = max(_count(usage, "total_tokens") - prompt - completion, 0)
    return Usage(
        prompt=prompt,
        completion=completion + unseen,
        cached=cached,
        cache_written=written,
        cache_written_1h=_count(kept, "ephemeral_1h_input_tokens"),
        reasoning=_count(after, "reasoning_tokens") or unseen,
        audio=_count(before, "audio_tokens"),
        audio_answer=_count(after, "audio_tokens"),
        image=_count(before, "image_tokens"),
        image_answer=_count(after, "image_tokens"),
        cached_audio=_count(reused, "audio_tokens"),
        cached_image=_count(reused, "image_tokens"),
    )


def read_stated(usage: Mapping[str, Any]) -> int | None:
    """What a provider's usage object says that the answer costs, in micro-dollars, or None if it does not.

    OpenRouter states `cost` in US dollars (its page on usage accounting); where the caller's own key with another
    provider has served, that is a fee on top of what the other asks. xAI states ticks, 10^10 a dollar (its page on
    cost tracking).
    """
    ticks = usage.get("cost_in_usd_ticks")
    if isinstance(ticks, int) and 0 <= ticks <= _MOST_USD * 10**10:
        return round(Fraction(ticks, 10_000))
    parts = [usage.get("cost")]
    if usage.get("is_byok") is True:
        parts.append(_details(usage, "cost_details").get("upstream_inference_cost"))
    if not all(isinstance(part, int | float) and 0 <= part <= _MOST_USD for part in parts):
        return None
    return round(sum(Fraction(str(part)) for part in parts) * 1_000_000)


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
            if is_data_url(item):
                tokens += ATTACHMENT_TOKENS
            else:
                chars += len(item)
        elif isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            if "type" in fields and fields["type"] in ATTACHMENTS:
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


def is_data_url(text: str) -> bool:
    """Whether this is the content of an attachment, and no text that happens to begin like one."""
    return text[:5] == "data:" and _DATA_URL.match(text) is not None and " " not in text


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = usage.get(name)
        if isinstance(found, Mapping):
            return cast("Mapping[str, Any]", found)
    return {}


def _count(fields: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = fields.get(name)
        if isinstance(value, int) and 0 <= value <= _MOST_TOKENS:
            return value
    return 0
