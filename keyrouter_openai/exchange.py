"""One attempt on the wire, from the lease to its settlement, which happens exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from weakref import ref

from pydantic import SecretStr

from .core.body import Receipt, find_receipt
from .core.limits import read_limits
from .core.model import Failure, Fault, Outcome, Reading, Usage
from .core.resources import is_shown_by_use, ran_by_itself, shown
from .lease import Lease
from .owners import RECORD_S
from .providers import PROVIDERS
from .route import Trace, TracedAttempt, annotate
from .router import Router

_REQUEST_IDS = (b"x-request-id", b"request-id", b"apim-request-id")


class Exchange:
    """What is known of an attempt while it runs, and the one place that settles it."""

    __slots__ = (
        "__weakref__",
        "_heard",
        "_organization",
        "_project",
        "_readings",
        "_reads",
        "_request_id",
        "_router",
        "_secret",
        "_settled",
        "_started",
        "_started_at",
        "_trace",
        "_waited_s",
        "asked_usage",
        "choices",
        "first_byte_s",
        "hold",
        "lasts",
        "lease",
        "shows",
        "status",
    )

    def __init__(
        self,
        router: Router,
        lease: Lease,
        trace: Trace,
        secret: SecretStr | None,
        *,
        asked_usage: bool,
        hold: bool,
        choices: int,
        reads: bool,
        shows: bool,
        lasts: bool,
    ) -> None:
        self.lease = lease
        self._secret = secret
        self.asked_usage = asked_usage
        """The usage chunk of this stream was asked for by the router and is to be hidden."""
        self.hold = hold
        """Start-up events of this stream may be held back."""
        self.choices = choices
        """How many choices the stream of a chat will bring."""
        self._reads = reads
        """The call asks for what is there, and has the provider do no work."""
        self.shows = shows
        """The answer shows resources of the account that gives it."""
        self.lasts = lasts
        """Whose they are is to be put on record (`record_owner`) when the answer is whole."""
        self.status: int | None = None
        self._readings: Sequence[Reading] = ()
        self._heard = False
        """The router knows what the headers say of limits."""
        self._settled = False
        self._router = router
        self._trace = trace
        self._waited_s = trace.waited_s
        self._started = router.clock.monotonic()
        self._started_at = router.clock.time()
        self.first_byte_s: float | None = None
        """Seconds from sending to the headers of the answer, once they are here."""
        self._organization: str | None = None
        self._project: str | None = None
        self._request_id: str | None = None
        trace.key, trace.account, trace.provider = lease.key.name, lease.account.name, lease.key.provider
        _under_way.add(ref(self, _under_way.discard))
        router.started(lease, started_at=self._started_at, waited_s=self._waited_s)

    @property
    def retries_taken(self) -> int:
        """The attempts before this one, as the SDK shows them on raw responses."""
        return self.lease.number - 1

    @property
    def settled(self) -> bool:
        """Whether the attempt has come to its end."""
        return self._settled

    def classify(self, status: int, headers: Mapping[str, str], body: bytes) -> Failure:
        """What an error answer of this attempt's provider means."""
        from .core.classify import classify  # compiles its table: nothing that a call which succeeds should pay for

        now = self._router.clock.time()
        return classify(provider=self.lease.key.provider, status=status, headers=headers, body=body, now=now)

    def answered(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The answer's status and raw headers have come."""
        self.status = status
        self.first_byte_s = self._router.clock.monotonic() - self._started
        if not self._router.is_single:
            self._readings = read_limits(headers, provider=self.lease.key.provider, now=self._router.clock.time())
        named = {name.lower(): value for name, value in headers}
        self._organization = self._text(named.get(b"openai-organization", b"")) or None
        self._project = self._text(named.get(b"openai-project", b"")) or None
        self._request_id = next((self._text(named[name]) for name in _REQUEST_IDS if name in named), None)

    def under_way(self) -> None:
        """The body of the answer is still to come: what its headers say of limits is most worth now."""
        if self._readings or self.lease.state.host.breakers:
            self._router.heard(self.lease, self._readings)
            self._heard = True

    def masked(self, data: bytes) -> bytes:
        """Bytes of an answer without the attempt's own credential: some providers repeat it."""
        return data if self._secret is None else data.replace(self._secret.get_secret_value().encode(), b"***")

    def _text(self, value: bytes) -> str:
        return self.masked(value).decode("latin-1")

    def succeed(self, body: bytes) -> None:
        """The whole answer is here."""
        self._settle(Fault.NONE, self._of_this_call(find_receipt(body), body))
        if self.shows:
            self.show(body)

    def show(self, answer: object) -> None:
        """Learn whose the resources are that the answer shows: its bytes, or JSON that came with a stream."""
        self._router.owners.learn(shown(self.lease.request.endpoint, answer), self.lease.state)

    def record_owner(self) -> None:
        """Wait, for a moment at most, until it is in the ledger whose the resources are. Blocks."""
        if self._router.ledger is not None:
            self._router.ledger.flush(RECORD_S)

    def opened(self) -> None:
        """A stream has brought its first content."""
        self._router.proved(self.lease)

    def end_stream(self, fault: Fault, receipt: Receipt, events: int, cause: Failure | None = None) -> None:
        """A stream is over, for good or ill.

        `events` estimates its tokens where usage is not known; `cause` is what its last event said of a failure.
        """
        # Of responses only those in the background can be followed again.
        answer = b'"background":true' if self.lease.request.stream else b""
        self._settle(fault, self._of_this_call(self._estimated(receipt, events), answer), failure=cause)

    def end_session(self, fault: Fault, receipt: Receipt, cause: Failure | None) -> None:
        """A websocket is closed, for good or ill."""
        self._settle(fault, self._estimated(receipt, 0), failure=cause)

    def fail(self, failure: Failure) -> None:
        """The attempt failed before the caller had anything of it."""
        self.status = failure.status or self.status
        abandoned = failure.fault is Fault.ABANDONED  # it may have been served, and billed, all the same
        self._settle(failure.fault, Receipt(self._estimate(0)) if abandoned else Receipt(), failure=failure)

    def explain(self, error: BaseException) -> None:
        """Note on an error that comes while the answer is read how the call was routed."""
        annotate(error, self._trace)

    def orphaned(self) -> None:
        """The caller dropped an answer without reading or closing it. Safe to call from a finalizer."""
        if not self.settled:
            self._router.abandon(lambda: self.end_stream(Fault.ABANDONED, Receipt(), 0))

    def _of_this_call(self, receipt: Receipt, answer: bytes) -> Receipt:
        """A receipt without what another call has on record: that is shown again whenever somebody asks for it."""
        request, usage = self.lease.request, receipt.usage
        if usage is None or not (self._reads or request.endpoint.endswith("/cancel")):
            return receipt
        is_new = not usage.estimated and ran_by_itself(request.endpoint, answer)
        if is_new and self._router.owners.first_end(request.mentions):
            return receipt
        return receipt._replace(usage=None, stated_microusd=None)

    def _estimated(self, receipt: Receipt, events: int) -> Receipt:
        return receipt if receipt.usage is not None else receipt._replace(usage=self._estimate(events))

    def _estimate(self, events: int) -> Usage:
        return Usage(prompt=self.lease.request.estimate().prompt, completion=events, estimated=True)

    def _settle(self, fault: Fault, receipt: Receipt, *, failure: Failure | None = None) -> None:
        if self._settled:
            return
        self._settled = True
        _under_way.discard(ref(self))
        lease, trace = self.lease, self._trace
        seconds = self._router.clock.monotonic() - self._started
        outcome = Outcome(
            fault,
            self.status,
            wait=failure.wait if failure else None,
            detail=failure.detail if failure else "",
            known=failure.known if failure else True,
            limit=failure.limit if failure else None,
            dimension=failure.dimension if failure else None,
            period=failure.period if failure else None,
            shared=failure.shared if failure else None,
            readings=self._readings,
            heard=self._heard,
            cause=failure.fault if failure else Fault.NONE,
            usage=receipt.usage,
            stated_microusd=receipt.stated_microusd if PROVIDERS[lease.key.provider].states_cost else None,
            served_model=receipt.model and self.masked(receipt.model.encode()).decode(),
            service_tier=receipt.tier,
            provider_request_id=self._request_id,
            first_byte_s=self.first_byte_s,
            seconds=seconds,
            organization=self._organization,
            project=self._project,
        )
        self._router.settle(lease, outcome, started_at=self._started_at, waited_s=self._waited_s)
        if fault is Fault.NONE and lease.request.mentions:
            self._router.owners.learn(filter(is_shown_by_use, lease.request.mentions), lease.state)
        trace.account, trace.usage = lease.state.account.name, receipt.usage
        used = outcome.usage is not None or outcome.stated_microusd is not None
        find_cost = partial(self._router.prices.cost, lease.key, lease.request.model, outcome, self._started_at)
        trace.attempts.append(
            TracedAttempt(
                lease.key.name,
                lease.state.account.name,
                fault,
                self.status,
                outcome.detail,
                seconds,
                find_cost=find_cost if used else None,
            )
        )


_under_way: set[ref[Exchange]] = set()
"""Not a `WeakSet`, which cannot be gone through while another thread adds to it."""


def abandon_all() -> None:
    """The process ends: settle what is under way in its threads, and the streams that were left open."""
    for reference in _under_way.copy():
        if (exchange := reference()) is not None:
            exchange.fail(Failure(Fault.ABANDONED, exchange.status or 0, detail="exit"))
