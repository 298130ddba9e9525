"""What answers show of who shares limits: counters that go on where others stopped, and refusals that hit together.

A bucket that refills continuously is described by one number, the time at which it will be full: it moves on when
somebody takes from the bucket, by what was taken, and stands still otherwise. So two keys that draw on one bucket
read one such time, and it never goes back.

Accounts are numbers here. Times are monotonic seconds.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, log
from typing import NamedTuple

from .buckets import period_of
from .model import Reading

JITTER = 0.1
"""Seconds by which it is uncertain when the provider took from its bucket."""
CHARGE_ERROR = 1 / 8
"""Share by which the charge for a call may be misjudged."""
MOST = 3.0
"""Nats (log-likelihood ratio) that a fit can tell at most for two accounts being one."""
CONTRADICTS = -6.0
"""Nats for a counter that cannot stand where it does if the limits are shared, but for one misreading in 1,000."""
REASSURES = 0.5
"""Nats that one answer can tell at most for a key's being where it belongs: a wrong guess must not outweigh doubts."""
FITS, FITS_ANYWAY = 0.8, 0.05
"""How likely a bucket stands where it was left by another key that shares it, and by one that does not."""
REFUSED, REFUSED_ANYWAY = 0.995, 0.3
"""How likely a call is refused that wants no less than one that was just refused to another key: likewise."""
BURSTS = 0.7
"""Weight of a refusal: they come in bursts, and each tells in part what the last one told."""
COMPARED = 100
"""How many comparisons it takes to learn how likely things are without sharing: full pools all look alike."""
RAREST = 0.01
"""The least chance that is believed, and the least doubt."""
RECENT = 8
"""Refused accounts with which a call is compared."""

_THOUSAND, _ROUNDED = 1000.0, 10_000.0
"""Anthropic rounds what remains of large limits to thousands (https://platform.claude.com/docs/en/api/rate-limits)."""


class Mark(NamedTuple):
    """What an answer showed of a counter: the bucket will be full at `full`, if nobody takes from it after `sent`."""

    sent: float
    full: float
    limit: float
    key: str


class Look:
    """One answer's view of a counter, to be compared with earlier marks.

    Args:
        reading: has a limit and what remains of it.
        charge: what the call took, refused calls included, in the units of the reading.
    """

    __slots__ = ("full", "left", "limit", "sent", "slack", "tolerance")

    def __init__(self, reading: Reading, sent: float, charge: float, *, refused: bool) -> None:
        limit, remaining = reading.limit or 1.0, reading.remaining or 0.0
        second = limit / period_of(reading)
        taken = 0.0 if refused else charge / second
        step = _THOUSAND if limit >= _ROUNDED and remaining % _THOUSAND == 0 else 1.0
        self.sent = sent
        self.limit = limit
        self.left = sent + (limit - remaining) / second
        """When the bucket will be full."""
        self.full = self.left - taken
        """When it would be full, had this call taken nothing."""
        self.tolerance = JITTER + (charge * CHARGE_ERROR + step) / second
        self.slack = self.tolerance + taken
        """Seconds of tolerance for contradictions: counters that are shown a second late lack the last call."""

    def surprise(self, ours: Mark | None) -> float:
        """By how much the bucket is emptier than we left it (None: full), beyond doubt; else 0."""
        left = self.sent if ours is None or ours.full < self.sent else ours.full
        return self.full - left if self.full - left > 2 * self.tolerance else 0.0

    def follows(self, ours: Mark | None, theirs: Mark) -> bool:
        """Whether the other's mark was made between ours and this look: it alone can tell the accounts apart."""
        return theirs.sent < self.sent and (ours is None or ours.sent < theirs.sent)

    def fit(self, ours: Mark | None, theirs: Mark) -> float:
        """Nats for the bucket being the one that the other left: it could stand anywhere from where we left it."""
        if abs(theirs.full - self.full) > self.tolerance or not self.follows(ours, theirs):
            return 0.0
        surprise = self.surprise(ours)
        return min(log(surprise / (2 * self.tolerance)), MOST) if surprise else 0.0

    def contradicts(self, ours: Mark, theirs: Mark) -> bool:
        """Whether the other's mark cannot be one of the same bucket: it goes back from ours to theirs to this."""
        if not self.follows(ours, theirs):
            return False
        if theirs.limit != self.limit or theirs.full > self.full + self.slack:
            return True
        return ours.limit == self.limit and theirs.full < ours.full - self.tolerance


class Counters:
    """The last marks of one kind of limit."""

    __slots__ = ("_anyway", "_by_full", "by_account", "by_key")

    def __init__(self) -> None:
        self.by_key: dict[str, Mark] = {}
        self.by_account: dict[int, Mark] = {}
        self._by_full: list[tuple[float, float, int]] = []
        """Limit and time of being full of the accounts whose buckets are not."""
        self._anyway = FITS_ANYWAY

    def note(self, account: int, key: str, look: Look) -> None:
        self.forget(account)
        mark = Mark(look.sent, look.left, look.limit, key)
        self.by_key[key] = self.by_account[account] = mark
        if mark.full > mark.sent + JITTER:
            insort(self._by_full, (mark.limit, mark.full, account))

    def forget(self, account: int) -> None:
        mark = self.by_account.pop(account, None)
        if mark is not None and mark.full > mark.sent + JITTER:
            del self._by_full[bisect_left(self._by_full, (mark.limit, mark.full, account))]

    def compare(self, look: Look, account: int) -> None:
        """Learn how often buckets stand alike by chance, from the account that was seen last: few pairs share."""
        last = next(reversed(self.by_account), account)
        if last != account:
            alike = abs(self.by_account[last].full - look.full) <= look.tolerance
            self._anyway = _learned(self._anyway, happened=alike)

    def fit(self, look: Look, ours: Mark | None, theirs: Mark) -> float:
        """Nats for a look's bucket being the one that the other left."""
        return min(look.fit(ours, theirs), max(log(FITS / self._anyway), 0.0))

    def nearest(self, look: Look, account: int) -> int | None:
        """The other account whose bucket stands nearest to what a look shows, within its tolerance."""
        place = bisect_left(self._by_full, (look.limit, look.full))
        best, found = look.tolerance, None
        for limit, full, other in self._by_full[max(place - 2, 0) : place + 2]:
            if other != account and limit == look.limit and abs(full - look.full) <= best:
                best, found = abs(full - look.full), other
        return found


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call of `size` tokens was refused. There was not to be as much before `until`."""

    sent: float
    until: float
    size: float
    key: str


class Refusals:
    """The last refusals for one model family of one host, where counters are not shown."""

    __slots__ = ("_anyway", "_over", "_recent", "by_account")

    def __init__(self) -> None:
        self.by_account: dict[int, Refusal] = {}
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._over = -inf
        """When the last refusal is over."""
        self._anyway = REFUSED_ANYWAY

    def note(self, account: int, refusal: Refusal) -> None:
        self.by_account[account] = refusal
        self._recent.append(account)
        self._over = max(self._over, refusal.until)

    def forget(self, account: int) -> None:
        self.by_account.pop(account, None)

    def foretelling(self, key: str, sent: float, size: float) -> list[int]:
        """The accounts that were just refused another key's call, so that this one is refused if it shares theirs."""
        if sent >= self._over:
            return []
        return [account for account in dict.fromkeys(self._recent) if self._foretells(account, key, sent, size)]

    def _foretells(self, account: int, key: str, sent: float, size: float) -> bool:
        last = self.by_account.get(account)
        return last is not None and last.sent < sent < last.until and last.size <= size and last.key != key

    def nats(self, *, refused: bool) -> float:
        """What it tells for sharing that a call for which it was foretold was refused, or not."""
        if refused:
            return BURSTS * log(REFUSED / self._anyway)
        return log((1 - REFUSED) / (1 - self._anyway))

    def compared(self, *, refused: bool) -> None:
        """Learn how often that happens by chance, from accounts of which nearly all share nothing."""
        self._anyway = _learned(self._anyway, happened=refused)


def _learned(chance: float, *, happened: bool) -> float:
    """A chance after one more case; nothing becomes certain."""
    return min(max(chance + (happened - chance) / COMPARED, RAREST), 1 - RAREST)


def tightest(readings: Sequence[Reading]) -> Reading | None:
    """The counter that is lowest, relative to its limit: it tells most."""
    lowest, found = inf, None
    for reading in readings:
        if reading.limit and reading.remaining is not None and (share := reading.remaining / reading.limit) < lowest:
            lowest, found = share, reading
    return found
