"""What the async and the sync client have in common: all that needs no `await`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self, SupportsIndex, cast

from pydantic import SecretStr

from . import _sdk
from .budget import Budget
from .config import LedgerArgument, Unset, build_router
from .core.objectives import Objective
from .core.resources import carried
from .errors import ConfigError
from .exchange import abandon_all
from .keys import Key
from .ledger import Ledger, before_exit
from .options import body_of, describe, mentions
from .pages import Walk, first_walk, is_list
from .prices import PricesArgument
from .retry import Call
from .route import ALL_ACCOUNTS, HedgeAfter, Routing, current_routing
from .router import Router


class DropIn:
    """Mixed into a subclass of the SDK's client, before it."""

    router: Router
    """Chooses the keys; `router.status()` shows them, `router.on_event(callback)` tells of every decision."""
    _wishes: Routing

    @property
    def ledger(self) -> Ledger:
        """The record of all attempts.

        Raises:
            ConfigError: this client was made with `ledger=None`.
        """
        if not isinstance(self.router.ledger, Ledger):
            raise ConfigError("this client keeps no ledger: leave out ledger=None, or give a path")
        return self.router.ledger

    def with_routing(
        self,
        *,
        tags: Mapping[str, str] | None = None,
        key: str | None = None,
        account: str | None = None,
        max_wait: float | None = None,
        max_attempts: int | None = None,
        objective: str | Objective | None = None,
        hedge_after: HedgeAfter | None = None,
        budget_tags: Mapping[str, str] | None = None,
    ) -> Self:
        """A client that shares this one's router and connections, and routes its calls as said.

        Args:
            tags: recorded with each attempt in the ledger. Two of them mean something: calls of one `tenant` share
                capacity as one, and those of `priority` `batch` go after all others.
            key: the name of the only key that may serve.
            account: the name of the only account whose keys may serve. For lists of what accounts keep, such as
                `files.list()`, "*" is all of them: their pages come one account after another.
            max_wait: seconds that one call may wait for capacity in all.
            max_attempts: most attempts of one call.
            objective: how to rank accounts that can serve, in place of the client's.
            hedge_after: as for `RoutedOpenAI`, the only client that hedges.
            budget_tags: recorded as `tags` are, and for budgets of tags as good as these, but they mean nothing else:
                a `tenant` or a `priority` here has no say in who is served first.
        """
        clone = cast("Self", cast("Any", self).copy())
        wishes = Routing(tags, key, account, max_wait, max_attempts, objective, hedge_after, budget_tags)
        clone._wishes = wishes.over(self._wishes)
        return clone

    @property
    def _follows_owners(self) -> bool:
        """Whether it is left to the router to which account a call goes, and there is a choice."""
        wishes = current_routing().over(self._wishes)
        return wishes.key is None and wishes.account is None and self.router.owners.matter

    def __copy__(self) -> Self:
        return cast("Self", cast("Any", self).copy())

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} can be neither pickled nor deep-copied, as it holds connections and secrets: "
            "make one in each process (they share what the ledger knows), or take client.copy()"
        )

    def _first_walk(self, cast_to: object, options: _sdk.Options) -> Walk | None:
        """Where the pages start that a call asks for, if they show what one account of several has."""
        if not is_list(cast_to, options):
            return None
        return first_walk(self.router, current_routing().over(self._wishes), options)

    def _new_call(self, options: _sdk.Options, *, stream: bool) -> Call:
        wishes = current_routing().over(self._wishes)
        if wishes.key is not None or wishes.account is not None:
            if wishes.account == ALL_ACCOUNTS:
                raise ConfigError(
                    f"account={ALL_ACCOUNTS!r} walks the lists of what accounts keep, such as files.list(): "
                    "leave out key= and after= there, and name one account for other calls, or none"
                )
            self.router.check_wishes(wishes.key, wishes.account)
        request = describe(options, wishes, id=self.router.new_id(), stream=stream)
        if self.router.owners.matter and (ids := mentions(options)):
            request = request._replace(mentions=ids, carried=carried(body_of(options)))
        return Call(cast("_sdk.Client", self), self.router, options, request, wishes)

    def _routing_arguments(
        self,
        *,
        keys: Sequence[Key | str] | None,
        pool: str | None,
        router: Router | None,
        ledger: LedgerArgument,
        prices: PricesArgument | None,
        tenant_weights: Mapping[str, float] | None,
        budgets: Sequence[Budget] | None,
        other_credential: object,
    ) -> dict[str, Any]:
        """What a copy of this client is constructed with: this router, unless it is to route over other keys."""
        if budgets is None and router is None and self.router.budgets is not None:
            budgets = self.router.budgets.declared if other_credential or keys is not None or pool is not None else None
        if keys is None and pool is None and router is None:
            if other_credential:
                ledger = self.router.ledger if isinstance(ledger, Unset) else ledger
                prices = self.router.prices.own if prices is None else prices
                return {"ledger": ledger, "prices": prices, "tenant_weights": tenant_weights, "budgets": budgets}
            if not isinstance(ledger, Unset) or any(each is not None for each in (prices, tenant_weights, budgets)):
                raise ConfigError(
                    "a copy shares its router's ledger, prices, weights and budgets: "
                    "give ledger=, prices=, tenant_weights= and budgets= to the constructor"
                )
            return {"router": self.router}
        if router is None and isinstance(ledger, Unset):
            ledger = self.router.ledger
        if router is None and prices is None:
            prices = self.router.prices.own
        built = build_router(
            router=router,
            keys=hide(keys),
            pool=pool,
            ledger=ledger,
            prices=prices,
            tenant_weights=tenant_weights,
            budgets=budgets,
        )
        return {"router": built}


def hide(keys: Sequence[Key | str] | None) -> list[Key | SecretStr] | None:
    """The `keys` argument with its bare secrets covered: what may fail from here on keeps its local variables.

    Raises:
        ConfigError: it is no list of `Key`s and secrets.
    """
    given: Any = keys or ()
    if isinstance(given, str | bytes | Mapping) or not all(isinstance(key, Key | str) for key in given):
        del keys, given
        raise ConfigError("keys= takes a list of Key(...) and secrets, such as keys=['sk-...']")
    return None if keys is None else [SecretStr(key) if isinstance(key, str) else key for key in keys]


before_exit(abandon_all)
