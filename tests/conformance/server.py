"""The server that the SDK's own tests want: answers each route of the installed SDK with a minimal valid answer.

    python tests/conformance/server.py [--log FILE]

Prints its address, and serves until it is ended. With --log it writes one JSON line for each request: all that was
on the wire, raw and in order, so that two runs of the same tests can be compared.
"""

from __future__ import annotations

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

from keyrouter_openai.testing.sdk_routes import sdk_routes
from keyrouter_openai.testing.wire import Reply

# A JSON field, or a part of a form.
_ASKS_STREAM = re.compile(rb'"stream":\s*true|name="stream"(?:\r\n[^\r\n]+)*\r\n\r\ntrue')
_BOUNDARY = re.compile(r"boundary=\"?([^\";]+)")


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    # Head and body leave in one packet: in two, each answer waits 40 ms for the client's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    log: TextIO | None = None
    _writing = Lock()

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline()
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            self._answer()
            self.wfile.flush()

    def _answer(self) -> None:
        body = self._body()
        if self.log is not None:
            self._note(body)
        target = urlsplit(self.path)
        reply = sdk_routes().answer(
            self.command,
            unquote(target.path),
            dict(parse_qsl(target.query)),
            stream=_ASKS_STREAM.search(body) is not None,
        )
        self._send(reply or Reply(404, {"content-type": "application/json"}, b'{"error":{"message":"no such route"}}'))

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        chunks: list[bytes] = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _note(self, body: bytes) -> None:
        """Log a request, with what is made up anew each time taken out: the boundary of a form."""
        boundary = _BOUNDARY.search(self.headers.get("content-type", ""))
        line = json.dumps([self.command, self.path, self.headers.items(), body.decode("latin-1")])
        if boundary is not None:
            line = line.replace(boundary[1], "BOUNDARY")
        with self._writing:
            print(line, file=self.log, flush=True)

    def _send(self, reply: Reply) -> None:
        body = b"".join(event.data for event in reply.events or ()) or reply.body
        self.send_response(reply.status or 500)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Nothing to the terminal."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer each route of the installed SDK.")
    parser.add_argument("--log", type=Path, help="write each request to this file")
    arguments = parser.parse_args()
    sdk_routes()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if arguments.log is not None:
            Handler.log = arguments.log.open("w")
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
