"""A lane is all that can serve one model: its accounts, and the calls that wait for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf
from operator import attrgetter
from random import Random

from .backlog import Backlog
from .candidate import Candidate, Choice
from .model import Estimate, RouteRequest
from .objectives import Objective
from .placement import WAIT, Placement
from .queue import FairQueue, Hold, Turn
from .quota import Amounts, Quota
from .select import History, is_denied, obstacle, trouble
from .standing import Unit
from .state import AccountState, HostState, KeyState
from .survey import start_at

WINDOW = 16
"""Accounts that are compared for one call: all where there are no more, else a random stretch of them.

The best of a few at random is nearly as good as the best of all (M. Mitzenmacher, IEEE TPDS 2001), and its
cost does not grow with the pool.
"""
SCAN = 64
"""Accounts that are looked through, at most, before a call waits."""
JITTER = 0.01
"""Share by which what was used is counted more or less."""


_by_rank = attrgetter("standing.rank")
_by_use = attrgetter("rank")
_by_order = attrgetter("order")
_NO_TOKENS = Estimate()


class Lane:
    """All that can serve one model."""

    def __init__(self, model: str | None, family: str, members: frozenset[str], unit: Unit) -> None:
        self.model = model
        """The first of the family's models that was asked for."""
        self.family = family
        self.members = members
        """The names of the keys that can serve it."""
        self.candidates: dict[tuple[str, str], Candidate] = {}
        """By the names of account and host."""
        self._named: dict[str, Candidate] = {}
        """By the name of the account alone."""
        self.queue = FairQueue()
        self.holds: list[tuple[float, int, Hold]] = []
        """A heap by start; those that were given up stay in it."""
        self.head: Turn | None = None
        """The call of the queue that watches for the next account to open."""
        self._open: list[Candidate] = []
        self._closed: list[tuple[float, int, Candidate]] = []
        """A heap by the time at which each opens; those that opened before stay in it."""
        self.in_use = True
        """Asked for since that was last looked at."""
        self.placement = Placement()
        self._floor = 0.0
        """The rank of the last that was chosen: who comes back later starts here, and owes nobody."""
        self._unit = unit
        self._sequence = 0
        self.backlog = Backlog()

    def send_away(self) -> list[Turn]:
        """The calls that wait, first come first; what was reserved for them is given back."""
        turns = self.queue.turns()
        for _, _, hold in self.holds:
            if hold.turn.hold is hold:
                hold.give_up()
                turns.append(hold.turn)
        return sorted(turns, key=_by_order)

    def candidates_of(self, account: AccountState) -> list[Candidate]:
        """The candidates of one account: one for each of its hosts."""
        found = self._named.get(account.name)
        if found is None or len(self._named) == len(self.candidates):
            return [] if found is None else [found]
        return [candidate for candidate in self.candidates.values() if candidate.account is account]

    # -- who is in it

    def add(self, key: KeyState, account: AccountState, host: HostState, quota: Quota, rng: Random) -> None:
        """Put a key into the candidate of its account."""
        place = (account.name, host.name)
        if (candidate := self.candidates.get(place)) is None:
            candidate = self.candidates[place] = Candidate(account, host, quota, account.standing(self.family))
            self._named[account.name] = candidate
            self.open(candidate)
            candidate.standing.rank += JITTER * rng.random()
        candidate.add(key)
        self.backlog.changed()

    def remove(self, key: KeyState, account: AccountState, host: HostState) -> None:
        """Take a key out of the candidate of its account."""
        candidate = self.candidates.get((account.name, host.name))
        if candidate is None or key not in candidate.keys:
            return
        candidate.remove(key)
        if not candidate.keys:
            del self.candidates[account.name, host.name]
            if self._named.get(account.name) is candidate:
                del self._named[account.name]
            self._take_out(candidate)
        self.backlog.changed()

    def even_out(self) -> None:
        """Accounts that have served nothing yet owe nothing to those that have."""
        in_service = (c for c in self.candidates.values() if c.account.probation is None)
        served = sorted(c.standing.rank for c in in_service if c.standing.rank > JITTER)
        self._floor = served[len(served) // 2] if served else 0.0  # some may have served nothing for long
        for candidate in self.candidates.values():
            if candidate.standing.rank <= JITTER:
                candidate.standing.rank = max(candidate.standing.rank, self._floor)

    def open(self, candidate: Candidate) -> None:
        """Let calls be sent there again; what still stands in the way is found when one is to be."""
        candidate.closed_until = -inf
        if candidate.place < 0:
            candidate.place = len(self._open)
            candidate.standing.rank = max(candidate.standing.rank, self._floor)
            self._open.append(candidate)

    def close(self, candidate: Candidate, until: float) -> None:
        """Look at it no more before `until`."""
        self._take_out(candidate)
        candidate.closed_until = until
        self._sequence += 1
        if len(self._closed) > 2 * len(self.candidates) + SCAN:  # most entries are of accounts that opened before
            self._closed = [entry for entry in self._closed if entry[2].closed_until == entry[0]]
            heapify(self._closed)
        heappush(self._closed, (until, self._sequence, candidate))

    def _take_out(self, candidate: Candidate) -> None:
        if candidate.place >= 0:
            last = self._open.pop()
            if last is not candidate:
                self._open[candidate.place] = last
                last.place = candidate.place
            candidate.place = -1

    def _reopen(self, now: float) -> None:
        while self._closed and self._closed[0][0] <= now:
            until, _, candidate = heappop(self._closed)
            if candidate.closed_until == until and candidate.keys:
                self.open(candidate)

    def opens_at(self) -> float:
        """When the next account opens, if none is; infinite if nobody knows."""
        while self._closed and (self._closed[0][2].closed_until != self._closed[0][0] or not self._closed[0][2].keys):
            heappop(self._closed)
        return self._closed[0][0] if self._closed else inf

    @property
    def accounts(self) -> int:
        """How many accounts it has."""
        return len(self._named)

    @property
    def has_open(self) -> bool:
        """Whether any account is open."""
        return bool(self._open)

    def next_start(self, request: RouteRequest, now: float) -> float:
        """When the next account that is closed could start this call."""
        opens = self.opens_at()
        if opens == inf:
            return inf
        quota = self._closed[0][2].quota
        return max(opens, quota.start(quota.amounts(request.estimate()), now))

    # -- choosing

    def choose(
        self,
        request: RouteRequest,
        history: History,
        now: float,
        rng: Random,
        objective: Objective | None,
        patience: float = 0.0,
    ) -> Choice | None:
        """The best account that can start now, else the one that can start first, else None.

        Without an objective, the least used relative to weight comes first. Accounts that this call has tried
        already come last. What stands in the way of a whole account closes it until that is over. Where limits
        differ in shape, a call may wait for what suits it better, up to `patience` seconds: None if others do, too.
        """
        if self._closed and self._closed[0][0] <= now:
            self._reopen(now)
        count = len(self._open)
        if count == 0:
            return None
        if history.tried:
            return self._elsewhere(request, history, now, rng, objective)
        window = self._open
        if count > WINDOW:
            at = int(rng.random() * count)
            window = window[at : at + WINDOW] + window[: max(at + WINDOW - count, 0)]
        if objective is None and self.placement.matters and all(c.quota.buckets for c in window):
            return self._place(window, request, history, now, now + min(patience, WAIT))
        if objective is None:
            choice = self._try(min(window, key=_by_rank), request, history, now)
            if choice is not None and choice.start <= now:
                return choice
        choice = self._first(window, request, history, now, objective)
        if (choice is None or choice.start > now) and count > WINDOW:
            at = int(rng.random() * max(len(self._open) - SCAN, 1))
            other = self._first(self._open[at : at + SCAN], request, history, now, objective)
            return choice if other is None or (choice is not None and choice.start <= other.start) else other
        return choice

    def _elsewhere(
        self, request: RouteRequest, history: History, now: float, rng: Random, objective: Objective | None
    ) -> Choice | None:
        """As `choose`, for a call that has tried some accounts."""
        count = len(self._open)
        if count > SCAN:
            at = int(rng.random() * (count - SCAN))
            choice = self._first(self._open[at : at + SCAN], request, history, now, objective)
            if choice is not None:
                return choice
        return self._first(self._open, request, history, now, objective)

    def _first(
        self, window: list[Candidate], request: RouteRequest, history: History, now: float, objective: Objective | None
    ) -> Choice | None:
        ranked = sorted(
            [
                (
                    candidate.account.name in history.tried,
                    0.0 if objective is None else objective.score(candidate, request, now),
                    candidate.standing.rank,
                    place,
                )
                for place, candidate in enumerate(window)
            ]
        )
        return self._best([window[place] for *_, place in ranked], request, history, now, now)

    def _place(
        self, window: list[Candidate], request: RouteRequest, history: History, now: float, latest: float
    ) -> Choice | None:
        """Where a call takes what is least scarce, if it can start there until `latest`; else where it starts first."""
        held = [
            hold.choice.candidate
            for _, _, hold in self.holds[:WINDOW]
            if hold.turn.hold is hold
            and _can(hold.choice.key, request, history, now)
            and start_at(hold.choice.candidate, request, now) <= latest
        ]
        ranked = self.placement.ranked(window + held, request.estimate(), now)
        return self._best(ranked, request, history, now, latest, held)

    def _best(
        self,
        ranked: list[Candidate],
        request: RouteRequest,
        history: History,
        now: float,
        latest: float,
        held: Sequence[Candidate] = (),
    ) -> Choice | None:
        """The first that can start a call by `latest`, else the one that starts first; None if one held is better."""
        earliest: Choice | None = None
        for candidate in ranked:
            if candidate in held:
                return None
            choice = self._try(candidate, request, history, now)
            if choice is not None and choice.start <= latest:
                return choice
            if choice is not None and (earliest is None or choice.start < earliest.start):
                earliest = choice
        return earliest

    def _try(self, candidate: Candidate, request: RouteRequest, history: History, now: float) -> Choice | None:
        """What this account can do for a call; None if nothing."""
        quota = candidate.quota
        account, host = candidate.account, candidate.host
        if account.probation is not None or host.breakers:
            found = trouble(account, host, request, now)
            if found is not None:
                self.close(candidate, found[1])
                return None
        if quota.debtor is not None:
            self.close(candidate, quota.debtor.start)
            return None
        if quota.parked_until > now:
            self.close(candidate, quota.parked_until)
            return None
        keys = candidate.keys
        if len(keys) == 1 and keys[0].is_plain and not history.tried:
            key = keys[0]
        elif (key := self._key(candidate, request, history, now)) is None:
            return None
        if quota.too_large < inf and quota.is_too_large(request.estimate(), now):
            return None
        amounts = quota.amounts(request.estimate() if quota.counts_tokens else _NO_TOKENS)
        start = quota.start(amounts, now)
        return None if start == inf else Choice(candidate, key, amounts, start)

    def _key(self, candidate: Candidate, request: RouteRequest, history: History, now: float) -> KeyState | None:
        """The least used of an account's keys that can serve. If none can at all, the account is closed for a while."""
        best: KeyState | None = None
        until = inf
        keys = candidate.keys
        if len(keys) > WINDOW and not history.tried:
            self._sequence += WINDOW
            at = self._sequence % len(keys)
            stretch = keys[at : at + WINDOW]
            best = min((k for k in stretch if _can(k, request, history, now)), key=_by_use, default=None)
            if best is not None:
                return best
        for key in keys:
            if best is not None and key.rank >= best.rank:
                continue
            found = obstacle(key, request, history, now)
            if found is not None:
                until = min(until, found[1])
            elif is_denied(key, request, now):
                until = -inf
            else:
                best = key
        if best is None and until > now and not history.tried:
            self.close(candidate, until)
        return best

    def try_account(self, name: str, request: RouteRequest, history: History, now: float) -> Choice | None:
        """What one account can do for a call; None if nothing at present."""
        if self._closed and self._closed[0][0] <= now:
            self._reopen(now)
        candidate = self._named.get(name)
        return None if candidate is None or candidate.place < 0 else self._try(candidate, request, history, now)

    def choose_denied(self, request: RouteRequest, history: History, now: float) -> Choice | None:
        """A key that is known to lack the scope, model or region, for when all others lack it too."""
        for candidate in list(self._open):
            for key in candidate.keys:
                if (
                    obstacle(key, request, history, now) is None
                    and trouble(candidate.account, candidate.host, request, now) is None
                ):
                    amounts = candidate.quota.amounts(request.estimate())
                    if (start := candidate.quota.start(amounts, now)) < inf:
                        return Choice(candidate, key, amounts, start)
        return None

    def granted(self, choice: Choice, rng: Random) -> None:
        """Note that a call goes there; a little more or less than that, so that chance breaks ties."""
        candidate, key = choice.candidate, choice.key
        quota = candidate.quota
        about = 1.0 + JITTER * rng.random()
        self._floor = self.served(candidate, choice.amounts, about)
        key.rank += about / key.weight
        if candidate.shaped_at != quota.limits_at:
            candidate.shaped_at = quota.limits_at
            self.placement.learn(quota)
        if self.placement.matters:
            self.placement.granted(quota, choice.amounts)

    def served(self, candidate: Candidate, amounts: Amounts, times: float) -> float:
        """Note that an account has served so many calls of this size; its rank before."""
        standings = (other.standing for other in self.candidates.values())
        share = self._unit.share(candidate.quota.share(amounts), standings)
        before = candidate.standing.rank
        candidate.standing.rank += times * share / candidate.share
        return before


def _can(key: KeyState, request: RouteRequest, history: History, now: float) -> bool:
    return key.is_plain or (obstacle(key, request, history, now) is None and not is_denied(key, request, now))
