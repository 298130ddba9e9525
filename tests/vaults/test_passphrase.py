"""Where the passphrase comes from: the environment, a key file, or a person at a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from keyrouter_openai.errors import VaultError
from keyrouter_openai.vaults.passphrase import find_passphrase


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYROUTER_VAULT_PASSPHRASE", raising=False)
    monkeypatch.delenv("KEYROUTER_VAULT_KEYFILE", raising=False)


def test_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYROUTER_VAULT_PASSPHRASE", "pässwörd")
    monkeypatch.setenv("KEYROUTER_VAULT_KEYFILE", "/not/looked/at")
    assert find_passphrase(new=True).get_secret_value() == "pässwörd".encode()


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_from_a_key_file_without_the_end_of_its_line(
    ending: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(b"\x00binary\xff " + ending)
    monkeypatch.setenv("KEYROUTER_VAULT_KEYFILE", str(key_file))
    assert find_passphrase(new=False).get_secret_value() == b"\x00binary\xff "


def test_a_key_file_that_is_missing_or_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file = tmp_path / "key"
    monkeypatch.setenv("KEYROUTER_VAULT_KEYFILE", str(key_file))
    with pytest.raises(VaultError, match=f"KEYROUTER_VAULT_KEYFILE: cannot read {key_file}"):
        find_passphrase(new=False)
    key_file.write_text("\n")
    with pytest.raises(VaultError, match=f"{key_file} is empty"):
        find_passphrase(new=False)


def test_without_a_terminal_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        with pytest.raises(VaultError, match=r"KEYROUTER_VAULT_PASSPHRASE.*KEYROUTER_VAULT_KEYFILE"):
            find_passphrase(new=False)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix terminal")
class TestPrompt:
    def test_a_new_passphrase_is_typed_twice(self) -> None:
        with at_terminal("print(find_passphrase(new=True).get_secret_value())") as person:
            person.answers("Passphrase of the encrypted file: ", "s3cret")
            person.answers("The same again: ", "s3cret")
            assert person.sees_in_the_end() == "b's3cret'\n"

    def test_a_known_passphrase_is_typed_once(self) -> None:
        with at_terminal("print(find_passphrase(new=False).get_secret_value())") as person:
            person.answers("Passphrase of the encrypted file: ", "s3cret")
            assert person.sees_in_the_end() == "b's3cret'\n"

    def test_two_that_differ(self) -> None:
        with at_terminal("find_passphrase(new=True)") as person:
            person.answers("Passphrase of the encrypted file: ", "s3cret")
            person.answers("The same again: ", "secret")
            assert "VaultError: the two passphrases differ: nothing was changed" in person.sees_in_the_end()

    def test_an_empty_one(self) -> None:
        with at_terminal("find_passphrase(new=False)") as person:
            person.answers("Passphrase of the encrypted file: ", "")
            assert "VaultError: the passphrase is empty: nothing was changed" in person.sees_in_the_end()

    def test_no_thread_but_the_main_one_asks(self) -> None:
        program = "import threading; threading.Thread(target=find_passphrase, kwargs={'new': True}).start()"
        with at_terminal(program) as person:
            assert "VaultError: the encrypted file needs a passphrase" in person.sees_in_the_end()


class Person:
    """Someone in front of a program: types at its terminal, reads what it prints."""

    def __init__(self, keyboard: int, screen: IO[str]) -> None:
        self._keyboard = keyboard
        self._screen = screen

    def answers(self, prompt: str, line: str) -> None:
        assert self._screen.read(len(prompt)) == prompt
        os.write(self._keyboard, line.encode() + b"\n")
        assert self._screen.read(1) == "\n"

    def sees_in_the_end(self) -> str:
        return self._screen.read()


@contextmanager
def at_terminal(program: str) -> Generator[Person]:
    """Run a program that has `find_passphrase`, with a person at its terminal."""
    # The alarm ends it, should it ask what nobody answers.
    preamble = "import signal; signal.alarm(60)\nfrom keyrouter_openai.vaults.passphrase import find_passphrase\n"
    keyboard, terminal = os.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-c", preamble + program],
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Away from the terminal of who runs the tests.
            start_new_session=True,
        ) as child:
            assert child.stdout is not None
            yield Person(keyboard, child.stdout)
    finally:
        os.close(keyboard)
        os.close(terminal)
