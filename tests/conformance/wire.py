"""What two runs of the same tests put on the wire, compared line by line."""

from __future__ import annotations

import json
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

# Of the server's address, of the pool's key, and of the length of the body, which is compared itself.
_IGNORED = frozenset({"host", "content-length"})
_SECRET = ("Bearer My API Key", "Bearer My-API-Key")
"""What the SDK's tests give as `api_key`, and what a key of a pool is made of it."""
_USAGE = {"include_usage": True}

SAME = "the same"
ASKS_USAGE = "asks for the usage of a stream, which the caller does not see"


def compare(plain: Path, routed: Path) -> Counter[str]:
    """How many requests of the logs of two runs are alike, and in what the others differ."""
    with plain.open() as first, routed.open() as second:
        return Counter(_difference(*pair) for pair in zip_longest(first, second))


def _difference(plain: str | None, routed: str | None) -> str:
    if plain is None or routed is None:
        return "one run made more requests"
    before, after = json.loads(plain), json.loads(routed)
    if before[:2] != after[:2]:
        return f"another request: {before[:2]} became {after[:2]}"
    names = sorted({header[0] for header in _headers(before) ^ _headers(after)})
    if names:
        return f"headers: {', '.join(names)}"
    if before[3] == after[3]:
        return SAME
    return ASKS_USAGE if _asks_usage(before[3], after[3]) else f"the body of {before[0]} {before[1]}"


def _headers(request: list[Any]) -> set[tuple[str, str, int]]:
    """Each header with its value and how often it was there."""
    lines = [(name.lower(), _SECRET[0] if value == _SECRET[1] else value) for name, value in request[2]]
    return {(*line, count) for line, count in Counter(lines).items() if line[0] not in _IGNORED}


def _asks_usage(before: str, after: str) -> bool:
    """Whether two bodies differ in nothing but that one asks for the usage of its stream."""
    try:
        plain, routed = json.loads(before), json.loads(after)
    except ValueError:
        return False
    if not isinstance(plain, dict):
        return False
    fields = cast("dict[str, Any]", plain)
    settings: dict[str, Any] = fields.get("stream_options") or {}
    return "include_usage" not in settings and {**fields, "stream_options": {**settings, **_USAGE}} == routed
