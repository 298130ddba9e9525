"""The Files API. A file belongs to the project of the key that made it; others are told there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from typing import Any

from .errors import error_object, invalid
from .wire import Json, Refused, Reply, Request, json_reply

PREFIX = "/v1/files"
_PATH = re.compile(rf"{PREFIX}(?:/(?P<id>[^/]+)(?P<content>/content)?)?")
_MOST = 10_000


@dataclass(frozen=True, slots=True)
class _File:
    about: Json
    content: bytes = field(repr=False)


class FileStore:
    """The files of all projects."""

    def __init__(self) -> None:
        self._projects: dict[str, dict[str, _File]] = {}

    def answer(self, request: Request, project: str, ident: str, created: int) -> Reply | None:
        """Answer a call to the Files API made with a key of `project`; None if there is no such route.

        A new file gets its id from `ident`.

        Raises:
            Refused: the file is not there, or the request is malformed.
        """
        match = _PATH.fullmatch(request.path)
        if match is None:
            return None
        files = self._projects.setdefault(project, {})
        file_id = match["id"]
        if file_id is None:
            if request.method == "POST":
                return _create(files, request, f"file-{ident}", created)
            return _list(files, request) if request.method == "GET" else None
        if file_id not in files:
            missing = error_object(f"No such File object: {file_id}", "invalid_request_error", None, "id")
            raise Refused(json_reply(missing, 404))
        if request.method == "DELETE" and not match["content"]:
            del files[file_id]
            return json_reply({"id": file_id, "object": "file", "deleted": True})
        if request.method != "GET":
            return None
        if match["content"]:
            return Reply(200, {"content-type": "application/octet-stream"}, files[file_id].content)
        return json_reply(files[file_id].about)


def _create(files: dict[str, _File], request: Request, file_id: str, created: int) -> Reply:
    form = read_form(request.headers.get("content-type", ""), request.body)
    for name in ("file", "purpose"):
        if name not in form:
            raise Refused(invalid(f"Missing required parameter: '{name}'.", name, "missing_required_parameter"))
    filename, content = form["file"]
    about: Json = {
        "id": file_id,
        "object": "file",
        "bytes": len(content),
        "created_at": created,
        "filename": filename or "file",
        "purpose": form["purpose"][1].decode(errors="replace"),
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }
    files[file_id] = _File(about, content)
    return json_reply(about)


def _list(files: dict[str, _File], request: Request) -> Reply:
    found: list[Any] = [file.about for file in files.values()]
    if request.query.get("order", "desc") == "desc":
        found.reverse()
    if purpose := request.query.get("purpose"):
        found = [about for about in found if about["purpose"] == purpose]
    if after := request.query.get("after"):
        ids = [about["id"] for about in found]
        found = found[ids.index(after) + 1 :] if after in ids else []
    limit = request.query.get("limit", "")
    size = min(int(limit), _MOST) if limit.isdecimal() and int(limit) > 0 else _MOST
    page = found[:size]
    return json_reply(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(found) > size,
        }
    )


def read_form(content_type: str, body: bytes) -> dict[str, tuple[str | None, bytes]]:
    """The fields of a `multipart/form-data` body: name to file name, if any, and content."""
    head = Message()
    head["content-type"] = content_type
    boundary = head.get_boundary()
    if boundary is None:
        raise Refused(invalid("Invalid content type: expected multipart/form-data with a boundary."))
    form: dict[str, tuple[str | None, bytes]] = {}
    for section in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:]:
        lines, _, content = section.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        part = HeaderParser().parsestr(lines.decode(errors="replace"))
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str):
            form[name] = (part.get_filename(), content)
    return form
