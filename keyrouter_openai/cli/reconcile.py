"""`keyrouter-openai reconcile`: the ledger against the provider's own bill."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import click
from pydantic import SecretStr

from keyrouter_openai.core.reconcile import MILLION, Difference, Line
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key, check_secret
from keyrouter_openai.ledger import default_path
from keyrouter_openai.ledger.served import name_of, served
from keyrouter_openai.protocols import Vault
from keyrouter_openai.providers import PROVIDERS
from keyrouter_openai.reconcile import Bill, fetch_bill, match_keys
from keyrouter_openai.reconcile import reconcile as find_differences

from .keys import read_secret
from .keystore import Keystore, ask, open_keystore
from .output import UNKNOWN, json_option, print_rows
from .probe import is_overridden

PROVIDER = "openai"
VARIABLE = "OPENAI_ADMIN_KEY"
# No pool can have this name, so no key's secret is ever in this place.
_PLACE = ("_admin", PROVIDER)
_DAY_S = 86_400


def _day(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The UTC midnight of so many days ago, or of a date, in seconds since the epoch."""
    if value is None:
        return None
    if ago := re.fullmatch(r"(\d{1,4})([dw])", value):
        return _midnight(time.time()) - int(ago[1]) * (7 if ago[2] == "w" else 1) * _DAY_S
    try:
        return max(0, int(datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no day: write it as 7d, 2w (ago) or 2026-11-01") from None


def _dimensions(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    if unknown := set(names) - set(Line._fields):
        raise click.BadParameter(f"cannot compare by {', '.join(sorted(unknown))}: use day, model and key")
    return names


def _names(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    if any(not (id and name) for id, _, name in pairs):
        raise click.BadParameter("write it as ID=NAME, such as key_abc=work")
    return {id: name for id, _, name in pairs}


@click.command()
@click.option("--since", default="7d", show_default=True, callback=_day, metavar="DAY", help="7d (ago) or 2026-11-01.")
@click.option("--until", callback=_day, metavar="DAY", help="Before that day. Default: today is the last.")
@click.option(
    "--by", default="day,model,key", show_default=True, callback=_dimensions, metavar="WHAT", help="What to tell apart."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    metavar="USD",
    help="US dollars by which a line, or all of them together, may differ.",
)
@click.option(
    "--map", "named", multiple=True, callback=_names, metavar="ID=NAME", help="Which key an id is; may be repeated."
)
@click.option(
    "--base-url",
    default=PROVIDERS[PROVIDER].base_url,
    show_default=True,
    metavar="URL",
    help="Where the admin key is sent, such as to another region.",
)
@click.option(
    "--set-admin-key", "change", flag_value="set", help="Ask for the admin key, keep it in the vault, and end."
)
@click.option("--forget-admin-key", "change", flag_value="forget", help="Take it out of the vault.")
@json_option
def reconcile(
    since: int,
    until: int | None,
    by: list[str],
    tolerance: float,
    named: dict[str, str],
    base_url: str,
    change: str | None,
    as_json: bool,
) -> None:
    """Compare the ledger with what OpenAI bills, and say where they differ, and why.

    Asked are the usage and the costs of the organization whose admin key OPENAI_ADMIN_KEY or the vault has, for
    whole days in UTC. Its keys are known by the ends of their secrets, which are in the vault, or by --map. Keys of the
    ledger that the organization does not have are listed, and not compared.

    The exit code is 1 if a line, or all of them together, differ by more than the tolerance, or none could be compared.

    With --json, an array of objects, one for each difference: what --by tells apart, billed_requests,
    recorded_requests, billed_prompt_tokens, recorded_prompt_tokens, billed_completion_tokens,
    recorded_completion_tokens, billed_usd, recorded_usd (null where no price is known), unpriced (requests without
    a known price), difference_usd, reasons. What is billed is null where nothing could be compared.

    \b
    Example:
      keyrouter-openai reconcile --set-admin-key       # asks for it
      keyrouter-openai reconcile --since 2026-11-01 --until 2026-12-01 --by model
      keyrouter-openai reconcile --map key_abc=work
    """
    keystore = open_keystore()
    if change is not None:
        _change_admin_key(keystore.vault, read_secret() if change == "set" else None)
        return
    now = time.time()
    until = _midnight(now) + _DAY_S if until is None else until
    if since >= until:
        raise click.UsageError("there is no day between --since and --until")
    admin_key = _admin_key(keystore.vault)
    recorded = served(default_path(), since, until, now)
    keys = {name_of(pool, key.name): (pool, key) for pool, key in _keys(keystore)}
    mapped = {id: [_known(name, {*keys, *(line.key for line in recorded)})] for id, name in named.items()}
    bill = fetch_bill(admin_key, base_url, since, until)
    names = match_keys(bill.redacted, _secrets(keystore, keys)) | mapped
    differences = find_differences(bill, recorded, names, by)
    if differences or as_json:
        figures = _figures if as_json else _cells
        rows = [{name: getattr(each.line, name) for name in by} | figures(each) for each in differences]
        print_rows(rows, as_json=as_json, formats=dict.fromkeys(("billed_usd", "recorded_usd", "difference_usd"), _usd))
    off = sum(each.microusd for each in differences)
    click.echo(_sum_up(bill, differences, off), err=True)
    nothing = not any(each.requests for each in bill.lines.values()) and any(
        each.billed is None for each in differences
    )
    if nothing or any(
        abs(microusd) > tolerance * MILLION for microusd in (off, *(each.microusd for each in differences))
    ):
        raise click.exceptions.Exit(1)


def _midnight(at: float) -> int:
    return int(at // _DAY_S) * _DAY_S


def _change_admin_key(vault: Vault, secret: SecretStr | None) -> None:
    if secret is None:
        ask(vault, partial(vault.delete, *_PLACE))
        click.echo(f"The admin key is no longer in the {vault.name}.")
        return
    try:
        secret = check_secret(secret)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    ask(vault, partial(vault.set, *_PLACE, secret))
    click.echo(f"The admin key is in the {vault.name}.")


def _admin_key(vault: Vault) -> SecretStr:
    if is_overridden():
        raise ConfigError("OPENAI_CUSTOM_HEADERS sets Authorization, so that no admin key would be sent: take it out")
    if given := os.environ.get(VARIABLE):
        try:
            return check_secret(SecretStr(given))
        except ValueError as error:
            raise ConfigError(f"{VARIABLE}: {error}") from None
    kept = ask(vault, partial(vault.get, *_PLACE))
    if kept is None:
        raise ConfigError(
            "there is no admin key: make one that may read usage and keys at "
            "https://platform.openai.com/settings/organization/admin-keys, and give it with "
            f"`keyrouter-openai reconcile --set-admin-key`, or set {VARIABLE}"
        )
    return kept


def _keys(keystore: Keystore) -> Iterator[tuple[str, Key]]:
    """The keys of all pools that the provider may know."""
    registry = keystore.registry
    return ((pool, key) for pool in registry.pools() for key in registry.keys(pool) if key.provider == PROVIDER)


def _secrets(keystore: Keystore, keys: Mapping[str, tuple[str, Key]]) -> dict[str, SecretStr]:
    found = {name: keystore.secret(pool, key.name) for name, (pool, key) in keys.items()}
    return {name: secret for name, secret in found.items() if secret is not None}


def _known(name: str, known: Collection[str]) -> str:
    if name not in known:
        raise click.UsageError(f"--map names no key {name!r}: there are {', '.join(sorted(known)) or 'none'}")
    return name


def _figures(difference: Difference) -> dict[str, object]:
    """A difference as JSON has it."""
    recorded, billed = difference.recorded, difference.billed
    return {
        "billed_requests": billed and billed.requests,
        "recorded_requests": recorded.requests,
        "billed_prompt_tokens": billed and billed.prompt,
        "recorded_prompt_tokens": recorded.prompt,
        "billed_completion_tokens": billed and billed.completion,
        "recorded_completion_tokens": recorded.completion,
        "billed_usd": billed and float(billed.usd),
        "recorded_usd": _recorded_usd(difference),
        "unpriced": recorded.unpriced,
        "difference_usd": billed and difference.microusd / MILLION,
        "reasons": list(difference.reasons),
    }


def _cells(difference: Difference) -> dict[str, object]:
    """A difference as the table shows it."""
    recorded, billed = difference.recorded, difference.billed
    recorded_usd = _recorded_usd(difference)
    return {
        "billed_requests": billed and billed.requests,
        "recorded_requests": recorded.requests,
        "billed_usd": billed and float(billed.usd),
        "recorded_usd": UNKNOWN if recorded_usd is None else recorded_usd,
        "difference_usd": billed and difference.microusd / MILLION,
        "why": "; ".join(difference.reasons),
    }


def _recorded_usd(difference: Difference) -> float | None:
    microusd = difference.recorded_microusd
    return None if microusd is None else microusd / MILLION


def _usd(usd: float) -> str:
    """A sum of money to the micro-dollar, as the ledger has it."""
    return f"{usd:,.6f}"


def _sum_up(bill: Bill, differences: Sequence[Difference], off: int) -> str:
    """One line on all of it."""
    requests = sum(each.requests for each in bill.lines.values())
    usd = sum((each.usd for each in bill.lines.values()), Decimal(0))
    billed = f"Billed requests: {requests:,}, US dollars: {_usd(float(usd))}."
    differ = sum(each.billed is not None for each in differences)
    if differ:
        ledger = f"{_usd(abs(off) / MILLION)} {'more' if off < 0 else 'less'}" if off else "as much"
        told = f"{billed} The ledger has {ledger}; lines that differ: {differ}."
    elif requests or not differences:
        told = f"{billed} The ledger agrees."
    else:
        told = f"{billed} Nothing could be compared."
    apart = len(differences) - differ
    return f"{told} Lines that were not compared: {apart}." if apart else told
