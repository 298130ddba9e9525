"""The resources that an account keeps (files, batches, stored responses and so on), by their ids in calls and answers.

An id is known by its prefix, as in the examples of OpenAI's API reference. At OpenAI a resource belongs to the
project that made it: any key of that project reaches it, and those of others are told that there is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeGuard, cast
from urllib.parse import parse_qsl, unquote, urlsplit

_READ_AT = {
    "file-": "/files/",
    "batch_": "/batches/",
    "ftjob-": "/fine_tuning/jobs/",
    "vs_": "/vector_stores/",
    "resp_": "/responses/",
    "conv_": "/conversations/",
    "cntr_": "/containers/",
    "chatcmpl-": "/chat/completions/",
    "eval_": "/evals/",
    "video_": "/videos/",
    "skill_": "/skills/",
    "asst_": "/assistants/",
    "thread_": "/threads/",
}
"""Prefixes of the ids that can be looked up by themselves, and where."""
_BETA = ("asst_", "thread_", "vs_")
_ITEMS = ("msg_", "rs_", "fc_", "ws_", "mcp_", "fs_", "ci_", "ig_", "cu_", "ctc_")
"""Prefixes of the items of responses and conversations."""
_USED = ("ft:", "pmpt_")
"""Prefixes of what shows whose it is when a call with it succeeds: fine-tuned models and prompts."""
_OTHERS = (
    *("upload_", "part_", "ftckpt_", "run_", "step_", "vsfb_", "cfile_", "evalrun_", "outputitem_"),
    *("voice_", "cons_", "sess_", "cksess_", "cthr_", "rtc_"),
)
_PASSING = ("resp_", "chatcmpl-", *_ITEMS)
"""Prefixes of what the provider keeps for 30 days unless told otherwise (OpenAI's guide on data controls)."""
_BOUND_UNSTORED = ("rs_", "cntr_", "cfile_")
"""Prefixes of what belongs to an account though its response is not stored: encrypted reasoning, and containers."""

_SHAPE = rf"(?:{'|'.join((*_READ_AT, *_ITEMS, 'pmpt_', *_OTHERS))})[\w-]{{1,200}}|ft:[\w.:-]{{1,300}}"
_ID = re.compile(_SHAPE)
_ID_FIELD = re.compile(rf'id"\s*:\s*"({_SHAPE})"'.encode())
"""Quotes inside of a JSON string are escaped, so this can only be a real field."""
_BACKGROUND = re.compile(rb'"background"\s*:\s*true')
_UNSTORED = re.compile(rb'"store"\s*:\s*false')
_CALLERS_OWN = re.compile(rb'"(?:metadata|attributes|parameters|schema)"\s*:\s*\{\s*"')
_NAMES = frozenset(
    {
        *("id", "after", "before", "model", "file", "files", "training_file", "validation_file", "result_files"),
        *("fine_tuned_model", "fine_tuned_model_checkpoint", "container", "conversation", "prompt", "voice", "consent"),
    }
)
"""Fields that may name a resource, besides those that end in `_id` or `_ids`."""
_SUFFIXES = ("_id", "_ids")
_OPAQUE = frozenset({"metadata", "attributes", "parameters", "schema", "item_schema", "item", "datasource_item"})
"""Fields whose content is the caller's own: an id in there is no reference."""
_Fields = Mapping[str, object]
_LISTS = (list, tuple)
_OBJECTS = (dict, Mapping)  # most are of the first, which is quick to tell
_PLAIN = (str, int, float, type(None))
_SCALARS = frozenset((int, float, bool, type(None)))

_KEEPERS = frozenset(
    {
        *("files", "uploads", "batches", "vector_stores", "fine_tuning", "responses", "conversations", "containers"),
        *("evals", "videos", "skills", "assistants", "threads", "chatkit", "voices", "voice_consents"),
    }
)
"""Parts of a path whose answers show what the account keeps."""
_LASTING = re.compile(
    r"(?:.*/)?(?:files|uploads|uploads/[^/]+/complete|batches|vector_stores|file_batches|fine_tuning/jobs|conversations"
    r"|containers|evals|evals/[^/]+/runs|videos|videos/[^/]+/remix|skills|assistants|threads|voices|voice_consents)"
)
"""Paths that make what lasts."""


def mentioned(path: str, query: object, body: object) -> tuple[str, ...]:
    """The ids of resources that a call names in its path, query and body, each once.

    Those are whole values of fields that name things, however deep; text is never searched.
    """
    in_path, in_body = _in_path(path), _named(body)
    if not in_path and not in_body and not query:
        return ()
    return tuple(dict.fromkeys([*in_path, *_named(query), *in_body]))


def carried(body: Mapping[str, object]) -> frozenset[str]:
    """The ids of items of earlier answers that a call brings whole: another account may do with what they say.

    A mere reference is no such item, nor is reasoning without its encrypted content: the provider has to look it up.
    """
    items = body.get("input")
    if not isinstance(items, list):
        return frozenset()
    found: set[str] = set()
    for item in cast("list[object]", items):
        if isinstance(item, dict):
            fields = cast("_Fields", item)
            id = fields.get("id")
            if isinstance(id, str) and id.startswith(_ITEMS) and _is_whole(fields):
                found.add(id)
    return frozenset(found)


def _is_whole(item: _Fields) -> bool:
    return bool(item.get("encrypted_content")) if item.get("type") == "reasoning" else len(item) > 2


def shows(path: str, body: Mapping[str, object]) -> bool:
    """Whether the answer to a call shows resources of the account that gives it; most calls to models do not."""
    if path.endswith("/chat/completions"):
        return not body or body.get("store") is True  # without a body it is their list
    return _shows(path)


def shown(path: str, answer: object) -> tuple[str, ...]:
    """The ids that a successful answer shows to belong to the account that gave it.

    The answer is bytes, of JSON if they show anything, or what came of JSON.
    """
    if isinstance(answer, bytes):
        if path.endswith("/responses") and not _CALLERS_OWN.search(answer):
            # What models answer comes often, and reading it all takes twenty times as long.
            found = [id.decode() for id in _ID_FIELD.findall(answer)]
            return _bound(found, stored=_UNSTORED.search(answer) is None)
        try:
            return shown(path, cast("object", json.loads(answer)))
        except (ValueError, RecursionError):
            return ()
    stored = not isinstance(answer, dict) or cast("dict[str, object]", answer).get("store") is not False
    return _bound(_named(cast("object", answer)), stored=stored)


def _bound(ids: Iterable[str], *, stored: bool) -> tuple[str, ...]:
    return tuple(id for id in dict.fromkeys(ids) if stored or id.startswith(_BOUND_UNSTORED))


def reading_path(id: str) -> str | None:
    """The path of the GET that looks a resource up, or None if there is no such call for its kind."""
    return next((f"{path}{id}" for prefix, path in _READ_AT.items() if id.startswith(prefix)), None)


def reads(method: str, path: str, id: str) -> bool:
    """Whether a call itself reads a resource or what is in it, and so shows whose it is as well as a look-up would."""
    return method.lower() == "get" and id in map(unquote, urlsplit(path).path.split("/"))


def reading_headers(id: str) -> Mapping[str, str]:
    """What goes along with that GET: OpenAI refuses to read some kinds without it (the SDK sends the same)."""
    return {"OpenAI-Beta": "assistants=v2"} if id.startswith(_BETA) else {}


def ran_by_itself(path: str, answer: bytes) -> bool:
    """Whether a call asks for one piece of work that went on without a call: only so its usage is ever seen.

    That is a response in the background, a run or a batch; of others the call that made them had it in its answer.
    """
    if not path.endswith(("/{id}", "/{id}/cancel")):
        return False
    if "/responses/" in path:
        return _BACKGROUND.search(answer) is not None
    return "/completions/" not in path


def lasts(method: str, path: str, body: Mapping[str, object]) -> bool:
    """Whether a call makes something that is to be found for long: a file, a batch, a response in the background.

    An ordinary response is not such a thing, nor a completion that is stored.
    """
    if method.lower() != "post":
        return False
    return _is_lasting(path) or (body.get("background") is True and path.endswith("/responses"))


def is_shown_by_use(id: str) -> bool:
    """Whether a call that names this and succeeds shows whose it is."""
    return id.startswith(_USED)


def passes(id: str) -> bool:
    """Whether a resource is such as the provider deletes by itself before long."""
    return id.startswith(_PASSING)


@lru_cache(maxsize=1024)
def _in_path(path: str) -> tuple[str, ...]:
    parts = urlsplit(path)
    values = [*parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))]
    return tuple(found[0] for value in values if (found := _ID.fullmatch(unquote(value))))


@lru_cache(maxsize=1024)
def _shows(path: str) -> bool:
    keeps = "/chat/completions/" in path or not _KEEPERS.isdisjoint(path.split("/"))
    return keeps and not path.endswith("/content")


@lru_cache(maxsize=1024)
def _is_lasting(path: str) -> bool:
    return _LASTING.fullmatch(path) is not None


def _named(value: object) -> list[str]:
    """The ids in those fields of JSON that name things."""
    found: list[str] = []
    stack = [value]
    for item in stack:  # which grows as it is gone through
        if isinstance(item, _LISTS):
            items = cast("Sequence[dict[str, object]]", item)
            if items and not isinstance(items[0], _PLAIN):
                # Messages of text alone name nothing, and most are such.
                stack += [
                    each
                    for each in items
                    if not (each.__class__ is dict and len(each) == 2 and each.get("content").__class__ is str)
                ]
        elif isinstance(item, _OBJECTS):
            for name, inner in cast("Mapping[str, object]", item).items():
                if isinstance(inner, str):
                    if (name in _NAMES or name.endswith(_SUFFIXES)) and _ID.fullmatch(inner):
                        found.append(inner)
                elif inner.__class__ not in _SCALARS and name not in _OPAQUE:
                    stack.append(inner)
                    if isinstance(inner, _LISTS) and (name in _NAMES or name.endswith(_SUFFIXES)):
                        found += filter(_is_id, cast("Sequence[object]", inner))
    return found


def _is_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _ID.fullmatch(value) is not None
