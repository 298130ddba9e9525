"""Whose the resources are that calls name: files, batches, stored responses and the like follow their owner.

At OpenAI a resource belongs to a project, and a key of another is told that there is none. So what answers show is
remembered, here and in the ledger, and a call that names it goes to keys of that account alone. What nobody here has
seen yet is looked up: the accounts are asked in turn, with a read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

from .core.kinship import own_account
from .core.memory import LearnedOwner
from .core.model import RouteRequest
from .core.resources import reading_path
from .core.state import AccountState, KeyState
from .errors import OwnerError
from .keys import Key, is_made_up
from .pool import Pool
from .protocols import Clock, Recorder

MOST = 10_000
"""Ids that are kept in memory at least, by their latest use; four times as many at most."""
RECORD_S = 2.0
"""Seconds that a call which made something lasting waits, at most, until its owner is in the ledger."""
NOWHERE_S = 5.0
"""Seconds for which an id is not looked up again that no account had."""
_MOST_NOWHERE = 1_000


class Place(NamedTuple):
    """Who shares resources: the keys of an account, or some of them where they name different projects."""

    account: str
    key: str | None = None
    """A key that stands for those that name the same project; None where all keys of the account do."""

    @property
    def wish(self) -> str:
        """What `with_routing` is to be told for calls to go there; an account called after a key may be renamed."""
        made_up = self.account.startswith(own_account(""))
        key = self.account.removeprefix(own_account("")) if self.key is None and made_up else self.key
        return f"account={self.account!r}" if key is None else f"key={key!r}"

    def __str__(self) -> str:
        return f"account {self.account!r}" + (f" (the project of key {self.key!r})" if self.key is not None else "")


class Owners:
    """Whose the resources are, as far as it is known, in one pool.

    Nothing here takes a lock: answers are learned from by finalizers too. Two threads that come at the same time
    may forget an id, which the ledger still knows.
    """

    def __init__(self, name: str, pool: Pool, ledger: Recorder | None, clock: Clock) -> None:
        self._name = name
        self._pool = pool
        self._ledger = ledger
        self._clock = clock
        self._recent: dict[str, LearnedOwner] = {}
        self._older: dict[str, LearnedOwner] = {}
        """The recent ones of before: what is used goes back to the recent, and the rest when these are many."""
        self._nowhere: dict[str, float] = {}
        """Until when (monotonic time) an id is not looked up."""
        self._searches: dict[tuple[str, object], Future[None]] = {}
        self._ended: dict[tuple[str, ...], None] = {}
        """Work that went on without a call, and of which it is known what it used."""
        self._judged: dict[str, Key] = {}
        """The keys for which `_differ` was worked out: whether they name different projects."""
        self._differ = False

    @property
    def matter(self) -> bool:
        """Whether resources may belong to others than the key that is chosen, as in a pool of several accounts."""
        return len(self._pool.accounts) > 1 or self._have_projects()

    def _have_projects(self) -> bool:
        """Whether keys name different projects."""
        settings = self._pool.settings
        if settings is not self._judged:  # they are replaced as a whole
            self._judged, self._differ = settings, len({key.project for key in settings.values()}) > 1
        return self._differ

    def learn(self, ids: Iterable[str], key: KeyState) -> None:
        """These turn out to belong to the account of this key."""
        place = self.place_of(key)
        new = [
            LearnedOwner(id, key.name, key.account.name, self._clock.time()) for id in ids if self.place(id) != place
        ]
        for owner in new:
            self._recent[owner.id] = owner
            self._nowhere.pop(owner.id, None)
        self._forget_unused()
        if new and self._ledger is not None:
            self._ledger.remember(self._name, new)

    def pin(self, request: RouteRequest) -> RouteRequest:
        """The call, to go to the owner of what it names, as far as that is known.

        Raises:
            OwnerError: there are two, or the caller has named another.
        """
        owned: dict[Place, list[str]] = {}
        leaning: RouteRequest | None = None
        for id in request.mentions:
            if (place := self.place(id)) is None:
                continue
            if id in request.carried:  # the latest counts: earlier ones may have come from elsewhere
                leaning = request._replace(account=place.account, key=place.key, owned=id)
            else:
                owned.setdefault(place, []).append(id)
        if not owned:
            return request if leaning is None or request.pinned else leaning
        place, ids = next(iter(owned.items()))
        if len(owned) > 1:
            listed = "; ".join(
                f"{place} has {', '.join(ids[:3])}{', ...' * (len(ids) > 3)}" for place, ids in owned.items()
            )
            raise OwnerError(
                f"no single account has all that this call names: {listed}. "
                f"Make what is used together through client.with_routing({place.wish})"
            )
        self._check_wish(request, ids[0], place)
        return request._replace(account=place.account, key=request.key or place.key, owned=ids[0])

    def _check_wish(self, request: RouteRequest, id: str, place: Place) -> None:
        asked = self._pool.keys.get(request.key) if request.key is not None else None
        if request.account in (None, place.account) and (asked is None or self.place_of(asked) == place):
            return
        wish = f"account={request.account!r}" if asked is None else f"key={request.key!r}"
        raise OwnerError(
            f"{id} belongs to {place}, where no call with {wish} goes: "
            f"leave that out, or make what is used together through client.with_routing({wish})"
        )

    def place(self, id: str) -> Place | None:
        """Who has this resource today, if it is known. Does no I/O."""
        owner = self._recent.get(id)
        if owner is None:
            owner = self._older.get(id)
            if owner is None:
                return None
            self._recent[id] = owner
            if len(self._recent) >= 2 * MOST:  # all of them are in use
                self._forget_unused()
        key = self._pool.keys.get(owner.key)
        if key is not None:
            return self.place_of(key)
        account = self._pool.accounts.get(owner.account)
        return None if account is None or self._projects(account) > 1 else Place(account.name)

    def places(self) -> dict[str, Place]:
        """Who shares resources today with each key that may be used, by its name."""
        return {name: self.place_of(key) for name, key in self._pool.keys.items() if key.enabled}

    def place_of(self, key: KeyState) -> Place:
        """Who shares resources with this key today."""
        account = key.account
        if not self._have_projects() or self._projects(account) < 2:
            return Place(account.name)
        project = self._project(key)
        alike = [member for member in account.members if self._project(member) == project and member.enabled]
        # One that is refused stands for the others only where all are.
        return Place(account.name, min(alike, key=lambda member: member.health.refusals, default=key).name)

    def _projects(self, account: AccountState) -> int:
        return len({self._project(member) for member in account.members})

    def _project(self, key: KeyState) -> str | None:
        settings = self._pool.settings.get(key.name)
        return None if settings is None else settings.project

    def first_end(self, ids: tuple[str, ...]) -> bool:
        """Whether an answer shows for the first time what this work has used; later ones show it again."""
        if ids in self._ended:
            return False
        if len(self._ended) >= MOST:
            self._ended = {}
        self._ended[ids] = None
        return True

    # -- finding out

    def unknown(self, ids: Iterable[str]) -> list[str]:
        """Those of these whose owner is not known."""
        return [id for id in ids if self.place(id) is None]

    def read(self, ids: Iterable[str]) -> None:
        """Take in what the ledger knows of these; blocks while it is read."""
        if self._ledger is None:
            return
        for owner in self._ledger.owners(self._name, self.unknown(ids)).values():
            # A key that was called by its place, such as `key-1`, may have been another.
            if not is_made_up(owner.key):
                self._recent[owner.id] = owner
            elif not is_made_up(owner.account.removeprefix(own_account(""))):
                self._recent[owner.id] = LearnedOwner(owner.id, "", owner.account, owner.at)
        self._forget_unused()

    def sought(self, ids: Iterable[str]) -> Iterator[str]:
        """Those of these that are to be looked up, each until its owner is known; none after one that nobody has."""
        for id in ids:
            while self.place(id) is None and reading_path(id) is not None:
                if self._nowhere.get(id, 0.0) > self._clock.monotonic():
                    return
                yield id

    def candidates(self, *, near: Iterable[str]) -> list[KeyState]:
        """Keys whose accounts may be asked: first those of the owners of what is named with it, last the refused."""
        first = {self.place(other) for other in near}
        keys = [key for key in self._pool.keys.values() if key.enabled]
        return sorted(keys, key=lambda key: (key.health.probation is not None, self.place_of(key) not in first))

    def join(self, subject: str, mine: Future[None], *, among: object) -> Future[None]:
        """The search for an owner that is going on, which is `mine` if there was none.

        `subject` is the id, or the call that reads what is in it.
        Only those wait for each other that are `among` the same: the tasks of one event loop, or threads. A thread may
        be the one that runs the task's loop, and another loop may have been left standing.
        """
        return self._searches.setdefault((subject, among), mine)

    def end(self, subject: str, *, among: object) -> None:
        """A search has come to its end, whatever it found."""
        self._searches.pop((subject, among), None)

    def found_nowhere(self, id: str) -> None:
        """A search has come to its end: no account has the resource. It may be made elsewhere at any time."""
        if len(self._nowhere) >= _MOST_NOWHERE:
            self._nowhere = {}
        self._nowhere[id] = self._clock.monotonic() + NOWHERE_S

    def forget_searches(self) -> None:
        """In the child of a fork nobody is searching: those are the parent's calls."""
        self._searches = {}

    def _forget_unused(self) -> None:
        if len(self._recent) >= MOST:
            self._recent, self._older = {}, self._recent
