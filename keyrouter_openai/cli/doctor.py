"""`keyrouter-openai doctor`: what is installed and set up, what is wrong with it, and how to mend it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Literal

import click
import openai

from keyrouter_openai.client_sync import SyncRoutedOpenAI
from keyrouter_openai.errors import ConfigError, VaultError
from keyrouter_openai.ledger import check_path, default_path
from keyrouter_openai.router import Router
from keyrouter_openai.sdk_versions import TESTED, is_tested
from keyrouter_openai.vaults.keyring import KeyringVault
from keyrouter_openai.vaults.loader import SecretLoader

from .keystore import PATIENCE_S, Keystore, ask_within, open_keystore
from .output import json_option
from .probe import is_overridden

_VARIABLES = (
    *("KEYROUTER_DB", "KEYROUTER_POOL", "KEYROUTER_VAULT", "KEYROUTER_VAULT_PASSPHRASE", "KEYROUTER_VAULT_KEYFILE"),
    *("OPENAI_API_KEY", "OPENAI_API_KEYS", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"),
    *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "PYTHON_KEYRING_BACKEND", "HTTPS_PROXY"),
)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. The detail of a `warn` or `fail` says what to do."""

    check: str
    result: Literal["ok", "warn", "fail"]
    detail: str


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check the installation, the vault, the ledger, the pools and the environment.

    Each line says ok, warn or fail, and what to do. The exit code is 1 if any fails. Values of variables and
    secrets are never shown; nothing is changed, and nothing is sent to a provider.

    With --json, an array of objects: check, result (ok, warn, fail), detail.

    \b
    Example:
      keyrouter-openai doctor
    """
    checks: list[Check] = []
    for check in _examine():
        checks.append(check)
        if not as_json:
            result = click.style(check.result.ljust(4), fg=_COLOURS[check.result])
            click.echo(f"{result}  {check.check}: {check.detail}")
    if as_json:
        click.echo(json.dumps([asdict(check) for check in checks], indent=2))
    if any(check.result == "fail" for check in checks):
        raise click.exceptions.Exit(1)


def _examine() -> Iterator[Check]:
    yield Check("keyrouter-openai", "ok", version("keyrouter-openai"))
    yield Check("python", "ok", f"{platform.python_version()} on {platform.system()}")
    yield _sdk()
    yield _environment()
    if is_overridden():
        detail = "sets Authorization: all calls go out with it, and none with a key of a pool. Take it out"
        yield Check("OPENAI_CUSTOM_HEADERS", "warn", detail)
    ledger = _ledger()
    yield ledger
    try:
        keystore = open_keystore()
    except ConfigError as error:
        yield Check("vault", "fail", str(error))
        return
    vault = _vault(keystore)
    yield vault
    if ledger.result != "fail":
        for pool in keystore.registry.pools():
            yield _pool(keystore, pool, vault_answers=vault.result != "fail")
        yield _client()


def _sdk() -> Check:
    if is_tested(openai.__version__):
        return Check("openai", "ok", openai.__version__)
    return Check("openai", "warn", f"{openai.__version__} was not tested: pip install '{TESTED}'")


def _environment() -> Check:
    given = [name for name in _VARIABLES if os.environ.get(name)]
    missing = [name for name in _VARIABLES if name not in given]
    return Check("environment", "ok", f"set: {', '.join(given) or 'none'}; not set: {', '.join(missing) or 'none'}")


def _ledger() -> Check:
    path = default_path()
    try:
        check_path(path)
    except ConfigError as error:
        return Check("ledger", "fail", str(error))
    return Check("ledger", "ok", f"{path}{'' if path.exists() else ' (not there yet: it comes with its first entry)'}")


def _vault(keystore: Keystore) -> Check:
    vault = keystore.vault
    try:
        ask_within(vault, lambda: vault.get("doctor", "probe"))
    except VaultError as error:
        return Check("vault", "fail", str(error))
    if not os.environ.get("KEYROUTER_VAULT"):
        keyring = KeyringVault()
        try:
            ask_within(keyring, keyring.find_backend)
        except VaultError as error:
            return Check("vault", "warn", f"{vault.name}, since the default was not to be had: {error}")
    return Check("vault", "ok", vault.name)


def _pool(keystore: Keystore, pool: str, *, vault_answers: bool) -> Check:
    keys = keystore.registry.keys(pool)
    enabled = [key.name for key in keys if key.enabled]
    name, content = f"pool {pool}", f"keys: {len(keys)}, enabled: {len(enabled)}"
    if not enabled:
        return Check(
            name, "warn", f"{content}: put one into use with `keyrouter-openai keys enable NAME --pool {pool}`"
        )
    if not vault_answers:
        return Check(name, "warn", f"{content}; their secrets were not looked at, as the vault does not answer")
    # As a running program reads them: off the main thread, where nobody is asked for a passphrase.
    loader = SecretLoader(keystore.vault, pool, PATIENCE_S)
    problems: list[str] = []
    for key in enabled:
        try:
            loader.load_sync(key)
        except VaultError as error:
            problems.append(str(error))
    return Check(name, "fail" if problems else "ok", ". ".join([content, *problems]))


def _client() -> Check:
    try:
        with SyncRoutedOpenAI(ledger=None) as client:
            return Check("client", "ok", f"RoutedOpenAI() uses {_source(client.router)}")
    except ConfigError as error:
        return Check("client", "fail", str(error))
    except openai.OpenAIError:
        return Check("client", "warn", "RoutedOpenAI() finds no key: add one with `keyrouter-openai keys add NAME`")


def _source(router: Router) -> str:
    if router.sdk_credential:
        return "the key in OPENAI_API_KEY"
    if any(key.secret is not None for key in router.keys):
        return "the keys in OPENAI_API_KEYS"
    return f"the keys of pool {router.pool!r}"
