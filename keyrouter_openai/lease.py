"""Permission to make one attempt, and what is recorded and told of the attempt that was made with it."""

from __future__ import annotations

from .core.budget import Spending
from .core.candidate import Choice
from .core.model import Attempt, Fault, Outcome, RouteRequest, Usage
from .core.quota import Reservation
from .events import AttemptEnded, AttemptStarted
from .keys import Key
from .prices import Cost


class Lease:
    """Permission to make one attempt with one key, from monotonic time `start` on."""

    __slots__ = (
        *("account", "candidate", "decides_account", "decides_key", "epoch", "key", "number", "quota", "request"),
        *("begun", "host_told", "reservation", "settled", "spending", "start", "state"),
    )

    def __init__(
        self,
        request: RouteRequest,
        number: int,
        key: Key,
        start: float,
        choice: Choice,
        reservation: Reservation,
        epoch: int,
    ) -> None:
        self.request = request
        self.number = number
        """Counts the attempts of the call, from 1."""
        self.key = key
        self.start = start
        self.state = choice.key
        self.candidate = choice.candidate
        self.account = choice.candidate.account
        self.quota = choice.candidate.quota
        self.reservation = reservation
        self.epoch = epoch
        """In which process it was given (see `Allocator.forget_leases`)."""
        self.decides_key = False
        """This attempt is the canary that decides whether its key is good again."""
        self.decides_account = False
        self.host_told = False
        """Its provider's breaker knows already that this attempt goes well."""
        self.begun: Attempt | None = None
        """What is on record of it while it is under way."""
        self.spending: Spending | None = None
        """What is reserved for it in budgets, if it touches any."""
        self.settled = False


def attempt_started(lease: Lease, pool: str, at: float) -> AttemptStarted:
    """The event that an attempt is about to be sent."""
    request = lease.request
    account = lease.state.account.name
    return AttemptStarted(at, pool, request.id, lease.number, lease.key.name, account, request.endpoint, request.model)


def attempt_ended(lease: Lease, outcome: Outcome, pool: str, at: float) -> AttemptEnded:
    """The event of what an attempt came to."""
    request = lease.request
    return AttemptEnded(
        at,
        pool,
        request.id,
        lease.number,
        lease.key.name,
        lease.state.account.name,
        request.endpoint,
        request.model,
        outcome.fault,
        outcome.status,
        outcome.detail,
        outcome.seconds,
    )


def outcome_if_killed(lease: Lease) -> Outcome:
    """What an attempt that is about to be sent comes to if its process is killed: it may be served, and billed."""
    usage = Usage(prompt=lease.request.estimate().prompt, estimated=True)
    return Outcome(Fault.ABANDONED, detail="killed", usage=usage)


def attempt_of(lease: Lease, outcome: Outcome, cost: Cost, *, pool: str, started_at: float, waited_s: float) -> Attempt:
    """The row of the ledger for an attempt."""
    request = lease.request
    return Attempt(
        at=started_at,
        request_id=request.id,
        number=lease.number,
        pool=pool,
        key=lease.key.name,
        account=lease.state.account.name,
        provider=lease.key.provider,
        endpoint=request.endpoint,
        outcome=outcome.fault,
        model=request.model,
        served_model=outcome.served_model,
        status=outcome.status,
        detail=outcome.detail,
        stream=request.stream,
        service_tier=outcome.service_tier,
        usage=outcome.usage,
        cost_microusd=cost.microusd,
        price_source=cost.source,
        first_byte_s=outcome.first_byte_s,
        seconds=outcome.seconds,
        waited_s=waited_s,
        provider_request_id=outcome.provider_request_id,
        tags=request.tags,
        budgets=lease.spending.charges if lease.spending is not None else (),
    )
