"""The limits of one account for one model family: its buckets, and what else holds calls back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, log2
from typing import Protocol

from .buckets import FIRST_GUESS, Bucket, period_of
from .charges import charges
from .model import MINUTE, Dimension, Estimate, Outcome, Reading, Usage

FIRST_WINDOW = 8
"""Calls that may be in flight at once to an account of which nothing is known."""
WINDOW_TIME = 0.25
"""Seconds in which that number doubles, also without an answer: long answers must not hold up the rest."""
OPEN_AFTER = 4
"""Answers without a word on limits, after which no more is expected."""
UNNAMED_WAIT = 5.0
"""Seconds to leave an account alone where the provider named no time."""
BUSY_WAIT = 1.0
"""Seconds after which to look again at an account that serves as many calls as it takes; each end tells sooner."""
FIRST_RATE = 4.0
"""Calls a second, at least, that are tried after the first refusal: few calls say nothing of what more would do."""
BURST_TIME = 2.0
"""Seconds of a guessed rate that may start at once."""
COUNTED = 60.0
"""Seconds over which the rate is measured that is tried where no limit is known."""
RATIO_STEP = 0.1
"""Weight of one observation in the learned ratio of charge to estimate."""
RATIOS = (0.1, 4.0)
"""Bounds of that ratio: what lies beyond is someone else's use, or a misreading."""

Amounts = tuple[float, ...]
"""What a call takes of each bucket, in the order of `Quota.buckets`."""


class Reservation:
    """What one call took, of which buckets, and what had been taken of each by then (see `Bucket.correct`)."""

    __slots__ = ("amounts", "buckets", "marks")

    def __init__(self, buckets: list[Bucket], amounts: Amounts, marks: Amounts) -> None:
        self.buckets = buckets
        self.amounts = amounts
        self.marks = marks


class Debtor(Protocol):
    """A call that waits for what was reserved for it."""

    start: float


class Quota:
    """Buckets that are taken from together. Times are monotonic seconds."""

    __slots__ = (
        *("answers", "buckets", "charges", "concurrent", "crowded_at", "debtor", "family", "granted", "in_flight"),
        *("known", "limits_at"),
        *("parked_until", "ratios", "refused_at", "saved_at", "scarcity", "since", "too_large", "too_large_until"),
    )

    def __init__(self, family: str, provider: str, now: float) -> None:
        self.family = family
        self.charges = charges(provider)
        self.buckets: list[Bucket] = []
        self.concurrent: int | None = None
        """Most requests at a time, where that is limited."""
        self.in_flight = 0
        self.crowded_at = -inf
        """When it last refused for being asked too much at a time; never if `concurrent` was told."""
        self.parked_until = -inf
        self.debtor: Debtor | None = None
        """The call that waits for this account's next capacity: there is one at a time."""
        self.known = False
        """Whether anything is known of its limits, or nothing is to be known."""
        self.answers = 0
        self.granted = 0.0
        """Calls granted since `since`: the rate that is tried where a refusal does not name the limit."""
        self.since = now
        self.refused_at = -inf
        self.ratios: dict[Dimension, float] = {}
        """What is charged for each token that was estimated."""
        self.too_large = inf
        """The smallest request, in tokens, that is known to exceed the whole limit, until `too_large_until`."""
        self.too_large_until = -inf
        self.saved_at = -inf
        """When what is known of it was last passed on to be kept."""
        self.scarcity = 0.0
        """How likely it is that one of its limits is used up before it is there again, 0 to 1."""
        self.limits_at = 0
        """Counts the changes of limits, for those who keep something that was worked out from them."""

    def amounts(self, estimate: Estimate) -> Amounts:
        """What a call takes of each bucket."""
        before, ratios = self.charges.before, self.ratios
        if not ratios:
            return tuple([before(estimate, bucket.dimension) for bucket in self.buckets])
        return tuple([self._amount(bucket.dimension, estimate) for bucket in self.buckets])

    def _amount(self, dimension: Dimension, estimate: Estimate) -> float:
        amount = self.charges.before(estimate, dimension)
        return amount * self.ratios[dimension] if dimension in self.ratios else amount

    @property
    def counts_tokens(self) -> bool:
        """Whether a call's tokens matter."""
        return len(self.buckets) > 1 or (bool(self.buckets) and self.buckets[0].dimension is not Dimension.REQUESTS)

    def start(self, amounts: Amounts, now: float) -> float:
        """When a call may start: `now` at the earliest, infinite if nobody knows or it exceeds a whole limit."""
        start = self.parked_until if self.parked_until > now else now
        for bucket, amount in zip(self.buckets, amounts, strict=False):
            need = amount + bucket.margin
            if need > bucket.capacity or bucket.level + bucket.net * (now - bucket.at) < need:
                at = bucket.start_for(amount, now)
                if at > start:
                    start = at
        if not self.known and (opens := self._window_opens(now)) > start:
            return opens
        if self.concurrent is not None and self.in_flight >= self.concurrent:
            return max(start, now + BUSY_WAIT)
        return start

    @property
    def is_learned(self) -> bool:
        """Whether answers have shown limits, or refusals told of them: not merely what was configured."""
        return self.refused_at > -inf or any(bucket.looks for bucket in self.buckets)

    def is_too_large(self, estimate: Estimate, now: float) -> bool:
        """Whether a call is known to exceed the whole limit by a refusal of one no larger."""
        return now < self.too_large_until and self.charges.before(estimate, Dimension.TOKENS) >= self.too_large

    def remember_too_large(self, size: float, until: float, now: float) -> None:
        """Note that calls of so many tokens exceed the whole limit."""
        self.too_large = min(size, self.too_large if now < self.too_large_until else inf)
        self.too_large_until = until

    def rates(self) -> tuple[float, float]:
        """Requests and tokens a second that this account brings in; infinite where nothing is limited."""
        requests = tokens = inf
        for bucket in self.buckets:
            if bucket.dimension is Dimension.REQUESTS:
                requests = min(requests, bucket.net)
            elif bucket.dimension is not Dimension.OUTPUT:
                tokens = min(tokens, bucket.net)
        return requests, tokens

    def share(self, amounts: Amounts) -> float:
        """The seconds in which the scarcest of its limits refills what a call takes; 0 where none is known."""
        share = 0.0
        for bucket, amount in zip(self.buckets, amounts, strict=False):
            taken = amount / bucket.rate
            if taken > share:
                share = taken
        return share

    def paid_at(self, now: float) -> float:
        """When what is reserved is there."""
        return self.start((0.0,) * len(self.buckets), now)

    def take(self, amounts: Amounts, now: float) -> Reservation:
        """Reserve, into debt if need be."""
        marks = tuple([bucket.take(amount, now) for bucket, amount in zip(self.buckets, amounts, strict=False)])
        if not self.granted and not self.answers:
            self.since = now
        elif now - self.since > COUNTED and not self.buckets:
            self.granted = self.granted / 2 if now - self.since < 2 * COUNTED else 0.0
            self.since = now - COUNTED / 2
        self.granted += 1.0
        if self.concurrent is not None and COUNTED < now - self.crowded_at < inf:
            self.concurrent, self.crowded_at = self.concurrent + 1, now
        return Reservation(self.buckets, amounts, marks)

    def has_left(self, share: float, amounts: Amounts, now: float) -> bool:
        """Whether more than that share of each limit is there after a call."""
        return all(
            bucket.level_at(now) - amount > share * bucket.capacity
            for bucket, amount in zip(self.buckets, amounts, strict=False)
        )

    def forget_leases(self) -> None:
        """Nothing is in flight and nobody waits: these are another process's calls now."""
        self.in_flight, self.debtor = 0, None
        for bucket in self.buckets:
            bucket.held = 0.0

    @staticmethod
    def hold(taken: Reservation, sign: float) -> None:
        """Note that a reservation waits (1), or waits no longer (-1)."""
        for bucket, amount in zip(taken.buckets, taken.amounts, strict=False):
            bucket.held += sign * amount

    def give_back(self, taken: Reservation) -> None:
        """Undo a reservation of which nothing was sent."""
        for bucket, amount in zip(taken.buckets, taken.amounts, strict=False):
            bucket.give_back(amount)
        self.granted -= 1.0

    def lower(self, readings: Sequence[Reading], now: float) -> None:
        """Take in what was left after a call that was counted elsewhere, but turns out to draw on these buckets."""
        for reading in readings:
            place = self._find(reading.dimension, reading.period, reading)
            if place is not None and reading.remaining is not None:
                bucket = self.buckets[place]
                bucket.refill(now)
                bucket.level = min(bucket.level, reading.remaining - bucket.held)

    def contradicts(self, readings: Sequence[Reading]) -> bool:
        """Whether headers show other limits of tokens than these, several answers of which have been read."""
        limits = {bucket.dimension: bucket.limit for bucket in self.buckets if bucket.looks >= OPEN_AFTER}
        return any(
            reading.limit is not None and limits.get(reading.dimension, reading.limit) != reading.limit
            for reading in readings
            if reading.dimension is not Dimension.REQUESTS
        )

    def answered(self) -> None:
        """An answer has come, whatever it says."""
        self.answers += 1
        if self.answers >= OPEN_AFTER:
            self.known = True

    def read(
        self,
        readings: Sequence[Reading],
        taken: Reservation,
        estimate: Callable[[], Estimate],
        *,
        sent_at: float,
        now: float,
    ) -> None:
        """Learn from the headers of an answer to a call that was sent at `sent_at`."""
        marks, amounts = (taken.marks, taken.amounts) if taken.buckets is self.buckets else ((), ())
        for reading in readings:
            place = self._find(reading.dimension, reading.period, reading)
            if place is None:
                if reading.limit:
                    self._discover(reading, estimate(), now)
                continue
            bucket = self.buckets[place]
            limit = bucket.limit
            mark, amount = (marks[place], amounts[place]) if place < len(marks) else (0.0, 0.0)
            ratio = bucket.correct(reading, amount=amount, sent_at=sent_at, mark=mark, now=now)
            if ratio is not None and bucket.dimension is not Dimension.REQUESTS:
                self._learn_ratio(bucket.dimension, ratio * self.ratios.get(bucket.dimension, 1.0))
            if bucket.limit != limit:
                self.limits_at += 1

    def settle(self, usage: Usage, taken: Reservation, estimate: Callable[[], Estimate]) -> None:
        """Where a provider counts actual use in the end: give back what was reserved in excess."""
        if not self.charges.settles:
            return
        for bucket, amount in zip(taken.buckets, taken.amounts, strict=False):
            dimension = bucket.dimension
            if dimension is Dimension.REQUESTS:
                continue
            used = self.charges.after(usage, dimension)
            bucket.give_back(amount - used)
            if (estimated := self.charges.before(estimate(), dimension)) > 0:
                self._learn_ratio(dimension, used / estimated)

    def refuse(self, outcome: Outcome, taken: Reservation, estimate: Estimate, *, sent_at: float, now: float) -> None:
        """Learn from a rate-limit refusal: no call before the time that the provider named, and the level then.

        A cooldown is the maximum of its deadlines. `outcome.readings` have been read before.
        """
        if outcome.dimension is Dimension.CONCURRENT:
            self._too_many(outcome.wait or 0.0, sent_at=sent_at, now=now)
            return
        wait = UNNAMED_WAIT if outcome.wait is None else outcome.wait
        burst = sent_at <= self.refused_at  # a call that was on its way when another was refused: nothing new
        self.parked_until = max(self.parked_until, now + wait)
        self.refused_at = now
        named = self._named(outcome, now)
        shown = {reading.dimension: reading.remaining for reading in outcome.readings}
        marks, amounts = (taken.marks, taken.amounts) if taken.buckets is self.buckets else ((), ())
        for place, bucket in enumerate(self.buckets):
            amount = amounts[place] if place < len(amounts) else self._amount(bucket.dimension, estimate)
            mark = marks[place] if place < len(marks) else bucket.taken
            if named is bucket or (named is None and bucket.guessed and not burst):
                bucket.refuse(amount, wait, mark=mark, sent_at=sent_at, now=now, shown=shown.get(bucket.dimension))
            elif bucket.dimension is not Dimension.REQUESTS and place < len(amounts):
                bucket.give_back(amount)  # refused tokens are not counted
        if not self.buckets:
            self._guess(wait, now)

    def _too_many(self, wait: float, *, sent_at: float, now: float) -> None:
        """Learn how many calls are served at a time: those that are in flight now, and one more each quiet minute."""
        self.parked_until = max(self.parked_until, now + wait)
        if sent_at > self.crowded_at or self.concurrent is None:
            most = max(self.in_flight, 1)
            self.concurrent = most if self.concurrent is None else min(self.concurrent, most)
            self.crowded_at = now

    def absorb(self, other: Quota) -> None:
        """Take over what another, which turns out to be the same, has learned or is owed."""
        self.parked_until = max(self.parked_until, other.parked_until)
        if not self.buckets and other.buckets:
            self.buckets, self.known = other.buckets, other.known
            self.limits_at += 1

    def _find(self, dimension: Dimension, period: float | None, reading: Reading | None = None) -> int | None:
        """The place of the bucket that a reading or a refusal speaks of."""
        found: int | None = None
        for place, bucket in enumerate(self.buckets):
            if bucket.dimension is dimension:
                if period is None and found is not None and reading is not None:
                    return self._find(dimension, period_of(reading))  # there is one for each of several periods
                if period is None or period == bucket.period or bucket.guessed:
                    found = place
        return found

    def _discover(self, reading: Reading, estimate: Estimate, now: float) -> None:
        """A limit that was not known. Who else is in flight may not be counted yet in what is left of it."""
        limit = reading.limit or 0.0
        others = self._amount(reading.dimension, estimate) * self.in_flight
        level = (limit if reading.remaining is None else reading.remaining) - others
        self.buckets = [bucket for bucket in self.buckets if not bucket.guessed]
        self.add(Bucket(reading.dimension, period_of(reading), limit, now, level=level))

    def add(self, bucket: Bucket) -> None:
        """Take another limit into account."""
        self.buckets.append(bucket)
        self.known = True
        self.limits_at += 1

    def _named(self, outcome: Outcome, now: float) -> Bucket | None:
        """The bucket that refused, as far as the answer says; a limit that it names for the first time is noted."""
        if outcome.dimension is None:
            empty = [r for r in outcome.readings if r.remaining is not None and r.remaining < 1.0]
            place = self._find(empty[0].dimension, empty[0].period, empty[0]) if empty else None
            return None if place is None else self.buckets[place]
        place = self._find(outcome.dimension, outcome.period)
        if place is None and outcome.limit:
            self.buckets = [bucket for bucket in self.buckets if not bucket.guessed]
            self.add(Bucket(outcome.dimension, outcome.period or MINUTE, outcome.limit, now, level=0.0))
            return self.buckets[-1]
        return None if place is None else self.buckets[place]

    def _guess(self, wait: float, now: float) -> None:
        """Where nothing says what the limit is: what was had until now, evenly spread, and a little less."""
        rate = max(FIRST_GUESS * self.granted / max(now + wait - self.since, 1.0), FIRST_RATE)
        bucket = Bucket(Dimension.REQUESTS, MINUTE, rate * MINUTE, now, guessed=True)
        bucket.shrink(min(max(rate * BURST_TIME, 1.0), bucket.limit))
        bucket.owe(1.0, wait)
        self.buckets.append(bucket)
        self.limits_at += 1

    def _learn_ratio(self, dimension: Dimension, ratio: float) -> None:
        low, high = RATIOS
        before = self.ratios.get(dimension, 1.0)
        self.ratios[dimension] = before + RATIO_STEP * (min(max(ratio, low), high) - before)

    def _window_opens(self, now: float) -> float:
        """When an account of which nothing is known takes one more call: some at once, soon twice as many."""
        doublings = log2(max((self.in_flight + 1) / (FIRST_WINDOW * 2.0**self.answers), 1.0))
        return max(now, self.since + doublings * WINDOW_TIME)
