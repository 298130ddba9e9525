"""Calls that wait for capacity, in the order in which they are to get it.

Under contention each tenant gets capacity in proportion to its weight, whatever the others ask for (start-time
fair queueing: P. Goyal et al., SIGCOMM 1996); a tenant's own calls go first come, first served. Interactive
calls go before batch work.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from heapq import heappop, heappush
from itertools import chain
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from .model import RouteRequest

if TYPE_CHECKING:
    from .candidate import Choice
    from .lanes import Lane
    from .quota import Reservation
    from .select import History


AHEAD = 0.1
"""Share of the service by which time goes on though all who are served have come just now."""
REMEMBERED = 1024
"""Tenants of whom no call waits any more that are kept in mind, at most: their names come from callers."""

_by_order = itemgetter(0)


def size_of(request: RouteRequest) -> float:
    """What a call asks of a pool, in tokens."""
    estimate = request.estimate()
    return 1.0 + max(estimate.prompt, estimate.answer)


def size_kind(request: RouteRequest) -> int:
    """Calls of one kind differ in size by a factor of two at most."""
    return int(size_of(request)).bit_length()


def _nobody() -> None:
    """Wakes nobody: nobody waits yet."""


class Turn:
    """A call that waits. Times are monotonic seconds."""

    __slots__ = (
        *("deadline", "granted", "history", "hold", "kind", "lane", "look_at", "number", "order", "queued", "request"),
        *("placed", "share", "since", "wake", "weight", "work"),
    )

    def __init__(
        self, request: RouteRequest, history: History, number: int, since: float, deadline: float, lane: Lane
    ) -> None:
        self.request = request
        self.history = history
        self.number = number
        self.since = since
        self.deadline = deadline
        self.lane = lane
        self.look_at = deadline
        """When to look again at the latest, unless woken."""
        self.wake: Callable[[], None] = _nobody
        """Called, on any thread, when it is to look again."""
        self.granted: Any = None
        """The lease that it has got, or the refusal."""
        self.hold: Hold | None = None
        """The account whose next capacity is kept for it."""
        self.work = size_of(request)
        """What it asks of the pool, in tokens."""
        self.share = 0.0
        """The same relative to its tenant's weight, where that is counted."""
        self.weight = 1.0
        """Its tenant's."""
        self.placed = False
        """It is placed by its size, among accounts of different shape."""
        self.kind = 0
        """Calls of one kind are of about one size; 0: of any, but they have tried some accounts already."""
        self.order: tuple[bool, float, int] = (False, 0.0, 0)
        self.queued = False

    def start_anew(self, lane: Lane) -> None:
        """Wait in another lane: the pool has been replaced."""
        self.lane, self.hold, self.queued, self.look_at, self.placed = lane, None, False, self.deadline, False


class Hold:
    """An account's next capacity, reserved for a call that waits for it."""

    __slots__ = ("choice", "quota", "reservation", "start", "turn")

    def __init__(self, turn: Turn, choice: Choice, reservation: Reservation) -> None:
        self.turn = turn
        self.choice = choice
        self.quota = choice.candidate.quota
        self.reservation = reservation
        self.start = choice.start

    def give_up(self) -> None:
        """Give back what was reserved."""
        self.end()
        self.quota.give_back(self.reservation)

    def end(self) -> None:
        """It waits no longer."""
        self.quota.hold(self.reservation, -1.0)
        self.quota.debtor = self.turn.hold = None


class FairQueue:
    """Those that wait, across tenants."""

    def __init__(self) -> None:
        self._lines: dict[int, list[tuple[tuple[bool, float, int], Turn]]] = {}
        """A heap for each kind of call."""
        self._finish: dict[tuple[bool, str], float] = {}
        """By urgency and tenant: the virtual time at which all that it asked for will have been served."""
        self._last: dict[tuple[bool, str], float] = {}
        """By urgency and tenant: where the last of its calls that wait stands."""
        self._virtual = {True: 0.0, False: 0.0}
        """By urgency: where the last call stood that was served."""
        self._sequence = 0
        self._backlog: dict[tuple[bool, str], list[float]] = {}
        """By urgency and tenant: how many wait, their work, and the tenant's weight."""
        self._totals = {True: [0.0, 0.0, 0.0], False: [0.0, 0.0, 0.0]}
        """By urgency: the same of all tenants."""

    def __bool__(self) -> bool:
        return bool(self._backlog)

    def __len__(self) -> int:
        return int(self._totals[True][0] + self._totals[False][0])

    def turns(self) -> list[Turn]:
        """Those that wait, first come first."""
        return [turn for _, turn in sorted(chain(*self._lines.values()), key=_by_order) if turn.queued]

    def push(self, turn: Turn, weight: float) -> None:
        """Join: behind the calls of the same tenant, and by its share among the others."""
        if not self._backlog:  # a new time of contention: old debts are forgotten
            self._finish.clear()
            self._virtual = {True: 0.0, False: 0.0}
        elif len(self._finish) > 2 * len(self._backlog) + REMEMBERED:  # who waits no longer owes one call at most
            self._finish = {place: at for place, at in self._finish.items() if place in self._backlog}
        turn.weight = weight
        place, turn.share = _place(turn), turn.work / weight
        start = max(self._virtual[turn.request.urgent], self._finish.get(place, 0.0), self._last.get(place, 0.0))
        self._finish[place] = start + turn.share
        self._last[place] = start
        self._sequence += 1
        turn.order = (not turn.request.urgent, start, self._sequence)
        self.push_back(turn)

    def push_back(self, turn: Turn) -> None:
        """Take one's old place again."""
        turn.queued = True
        heappush(self._lines.setdefault(turn.kind, []), (turn.order, turn))
        self._count(turn, 1)

    def put_first(self, turn: Turn) -> None:
        """Come back, before all others of its urgency: its turn had come, but the account has closed."""
        self._sequence += 1
        turn.order, turn.share = (not turn.request.urgent, -inf, self._sequence), 0.0
        self.push_back(turn)

    def pop(self, passed: Container[int] = ()) -> Turn | None:
        """Take out who is next (see `peek`); None if nobody is."""
        turn = self.peek(passed)
        if turn is not None:
            heappop(self._lines[turn.kind])
            turn.queued = False
            self._count(turn, -1)
        return turn

    def served(self, turn: Turn) -> None:
        """A call that was taken out has got its capacity: time, as the queue counts it, goes on.

        It goes on by a part of what each tenant could have been served meanwhile, so that those who come newly do not
        for ever go before all who wait for their second call, however many come.
        """
        urgent, start = turn.request.urgent, turn.order[1]
        if start > -inf:
            shared = max(self._totals[urgent][2], turn.weight)
            self._virtual[urgent] = max(self._virtual[urgent], start + AHEAD * turn.work / shared)
        self._forget_last(turn)

    def peek(self, passed: Container[int] = ()) -> Turn | None:
        """Who is next, but for the kinds that are passed over; without taking it out."""
        heads = [self._lines[kind][0] for kind in list(self._lines) if kind not in passed and self.has(kind)]
        return min(heads, key=_by_order)[1] if heads else None

    def has(self, kind: int) -> bool:
        """Whether a call of this kind waits."""
        line = self._lines.get(kind)
        while line:
            order, turn = line[0]
            if turn.queued and order == turn.order:
                return True
            heappop(line)
        self._lines.pop(kind, None)
        return False

    def remove(self, turn: Turn) -> None:
        """Leave without having been served: nothing has been used."""
        if turn.queued:
            turn.queued = False
            place = _place(turn)
            self._finish[place] = self._finish.get(place, 0.0) - turn.share
            self._count(turn, -1)
            self._forget_last(turn)

    def _forget_last(self, turn: Turn) -> None:
        if (place := _place(turn)) not in self._backlog:
            self._last.pop(place, None)

    def ahead(self, request: RouteRequest, weight: float) -> tuple[float, float]:
        """How many calls, and how much work, are served before one more of this tenant: at most all there are."""
        urgent = request.urgent
        before = self._totals[True] if not urgent else _NOTHING
        calls, work, weights = self._totals[urgent]
        count, owed, _ = self._backlog.get((urgent, request.tenant), _NOTHING)
        share = max(weights, weight) / weight if count else 1.0 + weights / weight
        return before[0] + min(calls, (count + 1.0) * share - 1.0), before[1] + min(work, owed * share)

    def _count(self, turn: Turn, sign: int) -> None:
        place = _place(turn)
        totals = self._totals[turn.request.urgent]
        backlog = self._backlog.get(place)
        if backlog is None:
            backlog = self._backlog[place] = [0.0, 0.0, turn.weight]
            totals[2] += turn.weight
        for counted in (backlog, totals):
            counted[0] += sign
            counted[1] += sign * turn.work
        if backlog[0] < 0.5:
            totals[2] -= backlog[2]
            del self._backlog[place]


_NOTHING = [0.0, 0.0, 0.0]


def _place(turn: Turn) -> tuple[bool, str]:
    return turn.request.urgent, turn.request.tenant
