"""What README.md shows works as shown: the Python in order as in `python -m asyncio`, and the commands."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from keyrouter_openai.cli import main
from keyrouter_openai.testing import ProviderSimulator, SimAccount

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.anyio


def blocks(language: str) -> list[str]:
    """The code blocks of this language, each behind as many blank lines as put it where README.md has it."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return ["\n" * README.count("\n", 0, match.start(1)) + match[1] for match in found]


def commands() -> list[str]:
    """The lines of the shell blocks, without comments."""
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


async def test_the_python_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    with ProviderSimulator([SimAccount("acme"), SimAccount("other")]) as sim:
        monkeypatch.setenv("OPENAI_BASE_URL", sim.url)
        monkeypatch.setenv("OPENAI_API_KEYS", ",".join(sim.keys.values()))
        for block in blocks("python"):
            code = compile(block, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            result = eval(code, names)
            if inspect.isawaitable(result):
                await result
        await names["client"].close()

    assert sim.count(status=200) == len(sim.calls) == 5
    printed = capsys.readouterr().out
    assert re.search(r"key-[12] org-\w+/proj_\w+ Usage\(", printed)
    assert all(f"'tag:tenant': '{tenant}', 'attempts': 1" in printed for tenant in ("acme", "other"))


def test_the_changed_line_is_a_drop_in() -> None:
    (diff,) = blocks("diff")
    before, after = dict[str, Any](), dict[str, Any]()
    for line in diff.split("\n"):
        exec(line[1:], before if line.startswith("-") else after)
    assert issubclass(after["AsyncOpenAI"], before["AsyncOpenAI"])
    assert after["AsyncOpenAI"] is not before["AsyncOpenAI"]


def test_the_commands_run(tmp_path: Path) -> None:
    with ProviderSimulator([SimAccount("acme", keys=5)]) as sim:
        *added, imported, imported_too = sim.keys.values()
        environ = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OPENAI_BASE_URL": sim.url,
            "OPENAI_API_KEYS": f"{imported},{imported_too}",
            "KEYROUTER_VAULT": f"file:{tmp_path / 'vault.json'}",
            "KEYROUTER_VAULT_PASSPHRASE": "of the test",
        }
        secrets = iter(added)
        for command in commands():
            if not command.startswith("keyrouter-openai") or command == "keyrouter-openai demo":
                continue
            typed = next(secrets) if " add " in command else ""
            done = subprocess.run(
                command.split(),
                cwd=tmp_path,
                env=environ,
                input=typed,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert sim.by_key() == dict.fromkeys(sim.keys, 1), "keys test"


def test_the_commands_in_the_text_exist() -> None:
    mentioned = set(
        re.findall(r"`(?:keyrouter-openai )?((?:keys|demo|usage|status|doctor)(?: [a-z][a-z-]*)?)\b", README)
    )
    assert {"keys enable", "keys disable", "keys remove"} <= mentioned
    for command in mentioned:
        done = CliRunner().invoke(main, [*command.split(), "--help"])
        assert done.exit_code == 0, f"{command}: {done.output}"


def test_the_scripts_and_folders_exist() -> None:
    paths = set(re.findall(r"\b(?:python|bash) ([\w./]+)", README)) | set(re.findall(r"\]\(([\w./-]+)\)", README))
    assert len(paths) >= 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_environment_variables_are_those_in_use() -> None:
    name = re.compile(r"KEYROUTER_(?!SECRET)[A-Z]+(?:_[A-Z]+)*")
    used = {found for file in (ROOT / "keyrouter_openai").rglob("*.py") for found in name.findall(file.read_text())}
    assert set(name.findall(README)) == used
