"""Where a client's keys come from, and the router that is built of them; reads the environment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from pydantic import SecretStr

from .budget import Budget
from .core.objectives import Objective
from .errors import ConfigError
from .keys import Key, made_up_name
from .ledger import Ledger, Registry, check_path, default_path
from .prices import PricesArgument
from .protocols import Recorder, Vault
from .route import check_objective
from .router import Router

DEFAULT_POOL = "default"
DEFAULT_OBJECTIVE = "fairness"
SDK_KEY = "api_key"
"""The name of the only key where the SDK itself holds the credential."""

_WILDCARD = re.compile(r"[*?[]")
_logger = logging.getLogger("keyrouter_openai")


class Unset:
    """The type of `UNSET`, for arguments to which None means something."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()

LedgerArgument = str | Path | Recorder | None | Unset


def build_router(
    *,
    router: Router | None = None,
    keys: Sequence[Key | SecretStr] | None = None,
    sdk_credential: bool = False,
    pool: str | None = None,
    ledger: LedgerArgument = UNSET,
    prices: PricesArgument | None = None,
    objective: str | Objective | None = None,
    tenant_weights: Mapping[str, float] | None = None,
    budgets: Sequence[Budget] | None = None,
) -> Router:
    """The router of a client, from the first of these that is there.

    `router`; `keys`; the SDK's own credential where `sdk_credential` says that one was given; the pool that
    `pool` or KEYROUTER_POOL names, or the pool `default` if it has keys; OPENAI_API_KEYS; and else whatever
    the SDK makes of OPENAI_API_KEY or its absence. Without `objective`, KEYROUTER_OBJECTIVE names it.

    Raises:
        ConfigError: a key, pool, path, price, objective, weight, budget or variable is wrong; nothing was changed.
    """
    if router is not None:
        others = (keys, pool, prices, objective, tenant_weights, budgets)
        if not isinstance(ledger, Unset) or any(other is not None for other in others):
            raise ConfigError(
                "router= brings its own keys, pool, ledger, prices, objective, weights and budgets: "
                "leave out keys=, pool=, ledger=, prices=, objective=, tenant_weights= and budgets="
            )
        return router
    if keys is not None and pool is not None:
        raise ConfigError("keys= and pool= both say where the keys are: give one of them")
    path = default_path()
    recorder = _recorder(ledger, path)
    make = partial(
        _router,
        ledger=recorder,
        prices=prices,
        objective=_named_objective() if objective is None else objective,
        tenant_weights={} if tenant_weights is None else tenant_weights,
        budgets=() if budgets is None else budgets,
    )
    if keys is not None:
        return make(_named(keys), vault=_vault_if_needed(keys))
    if not sdk_credential:
        wanted = pool or os.environ.get("KEYROUTER_POOL")
        if registered := _registered(wanted, _registry_path(ledger, path), path):
            return make(registered, pool=wanted or DEFAULT_POOL, vault=_vault_if_needed(registered))
        if os.environ.get("OPENAI_API_KEYS", "").strip():
            return make(listed_keys())
    return make([Key(name=SDK_KEY)], sdk_credential=True)


def _router(keys: Sequence[Key], *, ledger: Recorder | None, budgets: Sequence[Budget], **settings: Any) -> Router:
    """A router that starts from what is on record of its pool."""
    made = Router(keys, ledger=ledger, budgets=budgets, **settings)
    if ledger is not None and not made.is_single:
        made.recall(ledger.recall(made.pool), ledger.calls_by_hour(made.pool))
    _warn_of_idle(made, budgets)
    return made


def _warn_of_idle(router: Router, budgets: Sequence[Budget]) -> None:
    """Say on the log which budgets concern no call: the pool has no such key or account, or no key for such models.

    That is no error, as accounts may be learned and keys be added later.
    """
    for budget in budgets:
        kind, _, value = budget.scope.partition(":")
        try:
            router.check_wishes(value if kind == "key" else None, value if kind == "account" else None)
        except ConfigError as error:
            why = str(error)
        else:
            if kind != "model" or any(_may_serve(key, value) for key in router.keys):
                continue
            why = f"no key of pool {router.pool!r} serves such models"
        _logger.warning("budget %r concerns no call so far: %s", budget.rule(router.pool).name, why)


def _may_serve(key: Key, pattern: str) -> bool:
    """Whether a key may serve a model of that pattern, as far as the beginnings of patterns tell."""
    wanted = _WILDCARD.split(pattern)[0]
    starts = (_WILDCARD.split(each)[0] for each in key.models or ("",))
    return any(start.startswith(wanted) or wanted.startswith(start) for start in starts)


def _named_objective() -> str:
    """The objective that the environment names, or else the default."""
    name = os.environ.get("KEYROUTER_OBJECTIVE", "").strip() or DEFAULT_OBJECTIVE
    try:
        check_objective(name)
    except ConfigError as error:
        raise ConfigError(f"KEYROUTER_OBJECTIVE: {error}") from None
    return name


def _recorder(ledger: LedgerArgument, default: Path) -> Recorder | None:
    if ledger is None or isinstance(ledger, Recorder):
        return ledger
    # What users pass is checked here, whatever the annotations say.
    if not isinstance(cast("object", ledger), Unset | str | os.PathLike):
        raise ConfigError(
            f"ledger={type(ledger).__name__}: give a path, a Ledger, None for none, or an object that has all of "
            "`keyrouter_openai.protocols.Recorder`"
        )
    path = default if isinstance(ledger, Unset) else Path(ledger)
    check_path(path)
    return Ledger(path)


def _registry_path(ledger: LedgerArgument, default: Path) -> Path:
    """The registry of keys lies in the ledger's database; without one, in the default place."""
    if isinstance(ledger, Ledger):
        return ledger.path
    return Path(ledger) if isinstance(ledger, str | Path) else default


def _registered(wanted: str | None, path: Path, default: Path) -> list[Key]:
    """The keys of a pool, from the ledger's own registry or else the usual one."""
    registry = Registry(path)
    keys = registry.keys(wanted or DEFAULT_POOL)
    if not keys and path != default:
        registry = Registry(default)
        keys = registry.keys(wanted or DEFAULT_POOL)
    if not keys and wanted is not None:
        known = ", ".join(registry.pools()) or "none"
        raise ConfigError(
            f"pool {wanted!r} does not exist in {path} (pools there: {known}): "
            f"add a key to it with `keyrouter-openai keys add NAME --pool {wanted}`"
        )
    return keys


def _named(keys: Sequence[Key | SecretStr]) -> list[Key]:
    """Keys given as bare secrets get names by their place: `key-1`, `key-2`."""
    return [
        Key(name=made_up_name(place), secret=key) if isinstance(key, SecretStr) else key
        for place, key in enumerate(keys, 1)
    ]


def listed_keys() -> list[Key]:
    """The keys in OPENAI_API_KEYS."""
    parts = [part.strip() for part in re.split(r"[,\n]", os.environ["OPENAI_API_KEYS"])]
    if parts and not parts[-1]:  # a trailing separator is no mistake
        parts.pop()
    bad = next((place for place, part in enumerate(parts, 1) if not part or re.search(r"[\s;\"'=]", part)), None)
    twice, count = len(set(parts)) < len(parts), len(parts)
    if bad is None and not twice:
        return _named([SecretStr(part) for part in parts])
    del parts  # an error keeps its frames, and so their secrets
    if bad is not None:
        raise ConfigError(
            f"OPENAI_API_KEYS is malformed at key {bad} of {count}: "
            "write keys separated by commas or newlines, without quotes, blanks or names"
        )
    raise ConfigError("OPENAI_API_KEYS holds the same key twice: leave each in once")


def _vault_if_needed(keys: Sequence[Key | SecretStr]) -> Vault | None:
    if all(isinstance(key, SecretStr) or key.secret is not None for key in keys):
        return None
    from .vaults import open_vault

    return open_vault(os.environ.get("KEYROUTER_VAULT"))
