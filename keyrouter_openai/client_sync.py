"""`SyncRoutedOpenAI`: as `client.RoutedOpenAI`, without an event loop. The two differ in `await` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import openai
from openai import NotGiven, Timeout, not_given

from . import _sdk
from ._sdk import httpx2
from ._sdk_requests import QuickRequests
from ._sdk_sockets import routes_sockets
from .attaching import uploads_to_owners
from .budget import Budget
from .clock import ThreadSignal
from .config import UNSET, LedgerArgument, build_router
from .core.objectives import Objective
from .drop_in import DropIn, hide
from .expense import Expense
from .hedging import refuse_hedging
from .keys import Key
from .lookup import Search
from .prices import PricesArgument
from .retry import Call, sync_policy
from .route import Routing, remember_route
from .router import Router


@uploads_to_owners
@routes_sockets
class SyncRoutedOpenAI(DropIn, QuickRequests, _sdk.SyncSeams):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A drop-in for `OpenAI` that routes each call over a pool of keys. Safe to share between threads.

    Takes all that `OpenAI` takes, with the same meaning: `timeout` bounds each attempt, `max_retries` is
    the least number of further attempts. Keys come from the first of these that is there: `router`, `keys`,
    `api_key`, `pool` or KEYROUTER_POOL or the pool `default` if it has keys, OPENAI_API_KEYS, OPENAI_API_KEY.
    A pool of a single key behaves as the SDK does.

    Args:
        keys: `Key`s, or bare secrets.
        pool: a pool of keys that were added with `keyrouter-openai keys add`.
        router: a router that is shared with other clients.
        max_attempts: most attempts of one call. Default: as many as there are accounts that can serve it, at
            least `max_retries + 1`.
        max_wait: seconds that one call may wait for capacity in all; 0 never waits. Default 60.
        objective: how to rank accounts that can serve: `fairness` (the default: by weight), `reliability`, `latency`,
            `cost`, `quality`, or an `Objective` of your own. Default: KEYROUTER_OBJECTIVE.
        tenant_weights: shares of capacity by tenant (the tag `tenant`, or `user=` of a call), for when more is asked
            for than the pool can serve: above 0, and 1 where a tenant is not named.
        budgets: what may be spent: `Budget`s, shared by all processes that declare them on the same ledger.
        ledger: path of the SQLite file of attempts, a `Ledger`, or None for none. Default: KEYROUTER_DB, else
            a file in the user data folder.
        prices: prices of your own, for models that have no published one or another: US dollars for a million tokens,
            by pattern of models, such as `{"ft:gpt-4.1-mini-*": {"input": 0.8, "cached": 0.2, "output": 3.2}}`. A kind
            of tokens that is left out costs what `input` or `output` do; `hour` is the price of an hour of audio. Each
            key's `price_multiplier` applies to them too.

    Raises:
        ConfigError: something that was given is wrong; nothing was changed.
        openai.OpenAIError: there is no key at all.
    """

    def __init__(
        self,
        *,
        keys: Sequence[Key | str] | None = None,
        pool: str | None = None,
        router: Router | None = None,
        max_attempts: int | None = None,
        max_wait: float | None = None,
        objective: str | Objective | None = None,
        tenant_weights: Mapping[str, float] | None = None,
        budgets: Sequence[Budget] | None = None,
        ledger: LedgerArgument = UNSET,
        prices: PricesArgument | None = None,
        api_key: str | Callable[[], str] | None = None,
        admin_api_key: str | None = None,
        workload_identity: _sdk.AnyWorkloadIdentity | None = None,
        organization: str | None = None,
        project: str | None = None,
        webhook_secret: str | None = None,
        provider: _sdk.SdkProvider | None = None,
        base_url: str | httpx2.URL | NotGiven | None = _sdk.BASE_URL_NOT_GIVEN,
        data_residency: _sdk.DataResidency | None = None,
        websocket_base_url: str | httpx2.URL | None = None,
        timeout: float | Timeout | NotGiven | None = not_given,
        max_retries: int = _sdk.DEFAULT_MAX_RETRIES,
        default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        http_client: httpx2.Client | None = None,
        _strict_response_validation: bool = False,
        _enforce_credentials: bool = True,
    ) -> None:
        given, keys = hide(keys), None  # an error keeps its local variables
        self._wishes = Routing(max_attempts=max_attempts, max_wait=max_wait)
        self.router = build_router(
            router=router,
            keys=given,
            sdk_credential=api_key is not None or provider is not None or workload_identity is not None,
            pool=pool,
            ledger=ledger,
            prices=prices,
            objective=objective,
            tenant_weights=tenant_weights,
            budgets=budgets,
        )
        super().__init__(
            api_key=api_key if self.router.sdk_credential else _sdk.POOL_API_KEY,
            admin_api_key=admin_api_key,
            workload_identity=workload_identity,
            organization=organization,
            project=project,
            webhook_secret=webhook_secret,
            provider=provider,
            base_url=base_url,
            websocket_base_url=websocket_base_url,
            timeout=timeout,
            max_retries=max_retries,
            default_headers=default_headers,
            default_query=default_query,
            http_client=http_client,
            _strict_response_validation=_strict_response_validation,
            _enforce_credentials=_enforce_credentials,
            **_sdk.if_given(data_residency=data_residency),
        )
        if not self.router.sdk_credential:
            # Those of the environment belong to OPENAI_API_KEY; each key of a pool has its own.
            self.organization, self.project = organization, project
            _sdk.check_pool_client(self)

    def copy(
        self,
        *,
        keys: Sequence[Key | str] | None = None,
        pool: str | None = None,
        router: Router | None = None,
        max_attempts: int | None = None,
        max_wait: float | None = None,
        objective: str | Objective | None = None,
        tenant_weights: Mapping[str, float] | None = None,
        budgets: Sequence[Budget] | None = None,
        ledger: LedgerArgument = UNSET,
        prices: PricesArgument | None = None,
        api_key: str | Callable[[], str] | None = None,
        admin_api_key: str | None = None,
        workload_identity: _sdk.AnyWorkloadIdentity | None = None,
        provider: _sdk.SdkProvider | NotGiven | None = not_given,
        organization: str | None = None,
        project: str | None = None,
        webhook_secret: str | None = None,
        websocket_base_url: str | httpx2.URL | None = None,
        base_url: str | httpx2.URL | NotGiven | None = _sdk.BASE_URL_NOT_GIVEN,
        data_residency: _sdk.DataResidency | None = None,
        timeout: float | Timeout | NotGiven | None = not_given,
        http_client: httpx2.Client | None = None,
        max_retries: int | NotGiven = not_given,
        default_headers: Mapping[str, str] | None = None,
        set_default_headers: Mapping[str, str] | None = None,
        default_query: Mapping[str, object] | None = None,
        set_default_query: Mapping[str, object] | None = None,
        _enforce_credentials: bool | None = None,
        _extra_kwargs: Mapping[str, Any] = {},
    ) -> Self:
        """A client that shares this one's router and connections, with some options changed, as in the SDK.

        One that is given keys, a pool, a router or another credential routes over those instead. `objective` is that
        of the copy's own calls, as in `with_routing`.
        """
        routes_anew = self._routing_arguments(
            keys=keys,
            pool=pool,
            router=router,
            ledger=ledger,
            prices=prices,
            tenant_weights=tenant_weights,
            budgets=budgets,
            other_credential=api_key or workload_identity or (_sdk.is_set(provider) and provider),
        )
        copied = super().copy(
            api_key=api_key,
            admin_api_key=admin_api_key,
            workload_identity=workload_identity,
            provider=provider,
            organization=organization,
            project=project,
            webhook_secret=webhook_secret,
            websocket_base_url=websocket_base_url,
            base_url=base_url,
            timeout=timeout,
            http_client=http_client,
            max_retries=max_retries,
            default_headers=default_headers,
            set_default_headers=set_default_headers,
            default_query=default_query,
            set_default_query=set_default_query,
            _enforce_credentials=_enforce_credentials,
            _extra_kwargs={**routes_anew, **_extra_kwargs},
            **_sdk.if_given(data_residency=data_residency),
        )
        wishes = Routing(max_attempts=max_attempts, max_wait=max_wait, objective=objective)
        copied._wishes = wishes.over(self._wishes)
        return copied

    # The SDK's alias is bound to its own `copy`, which knows nothing of routing.
    with_options = copy

    def request(self, cast_to: Any, options: _sdk.Options, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Send one request, on as many keys in turn as it takes."""
        if not _sdk.is_routed(self, options):
            return super().request(cast_to, options, stream=stream, stream_cls=stream_cls)
        walk = self._first_walk(cast_to, options)
        if walk is not None:
            cast_to, options = walk.start(cast_to)
            with walk.pinned():
                return self.request(cast_to, options, stream=stream, stream_cls=stream_cls)
        send = partial(super().request, cast_to, stream=stream, stream_cls=stream_cls)
        call = self._new_call(options, stream=stream)
        refuse_hedging(call)
        if call.request.needs_owner:
            found = self._find_owners(call, send)
            if found is not None:
                return found
        return self._run(call, send)

    def _run(self, call: Call, send: Callable[[_sdk.Options], Any]) -> Any:
        """Make one call, and tie its route to what comes of it."""
        try:
            result = self._attempts(call, send)
        except BaseException as error:
            raised = call.raising(error)
            if raised is error:
                raise
        else:
            remember_route(result, call.trace)
            return result
        raise raised  # outside of the `except`, so that it does not keep the unmasked error as its context

    def _find_owners(self, call: Call, send: Callable[[_sdk.Options], Any]) -> Any:
        """Find out whose the resources are that a call names; its own result, where it has been the look-up itself."""
        owners, ids = self.router.owners, call.request.mentions
        if self.router.ledger is not None and owners.unknown(ids):
            owners.read(ids)
        if call.request.pinned:
            return None
        for id in owners.sought(ids):
            with Search(owners, id, call, among=None) as search:
                if search.is_mine:
                    found = self._search(search, call, send)
                    if found is not None:
                        return found
                else:
                    search.wait()
        return None

    def _search(self, search: Search, call: Call, send: Callable[[_sdk.Options], Any]) -> Any:
        """Ask the accounts in turn whether they have a resource; the result of the call, if it was asking just that."""
        look = partial(super().request, object)
        while (by := search.next(call)) is not None:
            is_call = by.options is call.options
            try:
                result = self._run(by, send if is_call else look)
            except openai.OpenAIError as error:
                search.missed(by, error)
            else:
                search.found(by)
                return result if is_call else None
        if search.refusal is not None:
            raise search.refusal
        return None

    def _attempts(self, call: Call, send: Callable[[_sdk.Options], Any]) -> Any:
        call.take()
        try:
            return self._attempt(call, send)
        except BaseException as error:
            if not call.ended(error) or call.spent():
                raise
        rest = partial(self._rest, call)
        rest(call.pause())
        return sync_policy(call, rest)(partial(self._attempt, call, send))

    def _attempt(self, call: Call, send: Callable[[_sdk.Options], Any]) -> Any:
        """One attempt: wait for the lease's start, put its key on the options, send."""
        router = self.router
        if call.turn is not None:
            self._wait(call)
        if call.expense is not None:
            self._afford(call, call.expense)
        key = call.lease.key
        secret = None
        if not router.sdk_credential:
            secret = router.cached_secret(key) or router.vault_secrets.load_sync(key.name)
        options = call.begin(secret)
        token = _sdk.current_exchange.set(call.exchange)
        try:
            return send(options)
        finally:
            _sdk.current_exchange.reset(token)

    def _wait(self, call: Call) -> None:
        """Wait for a lease: until the time that the turn names, or until woken because something has changed."""
        clock = self.router.clock
        signal = ThreadSignal()
        while (turn := call.turn) is not None:
            turn.wake = signal.set
            call.look()
            if call.turn is not turn:
                continue
            began = clock.monotonic()
            clock.sleep_sync(max(turn.look_at - began, 0.0), signal)
            call.trace.waited_s += clock.monotonic() - began

    def _afford(self, call: Call, expense: Expense) -> None:
        """Wait until what the attempt can cost is reserved in all budgets that it touches."""
        if expense.must_load(call.lease):
            expense.load(call.lease)
        if expense.at_once(call.lease):
            return
        clock, signal = self.router.clock, ThreadSignal()
        try:
            while (pause := expense.afford(call, signal.set)) is not None:
                if call.turn is not None:
                    self._wait(call)
                elif pause > 0.0:
                    began = clock.monotonic()
                    clock.sleep_sync(pause, signal)
                    call.trace.waited_s += clock.monotonic() - began
        finally:
            expense.leave(signal.set)

    def _rest(self, call: Call, seconds: float) -> None:
        """Wait before another attempt: with one key as the SDK does, else as long as the policy says."""
        if self.router.is_single:
            self._sleep_as_sdk(**call.sdk_wait())
        elif seconds > 0:
            self.router.clock.sleep_sync(seconds)

    def close(self) -> None:
        """Close the connections, as in the SDK, and write what is still to be recorded."""
        super().close()
        self.router.flush()
