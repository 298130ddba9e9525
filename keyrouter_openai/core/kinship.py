"""Which keys share limits, worked out from what their answers show.

Keys of one account draw on the same limits, so a router that takes them for separate counts their capacity twice.
There are three kinds of evidence. The strongest is the organisation and project that an answer names. Where answers
name none, counters tell (`core.evidence`): a bucket that is emptier than this key left it, and stands where another
key left its own. Where they show no counters either, there is only that keys are refused while others are.

Nothing here reads a clock. Times are monotonic seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .evidence import CONTRADICTS, REASSURES, Counters, Look, Mark, Refusal, Refusals, tightest
from .model import Dimension, Fault, Outcome, Reading

ENOUGH = 9.0
"""Nats (log-likelihood ratio) for which two accounts are taken to be one: there are many pairs to be wrong about."""
ANSWERS = 3
"""Answers in a row that must name another organisation before a key that is known to belong to one is moved."""
UNNAMED_WAIT = 1.0
"""Seconds for which a limit is taken to be used up after a refusal that does not say."""
SETTLED = 200
"""Answers after which only every `SAMPLED`-th one's counters are looked at, if the key has stayed where it was."""
SAMPLED = 8
SUSPECTS = 16
"""Other accounts of which an account remembers votes."""
KINDS = 64
"""Kinds of limits (by host, model family, dimension) that are watched: callers make up names of models."""

_K = TypeVar("_K")
_V = TypeVar("_V")
_OWN = "key:"
_Identity = tuple[str, str | None]
"""Organisation and project."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A key was found to share the limits of `account`, to which it belongs from now on; `why` says so in words."""

    key: str
    account: str
    why: str


@dataclass(frozen=True, slots=True)
class Parted:
    """A key does not share its account's limits, and belongs to `account` from now on; `why` says so in words."""

    key: str
    account: str
    why: str


Decision = Joined | Parted


class _Account:
    """Keys that share limits, as far as is known."""

    __slots__ = ("declared", "identity", "keys", "name", "number", "votes")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.declared = False
        self.identity: _Identity | None = None
        self.keys: dict[str, _Key] = {}
        self.votes: dict[_Account, float] = {}
        """Nats for being one with other accounts; each of those holds the same."""


class _Key:
    __slots__ = ("account", "answers", "declared", "dissent", "host", "identity", "loyalty", "name")

    def __init__(self, name: str, host: str, account: _Account, *, declared: bool) -> None:
        self.name = name
        self.host = host
        self.account = account
        self.declared = declared
        self.identity: _Identity | None = None
        """What its last answer named."""
        self.dissent = 0
        """Its last answers in a row that named another organisation than its account's."""
        self.loyalty = ENOUGH
        """Nats for its belonging to its account; at 0 it is parted."""
        self.answers = 0
        """Since it came to its account, without those that named an organisation."""


class Kinship:
    """The partition of a pool's keys into accounts. It says what changes; `accounts` is the present state.

    A key starts in the account that was declared for it, or else in one of its own. What is declared gives way only
    to organisations that answers name; what answers name only to other names, repeatedly; guesses to the contrary
    evidence. Where a key's answers name an organisation, nothing is guessed about it.
    """

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._accounts: dict[str, _Account] = {}
        self._identities: dict[_Identity, _Account] = {}
        self._counters: dict[tuple[str, str, Dimension, float | None], Counters] = {}
        self._refusals: dict[tuple[str, str], Refusals] = {}
        self._made = 0

    @property
    def accounts(self) -> Mapping[str, str]:
        """The account of each key."""
        return {name: key.account.name for name, key in self._keys.items()}

    def add(self, key: str, host: str, *, declared: str | None = None) -> None:
        """Take in a key, with the account that was declared for it, if any. Only keys of one host share by guess."""
        account = self._account(declared or own_account(key), declared=declared is not None)
        self._keys[key] = account.keys[key] = _Key(key, host, account, declared=declared is not None)

    def restore(self, key: str, account: str) -> Sequence[Decision]:
        """Put a key back where it was found to belong at an earlier time.

        It stays where it is if an account was declared for it, or if that account was a key's own that is no more.
        """
        state, owner = self._keys[key], self._accounts.get(account)
        if state.declared or owner is state.account or (owner is None and account.startswith(_OWN)):
            return ()
        return self._join(state, owner or self._account(account), "it did so when it was last used")

    def observe(
        self, key: str, family: str, sent: float, charge: Callable[[Dimension], float], outcome: Outcome
    ) -> Sequence[Decision]:
        """Learn from one attempt.

        Args:
            family: the model family for which its limits hold.
            sent: when it was sent, which is taken to be when the provider counted it.
            charge: what it was charged of a limit, as far as is known.
            outcome: its fault, readings, wait, organisation and project matter.
        """
        state = self._keys[key]
        if outcome.organization is not None:
            return self._named(state, outcome.organization, outcome.project)
        if state.identity is not None:
            return ()
        refused = outcome.fault is Fault.RATE_LIMIT
        state.answers += 1
        if outcome.readings and state.answers > SETTLED and state.answers % SAMPLED:
            return ()
        reading = tightest(outcome.readings)
        if reading is not None:
            return self._counted(state, family, sent, charge(reading.dimension), reading, refused=refused)
        if refused or outcome.fault is Fault.NONE:
            return self._unread(state, family, sent, charge(Dimension.TOKENS), outcome.wait, refused=refused)
        return ()

    # What answers name.

    def _named(self, key: _Key, organization: str, project: str | None) -> Sequence[Decision]:
        home = key.account
        known = home.identity
        if known is not None and known[0] == organization and (project is None or project == known[1]):
            key.identity, key.dissent = known, 0  # some answers leave the project out: what was seen of it holds
            return ()
        named = (organization, project)
        first = key.identity is None and not key.declared
        if first or known is None or known == (organization, None):
            key.identity = named
            return self._identify(home, named) if key.declared else self._settle(key, named)
        key.dissent = key.dissent + 1 if named == key.identity else 1
        key.identity = named
        if key.dissent < ANSWERS:
            return ()
        if key.declared and self._majority(home) == named:
            key.dissent = 0
            return self._identify(home, named)  # it is the others that do not belong here
        why = f"{ANSWERS} answers in a row named {_name(named)}, and not {_name(known)}"
        return self._leave(key, self._identified(named), why)

    def _identify(self, home: _Account, named: _Identity) -> Sequence[Decision]:
        """A declared account is found to be that of an organisation: its other keys belong here as well."""
        self._forget_identity(home)
        home.identity = named
        found = self._identities.get(named)
        if found is not None and found.declared:
            return ()
        self._identities[named] = home
        return () if found is None else self._merge(found, home, f"its answers name {_name(named)}")

    def _settle(self, key: _Key, named: _Identity) -> Sequence[Decision]:
        """The first answer that names an organisation decides."""
        account = self._identified(named)
        return () if account is key.account else self._join(key, account, f"its answers name {_name(named)}")

    def _identified(self, named: _Identity) -> _Account:
        """The account of an organisation and project."""
        account = self._identities.get(named)
        if account is None:
            name = "/".join(part for part in named if part)
            while (known := self._accounts.get(name)) is not None and known.identity is not None:
                name += "*"  # an account of another organisation was declared by this name
            account = self._identities[named] = self._account(name)
            account.identity = named
        return account

    @staticmethod
    def _majority(account: _Account) -> _Identity | None:
        named = Counter(key.identity for key in account.keys.values() if key.identity is not None)
        (first, most), *others = named.most_common(2)
        return account.identity if others and others[0][1] == most else first

    # What counters show.

    def _counted(
        self, key: _Key, family: str, sent: float, charge: float, reading: Reading, *, refused: bool
    ) -> Sequence[Decision]:
        counters = _at(self._counters, (key.host, family, reading.dimension, reading.period), Counters)
        look = Look(reading, sent, charge, refused=refused)
        mine = counters.by_key.get(key.name)
        ours = counters.by_account.get(key.account.number, mine)
        decisions: Sequence[Decision] = ()
        if mine is not None and ours is not None and ours.key != key.name and not key.declared:
            nats = CONTRADICTS if look.contradicts(mine, ours) else counters.fit(look, mine, ours)
            if self._is_disloyal(key, nats):
                why = f"its counter of {_words(reading.dimension)} does not show what its account's other keys used"
                decisions = self._leave(key, None, why)
        if ours is None or ours.sent < sent:
            decisions = decisions or self._compare(key.account, counters, look, ours, reading.dimension)
            counters.note(key.account.number, key.name, look)
        return decisions

    def _compare(
        self, home: _Account, counters: Counters, look: Look, ours: Mark | None, dimension: Dimension
    ) -> Sequence[Decision]:
        """Whether an account's counter is another's."""
        if home.votes and ours is not None:
            for other in tuple(home.votes):
                theirs = counters.by_account.get(other.number)
                if theirs is not None and look.contradicts(ours, theirs):
                    self._vote(home, other, CONTRADICTS)
        if not look.surprise(ours):
            return ()
        counters.compare(look, home.number)
        if (nearest := counters.nearest(look, home.number)) is None:
            return ()
        theirs = counters.by_account[nearest]
        other = self._keys[theirs.key].account
        if (nats := counters.fit(look, ours, theirs)) and self._vote(home, other, nats):
            why = f"its counter of {_words(dimension)} goes on where that of key {theirs.key!r} stopped, repeatedly"
            return self._unite(home, other, why)
        return ()

    # What refusals show.

    def _unread(
        self, key: _Key, family: str, sent: float, size: float, wait: float | None, *, refused: bool
    ) -> Sequence[Decision]:
        refusals = _at(self._refusals, (key.host, family), Refusals)
        decisions: Sequence[Decision] = ()
        for number in refusals.foretelling(key.name, sent, size):
            witness = refusals.by_account[number].key
            home, other = key.account, self._keys[witness].account
            nats = refusals.nats(refused=refused)
            if other is not home:
                refusals.compared(refused=refused)
                if (refused or other in home.votes) and self._vote(home, other, nats):
                    decisions = self._unite(home, other, f"it was refused while key {witness!r} was, repeatedly")
                    break
            elif not key.declared and self._is_disloyal(key, nats):
                why = "it was served while its account's other keys were refused, repeatedly"
                decisions = self._leave(key, None, why)
                break
        if refused:
            until = sent + (UNNAMED_WAIT if wait is None else wait)
            refusals.note(key.account.number, Refusal(sent, until, size, key.name))
        return decisions

    # How the partition changes.

    def _vote(self, account: _Account, other: _Account, weight: float) -> bool:
        """Add to the votes for two accounts being one. Returns whether they suffice."""
        if (account.declared and other.declared) or account.identity or other.identity:
            return False
        votes = min(max(account.votes.get(other, 0.0) + weight, -ENOUGH), ENOUGH)
        account.votes[other] = other.votes[account] = votes
        for each in (account, other):
            if len(each.votes) > SUSPECTS:
                least = min(each.votes, key=each.votes.__getitem__)
                del each.votes[least], least.votes[each]
        return votes >= ENOUGH

    def _unite(self, account: _Account, other: _Account, why: str) -> Sequence[Decision]:
        """Make one of two accounts. The declared one stays, or else the one with more keys."""
        stays = max(other, account, key=lambda one: (one.declared, len(one.keys)))
        return self._merge(account if stays is other else other, stays, why)

    def _merge(self, goes: _Account, stays: _Account, why: str) -> Sequence[Decision]:
        decisions: list[Decision] = []
        for key in list(goes.keys.values()):
            goes.keys.pop(key.name)
            self._place(key, stays)
            decisions.append(Joined(key.name, stays.name, why))
        self._drop(goes)
        return decisions

    def _leave(self, key: _Key, account: _Account | None, why: str) -> Sequence[Decision]:
        """A key does not belong where it is; without a better place it gets an account of its own."""
        old, key.declared = key.account, False
        own = account or self._new_account(own_account(key.name))
        moved = self._move(key, own)
        if account is None:
            self._accounts[own.name] = own
            self._vote(own, old, -ENOUGH)
        return (Parted(key.name, own.name, why), *moved)

    def _join(self, key: _Key, account: _Account, why: str) -> Sequence[Decision]:
        moved = self._move(key, account)
        return (Joined(key.name, account.name, why), *moved)

    def _move(self, key: _Key, account: _Account) -> Sequence[Decision]:
        """Take a key to an account. What stays of an account that was called after it needs another name."""
        old = key.account
        del old.keys[key.name]
        self._place(key, account)
        if not old.keys:
            self._drop(old)
            return ()
        for counters in self._counters.values():
            counters.forget(old.number)
        if old.name != own_account(key.name):
            return ()
        del self._accounts[old.name]
        old.name = own_account(next(iter(old.keys)))
        self._accounts[old.name] = old
        why = f"key {key.name!r} left, after which the account was called"
        return [Joined(name, old.name, why) for name in old.keys]

    @staticmethod
    def _is_disloyal(key: _Key, nats: float) -> bool:
        """Count evidence for a key's belonging to its account. Returns whether it does not."""
        key.loyalty = min(key.loyalty + min(nats, REASSURES), ENOUGH)
        return key.loyalty <= 0.0

    @staticmethod
    def _place(key: _Key, account: _Account) -> None:
        account.keys[key.name] = key
        key.account = account
        key.loyalty, key.dissent, key.answers = ENOUGH, 0, 0

    def _account(self, name: str, *, declared: bool = False) -> _Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = self._new_account(name)
        account.declared = account.declared or declared
        return account

    def _new_account(self, name: str) -> _Account:
        self._made += 1
        return _Account(name, self._made)

    def _drop(self, account: _Account) -> None:
        """Forget an account that has no keys any more."""
        self._accounts.pop(account.name, None)
        self._forget_identity(account)
        for other in account.votes:
            del other.votes[account]
        for known in (*self._counters.values(), *self._refusals.values()):
            known.forget(account.number)

    def _forget_identity(self, account: _Account) -> None:
        if account.identity is not None and self._identities.get(account.identity) is account:
            del self._identities[account.identity]


def own_account(key: str) -> str:
    """The name of the account of a key of which nothing is known: no declared account is called so."""
    return _OWN + key


def _at(memory: dict[_K, _V], place: _K, make: Callable[[], _V]) -> _V:
    """What is kept at a place of a memory of bounded size, in which the oldest makes room for what is new."""
    if (found := memory.get(place)) is not None:
        return found
    if len(memory) >= KINDS:
        del memory[next(iter(memory))]
    memory[place] = made = make()
    return made


def _name(identity: _Identity) -> str:
    organization, project = identity
    return f"organisation {organization!r}" + (f", project {project!r}" if project else "")


def _words(dimension: Dimension) -> str:
    return dimension.replace("_", " ")
