"""Where the passphrase of the encrypted file comes from."""

from __future__ import annotations

import getpass
import os
import sys
import threading
from pathlib import Path

from pydantic import SecretBytes

from keyrouter_openai.errors import VaultError


def find_passphrase(*, new: bool) -> SecretBytes:
    """Return the passphrase, from the first that is there of three.

    They are the variable `KEYROUTER_VAULT_PASSPHRASE`, the file that `KEYROUTER_VAULT_KEYFILE` names, and a
    prompt, if there is a terminal.

    Args:
        new: the passphrase is to lock a file that does not exist yet, so a prompt asks for it twice.

    Raises:
        VaultError: there is none, or the key file is empty or cannot be read.
    """
    if passphrase := os.environ.get("KEYROUTER_VAULT_PASSPHRASE"):
        return SecretBytes(os.fsencode(passphrase))
    if key_file := os.environ.get("KEYROUTER_VAULT_KEYFILE"):
        return _from_file(Path(key_file).expanduser())
    # Only the main thread may prompt: a worker that the program gives up on would take the user's typing, and
    # leave the terminal without echo at exit.
    if sys.stdin is not None and sys.stdin.isatty() and threading.current_thread() is threading.main_thread():
        return _from_prompt(new=new)
    raise VaultError(
        "the encrypted file needs a passphrase, and nobody can be asked for it here: set "
        "KEYROUTER_VAULT_PASSPHRASE, or let KEYROUTER_VAULT_KEYFILE name a file that holds it"
    )


def _from_file(path: Path) -> SecretBytes:
    try:
        passphrase = SecretBytes(path.read_bytes().rstrip(b"\r\n"))
    except OSError as error:
        raise VaultError(f"KEYROUTER_VAULT_KEYFILE: cannot read {path} ({error.strerror})") from error
    if not passphrase:
        raise VaultError(f"KEYROUTER_VAULT_KEYFILE: {path} is empty: write the passphrase into it")
    return passphrase


def _from_prompt(*, new: bool) -> SecretBytes:
    try:
        passphrase = SecretBytes(os.fsencode(getpass.getpass("Passphrase of the encrypted file: ")))
        if not passphrase:
            raise VaultError("the passphrase is empty: nothing was changed")
        if new and os.fsencode(getpass.getpass("The same again: ")) != passphrase.get_secret_value():
            raise VaultError("the two passphrases differ: nothing was changed")
    except EOFError as error:
        raise VaultError("no passphrase was given: nothing was changed") from error
    return passphrase
