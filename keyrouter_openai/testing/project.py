"""What a project keeps. Another project's keys are told that there is no such thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .errors import error_object
from .wire import Json, Refused, json_reply


class Kind(NamedTuple):
    """One kind of resource. `missing` is the text of the answer where there is none of an id."""

    prefix: str
    object: str
    missing: str
    code: str | None = None


# The texts for files, fine-tuning jobs and previous responses were seen in public logs; the others are made up in
# their manner.
KINDS: dict[str, Kind] = {
    "files": Kind("file-", "file", "No such File object: {id}"),
    "uploads": Kind("upload_", "upload", "No such Upload object: {id}"),
    "uploads/parts": Kind("part_", "upload.part", "No such Part object: {id}"),
    "batches": Kind("batch_", "batch", "No batch found with id '{id}'."),
    "vector_stores": Kind("vs_", "vector_store", "Vector store with id '{id}' not found."),
    "vector_stores/files": Kind("file-", "vector_store.file", "No file found with id '{id}' in vector store."),
    "vector_stores/file_batches": Kind(
        "vsfb_", "vector_store.files_batch", "No file batch found with id '{id}' in vector store."
    ),
    "vector_stores/file_batches/files": Kind("file-", "vector_store.file", "No such File object: {id}"),
    "responses": Kind("resp_", "response", "Response with id '{id}' not found."),
    "responses/input_items": Kind("msg_", "", "Item with id '{id}' not found."),
    "chat/completions": Kind("chatcmpl-", "chat.completion", "Chat completion with id '{id}' not found."),
    "chat/completions/messages": Kind("", "", "Message with id '{id}' not found."),
    "conversations": Kind("conv_", "conversation", "Conversation with id '{id}' not found."),
    "conversations/items": Kind("msg_", "", "Item with id '{id}' not found."),
    "containers": Kind("cntr_", "container", "Container with id '{id}' not found."),
    "containers/files": Kind("cfile_", "container.file", "Container file with id '{id}' not found."),
    "fine_tuning/jobs": Kind("ftjob-", "fine_tuning.job", "Could not find fine tune: {id}", "fine_tune_not_found"),
    "fine_tuning/jobs/events": Kind("ftevent-", "fine_tuning.job.event", "No such event: {id}"),
    "fine_tuning/jobs/checkpoints": Kind("ftckpt_", "fine_tuning.job.checkpoint", "No such checkpoint: {id}"),
    "evals": Kind("eval_", "eval", "Eval with id '{id}' not found."),
    "evals/runs": Kind("evalrun_", "eval.run", "Eval run with id '{id}' not found."),
    "evals/runs/output_items": Kind("outputitem_", "eval.run.output_item", "Output item with id '{id}' not found."),
}
"""By the names in their paths."""


def missing(kind: str, id: str, param: str | None = "id") -> Refused:
    """What is answered for an id that the project does not have."""
    error = error_object(KINDS[kind].missing.format(id=id), "invalid_request_error", KINDS[kind].code, param)
    return Refused(json_reply(error, 404))


@dataclass(slots=True)
class Resource:
    """One thing that is kept: what is shown of it, and its bytes if it has any."""

    about: Json
    content: bytes = field(default=b"", repr=False)
    stages: list[Callable[[], Json]] = field(default_factory=list[Callable[[], Json]])
    """Work that goes on by itself: what has changed when it is next looked at, and then next."""
    parts: dict[str, Shelf] = field(default_factory=dict[str, "Shelf"])
    """What lies within it, by the name in its path."""

    def look(self) -> Json:
        """What is shown of it now."""
        if self.stages:
            self.about |= self.stages.pop(0)()
        return self.about

    def shelf(self, name: str) -> Shelf:
        """What lies within it under this name."""
        return self.parts.setdefault(name, {})


Shelf = dict[str, Resource]
"""Resources of one kind by id, in the order in which they were made."""


@dataclass(slots=True)
class Project:
    """What belongs to one project."""

    organization: str
    shelves: dict[str, Shelf] = field(default_factory=dict[str, Shelf])
    models: dict[str, int] = field(default_factory=dict[str, int])
    """Its fine-tuned models, and when they were made."""
    items: set[str] = field(default_factory=set[str])
    """The ids of what was said in its stored responses and conversations."""

    def shelf(self, kind: str) -> Shelf:
        """All resources of a kind."""
        return self.shelves.setdefault(kind, {})

    def find(self, kind: str, id: str) -> Resource:
        """The resource of that kind and id.

        Raises:
            Refused: the project has none.
        """
        found = self.shelf(kind).get(id)
        if found is None:
            raise missing(kind, id)
        return found


@dataclass(frozen=True, slots=True)
class Ask:
    """A request about a project's resources."""

    project: Project
    kind: str
    """What it is about: a name in `KINDS`."""
    shelf: Shelf
    """The resources among which it looks."""
    id: str
    """The one it names, or empty where it is about all of them."""
    owners: tuple[Resource, ...]
    """The resources in which these lie, the innermost last."""
    query: Mapping[str, str]
    fields: Json
    upload: tuple[str, bytes] | None
    """Name and content of the file that came along."""
    new_id: Callable[[], str]
    now: int
    """Seconds since the epoch."""

    @property
    def resource(self) -> Resource:
        """The one that the request names.

        Raises:
            Refused: the project has none of that id.
        """
        if self.id not in self.shelf:
            raise missing(self.kind, self.id)
        return self.shelf[self.id]

    def keep(self, kind: str, made: Resource, shelf: Shelf | None = None) -> Resource:
        """Put a new resource on its shelf (the project's, unless another is given), with an id if it has none."""
        prefix, object, _, _ = KINDS[kind]
        if "id" not in made.about or "object" not in made.about:
            made.about = {"id": prefix + self.new_id(), "object": object, "created_at": self.now, **made.about}
        (self.project.shelf(kind) if shelf is None else shelf)[made.about["id"]] = made
        return made

    def keep_file(self, name: str, content: bytes, purpose: str) -> Resource:
        """Make a file of the project."""
        about: Json = {
            "bytes": len(content),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
            "expires_at": None,
            "status_details": None,
        }
        return self.keep("files", Resource(about, content))
