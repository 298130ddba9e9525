"""The encrypted file: what it withstands, and what the user hears when it does not open."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr

from keyrouter_openai.errors import VaultError
from keyrouter_openai.vaults.encrypted_file import EncryptedFileVault, PassphraseSource

pytestmark = pytest.mark.usefixtures("cheap_scrypt")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither modes nor these signals")

CANARY = SecretStr("sk-canary-0123456789")


def answering(*passphrases: str) -> PassphraseSource:
    """Return a source that gives each of the passphrases in turn, and the last one for ever."""
    left = list(passphrases)

    def answer(*, new: bool) -> SecretBytes:
        return SecretBytes((left.pop(0) if len(left) > 1 else left[0]).encode())

    return answer


RIGHT = answering("correct horse")
WRONG = answering("battery staple")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "vault.json"


@pytest.fixture
def stored(path: Path) -> bytes:
    """Content of a vault at `path` that holds the secrets of a and b."""
    vault = EncryptedFileVault(path, RIGHT)
    vault.set("default", "a", CANARY)
    vault.set("default", "b", SecretStr("sk-b"))
    return path.read_bytes()


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncryptedFileVault, Path, bytes]:
    """A vault that has derived its key, its file, and what is in it."""
    path = tmp_path_factory.mktemp("unlocked") / "vault.json"
    vault = EncryptedFileVault(path, RIGHT)
    vault.set("default", "a", CANARY)
    return vault, path, path.read_bytes()


def refuses_and_changes_nothing(vault: EncryptedFileVault, path: Path, why: str) -> None:
    before = path.read_bytes()
    with pytest.raises(VaultError, match=why):
        vault.get("default", "a")
    with pytest.raises(VaultError, match=why):
        vault.set("default", "c", SecretStr("sk-c"))
    with pytest.raises(VaultError, match=why):
        vault.delete("default", "a")
    assert path.read_bytes() == before


def run(program: str, path: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run a program that finds the vault's passphrase in its environment and a vault on `path` as `vault`."""
    return subprocess.run(
        [sys.executable, "-c", _PREAMBLE + program, path],
        env={**os.environ, "KEYROUTER_VAULT_PASSPHRASE": "correct horse"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **kwargs,
    )


_PREAMBLE = """\
import os, signal, sys
from pathlib import Path
from pydantic import SecretStr
from keyrouter_openai.vaults.encrypted_file import EncryptedFileVault
vault = EncryptedFileVault(Path(sys.argv[1]))
"""


class TestContent:
    def test_neither_secret_nor_passphrase_is_in_the_file(self, stored: bytes) -> None:
        assert b"canary" not in stored
        assert b"horse" not in stored

    def test_new_files_take_the_full_cost(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        EncryptedFileVault(path, RIGHT).set("default", "a", CANARY)
        kdf = json.loads(path.read_bytes())["kdf"]
        assert (kdf["log2_n"], kdf["r"], kdf["p"]) == (17, 8, 1)

    @posix
    def test_file_and_folder_are_the_owners_alone(self, path: Path) -> None:
        old = os.umask(0)
        try:
            EncryptedFileVault(path, RIGHT).set("default", "a", CANARY)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    @posix
    def test_a_link_to_the_file_stays_one(self, path: Path, stored: bytes, tmp_path: Path) -> None:
        link = tmp_path / "link.json"
        link.symlink_to(path)
        EncryptedFileVault(link, RIGHT).set("default", "c", SecretStr("sk-c"))
        assert link.is_symlink()
        assert EncryptedFileVault(path, RIGHT).get("default", "c") == SecretStr("sk-c")

    def test_a_vault_without_file_has_no_secrets_and_makes_none_for_a_delete(self, path: Path) -> None:
        vault = EncryptedFileVault(path, RIGHT)
        assert vault.get("default", "a") is None
        vault.delete("default", "a")
        assert not path.parent.exists()


class TestPassphrase:
    def test_it_is_asked_for_once(self, path: Path) -> None:
        asked: list[bool] = []

        def ask(*, new: bool) -> SecretBytes:
            asked.append(new)
            return SecretBytes(b"correct horse")

        vault = EncryptedFileVault(path, ask)
        vault.set("default", "a", CANARY)
        assert (vault.get("default", "a"), vault.get("default", "a")) == (CANARY, CANARY)
        assert asked == [True]
        reopened = EncryptedFileVault(path, ask)
        assert (reopened.get("default", "a"), reopened.get("default", "a")) == (CANARY, CANARY)
        assert asked == [True, False]

    def test_a_wrong_one(self, path: Path, stored: bytes) -> None:
        refuses_and_changes_nothing(EncryptedFileVault(path, WRONG), path, "passphrase is wrong")

    def test_a_wrong_one_locks_an_emptied_file_too(self, path: Path, stored: bytes) -> None:
        vault = EncryptedFileVault(path, RIGHT)
        vault.delete("default", "a")
        vault.delete("default", "b")
        with pytest.raises(VaultError, match="passphrase is wrong"):
            EncryptedFileVault(path, WRONG).set("default", "a", CANARY)

    def test_another_can_be_tried_after_a_wrong_one(self, path: Path, stored: bytes) -> None:
        vault = EncryptedFileVault(path, answering("battery staple", "correct horse"))
        with pytest.raises(VaultError):
            vault.get("default", "a")
        assert vault.get("default", "a") == CANARY


def take_entry_out(document: dict[str, Any]) -> None:
    del document["entries"]["default/b"]


def slip_entry_in(document: dict[str, Any]) -> None:
    document["entries"]["default/c"] = document["entries"]["default/b"]


def rename_entry(document: dict[str, Any]) -> None:
    document["entries"]["default/c"] = document["entries"].pop("default/b")


def change_cost(document: dict[str, Any]) -> None:
    document["kdf"]["log2_n"] = 16


class TestDamage:
    @given(position=st.integers(min_value=0), replacement=st.binary(max_size=2))
    @settings(deadline=None, max_examples=150)
    def test_no_edit_yields_anything_but_the_secret_or_an_error(
        self, position: int, replacement: bytes, unlocked: tuple[EncryptedFileVault, Path, bytes]
    ) -> None:
        vault, path, content = unlocked
        position %= len(content)
        path.write_bytes(content[:position] + replacement + content[position + 1 :])
        try:
            secret = vault.get("default", "a")
        except VaultError:
            return
        assert secret == CANARY

    @pytest.mark.parametrize("length", [0, 1, 100, -1])
    def test_truncated(self, path: Path, stored: bytes, length: int) -> None:
        path.write_bytes(stored.rstrip()[:length])
        refuses_and_changes_nothing(EncryptedFileVault(path, RIGHT), path, "truncated")

    @pytest.mark.parametrize("content", [b"[]", b"{}", b'{"format": 1}', b"my diary", b"\xff\xfe"])
    def test_something_else_than_a_vault(self, path: Path, content: bytes) -> None:
        path.parent.mkdir()
        path.write_bytes(content)
        refuses_and_changes_nothing(EncryptedFileVault(path, RIGHT), path, "no vault at all")

    def test_newer_format(self, path: Path, stored: bytes) -> None:
        path.write_text(json.dumps({"format": 2, "cipher": "better"}))
        refuses_and_changes_nothing(EncryptedFileVault(path, RIGHT), path, r"format 2 .*pip install -U")

    def test_two_entries_swapped(self, path: Path, stored: bytes) -> None:
        document = json.loads(stored)
        entries = document["entries"]
        entries["default/a"], entries["default/b"] = entries["default/b"], entries["default/a"]
        path.write_text(json.dumps(document))
        with pytest.raises(VaultError, match=r"damaged at the entry default/a.*keys remove a"):
            EncryptedFileVault(path, RIGHT).get("default", "a")

    @pytest.mark.parametrize("edit", [take_entry_out, slip_entry_in, rename_entry, change_cost])
    def test_the_seal_notices(self, path: Path, stored: bytes, edit: Callable[[dict[str, Any]], None]) -> None:
        document = json.loads(stored)
        edit(document)
        path.write_text(json.dumps(document))
        refuses_and_changes_nothing(EncryptedFileVault(path, RIGHT), path, "damaged")

    @pytest.mark.parametrize("log2_n", [1, 14, 21, 60])
    def test_a_key_too_weak_or_too_costly_is_not_derived(self, path: Path, stored: bytes, log2_n: int) -> None:
        document = json.loads(stored)
        document["kdf"]["log2_n"] = log2_n
        path.write_text(json.dumps(document))
        refuses_and_changes_nothing(EncryptedFileVault(path, RIGHT), path, "damaged")


class TestWriting:
    def test_two_processes_at_once_lose_nothing(self, path: Path, stored: bytes) -> None:
        program = _PREAMBLE + (
            "vault.get('default', 'a')\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "for number in range(25): vault.set('default', sys.argv[2] + str(number), SecretStr('sk'))\n"
        )
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", program, path, name],
                env={**os.environ, "KEYROUTER_VAULT_PASSPHRASE": "correct horse"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name in ("x", "y")
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            writer.communicate(timeout=60)
            assert writer.returncode == 0
        written = {f"default/{name}{number}" for name in "xy" for number in range(25)}
        assert set(json.loads(path.read_bytes())["entries"]) == written | {"default/a", "default/b"}
        assert EncryptedFileVault(path, RIGHT).get("default", "a") == CANARY

    @posix
    def test_a_crash_before_the_replacement_leaves_the_old_file(self, path: Path, stored: bytes) -> None:
        child = run(
            "Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "vault.set('default', 'a', SecretStr('sk-new'))\n",
            path,
        )
        assert child.returncode == -signal.SIGKILL
        assert path.read_bytes() == stored
        EncryptedFileVault(path, RIGHT).set("default", "a", SecretStr("sk-newer"))
        assert EncryptedFileVault(path, RIGHT).get("default", "a") == SecretStr("sk-newer")
        assert {file.name for file in path.parent.iterdir()} == {"vault.json", "vault.json.lock"}

    @posix
    def test_a_full_disk_leaves_the_old_file(self, path: Path, stored: bytes) -> None:
        child = run(
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
            "vault.set('default', 'c', SecretStr('sk-canary'))\n",
            path,
        )
        assert f"VaultError: cannot write the encrypted file {path}: {os.strerror(errno.EFBIG)}." in child.stderr
        assert "canary" not in child.stderr.replace("SecretStr('sk-canary')", "")
        assert path.read_bytes() == stored

    def test_a_folder_in_the_files_place(self, tmp_path: Path) -> None:
        with pytest.raises(VaultError, match=r"cannot read the encrypted file .*KEYROUTER_VAULT=file:PATH"):
            EncryptedFileVault(tmp_path, RIGHT).get("default", "a")
        with pytest.raises(VaultError, match="cannot write"):
            EncryptedFileVault(tmp_path, RIGHT).set("default", "a", CANARY)
