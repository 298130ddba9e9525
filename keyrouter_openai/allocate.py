"""Who gets which key, and when: leases are taken, waited for, refused and given back.

`Router` calls this under its lock; nothing here waits, sends or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from .core.affinity import Warmth
from .core.candidate import Candidate, Choice
from .core.dispatch import Dispatcher
from .core.lanes import SCAN, Lane
from .core.model import RouteRequest
from .core.objectives import OBJECTIVES, Objective
from .core.queue import Hold, Turn, size_kind
from .core.quota import Reservation
from .core.retry_budget import RetryBudget
from .core.select import History, Refusal
from .core.survey import survey
from .lease import Lease
from .pool import Pool
from .protocols import Clock
from .sinks.log import logger

REASONS = 100
"""Keys for which an error says why they cannot serve: an error of ten thousand lines helps nobody."""
WARM_WAIT = 1.0
"""Seconds that a call may wait for an account whose prompt cache holds all of its prompt; for a part, less."""
SPARE = 0.1
"""Share of an account's limits that hedges leave alone."""


class Guarded:
    """A caller's own objective: what it raises is logged once, and harms no call but by a worse choice."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._told = False

    def score(self, candidate: Candidate, request: RouteRequest, now: float) -> float:
        """The objective's own score, or 0."""
        try:
            score = self.objective.score(candidate, request, now)
            return score if score == score else 0.0  # not a number: nothing could be compared with it
        except Exception:  # noqa: BLE001  a user's code may raise anything
            if not self._told:
                self._told = True
                logger.exception("an objective failed, and goes on without a say; this is told once")
            return 0.0


class Allocator:
    """Brings calls and keys together.

    Args:
        pool: the keys, accounts and lanes.
        objective: how to rank accounts; None is fairness.
        weights: of tenants, where they are not 1.
        clock, rng: time and chance.
    """

    def __init__(
        self, pool: Pool, *, objective: Objective | None, weights: Mapping[str, float], clock: Clock, rng: Random
    ) -> None:
        self._pool = pool
        self._objective = objective if objective is None or objective in OBJECTIVES.values() else Guarded(objective)
        self._guarded: Guarded | None = None
        """The last that a call brought itself."""
        self._weights = weights
        self._clock = clock
        self._rng = rng
        self._warmth = Warmth()
        self._epoch = 0
        """Counts the forks: leases of an earlier epoch are another process's."""
        self._dispatcher = Dispatcher(self._choose_for, self._grant, self._refuse, pool.open)
        self._waiting: dict[Lane, None] = {}
        """Lanes in which calls wait."""
        self.retries = RetryBudget(clock.monotonic())

    @property
    def is_single(self) -> bool:
        """Whether there is but one key: then nothing can be chosen, and it behaves as the SDK does."""
        return len(self._pool.keys) == 1

    def take(
        self, request: RouteRequest, history: History, *, number: int, now: float, max_wait: float
    ) -> Lease | Turn | Refusal:
        """See `Router.acquire`."""
        if number == 1:
            self.retries.deposit()
        lane = self._pool.lane(request, now)
        if self.is_single:
            return self._lease_single(lane, request, number, now)
        kind = 0 if history.tried else size_kind(request)
        must_queue = bool(lane.queue) and (lane.queue.has(0) or lane.queue.has(kind))
        choice = None if must_queue else self._choose(lane, request, history, now, max_wait)
        if choice is not None and choice.start <= now:
            return self._lease(lane, choice, None, request, number, now)
        first = choice.start if choice is not None else now if lane.has_open else lane.opens_at()
        if len(lane.candidates) <= SCAN or (choice is None and (history.tried or request.pinned)):
            surveyed = survey(lane.candidates.values(), request, history, now, 0)
            first = surveyed.first
            if surveyed.all_denied and (denied := lane.choose_denied(request, history, now)) is not None:
                return self._lease(lane, denied, None, request, number, now)
        # A call whose turn had come before is the next: it waits for no other.
        starts = first if number > 1 else self._foretell(lane, request, first, now, max_wait)
        late = max_wait <= 0.0 or starts > now + max_wait
        if late and not (lane.queue and lane.has_open):
            return self._refusal(lane, request, history, now)
        turn = Turn(request, history, number, now, now + max_wait, lane)
        turn.kind = kind
        turn.placed = kind > 0 and lane.placement.matters and self._objective_of(request) is None
        self._waiting[lane] = None
        self._dispatcher.join(turn, choice, self._weight(request.tenant), now)
        if turn.queued:
            self.go_on(now)
        if late and turn.granted is None:  # what is open, and of no use to those that wait, is of none to it either
            self._dispatcher.leave(turn)
            return self._refusal(lane, request, history, now)
        return turn if turn.granted is None else turn.granted

    def look(self, turn: Turn, now: float) -> None:
        """Grant or refuse a call that waits, if it is time."""
        if turn.granted is None:
            self.go_on(now)
        if turn.granted is None and now >= turn.deadline:
            self._dispatcher.leave(turn)
            self._refuse(turn, now)
            self.go_on(now)

    def leave(self, turn: Turn) -> None:
        """A call waits no longer: give back its place."""
        if turn.granted is None:
            self._dispatcher.leave(turn)

    def replace_turns(self, turns: list[Turn], now: float) -> None:
        """The pool has changed under calls that wait: place them anew."""
        self._waiting.clear()
        for turn in turns:
            turn.start_anew(self._pool.lane(turn.request, now))
            self._waiting[turn.lane] = None
            self._dispatcher.join(turn, None, self._weight(turn.request.tenant), now)
        self._pool.changed = True
        self.go_on(now)

    def spare(self, request: RouteRequest, history: History, *, number: int, now: float) -> Lease | None:
        """A lease for a second attempt beside the first: on another account with room to spare, or none."""
        lane = self._pool.lane(request, now)
        if lane.queue or lane.holds:
            return None
        choice = lane.choose(request, history, now, self._rng, self._objective_of(request), 0.0)
        if choice is None or choice.start > now or choice.candidate.name in history.tried:
            return None
        if not choice.candidate.quota.has_left(SPARE, choice.amounts, now) or not self.retries.withdraw(now):
            return None
        return self._lease(lane, choice, None, request, number, now)

    def give_back(self, lease: Lease, now: float, *, unused: bool) -> bool:
        """A lease has come to its end; False if it had before."""
        if lease.settled or lease.epoch != self._epoch:
            return False
        lease.settled = True
        lease.state.in_flight -= 1
        lease.candidate.standing.in_flight -= 1
        lease.quota.in_flight -= 1
        if unused:
            lease.quota.give_back(lease.reservation)
            self._pool.changed = True
        if lease.decides_key:
            lease.state.canary = False
        if lease.decides_account:
            lease.account.canary = False
        if lease.quota.concurrent is not None and isinstance(lease.quota.debtor, Hold):
            self._dispatcher.hurry(lease.quota.debtor, now)
        return True

    def forget_leases(self) -> None:
        """In the child of a fork nothing is out and nobody waits: those are the parent's calls."""
        self._epoch += 1
        self._waiting.clear()
        self._pool.forget_leases()

    def go_on(self, now: float) -> None:
        """Something has come back or changed: let those go who waited for it."""
        if self._pool.changed:
            self._pool.changed = False
            for lane in self._waiting:
                self._dispatcher.recheck(lane, now)
        self._dispatcher.dispatch(self._waiting, now)
        for lane in [lane for lane in self._waiting if not lane.queue and not lane.holds]:
            del self._waiting[lane]

    @property
    def anyone_waits(self) -> bool:
        """Whether any call waits."""
        return bool(self._waiting)

    # -- choosing

    def _choose_for(self, turn: Turn, now: float) -> Choice | None:
        return self._choose(turn.lane, turn.request, turn.history, now, turn.deadline - now)

    def _choose(
        self, lane: Lane, request: RouteRequest, history: History, now: float, patience: float
    ) -> Choice | None:
        """The account whose prompt cache is warm, where that costs next to no wait; else by the objective."""
        warm: Choice | None = None
        if len(lane.candidates) > 1 and (prefixes := request.prefixes()):
            for name, share in self._warmth.best(prefixes, now):
                if name in history.tried:
                    continue
                found = lane.try_account(name, request, history, now)
                if found is not None and found.start <= now + WARM_WAIT * share:
                    if found.start <= now:
                        return found
                    warm = warm or found
        return warm or lane.choose(request, history, now, self._rng, self._objective_of(request), patience)

    def _objective_of(self, request: RouteRequest) -> Objective | None:
        given = request.objective
        if given is None:
            return self._objective
        if isinstance(given, str):
            return OBJECTIVES[given]
        if self._guarded is None or self._guarded.objective is not given:
            self._guarded = Guarded(given)
        return self._guarded

    def _foretell(self, lane: Lane, request: RouteRequest, first: float, now: float, max_wait: float) -> float:
        """When a call would start that could start at `first` if nobody waited, and now joins the queue.

        It is told as much for a small call as for a large one that needs long to be refilled, or the small ones
        would fill the queue up to the last second, and no large one would ever start in time.
        """
        if not lane.queue:
            return first
        calls, work = lane.queue.ahead(request, self._weight(request.tenant))
        need = lane.backlog.longest_need(first - now, now)
        queued = lane.backlog.waits(lane.candidates.values(), calls, work, now)
        return now + max(first - now, min(need, max_wait / 4)) + queued

    def _grant(self, turn: Turn, choice: Choice, reservation: Reservation | None) -> None:
        now = self._clock.monotonic()
        turn.granted = self._lease(turn.lane, choice, reservation, turn.request, turn.number, now)
        turn.wake()

    def _refuse(self, turn: Turn, now: float) -> None:
        turn.granted = self._refusal(turn.lane, turn.request, turn.history, now)
        turn.wake()

    def _refusal(self, lane: Lane, request: RouteRequest, history: History, now: float) -> Refusal:
        surveyed = survey(lane.candidates.values(), request, history, now, REASONS)
        obstacles = self._pool.unfit(request, REASONS) | surveyed.obstacles
        return Refusal(obstacles, self._foretell(lane, request, surveyed.first, now, 0.0))

    def _lease_single(self, lane: Lane, request: RouteRequest, number: int, now: float) -> Lease | Refusal:
        """With one key nothing is chosen and nothing waited for: what is known of it does not matter."""
        for candidate in lane.candidates.values():
            return self._lease(lane, Choice(candidate, candidate.keys[0], (), now), None, request, number, now)
        return self._refusal(lane, request, History(), now)

    def _lease(
        self,
        lane: Lane,
        choice: Choice,
        reservation: Reservation | None,
        request: RouteRequest,
        number: int,
        now: float,
    ) -> Lease:
        candidate, state = choice.candidate, choice.key
        quota, account = candidate.quota, candidate.account
        if reservation is None:
            reservation = quota.take(choice.amounts, now)
        lane.granted(choice, self._rng)
        state.in_flight += 1
        candidate.standing.in_flight += 1
        quota.in_flight += 1
        lease = Lease(request, number, self._pool.settings[state.name], now, choice, reservation, self._epoch)
        if state.health.probation is not None and not state.canary:
            state.canary = lease.decides_key = True
        if account.probation is not None and not account.canary:
            account.canary = lease.decides_account = True
        if candidate.host.breakers:
            for breaker in candidate.host.breakers_for(request):
                breaker.sent(now)
        if len(lane.candidates) > 1 and (prefixes := request.prefixes()):
            self._warmth.used(prefixes, account.name, state.provider, now)
        return lease

    def _weight(self, tenant: str) -> float:
        return self._weights.get(tenant, 1.0)
