"""Code that type-checks with the SDK's clients does so with ours, and means the same types."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import keyrouter_openai

CALLS = (Path(__file__).parent / "calls.py").read_text()
THEIRS = "from openai import AsyncOpenAI, OpenAI\n"
OURS = "from keyrouter_openai import RoutedOpenAI as AsyncOpenAI, SyncRoutedOpenAI as OpenAI\n"
NAMES = f"""
from typing import assert_type

from keyrouter_openai import {", ".join(keyrouter_openai.__all__)}

__all__ = {keyrouter_openai.__all__}


def routed(client: RoutedOpenAI, sync: SyncRoutedOpenAI) -> None:
    assert_type(client.with_routing(tags={{"tenant": "t1"}}, max_wait=3.0), RoutedOpenAI)
    assert_type(sync.with_routing(key="a"), SyncRoutedOpenAI)
    assert_type(client.with_options(max_attempts=2), RoutedOpenAI)
    assert_type(client.router, Router)
    assert_type(client.ledger, Ledger)
    assert_type(route_of(client), Route)
    with routing(account="A"):
        pass
"""
# Each is wrong in one way, and must be found: else a checker that sees only `Any` would pass all else.
WRONG = """
from keyrouter_openai import RoutedOpenAI


async def wrong(client: RoutedOpenAI) -> None:
    await client.chat.completions.create(model="gpt-4o", messages=[], temperature="hot")
    (await client.responses.create(model="gpt-4o", input="x")).no_such_field
    RoutedOpenAI(keys=[1])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert THEIRS in CALLS
    files = {"theirs": CALLS, "ours": CALLS.replace(THEIRS, OURS), "names": NAMES, "wrong": WRONG}
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "pythonVersion": "3.11"}))
    return tmp_path


def check(folder: Path, checker: str, *arguments: str) -> list[str]:
    """What a checker complains of, as `file:line`."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: pip install '.[dev]'")
    done = subprocess.run(
        [sys.executable, "-m", checker, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    lines = [line.strip().split(":") for line in done.stdout.splitlines() if "error" in line]
    return [f"{Path(line[0]).name}:{line[1]}" for line in lines if line[0].endswith(".py")]


EXPECTED = [f"wrong.py:{line}" for line in (6, 7, 8)]


def test_pyright_finds_only_what_is_wrong(folder: Path) -> None:
    found = check(folder, "pyright", "--pythonpath", sys.executable)

    assert sorted(set(found)) == EXPECTED


def test_mypy_finds_only_what_is_wrong(folder: Path) -> None:
    found = check(folder, "mypy", "--strict", "--no-error-summary", "theirs.py", "ours.py", "names.py", "wrong.py")

    assert sorted(set(found)) == EXPECTED
