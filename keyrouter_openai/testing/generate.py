"""What the simulated models say: always the same to the same request, so that every answer can be checked."""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from random import Random
from typing import Any

from .wire import Json, as_list, as_object

CHARS_PER_TOKEN = 4
_DEEPEST = 6


def text_of(value: object) -> str:
    """All text in a prompt, in whatever of the API's forms it comes."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:>{CHARS_PER_TOKEN}}"  # a token's number
    part = as_object(value)
    return "".join(text_of(item) for item in as_list(value)) + "".join(
        text_of(part[name]) for name in ("content", "text", "output", "arguments") if name in part
    )


def batch(prompt: object) -> list[str]:
    """The texts of a prompt that may be one or a list of several, each as text or as token numbers."""
    items = as_list(prompt)
    if items and not isinstance(items[0], int):
        return [text_of(item) for item in items]
    return [text_of(prompt)]


def last_text(messages: object) -> str:
    """The text of the last message that a user wrote or a tool returned."""
    return text_of(_last(messages))


def is_tool_result(messages: object) -> bool:
    """Whether a tool had the last word, and not a user."""
    return _is_result(as_object(_last(messages)))


def _last(messages: object) -> object:
    for message in map(as_object, reversed(as_list(messages))):
        if message.get("role") == "user" or _is_result(message):
            return message
    return messages


def _is_result(message: Json) -> bool:
    # The Chat Completions API has a role for tools, the Responses API a type of item for each kind of tool.
    return message.get("role") == "tool" or str(message.get("type")).endswith("_call_output")


def pieces(text: str) -> list[str]:
    """A text in pieces of one token each."""
    return [text[start : start + CHARS_PER_TOKEN] for start in range(0, len(text), CHARS_PER_TOKEN)]


def example(schema: Json, text: str) -> str:
    """JSON that fits a JSON schema, with `text` where the schema wants a string."""
    return json.dumps(_example(schema, text, schema, 0))


def _example(schema: Json, text: str, root: Json, depth: int) -> Any:
    if "$ref" in schema:
        target = root
        for name in str(schema["$ref"]).removeprefix("#").strip("/").split("/"):
            target = as_object(target.get(name)) if name else target
        return _example(target, text, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if as_list(schema.get("enum")):
        return schema["enum"][0]
    if choices := as_list(schema.get("anyOf")):
        # A schema that contains itself ends at the choice that is null.
        nulls = [choice for choice in choices if as_object(choice).get("type") == "null"]
        choice = nulls[0] if nulls and depth > _DEEPEST else choices[0]
        return _example(as_object(choice), text, root, depth + 1)
    kinds = as_list(schema.get("type"))
    kind = kinds[0] if kinds else schema.get("type")
    if kind == "object":
        fields = as_object(schema.get("properties"))
        return {name: _example(as_object(field), text, root, depth + 1) for name, field in fields.items()}
    if kind == "array":
        item = as_object(schema.get("items"))
        return [] if depth > _DEEPEST else [_example(item, text, root, depth + 1)]
    return {"string": text, "integer": len(text), "number": float(len(text)), "boolean": True}.get(str(kind))


def _raw(text: str) -> bytes:
    # JSON can hold half a surrogate pair, which UTF-8 proper cannot.
    return text.encode(errors="surrogatepass")


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that depends on the text alone."""
    rng = Random(_raw(text))
    values = [rng.uniform(-1.0, 1.0) for _ in range(dimensions)]
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / length for value in values]


def packed(vector: list[float]) -> str:
    """A vector as `encoding_format: base64` has it: little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def image(prompt: str) -> str:
    """A PNG of one pixel, in base64, whose colour depends on the prompt alone."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    colour = struct.pack(">I", zlib.crc32(_raw(prompt)))[1:]
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" + colour)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return base64.b64encode(png).decode()
