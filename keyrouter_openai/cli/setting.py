"""The pools that `simulate` compares: the one that there is, and the one that there would be."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from keyrouter_openai.config import DEFAULT_OBJECTIVE
from keyrouter_openai.core.kinship import own_account
from keyrouter_openai.core.memory import LearnedAccount, LearnedLimit
from keyrouter_openai.core.model import DAY, MINUTE, Dimension
from keyrouter_openai.core.state import model_family
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key, Limits, check_name
from keyrouter_openai.ledger import Ledger, Registry
from keyrouter_openai.pool import limits_for
from keyrouter_openai.providers import PROVIDERS
from keyrouter_openai.route import check_objective

DIMENSIONS = {
    "rpm": (Dimension.REQUESTS, MINUTE),
    "tpm": (Dimension.TOKENS, MINUTE),
    "rpd": (Dimension.REQUESTS, DAY),
    "tpd": (Dimension.TOKENS, DAY),
    "itpm": (Dimension.INPUT, MINUTE),
    "otpm": (Dimension.OUTPUT, MINUTE),
}
"""What the limits of the simulated provider are of, by the names of `SimAccount`."""
_NAMES = {kind: name for name, kind in DIMENSIONS.items()}
_DECLARED = ("rpm", "tpm", "rpd", "tpd")

_N = TypeVar("_N", int, float)


@dataclass(frozen=True, slots=True)
class Setting:
    """A pool, and how it chooses."""

    accounts: Mapping[str, Sequence[Key]]
    """The keys of each account, without secrets."""
    learned: Mapping[tuple[str, str], Sequence[LearnedLimit]]
    """What is known of limits where none are declared, by account and model family."""
    objective: str

    def limits(self, account: str, model: str) -> dict[str, int]:
        """The limits of an account for a model: those that a key of it declares, and else those that were learned."""
        limits: dict[str, int] = {}
        for learned in self.learned.get((account, model_family(model)), ()):
            if name := _NAMES.get((learned.dimension, learned.period)):
                limits[name] = max(round(learned.limit), 1)
        declared = (limits_for(key.limits, model) for key in self.accounts[account])
        for found in filter(None, declared):
            return limits | {name: limit for name in _DECLARED if (limit := getattr(found, name)) is not None}
        return limits


def todays(path: Path, pool: str, seen: Iterable[Key]) -> Setting:
    """The pool as it is: its keys in use, or where none are registered, those that are on record (`seen`).

    Raises:
        ConfigError: the objective that the environment names does not exist, or the file cannot be read.
    """
    objective = os.environ.get("KEYROUTER_OBJECTIVE", "").strip() or DEFAULT_OBJECTIVE
    check_objective(objective)
    learned = Ledger(path).recall(pool)
    homes = {value.key: value.account for value in learned if isinstance(value, LearnedAccount)}
    limits: defaultdict[tuple[str, str], list[LearnedLimit]] = defaultdict(list)
    for value in learned:
        if isinstance(value, LearnedLimit):
            limits[value.account, value.family].append(value)
    accounts: defaultdict[str, list[Key]] = defaultdict(list)
    for key in Registry(path).keys(pool) or seen:
        if key.enabled:
            accounts[key.account or homes.get(key.name) or own_account(key.name)].append(key)
    return Setting(dict(accounts), dict(limits), objective)


def changed(
    pool: str, accounts: Mapping[str, Sequence[Key]], removed: Sequence[str], added: Sequence[str]
) -> dict[str, Sequence[Key]]:
    """The keys of each account once some are taken out and others added; ConfigError if none is left."""
    keys = {key.name: name for name, members in accounts.items() for key in members}
    if any(name not in keys and name not in accounts for name in removed):
        raise ConfigError(
            f"--remove: one of these is not in use: there are the keys {', '.join(keys) or '(none)'} and the accounts "
            f"{', '.join(accounts) or '(none)'}"
        )
    # A name may be that of a key and of an account: the key is meant.
    whole = {name for name in removed if name not in keys}
    left = {
        name: [key for key in members if name not in whole and key.name not in removed]
        for name, members in accounts.items()
    }
    others: dict[str, Sequence[Key]] = {name: members for name, members in left.items() if members}
    for number, text in enumerate(added, 1):
        key = _account(text, f"new-{number}")
        if key.name in keys or key.name in others:
            raise ConfigError(f"--add-account: there is a key or account {key.name!r} already: choose another name")
        others[key.name] = [key]
    if not others and not accounts:
        raise ConfigError(f"pool {pool!r} has no keys in use: add some here, with --add-account")
    if not others:
        raise ConfigError("--remove takes out all keys: leave one, or add an account with --add-account")
    return others


def _account(text: str, name: str) -> Key:
    """The key that `--add-account` describes. Raises ConfigError, which does not quote it: it may hold a secret."""
    head, colon, settings = text.rpartition(":")
    limits: dict[str, int] = {}
    price, provider = 1.0, "openai"
    try:
        name = check_name(head, "key") if colon else name
        for place, setting in enumerate(settings.split(","), 1):
            field, _, value = setting.partition("=")
            if field in _DECLARED:
                limits[field] = _number(int, field, value)
            elif field == "price":
                price = _number(float, field, value)
            elif field == "provider":
                provider = value
            else:
                raise ConfigError(
                    f"setting {place} is none of {', '.join(_DECLARED)}, price and provider: "
                    "write them as NAME:rpm=500,tpm=200000,price=0.5"
                )
        known = PROVIDERS.get(provider)
        address = "http://localhost" if known is not None and known.base_url is None else None
        declared = {"*": Limits(**limits)}
        return Key(name=name, provider=provider, base_url=address, limits=declared, price_multiplier=price)
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"--add-account: {error}") from None


def _number(kind: Callable[[str], _N], field: str, text: str) -> _N:
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{field} must be a number") from None


def assumptions(setting: Setting, models: Iterable[str]) -> list[str]:
    """What is not known of a pool's limits, and what is otherwise where there is but one key, in words."""
    notes: list[str] = []
    keys = [key.name for members in setting.accounts.values() for key in members]
    if len(keys) == 1:
        notes.append(f"where {keys[0]} is the only key, calls are tried thrice as by the SDK, and wait for no capacity")
    for account in setting.accounts:
        by_family = {model_family(model): setting.limits(account, model) for model in sorted(models)}
        unlimited = [family for family, limits in by_family.items() if not limits]
        guessed = [
            family for family in by_family if any(each.guessed for each in setting.learned.get((account, family), ()))
        ]
        if unlimited:
            notes.append(f"no limit of {account} is known for {', '.join(unlimited)}: it is taken to have none")
        if guessed:
            notes.append(f"the limits of {account} for {', '.join(guessed)} are a guess: no answer has named them")
    return notes
