"""Reads an error answer of any shape into one form: a status, the machine words, the human text, the fields.

Providers, front ends and relays wrap errors in one another: JSON in a string in JSON, a Python repr in a
message, an event stream, a list, a page. What matters is found wherever it is nested.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

MAX_BODY = 65_536
"""Bytes that are looked at; the longest error answers seen have some 20,000."""
_MAX_TEXT = 3_000
_MAX_DEPTH = 12

_SPEAKING = re.compile(
    r"(?:\w+_)?(?:message|msg|code|type|reason|status|source)|errors?|error(?:code|message|_name)"
    r"|details?|title|\w*description|raw|body|quotaid"
)
"""Fields whose text is the server's own."""
_FREE = re.compile(r"(?:\w+_)?(?:message|msg)|details?|title|\w*description|raw|body")
"""Those of them that are meant for text: a single word in them may be anybody's."""
_EXACT = re.compile(r"\w*code|reason")
"""Those of them whose codes say more than the others'."""
_ECHOING = re.compile(r"input|messages|prompt|content|choices|output|tools|flagged_input")
"""Fields that may quote the caller: what stands in them is no evidence."""
_NUMBERED = re.compile(r"(?:http_?|error_?|upstream_?)?(?:code|status|status_?code)|param")
"""Fields in which 400 to 599 is an HTTP status; one-api relays put the upstream's into `param`."""
_NOTED = re.compile(r"retry-?(?:after|delay)[a-z-]*|resets-(?:at|in-seconds)|x-ratelimit-[a-z-]+|quotavalue")

_OPENING = re.compile(r"""\{\s*["'}]|\A\s*\[""")
_PAIR = re.compile(
    r"""(?P<quote>["'])(?P<key>\w{1,40})(?P=quote)\s*:\s*"""
    r"""(?:"(?P<double>(?:[^"\\]|\\.)*)(?:"|\\?\Z)|'(?P<single>(?:[^'\\]|\\.)*)(?:'|\\?\Z)|(?P<number>\d{1,15}))""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_CODE = re.compile(r"[a-z0-9][a-z0-9_.:+-]{0,99}")
_HTML = re.compile(r"<!doctype html|<(?:html|head|body|center|title)\b", re.IGNORECASE)
_MARKUP = re.compile(r"<(style|script)\b.*?(?:</\1>|\Z)|<[^>]*>", re.DOTALL | re.IGNORECASE)
_URL = re.compile(r"https?://\S+")
# What stands in quotes is the caller's own text: a role, a tool, a model. Whoever sends it must not choose the fault.
_QUOTED = re.compile(r"""(?<!\w)(["'`])(?!\s).{1,200}?\1(?!\w)""")
LIMIT = re.compile(r"\blimit(?::? ~?|\): [\d,.]+/)(\d[\d,]*(?:\.\d+)?)")
"""The number of a limit: `Limit 8,000`, `limit: 50`, and xAI's `(actual/limit): 65605/16000`."""
_REQUESTED = re.compile(r"\brequested:? ~?(\d[\d,]*(?:\.\d+)?)")

_decode = json.JSONDecoder().raw_decode

Leaf = tuple[str, object, int]
"""A field's name, its value and how deep it is nested."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an error answer says."""

    status: int
    """The HTTP status that the innermost error names, else the answer's own."""
    codes: tuple[str, ...]
    """Machine words (codes, types, reasons, quota ids) in lower case, the more exact ones first.

    Four are found here: `html_page`, `limit_is_zero`, `requested_above_limit` and `requested_within_limit`.
    """
    unsure: frozenset[str]
    """Those of these that stood where text is expected."""
    text: str
    """All human text in lower case, on one line, without links and markup."""
    fields: dict[str, str]
    """Fields of the body that name a time or limit, spelt like the headers that they stand for."""


def read_answer(status: int, body: str | bytes) -> Answer:
    """Read an error answer; anything at all may be in `body`."""
    text = body[:MAX_BODY].decode(errors="replace") if isinstance(body, bytes) else body[:MAX_BODY]
    exact: list[str] = []
    codes: list[str] = []
    free: set[str] = set()
    said: list[str] = []
    fields: dict[str, str] = {}
    depth_of_status = -1
    for key, value, depth in _leaves(_unquoted(text), "message", 0):
        word = str(value).strip().lower()
        if _NUMBERED.fullmatch(key) and re.fullmatch(r"[45]\d\d", word):
            if depth > depth_of_status:
                status, depth_of_status = int(word), depth
        elif _NOTED.fullmatch(name := key.replace("_", "-")):
            fields.setdefault(name, word[:100])
        elif not _SPEAKING.fullmatch(key):
            continue
        elif _CODE.fullmatch(word):
            (exact if _EXACT.fullmatch(key) else codes).append(word)
            if _FREE.fullmatch(key):
                free.add(word)
        elif "<" in word and _HTML.search(word):
            codes.append("html_page")
            said.append(_MARKUP.sub(" ", word[: 4 * _MAX_TEXT]))
        else:
            said.append(word)
    heard = " | ".join(_QUOTED.sub(r"\1\1", sentence) for sentence in dict.fromkeys(said))
    plain = " ".join(_URL.sub(" ", heard).split())[:_MAX_TEXT]
    return Answer(status, tuple(dict.fromkeys([*exact, *codes, *_compared(plain)])), frozenset(free), plain, fields)


def _unquoted(text: str) -> str:
    """The text of a body that is one JSON string, else the body as it is."""
    if text.lstrip().startswith('"'):
        try:
            value: object = json.loads(text)
        except ValueError:
            return text
        return str(value)
    return text


def _leaves(value: object, key: str, depth: int) -> Iterator[Leaf]:
    """Every named scalar of a tree, also of the trees that stand as text in its strings."""
    if depth > _MAX_DEPTH or value is None or isinstance(value, bool):
        return
    if isinstance(value, dict):
        for name, item in cast("dict[str, object]", value).items():
            if not _ECHOING.fullmatch(lowered := name.lower()):
                yield from _leaves(item, lowered, depth + 1)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _leaves(item, key, depth + 1)
    elif isinstance(value, str) and _OPENING.search(value) and not value.lstrip().startswith("<"):
        yield from _leaves_of_text(value, key, depth)
    else:
        yield key, value, depth


def _leaves_of_text(text: str, key: str, depth: int) -> Iterator[Leaf]:
    """The leaves of the JSON values in a text, and the text around them."""
    start, around = 0, ""
    while opening := _OPENING.search(text, start):
        at = opening.end() - 1 if opening[0].endswith("[") else opening.start()
        around += text[start:at] + " "
        try:
            value, start = _decode(text, at)
        except (ValueError, RecursionError):
            # Cut short, or a Python repr: no parser reads it, but its pairs can be found.
            yield from _leaves_of_pairs(text[at:], depth + 1)
            start = len(text)
            break
        yield from _leaves(value, key, depth + 1)
    yield key, around + text[start:], depth


def _leaves_of_pairs(text: str, depth: int) -> Iterator[Leaf]:
    for pair in _PAIR.finditer(text):
        value = pair["double"] or pair["single"] or pair["number"] or ""
        if not _ECHOING.fullmatch(key := pair["key"].lower()):
            yield from _leaves(_ESCAPE.sub(_unescaped, value), key, depth + 1)


def _unescaped(escape: re.Match[str]) -> str:
    return " " if escape[1] in "nrt" else escape[1]


def _compared(text: str) -> Iterator[str]:
    """The codes that stand for what the numbers of a limit say: they decide where words and codes mislead."""
    limits = [float(number.replace(",", "")) for number in LIMIT.findall(text)]
    if not limits:
        return
    if 0 in limits:
        yield "limit_is_zero"
    elif requested := _REQUESTED.search(text):
        above = float(requested[1].replace(",", "")) > limits[0]
        yield "requested_above_limit" if above else "requested_within_limit"
