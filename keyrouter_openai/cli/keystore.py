"""The keys at rest as commands use them: the registry of names and the vault of secrets, kept in step."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import click
from pydantic import SecretStr

from keyrouter_openai.config import DEFAULT_POOL
from keyrouter_openai.errors import ConfigError, VaultError
from keyrouter_openai.keys import Key, check_name
from keyrouter_openai.ledger import Registry, check_path, default_path
from keyrouter_openai.protocols import Vault
from keyrouter_openai.vaults import open_vault

PATIENCE_S = 10.0
"""Seconds to wait for a vault in silence: a keyring that hangs, or whose prompt nobody answers, never returns."""

_T = TypeVar("_T")


def _check_pool(ctx: click.Context, param: click.Parameter, value: str) -> str:
    try:
        return check_name(value, "pool")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


pool_option = click.option(
    "--pool",
    envvar="KEYROUTER_POOL",
    default=DEFAULT_POOL,
    show_default=True,
    show_envvar=True,
    callback=_check_pool,
    help="The pool of the keys.",
)


@dataclass(frozen=True, slots=True)
class Keystore:
    """Each change is made in both places or in neither. Failures are `ConfigError` and `VaultError`."""

    registry: Registry
    vault: Vault

    def keys(self, pool: str) -> list[Key]:
        """The keys of a pool, without secrets; there is at least one."""
        keys = self.registry.keys(pool)
        if not keys:
            pools = ", ".join(self.registry.pools()) or "none"
            raise ConfigError(
                f"pool {pool!r} has no keys (pools that have some: {pools}): add one with "
                f"`keyrouter-openai keys add NAME --pool {pool}`"
            )
        return keys

    def find(self, pool: str, name: str) -> Key:
        """One key of a pool."""
        by_name = {key.name: key for key in self.keys(pool)}
        if name not in by_name:
            raise ConfigError(f"pool {pool!r} has no key {name!r}: it has {', '.join(by_name)}")
        return by_name[name]

    def secret(self, pool: str, name: str) -> SecretStr | None:
        """The secret of a key, or None if the vault has none."""
        return ask(self.vault, partial(self.vault.get, pool, name))

    def check_new(self, pool: str, name: str) -> None:
        """Raise `ConfigError` unless a key of this name can be added."""
        check_path(self.registry.path)
        if name in {key.name for key in self.registry.keys(pool)}:
            raise ConfigError(
                f"pool {pool!r} already has a key {name!r}: choose another name, or remove it first with "
                f"`keyrouter-openai keys remove {name} --pool {pool}`"
            )

    def add(self, pool: str, key: Key) -> None:
        """Add a key that holds its secret."""
        self.check_new(pool, key.name)
        before = self.secret(pool, key.name)
        if before != key.secret:  # the environment has it already, or can never have it
            self._put(pool, key.name, key.secret)
        try:
            self.registry.add(pool, key)
        except ConfigError as error:
            self._put_back(pool, key.name, before, error)
            raise

    def remove(self, pool: str, name: str, *, keep_secret: bool) -> None:
        """Forget a key, and its secret unless it is to be kept."""
        self.find(pool, name)
        check_path(self.registry.path)
        before = None
        if not keep_secret:
            before = self.secret(pool, name)
            self._put(pool, name, None)
        try:
            self.registry.remove(pool, name)
        except ConfigError as error:
            if before is not None:
                self._put_back(pool, name, before, error)
            raise

    def _put(self, pool: str, name: str, secret: SecretStr | None) -> None:
        if secret is None:
            ask(self.vault, partial(self.vault.delete, pool, name))
        else:
            ask(self.vault, partial(self.vault.set, pool, name, secret))

    def _put_back(self, pool: str, name: str, secret: SecretStr | None, error: ConfigError) -> None:
        try:
            self._put(pool, name, secret)
        except VaultError as trouble:
            raise VaultError(f"{error}. And the secret of {name!r} was changed and not put back: {trouble}") from None


def open_keystore() -> Keystore:
    """The keystore that the environment names. Nothing is read or asked yet."""
    return Keystore(Registry(default_path()), open_vault(os.environ.get("KEYROUTER_VAULT")))


def ask(vault: Vault, action: Callable[[], _T]) -> _T:
    """Call a vault: for as long as it takes if a person is there to answer its prompts, else `ask_within`."""
    if not sys.stdin.isatty():
        return ask_within(vault, action)
    notice = threading.Timer(PATIENCE_S, _say_it_waits, [vault])
    notice.daemon = True
    notice.start()
    try:
        return action()
    finally:
        notice.cancel()


def ask_within(vault: Vault, action: Callable[[], _T]) -> _T:
    """Call a vault, and raise `VaultError` if it does not answer within `PATIENCE_S`."""
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(action())
        except VaultError as error:
            answer.set_exception(error)

    # A daemon, and no pool: the interpreter's exit would wait for a vault that hangs.
    threading.Thread(target=run, daemon=True).start()
    try:
        return answer.result(PATIENCE_S)
    except TimeoutError:
        raise VaultError(
            f"the {vault.name} gave no answer within {PATIENCE_S:g} s: if it asks for a password, answer it and "
            "try again; if it hangs, restart it; or keep secrets in an encrypted file with KEYROUTER_VAULT=file"
        ) from None


def _say_it_waits(vault: Vault) -> None:
    click.echo(f"Still waiting for the {vault.name}: answer its prompt, or give up with Ctrl-C.", err=True)
