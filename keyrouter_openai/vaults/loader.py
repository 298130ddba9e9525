"""The door through which the router reads secrets: each from its vault once, then from memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress

import anyio
import anyio.lowlevel
from pydantic import SecretStr

from keyrouter_openai.errors import VaultError
from keyrouter_openai.keys import check_secret
from keyrouter_openai.protocols import Vault


class _Read(Future[SecretStr]):
    """One read of the vault, shared by all who ask for its key while it lasts."""

    overdue = False
    """Whether it has kept someone waiting for longer than the deadline."""


class SecretLoader:
    """Reads each key's secret from the vault once and keeps it in memory. For any thread and event loop.

    Args:
        vault: where the secrets rest.
        pool: the pool whose keys are read.
        deadline: seconds that a caller waits for the vault. A keyring whose prompt nobody answers never
            returns: its read goes on behind, later callers fail at once until it ends, and then are served.
    """

    def __init__(self, vault: Vault, pool: str, deadline: float = 10.0) -> None:
        self._vault = vault
        self._pool = pool
        self._deadline = deadline
        self._lock = threading.Lock()
        self._reads: dict[str, _Read] = {}
        """Under way or succeeded, by key name. One that failed is taken out: the next caller reads again."""

    def cached(self, name: str) -> SecretStr | None:
        """Return the key's secret if it is in memory. Never blocks."""
        read = self._reads.get(name)
        if read is None or not read.done() or read.exception() is not None:
            return None
        return read.result()

    async def load(self, name: str) -> SecretStr:
        """Return the key's secret. Cancelling one caller leaves the read to the others.

        Raises:
            VaultError: the vault has none, cannot read it, or does not answer within the deadline.
        """
        read = self._join(name)
        if not read.done() and not read.overdue:
            ended = anyio.Event()
            read.add_done_callback(_setter(ended))
            with anyio.move_on_after(self._deadline):
                await ended.wait()
        return self._outcome(name, read)

    def load_sync(self, name: str) -> SecretStr:
        """As `load`, blocking the thread."""
        read = self._join(name)
        if not read.overdue:
            wait([read], self._deadline)
        return self._outcome(name, read)

    def forget(self, name: str) -> None:
        """Have the next `load` read the vault again."""
        with self._lock:
            self._reads.pop(name, None)

    def _join(self, name: str) -> _Read:
        """Return the read of this key that is under way or succeeded, else start one."""
        with self._lock:
            read = self._reads.get(name)
            if read is None:
                read = _Read()
                # A daemon, and no pool: the interpreter's exit would wait for a read that hangs.
                reader = f"keyrouter-secret-{name}"
                threading.Thread(target=self._run, args=(name, read), name=reader, daemon=True).start()
                self._reads[name] = read
            return read

    def _run(self, name: str, read: _Read) -> None:
        secret = None
        problem = f"the {self._vault.name} broke down; its traceback is on standard error"
        try:
            secret = self._fetch(name)
        except VaultError as error:
            problem = str(error)
        finally:
            # Also where a faulty vault raised something else: nobody must be left waiting.
            if secret is not None:
                read.set_result(secret)
            else:
                with self._lock:
                    if self._reads.get(name) is read:
                        del self._reads[name]
                read.set_exception(VaultError(problem))

    def _fetch(self, name: str) -> SecretStr:
        secret = self._vault.get(self._pool, name)
        if secret is None:
            problem = f"no secret in the {self._vault.name}"
        else:
            try:
                return check_secret(secret)
            except ValueError as error:
                problem = f"unusable in the {self._vault.name}: {error}"
        # Outside the `except`, so that the error does not keep the checker's frame, which holds the secret.
        remove = f"keyrouter-openai keys remove {name} --pool {self._pool}"
        raise VaultError(f"{problem}. Remove the key and add it again: `{remove}`, then `{self._add_command(name)}`.")

    def _outcome(self, name: str, read: _Read) -> SecretStr:
        if not read.done():
            read.overdue = True
            problem = (
                f"the {self._vault.name} gave no answer within {self._deadline:g} s. If it asks for a password, "
                "answer it; if it hangs, restart it; or set KEYROUTER_VAULT=file and store the secret in an "
                f"encrypted file with `{self._add_command(name)}`."
            )
        elif error := read.exception():
            problem = str(error)
        else:
            return read.result()
        # A fresh one for each caller: a shared exception would gather the tracebacks of all.
        raise VaultError(f"key {name!r} of pool {self._pool!r}: {problem}")

    def _add_command(self, name: str) -> str:
        return f"keyrouter-openai keys add {name} --pool {self._pool}"


def _setter(event: anyio.Event) -> Callable[[object], None]:
    """Return a callback, for any thread, that sets `event` in the running loop without waiting for it."""
    loop = anyio.lowlevel.current_token().native_token
    if isinstance(loop, asyncio.AbstractEventLoop):
        call_soon = loop.call_soon_threadsafe
    else:
        import trio

        call_soon = trio.lowlevel.current_trio_token().run_sync_soon

    def set_event(_: object) -> None:
        # By now the loop may have ended, and with it whoever waited.
        with suppress(RuntimeError):
            call_soon(event.set)

    return set_event
