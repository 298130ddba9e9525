"""Bodies of forms with files."""

from __future__ import annotations

from email.message import Message
from email.parser import HeaderParser

from .errors import invalid
from .wire import Refused


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
