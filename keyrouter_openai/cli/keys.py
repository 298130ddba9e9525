"""`keyrouter-openai keys`: the keys of a pool."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click
from pydantic import SecretStr

from keyrouter_openai.core.model import Fault
from keyrouter_openai.keys import Key
from keyrouter_openai.providers import PROVIDERS

from .import_env import import_env
from .keystore import open_keystore, pool_option
from .output import json_option, print_rows


@click.group()
def keys() -> None:
    """Add, list, test and remove the keys of a pool.

    Programs that run already go on with the keys they started with.

    \b
    Example:
      keyrouter-openai keys add work --account acme
      keyrouter-openai keys list
    """


keys.add_command(import_env)


@keys.command(context_settings={"allow_extra_args": True})
@click.argument("name")
@pool_option
@click.option("--provider", default="openai", show_default=True, metavar="P", help=f"One of {', '.join(PROVIDERS)}.")
@click.option("--base-url", metavar="URL", help="Where the key is sent. Default: the provider's own address.")
@click.option("--organization", metavar="ID", help="Sent as OpenAI-Organization.")
@click.option("--project", metavar="ID", help="Sent as OpenAI-Project.")
@click.option("--account", metavar="A", help="Keys of one account share its limits. Default: learned from answers.")
@click.option("--weight", type=float, default=1.0, show_default=True, help="Share of the traffic.")
@click.option("--model", "models", metavar="PATTERN", multiple=True, help="Only these models; may be repeated.")
@click.option("--rpm", type=int, metavar="N", help="Requests per minute that the account grants. Default: learned.")
@click.option("--tpm", type=int, metavar="N", help="Tokens per minute.")
@click.option("--rpd", type=int, metavar="N", help="Requests per day.")
@click.option("--tpd", type=int, metavar="N", help="Tokens per day.")
@click.option("--concurrent", type=int, metavar="N", help="Requests at a time.")
@click.option("--limits-for", metavar="PATTERN", help="The models that these limits hold for. Default: all.")
@click.option("--price-multiplier", type=float, default=1.0, show_default=True, help="Cost relative to list prices.")
@click.option("--quality", type=float, help="How good its answers are, from 0 to 1.")
@click.option("--tag", "tags", metavar="T", multiple=True, help="A label for listings; may be repeated.")
@click.pass_context
def add(
    ctx: click.Context,
    name: str,
    pool: str,
    models: tuple[str, ...],
    limits_for: str | None,
    rpm: int | None,
    tpm: int | None,
    rpd: int | None,
    tpd: int | None,
    concurrent: int | None,
    **fields: Any,
) -> None:
    """Add a key to a pool.

    The secret is asked for, or read from standard input if that is no terminal. It goes into the vault alone.

    \b
    Example:
      keyrouter-openai keys add work --model 'gpt-*' --tag team-a
      keyrouter-openai keys add work --rpm 500 --tpm 200000 --limits-for 'gpt-4o*'
      pass show openai/work | keyrouter-openai keys add work
    """
    if ctx.args:  # which click would quote
        raise click.UsageError(
            "only a NAME is taken: a secret on the command line stays in the shell's history. "
            "Leave it out, and the secret is asked for or read from standard input"
        )
    limits = {"rpm": rpm, "tpm": tpm, "rpd": rpd, "tpd": tpd, "concurrent": concurrent}
    limited = any(number is not None for number in limits.values())
    if limits_for is not None and not limited:
        raise click.UsageError("--limits-for says for which models: give a limit too, such as --rpm 500")
    pattern = "*" if limits_for is None else limits_for
    key = Key(name=name, models=models or None, limits={pattern: limits} if limited else {}, **fields)
    keystore = open_keystore()
    keystore.check_new(pool, name)
    keystore.add(pool, _with_secret(key, read_secret()))
    click.echo(f"Added key {name!r} to pool {pool!r}; its secret is in the {keystore.vault.name}.")


def read_secret() -> SecretStr:
    """A secret from whoever is at the terminal, or from standard input if that is none."""
    if sys.stdin.isatty():
        return SecretStr(click.prompt("Secret", hide_input=True, err=True))
    return SecretStr(sys.stdin.buffer.read().decode(errors="replace"))


def _with_secret(key: Key, secret: SecretStr) -> Key:
    values: dict[str, Any] = {**key.model_dump(), "secret": secret}
    return Key(**values)


@keys.command("list")
@json_option
def list_keys(as_json: bool) -> None:
    """List the keys of all pools, without their secrets.

    With --json, an array of objects: pool, name, provider, base_url, organization, project, account, weight,
    models (null: all), model_map, limits (by pattern: rpm, tpm, rpd, tpd, concurrent; null: learned),
    price_multiplier, quality, tags, enabled.

    \b
    Example:
      keyrouter-openai keys list --json | jq -r '.[].name'
    """
    registry = open_keystore().registry
    keys = [(pool, key) for pool in registry.pools() for key in registry.keys(pool)]
    rows = [{"pool": pool, **key.model_dump(mode="json")} for pool, key in keys]
    if not as_json:  # what hardly anybody sets is shown where somebody has
        for name in ("limits", "price_multiplier", "quality"):
            if all(getattr(key, name) == Key.model_fields[name].default for _, key in keys):
                rows = [{field: value for field, value in row.items() if field != name} for row in rows]
    print_rows(
        rows,
        as_json=as_json,
        if_empty="No keys yet: add one with `keyrouter-openai keys add NAME`.",
        formats={"limits": _limits},
    )


def _limits(limits: dict[str, dict[str, int | None]]) -> str:
    """Limits by pattern, as in `gpt-4o*: 500 rpm, 200,000 tpm`."""
    given = (
        f"{pattern}: " + ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number is not None)
        for pattern, numbers in limits.items()
    )
    return "; ".join(given)


@keys.command()
@click.argument("name")
@pool_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-secret", is_flag=True, help="Leave the secret in its vault, as where the vault is gone.")
def remove(name: str, pool: str, yes: bool, keep_secret: bool) -> None:
    """Remove a key and its secret.

    \b
    Example:
      keyrouter-openai keys remove work --yes
    """
    keystore = open_keystore()
    keystore.find(pool, name)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody can be asked here whether to remove it: confirm with --yes")
        if not click.confirm(f"Remove key {name!r} of pool {pool!r}?", err=True):
            click.echo("Nothing was changed.", err=True)
            raise click.exceptions.Exit(1)
    keystore.remove(pool, name, keep_secret=keep_secret)
    click.echo(f"Removed key {name!r} from pool {pool!r}.")


@keys.command()
@click.argument("name")
@pool_option
def enable(name: str, pool: str) -> None:
    """Put a key into use again.

    \b
    Example:
      keyrouter-openai keys enable work
    """
    open_keystore().registry.set_enabled(pool, name, enabled=True)
    click.echo(f"Key {name!r} of pool {pool!r} is enabled.")


@keys.command()
@click.argument("name")
@pool_option
def disable(name: str, pool: str) -> None:
    """Keep a key out of use, with its secret in the vault.

    \b
    Example:
      keyrouter-openai keys disable work
    """
    open_keystore().registry.set_enabled(pool, name, enabled=False)
    click.echo(f"Key {name!r} of pool {pool!r} is disabled.")


@keys.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@pool_option
@json_option
def test(names: tuple[str, ...], pool: str, as_json: bool) -> None:
    """Test keys with one free call each.

    The call lists the provider's models. Without a NAME, all keys that are enabled are tested. The exit code
    is 1 if any fails. The calls are recorded in the ledger like all others.

    With --json, an array of objects: key, ok, outcome (ok, key_refused, rate_limit and so on), status (of
    HTTP, null where no answer came), seconds, account (key:NAME while it is not known), detail.

    \b
    Example:
      keyrouter-openai keys test work
    """
    from .probe import Probe, probe  # brings the client, which no other command of this group needs

    keystore = open_keystore()
    named = [keystore.find(pool, name) for name in dict.fromkeys(names)]
    ready: list[Key] = []
    results: list[Probe] = []
    for key in named or [key for key in keystore.keys(pool) if key.enabled]:
        secret = keystore.secret(pool, key.name)
        if secret is not None:
            ready.append(_with_secret(key, secret))
        else:
            problem = f"no secret in the {keystore.vault.name}: remove the key and add it again"
            results.append(Probe(key.name, ok=False, outcome=Fault.VAULT, detail=problem))
    if ready:
        results += probe(pool, ready)
    print_rows(
        [asdict(result) for result in results],
        as_json=as_json,
        if_empty=f"All keys of pool {pool!r} are disabled: name the ones to test.",
        formats={"seconds": "{:.2f}".format, "status": str},
    )
    if not all(result.ok for result in results):
        raise click.exceptions.Exit(1)
