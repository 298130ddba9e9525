"""`keyrouter-openai keys import-env`: keys that lie in environment variables go into the vault."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import click
from pydantic import SecretStr

from keyrouter_openai.config import listed_keys
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key

from .keystore import open_keystore, pool_option

_PROVIDER_OF = {
    "OPENAI_API_KEY": "openai",
    "ANTHROPIC_API_KEY": "anthropic",
    "CEREBRAS_API_KEY": "cerebras",
    "DEEPSEEK_API_KEY": "deepseek",
    "FIREWORKS_API_KEY": "fireworks",
    "GEMINI_API_KEY": "gemini",
    "GROQ_API_KEY": "groq",
    "MISTRAL_API_KEY": "mistral",
    "OPENROUTER_API_KEY": "openrouter",
    "TOGETHER_API_KEY": "together",
    "XAI_API_KEY": "xai",
}
"""The variables that the providers' own SDKs and documentation use."""


@click.command("import-env")
@pool_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def import_env(pool: str, dry_run: bool) -> None:
    """Add the keys that the environment holds.

    They are OPENAI_API_KEYS (separated by commas or newlines) and OPENAI_API_KEY, which keep OPENAI_BASE_URL,
    OPENAI_ORG_ID and OPENAI_PROJECT_ID, and the variables of other providers: ANTHROPIC_API_KEY,
    CEREBRAS_API_KEY, DEEPSEEK_API_KEY, FIREWORKS_API_KEY, GEMINI_API_KEY, GROQ_API_KEY, MISTRAL_API_KEY,
    OPENROUTER_API_KEY, TOGETHER_API_KEY, XAI_API_KEY. A key is named after its provider; one whose secret is
    in the pool already is skipped.

    \b
    Example:
      keyrouter-openai keys import-env --dry-run
    """
    found = list(_find())
    if not found:
        click.echo("The environment holds no key that is known: see --help for the variables.", err=True)
        return
    keystore = open_keystore()
    names = [key.name for key in keystore.registry.keys(pool)]
    secrets = {name: keystore.secret(pool, name) for name in names}
    for variable, key in found:
        known = next((name for name, secret in secrets.items() if secret == key.secret), None)
        if known is not None:
            click.echo(f"{variable}: skipped, it is in pool {pool!r} as {known!r}")
            continue
        name = _free_name(key.provider, secrets)
        secrets[name] = key.secret
        if dry_run:
            click.echo(f"{variable}: would be added to pool {pool!r} as {name!r}")
        else:
            keystore.add(pool, key.model_copy(update={"name": name}))
            click.echo(f"{variable}: added to pool {pool!r} as {name!r}; its secret is in the {keystore.vault.name}")


def _find() -> Iterator[tuple[str, Key]]:
    """The keys of the environment with their variables, each checked, and named after its provider for now."""
    setting = {
        "base_url": os.environ.get("OPENAI_BASE_URL") or None,
        "organization": os.environ.get("OPENAI_ORG_ID") or None,
        "project": os.environ.get("OPENAI_PROJECT_ID") or None,
    }
    if os.environ.get("OPENAI_API_KEYS"):
        for key in listed_keys():
            yield "OPENAI_API_KEYS", _key("OPENAI_API_KEYS", key.secret, "openai", setting)
    for variable, provider in _PROVIDER_OF.items():
        if os.environ.get(variable):
            own = setting if provider == "openai" else {}
            yield variable, _key(variable, SecretStr(os.environ[variable]), provider, own)


def _key(variable: str, secret: SecretStr | None, provider: str, setting: Mapping[str, str | None]) -> Key:
    values: dict[str, Any] = {"name": provider, "secret": secret, "provider": provider, **setting}
    try:
        return Key(**values)
    except ConfigError as error:
        raise ConfigError(f"{variable}: {error}") from None


def _free_name(provider: str, taken: Mapping[str, object]) -> str:
    """`groq`, or else `groq-2`, `groq-3` and so on."""
    if provider not in taken:
        return provider
    return next(name for number in count(2) if (name := f"{provider}-{number}") not in taken)
