"""What one call can cost at most, and how that is reserved in budgets before each of its attempts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .core.budget import ASK_S, Outlay, Shortage, is_billed
from .core.model import Fault, RouteRequest
from .core.price import Price
from .core.select import History
from .lease import Lease

if TYPE_CHECKING:
    from .budgets import Budgets
    from .retry import Call
    from .router import Router

LOOK_S = 0.2
"""Seconds after which a call looks again whether any of several budgets has room for it."""
LONGEST_REST_S = 1.0
"""Seconds after which a call that waits for what others have reserved looks whether some was dropped: a finalizer, as
of a stream that nobody closed, wakes nobody."""

_DEAR_TIERS = ("priority", "fast")
"""Service tiers that cost more than the standard one, if the answer comes by them (OpenAI's pricing page)."""


def expense_of(
    router: Router, method: str, request: RouteRequest, body: Mapping[str, object], history: History
) -> Expense | None:
    """The expense of a call, where there are budgets and it costs anything."""
    if router.budgets is None or not is_billed(method, request):
        return None
    return Expense(router, router.budgets, body, history)


class Expense:
    """What one call can cost, worked out when that is first asked, and reserved for each of its attempts.

    Args:
        body: the call's.
        history: the call's, where it is noted which keys it cannot afford.
    """

    __slots__ = ("_body", "_budgets", "_history", "_known", "_loaded", "_router", "short")

    def __init__(self, router: Router, budgets: Budgets, body: Mapping[str, object], history: History) -> None:
        self._router = router
        self._budgets = budgets
        self._body = body
        self._history = history
        self._known: tuple[Price | None, Outlay] | None = None
        """The price that was asked for last, and what comes of it."""
        self._loaded = False
        self.short: Shortage | None = None
        """Why a budget refuses its next attempt, with a key that it would rather have had."""

    def must_load(self, lease: Lease) -> bool:
        """Whether the price of an attempt may be found by `load`, and not at once."""
        return not self._loaded and self._price(lease) is None

    def load(self, lease: Lease) -> None:
        """Find the price of an attempt, if there is one. Blocks."""
        self._router.prices.load(lease.key, lease.request.model)
        self._loaded = True

    def at_once(self, lease: Lease) -> bool:
        """Reserve what an attempt can cost, if nothing stands in the way."""
        return self._router.afford(self._budgets, lease, self._outlay(lease), None) is None

    def afford(self, call: Call, wake: Callable[[], None]) -> float | None:
        """Reserve what the attempt can cost; else the seconds to wait before the next try, unless woken.

        Raises:
            BudgetExceeded: budgets allow it with no key, and nothing was sent; or else what has failed before.
        """
        if not call.is_leased:  # the lease was put back, or never came
            call.take()
            if not call.is_leased:
                self._allow_all()
                return LOOK_S if call.turn is None else 0.0
        lease = call.lease
        short = self._router.afford(self._budgets, lease, self._outlay(lease), wake)
        if short is None or short.asked:
            self.short = None
            return None if short is None else ASK_S
        call.put_back()
        alike = self._budgets.alike(short.rule, lease.key)
        if len(alike) < self._budgets.keys:  # it may do with another key
            self.short = short if self.short is None or self.short.final else self.short
            self._history.tried |= {lease.state.account.name}
            self._history.keys = {**self._history.keys, **dict.fromkeys(alike, Fault.BUDGET)}
            return 0.0
        patience = call.patience()
        if short.final or patience <= 0.0:
            self.short = short
            call.give_up(short)
        return min(patience, LONGEST_REST_S)

    def leave(self, wake: Callable[[], None]) -> None:
        """The call waits no longer."""
        self._router.abandon(lambda: self._budgets.leave(wake))

    def may_come_back(self, patience: float) -> bool:
        """Whether no key serves the call only because of what is reserved for others, and it has time to wait."""
        return self.short is not None and not self.short.final and patience > 0.0

    def _allow_all(self) -> None:
        """What was reserved for others may have come back."""
        self._history.keys = {key: fault for key, fault in self._history.keys.items() if fault is not Fault.BUDGET}

    def _outlay(self, lease: Lease) -> Outlay:
        price = self._price(lease)
        if self._known is None or self._known[0] is not price:
            self._known = price, self._budgets.sizes.outlay(lease.request, self._body, price)
        return self._known[1]

    def _price(self, lease: Lease) -> Price | None:
        tier = self._body.get("service_tier")
        return self._router.prices.known(lease.key, lease.request.model, str(tier) if tier in _DEAR_TIERS else None)
