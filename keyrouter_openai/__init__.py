"""One line changed, and each call goes out on a working key of a pool.

The house, from the doors inwards:
    client, client_sync    the drop-ins for AsyncOpenAI and OpenAI: one request, its attempts (drop_in: shared)
    retry, hedging         the attempts of one call, one after the other; or a second beside the first
    router, lease          the lock around all that changes; permission to make one attempt
    books, telling         what goes from there into the ledger; who is told of it
    allocate, learning     who gets which key, and when; what each outcome teaches
    owners, lookup         whose the files, responses and other resources are that calls name
    pages                  lists of what accounts keep: of one, or of all in turn
    sockets                websocket sessions: opened as a call is made, watched while open (_sdk_sockets: their seams)
    attaching              files that the SDK's helpers upload for a vector store go where the store is
    pool                   keys, accounts and hosts, and a lane of those that can serve each model
    core/                  decides, without I/O, clock or SDK:
        buckets, quota, charges, limits          what accounts grant, and what headers say of it
        lanes, candidate, standing, select       who can serve, and how well each has
        objectives, placement, affinity          who suits best: by wish, by size, by what is cached
        queue, dispatch, backlog                 who waits, who goes next, and for how long
        health, breaker, retry_budget            what has failed, and how much may be tried again
        evidence, kinship                        which keys turn out to share an account
        classify, verdict, stream, body          what answers mean, and what to do about it
        session                                  what the events of a websocket say
        price, budget, forecast                  what usage costs, what may be spent, and when that is spent
        reconcile                                the ledger's rows beside the provider's bill
        resources                                what belongs to an account, by its ids in calls and answers
    _sdk, options, prefix  the seams of the SDK; its options, read, and with one key put on a copy
    _sdk_requests          the HTTP request of an attempt: the SDK's own, made with less work
    _sdk_connections       how it goes out: over the HTTP library's own connections, in fewer steps
    failures               what its exceptions mean, and how an error may leave the house
    expense, budgets       what a call may cost, reserved in every budget that it touches (budget: as declared)
    prices, price_table    what models cost: looked up once, from genai-prices or the user's own
    forecasts              what runs dry, and when; told ahead
    exchange, bodies       one attempt on the wire, settled once; its answer, watched as it passes
    reconcile              the provider's bill, fetched and compared with the ledger
    roster                 all routers of this process: after a fork, and for `top`
    config, keys, route    where keys come from, what can be said of one, and of the routing of a call
    vaults/, ledger/       where secrets rest; what happened, in SQLite
    cli/, testing/         the command; a provider to test against
Names are imported when first used, so that this package costs next to nothing until then.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .budget import Budget
    from .client import RoutedOpenAI
    from .client_sync import SyncRoutedOpenAI
    from .core.objectives import Objective
    from .errors import (
        BudgetExceeded,
        ConfigError,
        KeyRouterError,
        MissingExtra,
        NoKeyAvailable,
        OwnerError,
        VaultError,
    )
    from .keys import Key, Limits
    from .ledger import Ledger
    from .route import Route, route_of, routing
    from .router import Router

_HOMES = {
    "RoutedOpenAI": "client",
    "SyncRoutedOpenAI": "client_sync",
    "Budget": "budget",
    "Key": "keys",
    "Limits": "keys",
    "Objective": "core.objectives",
    "Router": "router",
    "Ledger": "ledger",
    "Route": "route",
    "route_of": "route",
    "routing": "route",
    "KeyRouterError": "errors",
    "NoKeyAvailable": "errors",
    "BudgetExceeded": "errors",
    "OwnerError": "errors",
    "ConfigError": "errors",
    "VaultError": "errors",
    "MissingExtra": "errors",
}

__all__ = [
    "Budget",
    "BudgetExceeded",
    "ConfigError",
    "Key",
    "KeyRouterError",
    "Ledger",
    "Limits",
    "MissingExtra",
    "NoKeyAvailable",
    "Objective",
    "OwnerError",
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
