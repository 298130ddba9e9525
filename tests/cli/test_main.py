"""The command as a whole: quick help, examples, exit codes, interrupts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version

import click
import pytest

from keyrouter_openai.cli import main
from keyrouter_openai.testing import ProviderSimulator

from .support import Cli, start


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if (found := command.get_command(context, name)) is not None:
                yield from commands(found, (*path, name))


@pytest.mark.parametrize("path", list(commands(main)), ids=" ".join)
def test_every_help_has_an_example_of_that_command(cli: Cli, path: tuple[str, ...]) -> None:
    text = cli.run(*path, "--help").stdout
    assert re.search(rf"Example.*keyrouter-openai {' '.join(path)}", text, re.DOTALL), text


@pytest.mark.parametrize("path", [path for path in commands(main) if path], ids=" ".join)
def test_every_command_is_listed_with_what_it_does(cli: Cli, path: tuple[str, ...]) -> None:
    listed = cli.run(*path[:-1], "--help").stdout
    assert re.search(rf"^  {path[-1]} +[A-Z][^\n]*\w[.)]$", listed, re.MULTILINE), "missing, or cut short"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from keyrouter_openai.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'openai', 'rich', 'sqlite_utils', 'keyring', 'pydantic', 'httpx2'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_version(cli: Cli) -> None:
    assert cli.run("--version").stdout == f"keyrouter-openai, version {version('keyrouter-openai')}\n"


def test_wrong_usage_is_exit_code_2_without_a_traceback(cli: Cli) -> None:
    for arguments in (["nonsense"], ["keys", "nonsense"], ["keys", "add"], ["keys", "list", "--nonsense"]):
        assert "Error: " in cli.refuses(*arguments)


def test_an_error_is_one_line_on_standard_error(cli: Cli) -> None:
    with start("keys", "remove", "nobody", "--yes") as process:
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    assert re.fullmatch(r"Error: pool 'default' has no keys.*keyrouter-openai keys add NAME.*\n", err), err


def test_ctrl_c_ends_it_quietly(cli: Cli, sim: ProviderSimulator) -> None:
    cli.add("a", "--base-url", sim.url, secret=sim.keys["A/key-1"])
    sim.fail("hang")
    with start("keys", "test") as process:
        while not sim.calls:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "\nInterrupted.\n")


def test_a_closed_pipe_is_no_traceback(cli: Cli) -> None:
    cli.add("a")
    with start("keys", "list", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_piped_tables_are_plain_and_whole(cli: Cli) -> None:
    tags = [f"tag-number-{number}" for number in range(40)]
    cli.add("a", *(f"--tag={tag}" for tag in tags))
    with start("keys", "list") as process:
        out, err = process.communicate(timeout=30)
    assert err == ""
    assert "\x1b" not in out
    assert ", ".join(tags) in out, "not wrapped"


def test_a_narrow_terminal_loses_nothing(cli: Cli) -> None:
    name = "a-key-with-quite-a-long-name-for-a-narrow-terminal"
    cli.add(name)
    screen, terminal = os.openpty()
    with start("keys", "list", stdout=terminal, COLUMNS="60", TERM="xterm") as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # as the end of a terminal is told
            while read := os.read(screen, 4096):
                shown += read
        process.wait()
    os.close(screen)
    lines = re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).splitlines()
    assert max(map(len, lines)) <= 60
    left, right = lines[0].index("name"), lines[0].index("provider")
    assert "".join(line[left:right].strip() for line in lines[2:]) == name


def test_json_and_notes_do_not_mix(cli: Cli) -> None:
    nothing = cli.run("keys", "list", "--json")
    assert (json.loads(nothing.stdout), nothing.stderr) == ([], "")
    table = cli.run("keys", "list")
    assert table.stdout == ""
    assert "keyrouter-openai keys add NAME" in table.stderr
