"""The command as its users run it: in this process, in one of its own, and at a terminal."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

from click.testing import CliRunner, Result

from keyrouter_openai.cli import main
from keyrouter_openai.core.model import Attempt
from keyrouter_openai.ledger import Ledger
from keyrouter_openai.testing import ProviderSimulator
from keyrouter_openai.vaults import open_vault

if sys.platform != "win32":
    import fcntl
    import termios

COMMAND = str(Path(sys.executable).with_name("keyrouter-openai"))
SECRET = "sk-canary-0123456789"
"""No secret of these tests may ever be printed: `Cli` and `is_clean` look for this one and the simulator's."""


@dataclass(frozen=True)
class Cli:
    """Runs the command, and sees what it has left behind."""

    ledger: Path
    vault: Path

    def run(self, *arguments: str, input: str | bytes | None = None, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(main, arguments, input=input, catch_exceptions=False, prog_name="keyrouter-openai")
        assert is_clean(result.output)
        assert result.exit_code == exit_code, result.output
        return result

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """What the command prints with --json, which must be JSON alone."""
        return json.loads(self.run(*arguments, "--json", exit_code=exit_code).stdout)

    def refuses(self, *arguments: str, input: str | bytes | None = None) -> str:
        """The one line on standard error with which the command refuses, having changed nothing."""
        before = self.at_rest()
        result = self.run(*arguments, input=input, exit_code=2)
        assert self.at_rest() == before
        assert result.stdout == ""
        return result.stderr

    def add(self, name: str, *arguments: str, secret: str = SECRET) -> None:
        self.run("keys", "add", name, *arguments, input=secret + "\n")

    def add_all(self, sim: ProviderSimulator) -> None:
        """Add each key of a simulated provider: `A/key-1` becomes `A1`."""
        for label, secret in sim.keys.items():
            self.add(label.replace("/key-", ""), "--base-url", sim.url, secret=secret)

    def secret(self, name: str, pool: str = "default") -> str | None:
        found = open_vault(os.environ["KEYROUTER_VAULT"]).get(pool, name)
        return None if found is None else found.get_secret_value()

    def at_rest(self) -> tuple[list[Any], bytes | None]:
        """All that is stored: the table of keys, and the vault's bytes."""
        keys: list[Any] = []
        if self.ledger.is_file():
            with closing(sqlite3.connect(self.ledger)) as connection, suppress(sqlite3.Error):
                keys = connection.execute("select * from keys").fetchall()
        return keys, self.vault.read_bytes() if self.vault.exists() else None


def is_clean(output: str) -> bool:
    """Whether the output holds no secret."""
    return not any(start in output for start in ("sk-canary", "sk-sim-", "sk-admin-"))


def record(cli: Cli, *attempts: Attempt) -> None:
    """Put attempts into the ledger of the command."""
    ledger = Ledger(cli.ledger)
    for one in attempts:
        ledger.record(one)
    ledger.close()


def start(
    *arguments: str,
    command: Sequence[str] = (COMMAND,),
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    **environ: str,
) -> subprocess.Popen[str]:
    """Start the command in a process of its own, away from the terminal of who runs the tests."""
    return subprocess.Popen(
        [*command, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
        start_new_session=True,
    )


@dataclass(frozen=True)
class Person:
    """Someone in front of the command: reads its prompts on standard error, and types."""

    keyboard: int
    process: subprocess.Popen[str]

    def reads(self, prompt: str) -> None:
        assert self.process.stderr is not None
        said = self.process.stderr.read(len(prompt))
        assert said == prompt, said

    def answers(self, prompt: str, line: str) -> None:
        self.reads(prompt)
        os.write(self.keyboard, line.encode() + b"\n")

    def interrupts(self) -> None:
        """Press Ctrl-C. The terminal is not the process's own, so the signal comes by another way."""
        self.process.send_signal(signal.SIGINT)

    def sees_in_the_end(self) -> tuple[int, str]:
        """The exit code and all further output."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out + err


@contextmanager
def at_terminal(*arguments: str, command: Sequence[str] = (COMMAND,)) -> Generator[Person]:
    keyboard, terminal = os.openpty()
    try:
        with start(*arguments, command=command, stdin=terminal) as process:
            try:
                yield Person(keyboard, process)
            finally:
                process.kill()  # one that still waits for an answer would never end
    finally:
        os.close(keyboard)
        os.close(terminal)


@dataclass
class Screen:
    """A terminal of 100 columns and 30 lines, and a command that has it."""

    end: int
    terminal: int
    process: subprocess.Popen[bytes]
    seen: str = ""

    def sees(self, text: str) -> None:
        """Wait until this text was shown."""
        deadline = time.monotonic() + 30
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            self._read(1.0)

    def ends(self) -> int:
        """Wait until the command has ended; its exit code."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:  # which it cannot while nobody reads what it shows
            assert time.monotonic() < deadline, self.seen
            self._read(0.1)
        while self._read(0.0):
            pass
        return self.process.returncode

    def types(self, keys: bytes) -> None:
        os.write(self.end, keys)

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.terminal)

    def _read(self, seconds: float) -> bool:
        if not select([self.end], [], [], seconds)[0]:
            return False
        self.seen += os.read(self.end, 65536).decode(errors="replace")
        return True


@contextmanager
def at_screen(*arguments: str, **environ: str) -> Generator[Screen]:
    """The command at a terminal that it controls, so that Ctrl-C interrupts it."""
    end, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    unset = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", _AT_ITS_TERMINAL, COMMAND, *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**unset, "TERM": "xterm-256color", **environ},
        start_new_session=True,
    )
    try:
        yield Screen(end, terminal, process)
    finally:
        process.kill()
        process.wait()
        os.close(end)
        os.close(terminal)


_AT_ITS_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
