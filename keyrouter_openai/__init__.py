"""One line changed, and each call goes out on a working key of a pool.

The house, from the doors inwards:
    client, client_sync   the drop-ins for AsyncOpenAI and OpenAI: one request, its attempts (drop_in: shared)
    retry                 the hooks that tenacity calls between the attempts of one call
    router, lease         give out leases on keys, and take them back
    learning              what each outcome teaches of keys, accounts and hosts
    core/                 decides: choosing, verdicts, health, pace, streams; no I/O, no clock, no SDK
    _sdk, options         the seams of the SDK; its options, with one key put on a copy
    exchange, bodies      one attempt on the wire, settled once; its answer, watched as it passes
    config, keys          where keys come from, and what can be said of one
    vaults/, ledger/      where secrets rest; what happened, in SQLite
    cli/, testing/        the command; a provider to test against
Names are imported when first used, so that this package costs next to nothing until then.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import RoutedOpenAI
    from .client_sync import SyncRoutedOpenAI
    from .errors import ConfigError, KeyRouterError, MissingExtra, NoKeyAvailable, VaultError
    from .keys import Key
    from .ledger import Ledger
    from .route import Route, route_of, routing
    from .router import Router

_HOMES = {
    "RoutedOpenAI": "client",
    "SyncRoutedOpenAI": "client_sync",
    "Key": "keys",
    "Router": "router",
    "Ledger": "ledger",
    "Route": "route",
    "route_of": "route",
    "routing": "route",
    "KeyRouterError": "errors",
    "NoKeyAvailable": "errors",
    "ConfigError": "errors",
    "VaultError": "errors",
    "MissingExtra": "errors",
}

__all__ = [
    "ConfigError",
    "Key",
    "KeyRouterError",
    "Ledger",
    "MissingExtra",
    "NoKeyAvailable",
    "Route",
    "RoutedOpenAI",
    "Router",
    "SyncRoutedOpenAI",
    "VaultError",
    "route_of",
    "routing",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
