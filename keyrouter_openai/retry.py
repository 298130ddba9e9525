"""The attempts of one call: the hooks that tenacity calls between them.

    before   `take`    takes the lease: here keys rotate
    retry    `again`   settles the attempt that ended, and judges whether another is due
    wait     `pause`   says how long to wait before it
    stop     `spent`   bounds the attempts

One `Call` belongs to one request, and so does its copy of the policy: nothing is shared between tasks. The
first attempt runs the same hooks without tenacity's loop, which alone costs more than the rest of the router
on a call that succeeds at once.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import openai

from . import _sdk, failures
from .core.budget import Shortage
from .core.model import Failure, Fault, RouteRequest
from .core.queue import Turn
from .core.resources import lasts, reads, shows
from .core.select import History, Refusal
from .core.verdict import BACKOFF_CAP, FREE, POLICIES, Blame, Verdict, backoff, may_try_again
from .errors import VaultError
from .exchange import Exchange
from .expense import expense_of
from .lease import Lease
from .options import body_of, choices, describe, may_begin_anew, prepare, reading
from .owners import Place
from .route import Routing, Trace, annotate
from .router import Router

if TYPE_CHECKING:
    from pydantic import SecretStr
    from tenacity import AsyncRetrying, RetryCallState, Retrying

LEANING_WAIT = 5.0
"""Seconds that a call waits for the account which it would rather have, but can do without."""
DEFAULT_MAX_WAIT = 60.0
"""Seconds that one call may wait for capacity in all, unless the caller says otherwise."""


class Call:
    """One call of the user: its history, its limits, and the attempt that is out.

    Args:
        client: whose call it is, and whose SDK rules hold where there is but one key.
        options: the SDK's options, from which each attempt is copied.
        wishes: what the caller said of the routing.
    """

    def __init__(
        self, client: _sdk.Client, router: Router, options: _sdk.Options, request: RouteRequest, wishes: Routing
    ) -> None:
        self.router = router
        self.options = options
        self.request = request
        self.hedge_after = wishes.hedge_after
        """When a second attempt is to be made beside the first; None once there was one."""
        self.max_retries = _sdk.max_retries(client, options)
        self.is_sent_once = self.max_retries == 0
        """Whether the caller forbids to send again what may have been carried out."""
        self.trace = Trace(request.model)
        self.turn: Turn | None = None
        """The place in the queue, while the call waits for its next lease."""
        self._lease: Lease | None = None
        self._asked = request
        self._client = client
        self._idempotency_key = _sdk.idempotency_key(client, options)
        self._wishes = wishes
        fields = body_of(options)
        self.shows = router.owners.matter and shows(request.endpoint, fields)
        """Whether its answer shows resources that belong to the account which serves it."""
        self.lasts = self.shows and not request.stream and lasts(options.method, request.endpoint, fields)
        """Whether their owner must be on record before the caller gets them whole."""
        self._history = History()
        self.expense = expense_of(router, options.method, request, fields, self._history)
        """What it can cost, where that is to be reserved in budgets."""
        self._exchange: Exchange | None = None
        self._replay: _sdk.BodyReplay | None = None
        self._secrets: list[SecretStr] = []
        self._sent = 0
        self._free = 0
        """Attempts that count for nothing: each has put a key or an account aside, which ends by itself."""
        self._error: BaseException | None = None
        self._failure: Failure | None = None
        self._outer = sys.exception()
        self._is_asked_again = False
        """Whether it is a look-up that is made once more if no key can serve: then that is nothing to be told."""

    # -- hooks

    def take(self, _: RetryCallState | None = None) -> None:
        """Take the lease of the next attempt, or a turn that is to be waited for.

        Raises:
            NoKeyAvailable: no key can serve in time and nothing was sent; else the last attempt's own error.
            OwnerError: no single account has all that the call names; nothing was sent.
        """
        if self._asked.mentions:
            self.request = self.router.owners.pin(self._asked)  # again each time: accounts get other names
        patience = min(self.patience(), LEANING_WAIT) if self._leans else self.patience()
        self._exchange = None
        self._lease = None
        self.turn = None
        taken = self.router.acquire(self.request, self._history, number=self._sent + 1, max_wait=patience)
        if isinstance(taken, Turn):
            self.turn = taken
        else:
            self.granted(taken)

    def look(self) -> None:
        """Take what the turn that is waited for has brought: a lease, or another turn. Raises as `take` does."""
        assert self.turn is not None, "take() comes first"
        taken = self.router.look(self.turn)
        if taken is not None:
            self.turn = None
            self.granted(taken)

    def granted(self, taken: Lease | Refusal) -> None:
        """Go on with a lease, or give up."""
        if isinstance(taken, Refusal) and self._leans:
            self._lean_no_more()
            self.take()
            return
        if isinstance(taken, Lease):
            self._lease = taken
        elif self.expense is None or not self.expense.may_come_back(self.patience()):
            self.give_up(taken)

    def give_up(self, refusal: Refusal | Shortage) -> NoReturn:
        """No key can serve it, or no budget allows it: raise that, or else what has failed before."""
        refusal = (self.expense and self.expense.short) or refusal
        if isinstance(refusal, Refusal) and not self._is_asked_again:
            self.router.tell_refusal(self.request, refusal)
        refused = failures.refused(self._client, self.router, self.request, refusal)
        if self._error is not None:
            self._error.add_note(refused.message)
        raise self._error or refused

    def put_back(self) -> None:
        """Give the lease back, for another time."""
        self.router.release(self.lease)
        self._lease = None

    @property
    def is_leased(self) -> bool:
        """Whether it has the lease of its next attempt."""
        return self._lease is not None

    def again(self, state: RetryCallState) -> bool:
        """Settle the attempt that ended, and judge whether another is due."""
        return state.outcome is not None and self.ended(state.outcome.exception())

    def pause(self, _: RetryCallState | None = None) -> float:
        """Seconds to back off before the next attempt. Waiting for capacity is another matter: leases know that."""
        failure = self._failure
        if failure is None or POLICIES[failure.fault].verdict not in (Verdict.RETRY, Verdict.WAIT):
            return 0.0
        if POLICIES[failure.fault].verdict is Verdict.WAIT and failure.wait is not None:
            return 0.0  # its breaker knows until when
        if failure.fault is Fault.NETWORK and self._accounts() > len(self._history.tried):
            return 0.0
        return max(backoff(self._sent, self.router.rng), min(failure.wait or 0.0, BACKOFF_CAP))

    def spent(self, _: RetryCallState | None = None) -> bool:
        """Whether the attempts of this call are used up."""
        if self._wishes.max_attempts is not None:
            return self._sent >= self._wishes.max_attempts
        if self.router.is_single:
            return self._sent > self.max_retries
        return self._sent - self._free >= max(self._accounts(), self.max_retries + 1)

    @property
    def lease(self) -> Lease:
        """The lease that `take` took last."""
        assert self._lease is not None, "take() comes first"
        return self._lease

    # -- what the drivers tell

    def begin(self, secret: SecretStr | None) -> _sdk.Options:
        """The lease's time has come: the options to send; from now on there is an `exchange`."""
        lease = self.lease
        prepared, asked_usage = prepare(
            self._client,
            self.options,
            lease.key,
            secret,
            number=lease.number,
            idempotency_key=self._idempotency_key,
            ask_usage=lease.state.host.takes_stream_options,
        )
        if secret is not None:
            self._secrets.append(secret)
        self._replay = _sdk.BodyReplay(prepared)
        self._sent += 1
        # A start that is held back buys nothing where no other key could take over, or must not.
        hold = not (self.router.is_single or self.is_sent_once) and may_begin_anew(prepared)
        self._exchange = Exchange(
            self.router,
            lease,
            self.trace,
            secret,
            asked_usage=asked_usage,
            hold=hold,
            choices=choices(prepared),
            reads=prepared.method.lower() == "get",
            shows=self.shows,
            lasts=self.lasts,
        )
        return prepared

    def ended(self, error: BaseException | None) -> bool:
        """The attempt is over; settle it, and say whether another is due."""
        if error is None:
            return False
        if self._lease is None:  # it waited for its turn, or was refused one
            if self.turn is not None:
                self.router.leave(self.turn)
                self.turn = None
            return False
        lease, exchange = self.lease, self._exchange
        if exchange is None:
            return self._not_sent(lease, error)
        if exchange.settled:  # the answer was whole; what came after is the SDK's or the caller's matter
            return False
        failure = failures.failure_of(exchange, error)
        if failure is None:
            self.router.release(lease)
            return False
        exchange.fail(failure)
        if exchange.asked_usage and failures.refuses_stream_options(error):
            self.router.stop_asking_usage(lease)
            self._free += 1
            return True
        self._error, self._failure = error, failure
        self._free += failure.fault in FREE
        self._history.add(lease.key.name, lease.state.account.name, lease.state.host.name, failure.fault)
        if self._leans and POLICIES[failure.fault].blame is not Blame.KEY:  # others of its keys may do
            self._lean_no_more()
        return self._is_worth_another(error, failure.fault)

    def raising(self, error: BaseException) -> BaseException:
        """The error as the caller gets it: sealed, with a note that lists the attempts, and its route known."""
        if not isinstance(error, openai.OpenAIError):
            return error
        sealed = failures.seal(self._client, error, self._secrets, self._outer)
        for note in getattr(error, "__notes__", []) if sealed is not error else []:
            sealed.add_note(note)
        annotate(sealed, self.trace)
        return sealed

    # -- whose it is

    def looking_up(self, id: str, place: Place, *, patient: bool) -> Call:
        """The call that asks for one resource in one place: this one, if it is a read of it, or one of its own.

        It waits for capacity only if it is `patient`.
        """
        options = self.options if reads(self.options.method, self.options.url, id) else reading(self.options, id)
        wait = self._wishes.max_wait if patient else 0.0
        wishes = replace(self._wishes, key=place.key, account=place.account, max_wait=wait, hedge_after=None)
        stream = self.request.stream and options is self.options
        request = describe(options, wishes, id=self.router.new_id(), stream=stream)
        call = Call(self._client, self.router, options, request, wishes)
        call._is_asked_again = not patient
        return call

    # -- a second attempt beside the first (see `hedging`)

    @property
    def exchange(self) -> Exchange:
        """The attempt that is out."""
        assert self._exchange is not None, "begin() comes first"
        return self._exchange

    @property
    def may_do_elsewhere(self) -> bool:
        """Whether the attempt beside the one that failed may do better, though no further one is to be made."""
        return self._failure is not None and may_try_again(self._failure.fault)

    def fork(self) -> Call | None:
        """The same call with a lease on another account, or None if none can be spared for it now."""
        if self.spent():
            return None
        self._history.tried |= {self.lease.state.account.name}
        lease = self.router.spare(self.request, self._history, number=self._sent + 1)
        if lease is None:
            return None
        self.hedge_after = None
        twin = copy(self)
        twin._lease, twin._exchange, twin.trace = lease, None, Trace(self.request.model)
        twin.trace.waited_s, twin.expense = self.trace.waited_s, copy(self.expense)
        self._sent += 1
        self._free += 1
        return twin

    def lose(self) -> None:
        """The other attempt was faster, or the caller has gone: settle this one as abandoned."""
        if self._exchange is not None:
            self._exchange.fail(Failure(Fault.ABANDONED, self._exchange.status or 0, detail="hedged"))
        elif self._lease is not None:
            self.router.release(self._lease)
        elif self.turn is not None:  # it has put its lease back, to wait for a budget, and is in the queue again
            self.router.leave(self.turn)

    def note(self, twin: Call) -> None:
        """The second attempt has lost; it belongs to the route of this call all the same."""
        self.trace.attempts += twin.trace.attempts

    def adopt(self, twin: Call) -> None:
        """The second attempt is the one that counts from now on."""
        twin.trace.attempts[:0] = self.trace.attempts
        self.trace, self._lease, self._exchange, self._replay = twin.trace, twin._lease, twin._exchange, twin._replay

    # -- judgement

    @property
    def _leans(self) -> bool:
        """Whether this call goes to the owner of what it brings along, and need not."""
        return self.request.owned is not None and self.request.owned in self._asked.carried

    def _lean_no_more(self) -> None:
        """Let any account serve that has what the call cannot do without."""
        needed = tuple(id for id in self._asked.mentions if id not in self._asked.carried)
        self.request = self._asked = self._asked._replace(mentions=needed, carried=frozenset())

    def _accounts(self) -> int:
        """How many accounts might serve this call at some time."""
        return self.router.accounts_for(self._asked if self._leans else self.request)

    def _not_sent(self, lease: Lease, error: BaseException) -> bool:
        if not isinstance(error, VaultError):
            self.router.release(lease)
            return False
        self.router.unreadable(lease)
        self._error = self._error or error
        self._failure = None
        self._history.add(lease.key.name, lease.state.account.name, lease.state.host.name, Fault.VAULT)
        return True

    def _is_worth_another(self, error: BaseException, fault: Fault) -> bool:
        single = self.router.is_single
        worth = _sdk.sdk_would_retry(self._client, error) if single else may_try_again(fault)
        blames_provider = POLICIES[fault].verdict in (Verdict.RETRY, Verdict.WAIT)
        if POLICIES[fault].verdict is Verdict.RETRY and failures.forbids_retry(error):
            return False
        worth = worth and not (self.is_sent_once and failures.may_be_done(error, fault))
        worth = worth and (self._replay is None or self._replay.rewind())
        return worth and (single or not blames_provider or self.router.may_retry(self.lease))

    def patience(self) -> float:
        """Seconds that this call may still wait for capacity."""
        most = self._wishes.max_wait if self._wishes.max_wait is not None else DEFAULT_MAX_WAIT
        return max(min(most, _sdk.read_timeout(self._client, self.options)) - self.trace.waited_s, 0.0)

    def sdk_wait(self) -> dict[str, Any]:
        """The SDK's own arguments for waiting before a retry, which hold where there is but one key."""
        return {
            "retries_taken": self._sent - 1,
            "max_retries": self.max_retries,
            "options": self.options,
            "response": failures.response_of(self._error),
        }


def async_policy(call: Call, sleep: Callable[[float], Awaitable[None]]) -> AsyncRetrying:
    """Tenacity's policy for the further attempts of one call, a copy that no other call touches."""
    return _async_retrying().copy(
        before=call.take, retry=call.again, wait=call.pause, stop=call.spent, sleep=sleep, reraise=True
    )


def sync_policy(call: Call, sleep: Callable[[float], None]) -> Retrying:
    """As `async_policy`, for the sync client."""
    return _sync_retrying().copy(
        before=call.take, retry=call.again, wait=call.pause, stop=call.spent, sleep=sleep, reraise=True
    )


@cache
def _async_retrying() -> AsyncRetrying:
    from tenacity import AsyncRetrying  # most of this package's import time, paid when a call first fails

    return AsyncRetrying()


@cache
def _sync_retrying() -> Retrying:
    from tenacity import Retrying

    return Retrying()
