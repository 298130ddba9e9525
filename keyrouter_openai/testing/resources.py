"""The API of what a project keeps: files, batches, stored responses and the like.

All kinds go by the same rules: a path names a shelf, or one resource on it, or an action; what differs is in the
table `ROUTES`. What belongs to another project is not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast

from . import makers, responses
from .account import SimAccount
from .endpoints import Work, event_stream
from .errors import invalid
from .forms import read_form
from .project import KINDS, Ask, Project, Resource, Shelf, missing
from .wire import Json, Refused, Reply, Request, as_list, as_object, json_reply, to_json

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
REFERENCE = "item_reference"


@dataclass(frozen=True, slots=True)
class Route:
    """What can be done with one kind of resource."""

    make: Callable[[Ask], Resource | list[Resource]] | None = None
    needs: tuple[str, ...] = ()
    """Fields without which none is made."""
    verbs: frozenset[str] = frozenset(("list", "get", "delete"))
    updates: tuple[str, ...] = ()
    """Fields that can be changed."""
    actions: Mapping[str, Callable[[Ask, Resource], Reply]] = field(
        default_factory=dict[str, Callable[[Ask, Resource], Reply]]
    )
    """By method and name."""
    page: int = 20
    """Items on a page of its list, unless asked otherwise."""
    most: int = 100
    """Most items on a page of its list."""


_FORMS = ("files", "uploads/parts")
_LISTED = frozenset(("list",))
_SHOWN = frozenset(("get",))
_MAX_FILES = 10_000

ROUTES: dict[str, Route] = {
    "files": Route(
        makers.file,
        ("file", "purpose"),
        actions={"GET content": makers.content},
        page=_MAX_FILES,
        most=_MAX_FILES,
    ),
    "uploads": Route(
        makers.upload,
        ("bytes", "filename", "purpose"),
        frozenset(),
        actions={"POST cancel": makers.cancel("cancelled"), "POST complete": makers.complete},
    ),
    "uploads/parts": Route(makers.part, ("data",), frozenset()),
    "batches": Route(
        makers.batch,
        ("input_file_id", "endpoint", "completion_window"),
        _LISTED | _SHOWN,
        actions={"POST cancel": makers.cancel("cancelled")},
    ),
    "vector_stores": Route(
        makers.vector_store,
        updates=("name", "metadata", "expires_after"),
        actions={"POST search": makers.search},
    ),
    "vector_stores/files": Route(
        makers.vector_store_file,
        ("file_id",),
        updates=("attributes",),
        actions={"GET content": makers.parsed},
    ),
    "vector_stores/file_batches": Route(
        makers.vector_store_batch,
        verbs=_SHOWN,
        actions={"POST cancel": makers.cancel("cancelled")},
    ),
    "vector_stores/file_batches/files": Route(verbs=_LISTED),
    "responses": Route(
        verbs=_SHOWN | {"delete"},
        actions={"POST cancel": makers.cancel_response},
    ),
    "responses/input_items": Route(verbs=_LISTED),
    "chat/completions": Route(updates=("metadata",)),
    "chat/completions/messages": Route(verbs=_LISTED),
    "conversations": Route(makers.conversation, verbs=_SHOWN | {"delete"}, updates=("metadata",)),
    "conversations/items": Route(makers.conversation_items, ("items",)),
    "containers": Route(makers.container, ("name",)),
    "containers/files": Route(makers.container_file, actions={"GET content": makers.content}),
    "fine_tuning/jobs": Route(
        makers.fine_tuning_job,
        ("model", "training_file"),
        _LISTED | _SHOWN,
        actions={"POST cancel": makers.cancel("cancelled")},
    ),
    "fine_tuning/jobs/events": Route(verbs=_LISTED),
    "fine_tuning/jobs/checkpoints": Route(verbs=_LISTED),
    "evals": Route(
        makers.eval,
        ("data_source_config", "testing_criteria"),
        updates=("name", "metadata"),
    ),
    "evals/runs": Route(makers.eval_run, ("data_source",), actions={"POST cancel": makers.cancel("canceled")}),
    "evals/runs/output_items": Route(verbs=_LISTED),
}

_REFERENCES = {
    "file_id": "files",
    "file_ids": "files",
    "input_file_id": "files",
    "training_file": "files",
    "validation_file": "files",
    "vector_store_ids": "vector_stores",
    "conversation": "conversations",
    "container": "containers",
    "previous_response_id": "responses",
}
"""Fields of requests that name resources: by themselves, in a list, or as an object with an id."""


class Resources:
    """What all projects keep."""

    def __init__(self) -> None:
        self._projects: dict[str, Project] = {}

    def project(self, account: SimAccount) -> Project:
        """What belongs to the project of an account."""
        return self._projects.setdefault(account.project, Project(account.organization))

    def answer(self, request: Request, project: Project, new_id: Callable[[], str], now: int) -> Reply | None:
        """Answer a call about what a project keeps; None if there is no such route.

        Raises:
            Refused: something is not there, or the request is malformed.
        """
        path = _Path.read(request.path)
        serve = path and _operation(path, request.method)
        if not path or not serve:
            return None
        shelf, owners = path.walk(project)
        fields, upload = _read_body(request, needs_form=serve is _make and path.kind in _FORMS)
        ask = Ask(project, path.kind, shelf, path.id, owners, request.query, fields, upload, new_id, now)
        check_references(project, fields)
        return serve(ask)


@dataclass(frozen=True, slots=True)
class _Path:
    """`/v1/evals/eval_1/runs/run_1/cancel`: names `evals` and `runs`, two ids, and an action."""

    names: list[str]
    ids: list[str]
    action: str

    @classmethod
    def read(cls, path: str) -> _Path | None:
        """The path in its parts, or None if it names no kind of resource."""
        parts = path.removeprefix("/v1/").split("/")
        if parts[0] in ("chat", "fine_tuning"):
            parts[:2] = ["/".join(parts[:2])]
        names, ids = parts[::2], parts[1::2]
        action = ""
        if "/".join(names) not in ROUTES and len(names) > len(ids):
            action = names.pop()
        return cls(names, ids, action) if "/".join(names) in ROUTES else None

    @property
    def kind(self) -> str:
        return "/".join(self.names)

    @property
    def id(self) -> str:
        """The resource at the end, or empty where it is a whole shelf."""
        return self.ids[-1] if len(self.ids) == len(self.names) else ""

    def walk(self, project: Project) -> tuple[Shelf, tuple[Resource, ...]]:
        """The shelf that is meant, and the resources in which it lies."""
        kind = self.names[0]
        shelf = project.shelf(kind)
        owners: list[Resource] = []
        for id, name in zip(self.ids, self.names[1:], strict=False):
            if id not in shelf:
                raise missing(kind, id)
            owners.append(shelf[id])
            shelf = shelf[id].shelf(name)
            kind = f"{kind}/{name}"
        return shelf, tuple(owners)


def _operation(path: _Path, method: str) -> Callable[[Ask], Reply] | None:
    route = ROUTES[path.kind]
    if path.action:
        action = route.actions.get(f"{method} {path.action}")
        return action and (lambda ask: action(ask, ask.resource))
    match method, bool(path.id):
        case "POST", False if route.make is not None:
            return _make
        case "GET", False if "list" in route.verbs:
            return _list
        case "GET", True if "get" in route.verbs:
            return _get
        case "DELETE", True if "delete" in route.verbs:
            return _delete
        case "POST", True if route.updates:
            return _update
        case _:
            return None


def _make(ask: Ask) -> Reply:
    route = ROUTES[ask.kind]
    for name in route.needs:
        if name not in ask.fields and not (ask.upload and name in ("file", "data")):
            raise Refused(invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter"))
    made = route.make(ask) if route.make else []
    if isinstance(made, Resource):
        return json_reply(ask.keep(ask.kind, made, ask.shelf).about)
    return _page([each.about for each in made], more=False)


def _get(ask: Ask) -> Reply:
    resource = ask.resource
    if ask.kind == "responses" and ask.query.get("stream") == "true":
        while resource.stages:
            resource.look()
        after = int(ask.query.get("starting_after", -1))
        return event_stream(responses.events(resource.about)[after + 1 :])
    return json_reply(resource.look())


def _update(ask: Ask) -> Reply:
    about = ask.resource.about
    about |= {name: ask.fields[name] for name in ROUTES[ask.kind].updates if name in ask.fields}
    return json_reply(about)


def _delete(ask: Ask) -> Reply:
    gone = ask.resource
    del ask.shelf[ask.id]
    object = str(gone.about.get("object"))
    match ask.kind:
        case "conversations/items":
            return json_reply(ask.owners[-1].about)
        case "evals" | "evals/runs":
            name = "eval_id" if ask.kind == "evals" else "run_id"
            return json_reply({name: ask.id, "object": f"{object}.deleted", "deleted": True})
        case "files" | "responses":
            return json_reply({"id": ask.id, "object": object, "deleted": True})
        case _:
            return json_reply({"id": ask.id, "object": f"{object}.deleted", "deleted": True})


def _list(ask: Ask) -> Reply:
    route = ROUTES[ask.kind]
    found = [resource.about for resource in ask.shelf.values()]
    if ask.query.get("order", "desc") == "desc":
        found.reverse()
    for name in ("purpose", "status"):
        if wanted := ask.query.get(name):
            found = [about for about in found if about.get(name) == wanted]
    if after := ask.query.get("after"):
        if after not in ask.shelf:
            raise missing(ask.kind, after, "after")
        ids = [about["id"] for about in found]
        found = found[ids.index(after) + 1 :] if after in ids else []
    limit = ask.query.get("limit", "")
    size = min(int(limit), route.most) if limit.isdecimal() and int(limit) > 0 else route.page
    return _page(found[:size], more=len(found) > size)


def _page(found: list[Json], *, more: bool) -> Reply:
    first, last = (found[0]["id"], found[-1]["id"]) if found else (None, None)
    return json_reply({"object": "list", "data": found, "first_id": first, "last_id": last, "has_more": more})


# -- calls to models


def keep_answer(path: str, project: Project, work: Work, reply: Reply, ident: str, now: int) -> Reply:
    """Keep what a model has answered, if the call wants it kept; and what is to be answered now."""
    stored = {RESPONSES: work.fields.get("store") is not False, CHAT: work.fields.get("store") is True}
    if not stored.get(path):
        return reply
    whole = replace(work, stream=False).answer(ident, now) if work.stream else reply
    made = Resource(as_object(json.loads(whole.body)))
    kind, numbers = path.removeprefix("/v1/"), count()

    def new_id() -> str:
        return f"{ident}{next(numbers):04x}"  # not drawn by chance: what is drawn after it would change

    ask = Ask(project, kind, project.shelf(kind), "", (), {}, work.fields, None, new_id, now)
    ask.keep(kind, made)
    if path == CHAT:
        made.about["metadata"] = work.fields.get("metadata")
        said = [Resource({"id": f"{made.about['id']}-{n}", **each}) for n, each in enumerate(work.fields["messages"])]
        made.parts["messages"] = {each.about["id"]: each for each in said}
        return reply
    return _keep_response(ask, made, reply)


def _keep_response(ask: Ask, made: Resource, reply: Reply) -> Reply:
    asked, about = ask.fields, made.about
    said: object = asked["input"]
    items = cast("list[object]", said) if isinstance(said, list) else [{"role": "user", "content": said}]
    makers.say(ask, made.shelf("input_items"), [item for item in items if as_object(item).get("type") != REFERENCE])
    ask.project.items.update(item["id"] for item in about["output"])
    talk = asked.get("conversation")
    if talk is not None:
        about["conversation"] = {"id": as_object(talk).get("id", talk)}
        shelf = ask.project.find("conversations", about["conversation"]["id"]).shelf("items")
        shelf |= made.shelf("input_items")
        makers.say(ask, shelf, about["output"])
    about["background"] = asked.get("background") is True
    if talk is None and not about["background"]:
        return reply
    done = dict(about)
    if about["background"]:
        about |= {"status": "queued", "output": [], "usage": None}
        made.stages = [lambda: {"status": "in_progress"}, lambda: done]
    if reply.events is not None:
        return replace(reply, events=responses.events(done))
    return replace(reply, body=to_json(about))


def check_references(project: Project, fields: Json) -> None:
    """Check that what a request names belongs to the project.

    Raises:
        Refused: it does not.
    """
    for name, id in _references(fields):
        if name == "previous_response_id" and id not in project.shelf("responses"):
            text = f"Previous response with id '{id}' not found."
            raise Refused(invalid(text, name, "previous_response_not_found"))
        if name == REFERENCE and id not in project.items:
            raise missing("conversations/items", id, "input")
        kind = _REFERENCES.get(name, "")
        if kind and id.startswith(KINDS[kind].prefix) and id not in project.shelf(kind):
            raise missing(kind, id, name)


def _references(fields: Json) -> Iterator[tuple[str, str]]:
    """The ids that a request names, with the field that names them."""
    left: list[Any] = [fields]
    while left:
        value = left.pop()
        left += as_list(value)
        named = as_object(value)
        if named.get("type") in (REFERENCE, "file_id"):  # the latter in the sources of evals
            yield named["type"], str(named.get("id"))
        for name, each in named.items():
            if name in _REFERENCES:
                yield from ((name, id) for id in _ids(each))
            if not isinstance(each, str):
                left.append(each)


def _ids(value: object) -> list[str]:
    candidates = as_list(value) or [as_object(value).get("id"), value]
    return [each for each in candidates if isinstance(each, str)]


# -- bodies


def _read_body(request: Request, *, needs_form: bool) -> tuple[Json, tuple[str, bytes] | None]:
    """The fields of a request, and the file that came with them."""
    kind = request.headers.get("content-type", "")
    if not needs_form and not kind.startswith("multipart/"):
        try:
            return as_object(json.loads(request.body or b"{}")), None
        except (ValueError, RecursionError):
            text = "We could not parse the JSON body of your request. The OpenAI API expects a JSON payload."
            raise Refused(invalid(text)) from None
    fields: Json = {}
    upload: tuple[str, bytes] | None = None
    for name, (filename, content) in read_form(kind, request.body).items():
        if name in ("file", "data"):
            upload = filename or "file", content
        fields[name] = filename if name in ("file", "data") else content.decode(errors="replace")
    return fields, upload
