"""The beginnings of a prompt, as numbers by which calls that share a provider's prompt cache are known.

They serve the memory of one process and are never stored, so Python's own string hash will do. It is the
fastest at hand; each string keeps its own once taken, so that a message is hashed once and not at every turn of
its conversation; and it is seeded anew in every process, so that nobody can aim at the numbers of others
(`PYTHONHASHSEED` can fix the seed; even then a hit wins no more than a call on another's account). No text is
kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import cast

from .core.affinity import LENGTHS
from .core.body import CHARS_PER_TOKEN

_PATHS = ("/chat/completions", "/responses", "/completions")
_ENDS = tuple(tokens * CHARS_PER_TOKEN for tokens in LENGTHS)
_STEPS = (_ENDS[0], *(longer - shorter for shorter, longer in pairwise(_ENDS)))
_ORDER = ("tools", "instructions", "messages", "input", "prompt")
"""The parts of a prompt as providers put them together (OpenAI's guide on prompt caching: tools come first)."""
_TEXTS = ("description", "content", "text", "summary", "tool_calls", "arguments", "output")
"""Where tools, messages and items have their text, in this order whatever the order of their fields."""
_BACKWARDS = _TEXTS[::-1]


def may_be_cached(fields: Mapping[str, object], tokens: int) -> bool:
    """Whether `prefixes` finds anything in a body of about so many tokens: most short calls need not be looked at."""
    return (
        tokens >= LENGTHS[0]
        or "prompt_cache_key" in fields
        or "conversation" in fields
        or "previous_response_id" in fields
    )


def prefixes(body: object, path: str) -> tuple[int, ...]:
    """Hashes of ever longer beginnings of the prompt in a request body, longest last; empty for short ones.

    They end at `core.affinity.LENGTHS`, counted in characters of text: neither the schemas of tools nor images
    are looked at. A `prompt_cache_key` parts the prompts that have it from all others, and comes first as a
    beginning of its own, so that calls which share it keep together whatever their text. The id of a
    conversation or of the response before stands for all that was said, and comes last.
    """
    if not isinstance(body, dict) or not path.endswith(_PATHS):
        return ()
    fields = cast("dict[str, object]", body)
    found: list[int] = []
    model = fields.get("model")
    start = hash(model) if isinstance(model, str) else 0
    cache_key = fields.get("prompt_cache_key")
    if isinstance(cache_key, str):
        start = hash((start, cache_key))
        found.append(start)
    found += _cuts(_texts(fields), start)
    history = _history(fields)
    if history is not None:
        found.append(hash((start, history)))
    return tuple(found)


def _history(fields: Mapping[str, object]) -> str | None:
    """The id under which the provider keeps what was said before."""
    kept = fields.get("conversation") or fields.get("previous_response_id")
    if isinstance(kept, dict):
        kept = cast("dict[str, object]", kept).get("id")
    return kept if isinstance(kept, str) else None


def _texts(fields: Mapping[str, object]) -> list[str]:
    """The texts of a prompt in the order in which the provider reads them."""
    texts: list[str] = []
    todo = [fields[name] for name in reversed(_ORDER) if name in fields]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            todo += cast("list[object]", item)[::-1]
        elif isinstance(item, dict):
            part = cast("dict[str, object]", item)
            content = part.get("content")
            if isinstance(content, str) and "tool_calls" not in part:  # as most messages are
                texts.append(content)
            elif "function" in part:  # a chat's tool, or a call of one
                todo.append(part["function"])
            else:
                todo += [part[name] for name in _BACKWARDS if name in part]
    return texts


def _cuts(texts: list[str], start: int) -> list[int]:
    """The hash of all text before each of `LENGTHS`, as far as the text goes."""
    steps = iter(_STEPS[: bisect_right(_ENDS, sum(map(len, texts)))])
    room = next(steps, 0)
    found: list[int] = []
    passed = start
    for text in texts:
        at = 0
        while len(text) - at >= room:
            if not room:
                return found
            passed = hash((passed, text[at : at + room]))
            found.append(passed)
            at += room
            room = next(steps, 0)
        if at < len(text):
            passed = hash((passed, text[at:]))
            room -= len(text) - at
    return found
