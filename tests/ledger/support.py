"""What the tests of the ledger share."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path
from typing import Any

from keyrouter_openai.core.model import Attempt, Fault, Usage

SOME_USAGE = Usage(prompt=100, completion=20, cached=60, cache_written=10, reasoning=5, audio=1, estimated=True)


def attempt(**changes: Any) -> Attempt:
    """An attempt with every field that must be given, and the `changes`."""
    values: dict[str, Any] = {
        "at": 1_700_000_000.0,
        "request_id": "r1",
        "number": 1,
        "pool": "default",
        "key": "a",
        "account": "acme",
        "provider": "openai",
        "endpoint": "/chat/completions",
        "outcome": Fault.NONE,
    }
    return Attempt(**values | changes)


def request_ids(path: Path) -> list[str]:
    """The request ids in the file, read with nothing but sqlite3."""
    with closing(sqlite3.connect(path)) as connection:
        return [request_id for (request_id,) in connection.execute("select request_id from attempts")]


def run(script: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    with start(script, *arguments) as process:
        out, err = process.communicate(timeout=60)
    if check:
        assert process.returncode == 0, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a script in a process of its own, with pipes to talk to it."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
