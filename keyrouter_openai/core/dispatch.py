"""Who of those that wait goes when: the calls of a lane and its accounts are brought together.

Each account keeps its next capacity for one call at a time, which reserves it and so knows when it starts. All
others queue, in the order of `FairQueue`. So no large call is starved by small ones, and none holds up the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import inf
from operator import attrgetter

from .candidate import Choice
from .lanes import Lane
from .queue import Hold, Turn
from .quota import Reservation
from .select import is_denied, obstacle, trouble
from .state import AccountState
from .survey import survey

SKIPPED, SKIPPED_TRIED = 8, 64
"""Calls of one size, and calls that have tried some accounts, that cannot use what is free, behind which others of
the same are looked for."""
SOONEST = 4
"""Calls with capacity reserved, the next ones, for which it is checked whether it has come early."""
SURVEYED = 16
"""Calls that have tried some accounts for which it is looked, one by one, whether they wait in vain."""
MOVED = 8
"""Calls with capacity reserved that are looked at again when another account has room."""
GAIN = 1e-3
"""Seconds by which another account must be earlier for a waiting call to move there."""
NOW = 1e-6
"""Seconds; timers are not more exact."""
LATE = 1e-3
"""Seconds by which a reservation may be off."""

_by_work = attrgetter("work")

Grant = Callable[[Turn, Choice, Reservation | None], None]
"""Lets a call go: with what was reserved for it, or what is to be taken now."""
Refuse = Callable[[Turn, float], None]
"""Sends a call away that would wait in vain."""
Choose = Callable[[Turn, float], Choice | None]
"""The best that can be done for a call at a time."""


class Dispatcher:
    """Brings waiting calls and capacity together. Decides and reserves; `grant` and `refuse` do the rest."""

    def __init__(self, choose: Choose, grant: Grant, refuse: Refuse, reopen: Callable[[AccountState], None]) -> None:
        self._choose = choose
        self._grant = grant
        self._refuse = refuse
        self._reopen = reopen
        self._sequence = 0

    def join(self, turn: Turn, choice: Choice | None, weight: float, now: float) -> None:
        """Have a call wait: for the account that can start it first, if that is free to wait for, or in the queue."""
        lane = turn.lane
        if (
            choice is not None
            and not lane.queue
            and choice.start <= turn.deadline
            and self._is_first(turn, choice, now)
        ):
            self._reserve(turn, choice, now)
        elif turn.number > 1:  # its turn had come, and nothing came of it
            lane.queue.put_first(turn)
        else:
            lane.queue.push(turn, weight)

    def leave(self, turn: Turn) -> None:
        """A call waits no longer: give back its place."""
        turn.lane.queue.remove(turn)
        if turn.hold is not None:
            self._give_up(turn.hold)

    def dispatch(self, lanes: Iterable[Lane], now: float) -> None:
        """Let all go that can, and tell the others when to look again.

        Lanes may share accounts: the one whose next call has come first has the first choice.
        """
        lanes = list(lanes)
        for lane in lanes:
            self._honour(lane, now)
        if len(lanes) > 1:
            lanes.sort(key=_since)
        for lane in lanes:
            self._serve(lane, now)

    def _serve(self, lane: Lane, now: float) -> None:
        skipped: list[Turn] = []
        misses: dict[int, int] = {}
        passed: set[int] = set()
        while (turn := lane.queue.peek(passed)) is not None:
            choice = self._choose(turn, now)
            if choice is None:
                if not lane.has_open:
                    break
                lane.queue.pop(passed)
                skipped.append(turn)  # what is open is of no use to it
                misses[turn.kind] = misses.get(turn.kind, 0) + 1
                if misses[turn.kind] >= (SKIPPED if turn.kind else SKIPPED_TRIED):
                    passed.add(turn.kind)  # nor, it seems, to others of its size
            elif choice.start <= now:
                lane.queue.pop(passed)
                lane.queue.served(turn)
                self._grant(turn, choice, None)
            elif not self._is_first(turn, choice, now):
                break  # an account that opens soon is better for it
            elif choice.start > turn.deadline:
                if survey(lane.candidates.values(), turn.request, turn.history, now, 0).first <= turn.deadline:
                    break  # one that is closed may serve it in time
                lane.queue.remove(turn)
                self._refuse(turn, now)
            else:
                lane.queue.pop(passed)
                lane.queue.served(turn)
                self._reserve(turn, choice, now)
        for turn in skipped:
            lane.queue.push_back(turn)
        head = lane.queue.peek()
        if lane.head is not head and lane.head is not None and lane.head.queued:
            self._look_at(lane.head, lane.head.deadline)  # it is no longer the one to watch
        lane.head = head
        if head is not None:
            self._look_at(head, min(lane.opens_at(), head.deadline))

    def _honour(self, lane: Lane, now: float) -> None:
        """Let those go whose time has come; an answer may have shown that it comes sooner."""
        for _, _, hold in lane.holds[:SOONEST]:
            if hold.turn.hold is hold and (paid := hold.quota.paid_at(now)) < hold.start - GAIN:
                self._wait_until(hold, paid)
        while lane.holds and (lane.holds[0][2].turn.hold is not lane.holds[0][2] or lane.holds[0][0] <= now + NOW):
            start, _, hold = heappop(lane.holds)
            turn, choice = hold.turn, hold.choice
            if turn.hold is not hold or start != hold.start:
                continue
            quota = choice.candidate.quota
            paid = quota.paid_at(now)
            if not self._stands(hold, now) or paid > turn.deadline:
                self._requeue(hold)
            elif paid > now + LATE:  # an answer has shown that there is less than was thought
                self._wait_until(hold, paid)
            else:
                self._end(hold)
                self._grant(turn, choice, hold.reservation)

    def hurry(self, hold: Hold, now: float) -> None:
        """What a call waits for may have come early."""
        self._wait_until(hold, now)

    def recheck(self, lane: Lane, now: float) -> None:
        """Something has closed or opened: send those back to the queue who waited for what has closed, away who
        would wait in vain, and on to what has opened whom it serves earlier.
        """
        for _, _, hold in list(lane.holds):
            if hold.turn.hold is hold and not self._stands(hold, now):
                self._requeue(hold)
        firsts: dict[int, float] = {}
        tried = 0
        for turn in sorted(lane.queue.turns(), key=_by_work):
            if not turn.kind and (tried := tried + 1) > SURVEYED:
                continue
            if not turn.kind or turn.kind not in firsts:  # for all of a size, the smallest is asked
                firsts[turn.kind] = survey(lane.candidates.values(), turn.request, turn.history, now, 0).first
            if firsts[turn.kind] > turn.deadline:
                lane.queue.remove(turn)
                self._refuse(turn, now)
        if lane.has_open and not lane.queue:
            self._move(lane, now)

    @staticmethod
    def _stands(hold: Hold, now: float) -> bool:
        candidate, key, turn = hold.choice.candidate, hold.choice.key, hold.turn
        return (
            bool(candidate.keys)
            and key.account is candidate.account
            and candidate.quota.parked_until <= max(hold.start, now)
            and trouble(candidate.account, candidate.host, turn.request, now) is None
            and obstacle(key, turn.request, turn.history, now) is None
            and not is_denied(key, turn.request, now)
        )

    def _move(self, lane: Lane, now: float) -> None:
        """Let calls that wait for one account go to another that has room, where that is earlier."""
        for _, _, hold in sorted(lane.holds)[:MOVED]:
            turn = hold.turn
            if turn.hold is not hold:
                continue
            choice = self._choose(turn, now)
            if choice is not None and choice.start < hold.start - GAIN:
                self._give_up(hold)
                if choice.start <= now:
                    self._grant(turn, choice, None)
                else:
                    self._reserve(turn, choice, now)

    @staticmethod
    def _is_first(turn: Turn, choice: Choice, now: float) -> bool:
        """Whether no account that others wait for would be earlier for this call; its placement has looked at those."""
        return turn.placed or choice.start <= turn.lane.next_start(turn.request, now)

    def _reserve(self, turn: Turn, choice: Choice, now: float) -> None:
        quota = choice.candidate.quota
        reservation = quota.take(choice.amounts, now)
        quota.hold(reservation, 1.0)
        hold = Hold(turn, choice, reservation)
        turn.hold = quota.debtor = hold
        self._wait_until(hold, hold.start)

    def _wait_until(self, hold: Hold, start: float) -> None:
        hold.start = start
        lane, turn = hold.turn.lane, hold.turn
        lane.close(hold.choice.candidate, start)
        self._sequence += 1
        heappush(lane.holds, (start, self._sequence, hold))
        self._look_at(turn, min(start, turn.deadline))

    def _end(self, hold: Hold) -> None:
        hold.end()
        self._reopen(hold.choice.candidate.account)

    def _give_up(self, hold: Hold) -> None:
        hold.give_up()
        self._reopen(hold.choice.candidate.account)

    def _requeue(self, hold: Hold) -> None:
        self._give_up(hold)
        hold.turn.look_at = hold.turn.deadline
        hold.turn.lane.queue.put_first(hold.turn)

    @staticmethod
    def _look_at(turn: Turn, at: float) -> None:
        if at != turn.look_at:
            turn.look_at = at
            turn.wake()


def _since(lane: Lane) -> float:
    """When the call came that is next in a lane."""
    head = lane.queue.peek()
    return inf if head is None else head.since
