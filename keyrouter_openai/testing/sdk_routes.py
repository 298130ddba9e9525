"""The routes of the installed SDK, and a minimal answer for each, read out of its own source.

No spec comes with the SDK, and none is needed: each method of its resources names its path and the type of its
answer. What is answered is valid, and says as little as that type allows.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache, cached_property, lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

import openai
import openai.resources
from pydantic import BaseModel

from .wire import Event, Json, Reply, json_reply

_VERBS = ("_get", "_post", "_put", "_patch", "_delete", "_get_api_list")
_HOLE = re.compile(r"\{[^{}]*\}")
# What the types of answers depend on at run time: the formats of a transcription.
_ARGUMENTS = {"response_format": "json"}
_SCALARS: Mapping[object, object] = {
    str: "text",
    int: 0,
    float: 0.0,
    bool: False,
    datetime: "2026-01-01T00:00:00Z",
    date: "2026-01-01",
    None: None,
    NoneType: None,
}


class _Recursion(Exception):
    """An example of this type would hold an example of itself."""


@dataclass(frozen=True)
class SdkRoute:
    """One HTTP call that the SDK can make."""

    method: str
    path: str
    """Without the base URL, its holes as `{name}`."""
    query: Mapping[str, str]
    """What tells this route from another with the same path, such as `beta=true`."""
    answers: Any = field(repr=False)
    """The type of the answer: a model, a page of models, None, or the SDK's class for binary content."""
    streams: bool
    """Whether it answers with server-sent events if it is asked to."""

    def serves(self, method: str, path: str, query: Mapping[str, str]) -> bool:
        """Whether this is the route of a request."""
        return (
            method == self.method and self._pattern.fullmatch(path) is not None and self.query.items() <= query.items()
        )

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("[^/]+".join(re.escape(literal) for literal in _HOLE.split(self.path)))

    @cached_property
    def reply(self) -> Reply:
        """The smallest valid answer.

        Raises:
            TypeError: the type of the answer has a part that no example can be made of.
        """
        if self.answers in (None, NoneType):
            return Reply(204)
        if self.answers is openai.HttpxBinaryResponseContent:
            return Reply(200, {"content-type": "application/octet-stream"}, b"binary")
        return json_reply(_example(self.answers))


class SdkRoutes:
    """All routes of the SDK that is installed."""

    @property
    def routes(self) -> tuple[SdkRoute, ...]:
        """Every route; to read them all takes about two seconds, once."""
        return _routes("/")

    def answer(self, method: str, path: str, query: Mapping[str, str], *, stream: bool) -> Reply | None:
        """A minimal valid answer, or None where the SDK has no such route.

        Args:
            path: without the base URL, such as `/files/file-abc`.
            stream: whether server-sent events are asked for; they have no event but their end.
        """
        # Read as needed, so that who calls one resource does not pay for the import of all.
        among = _routes("/".join(path.split("/")[:2]))
        route = next((route for route in among if route.serves(method, path, query)), None)
        if route is None:
            return None
        if stream and route.streams:
            return Reply(200, {"content-type": "text/event-stream"}, events=(Event(b"data: [DONE]\n\n"),))
        return route.reply


@cache
def sdk_routes() -> SdkRoutes:
    """The routes of the installed SDK."""
    return SdkRoutes()


@lru_cache(maxsize=256)
def _routes(start: str) -> tuple[SdkRoute, ...]:
    """The routes of all modules that have one whose path has this start."""
    found = [route for module in _resource_modules(start) for route in _routes_of(module)]
    # The more is literal the sooner: `/skills/imports` is no id of `/skills/{id}`.
    return tuple(sorted(found, key=lambda route: (len(_HOLE.findall(route.path)), -len(route.query))))


def _resource_modules(start: str) -> Iterator[ModuleType]:
    folder = Path(openai.resources.__path__[0])
    for file in sorted(folder.rglob("*.py")):
        if file.name != "__init__.py" and f'"{start}' in file.read_text(encoding="utf-8"):
            yield import_module(".".join((openai.resources.__name__, *file.relative_to(folder).with_suffix("").parts)))


@cache
def _routes_of(module: ModuleType) -> tuple[SdkRoute, ...]:
    """The routes that the sync resources of a module call; the async ones call the same."""
    resources = [
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("Async") and "With" not in node.name
    ]
    calls = [node for each in resources for node in ast.walk(each) if isinstance(node, ast.Call)]
    return tuple(route for call in calls if (route := _route_of(call, module)))


def _route_of(call: ast.Call, module: ModuleType) -> SdkRoute | None:
    """The route of a call such as `self._post("/files", ..., cast_to=FileObject)`; None for any other call."""
    verb = call.func
    if not (isinstance(verb, ast.Attribute) and verb.attr in _VERBS and ast.unparse(verb.value) == "self"):
        return None
    target = _target_of(call.args[0]) if call.args else None
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    answers = keywords.get("page") or keywords.get("cast_to")
    if target is None or answers is None:
        return None
    path, _, query = target.partition("?")
    method = "get" if verb.attr == "_get_api_list" else verb.attr[1:]
    if "method" in keywords:
        method = _evaluated(keywords["method"], module)
    return SdkRoute(
        method=method.upper(),
        path=path,
        query=dict(parse_qsl(query)),
        answers=_evaluated(answers, module),
        streams="stream_cls" in keywords,
    )


def _target_of(node: ast.expr) -> str | None:
    """The path and query of an argument: a string, an f-string, or `path_template("/files/{id}", id=id)`."""
    if isinstance(node, ast.Call) and node.args:
        return _target_of(node.args[0])
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{hole}" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else None


def _evaluated(node: ast.expr, module: ModuleType) -> Any:
    """What an expression means in the namespace of its module."""
    return eval(compile(ast.Expression(node), module.__name__, "eval"), {**vars(module), **_ARGUMENTS})


# -- examples


def _example(kind: Any, within: tuple[type, ...] = ()) -> Any:
    """The smallest JSON that is valid for a type.

    Raises:
        _Recursion: there is none without an example of one of the types that it is `within`.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _SCALARS:
        return _SCALARS[kind]
    if kind in (Any, object) or dict in (kind, origin):
        return {}
    if origin is Annotated:
        return _example(arguments[0], within)
    if origin is Literal:
        # Who polls for the end of some work is told that it has come.
        return next((value for value in arguments if value in ("completed", "processed")), arguments[0])
    if origin in (Union, UnionType):
        return _example_of_union(arguments, within)
    if origin is list:
        return _example_of_list(arguments[0], within)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _example_of_model(kind, within)
    raise TypeError(f"no example can be made of {kind!r}")


def _example_of_union(arms: tuple[Any, ...], within: tuple[type, ...]) -> Any:
    if NoneType in arms:
        return None
    for arm in arms:
        try:
            return _example(arm, within)
        except _Recursion:
            pass
    raise _Recursion


def _example_of_list(item: Any, within: tuple[type, ...]) -> list[Any]:
    try:
        return [_example(item, within)]
    except _Recursion:
        return []


def _example_of_model(model: type[BaseModel], within: tuple[type, ...]) -> Json:
    if model in within:
        raise _Recursion
    model.model_rebuild()
    return {
        info.alias or name: _example(info.annotation, (*within, model))
        for name, info in model.model_fields.items()
        if info.is_required() or info.default_factory is not None
    }
