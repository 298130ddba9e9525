"""The router's mirror of a provider's own token buckets: what may start now, and from when the rest may.

A bucket refills continuously. A reservation may run into debt and then yields its start time at once. What the
answers' headers say corrects the mirror; between answers it goes by dead reckoning.
"""

from __future__ import annotations

from math import inf

from .model import DAY, MINUTE, Dimension, Reading

MARGIN = 0.01
"""Share of a bucket that is left in it: calls overtake each other on their way, and clocks are not exact."""
NOISE = 1e-6
"""Units; above what sums of floats lose, below a token."""
DRAIN_TIME = 10.0
"""Seconds over which unexplained use of an account is taken to be a steady drain by someone else."""
DRAIN_UNITS = 10.0
"""The same in units, where the limit is so low that the refill of these takes longer: one call is no steady drain."""
FULL = 0.9
"""Share of a bucket above which nobody can tell what is taken from it: it overflows."""
DRAIN_HALF_LIFE = 60.0
"""Seconds without news in which the drain is forgotten by half, so that what it blocks is tried again."""
LARGEST_DRAIN = 0.9
"""Share of the refill; the rest is kept, or nobody would ever learn that the other has left."""
SNAP = 0.05
"""Share by which a refill may differ from a limit by the minute, hour or day, and still be taken to be it."""
FIRST_GUESS = 0.8
"""Share of the rate before a refusal that is tried next where nothing says what the limit is."""
GROWTH, LEAST_GROWTH = 0.1, 0.01
"""Shares by which a guessed limit grows each second in which it is used, at first, and after some refusals: so it is
found that there is more."""
ROUNDING = 0.005
"""Share of a bucket by which headers may show less than was thought without a cause: some are rounded."""
PLENTY = 0.05
"""Share of a limit that must be left besides what was refused, for the refusal to have another cause."""
SLICE_MEMORY = 600.0
"""Seconds without a refusal after which twice as much is tried at once."""
SLICE_SLACK = 0.03
"""Units of each slice that are not used: where one call fills a slice, it must not come a moment too soon."""
STEADY = 1.5
"""Seconds for which answers must show more than was thought, until it is believed."""
LOOKS = 16
"""Answers from which the period of a limit is worked out, where headers do not name it."""
_PERIODS = (1.0, 10.0, MINUTE, 3600.0, DAY)


class Bucket:
    """One limit of one account and model family. Times are monotonic seconds.

    Args:
        limit: units that are granted for each period; also how many there are at most.
        period: seconds.
        level: what is there now. Default: all.
        guessed: the limit is our own guess, which grows until it is refused.
    """

    __slots__ = (
        *("at", "capacity", "dimension", "drain", "growth", "guessed", "held", "level", "limit", "looks"),
        *("margin", "net", "newest"),
        *("period", "rate", "short", "short_since", "shrunk_at", "taken"),
    )

    def __init__(
        self,
        dimension: Dimension,
        period: float,
        limit: float,
        now: float,
        *,
        level: float | None = None,
        guessed: bool = False,
    ) -> None:
        self.dimension = dimension
        self.period = period
        self.limit = limit
        self.capacity = limit
        """Most that can be there: less than the limit where the provider enforces it over shorter slices."""
        self.margin = MARGIN * limit
        """What is left in it where possible."""
        self.rate = limit / period
        self.net = self.rate
        """Units a second that come in for us: the rate, less what others take."""
        self.drain = 0.0
        """Units a second that someone else takes."""
        self.level = limit if level is None else level
        """What is there at `at`; negative while reservations wait for it."""
        self.at = now
        self.taken = 0.0
        """All that was ever reserved: a lease remembers it, so that later reservations are known to be later."""
        self.held = 0.0
        """What is reserved by calls that wait: not sent yet."""
        self.newest = -inf
        """`taken` of the latest reservation whose answer was read."""
        self.guessed = guessed
        self.growth = GROWTH
        self.looks = 0
        self.short_since = inf
        """Since when all answers have shown more than was thought."""
        self.short = 0.0
        """The least by which they did."""
        self.shrunk_at = -inf

    def refill(self, now: float) -> None:
        """Bring the level up to date."""
        gap = now - self.at
        if gap <= 0.0:
            return
        self.at = now
        if self.guessed:
            level = self.level
            self._resize(self.limit * (1.0 + self.growth * min(gap, 1.0)), self.period)
            self.level = min(level, self.capacity)  # what a larger guess would have granted before is not there now
        level = self.level + self.net * gap
        self.level = level if level < self.capacity else self.capacity
        if self.capacity < self.limit and now - self.shrunk_at > SLICE_MEMORY and not self.guessed:
            self.shrink(min(2.0 * self.capacity, self.limit))
            self.shrunk_at = now
        if self.drain and gap > 1.0:
            self._set_drain(self.drain * 0.5 ** (gap / DRAIN_HALF_LIFE))

    def level_at(self, now: float) -> float:
        """What is there, or was reserved in excess of it (negative)."""
        return min(self.level + self.net * max(now - self.at, 0.0), self.capacity)

    def start_for(self, amount: float, now: float) -> float:
        """When `amount` is there; infinite if it never is."""
        if amount > self.limit:
            return inf
        missing = self._need(amount) - self.level - self.net * (now - self.at if now > self.at else 0.0)
        return now if missing <= NOISE else now + missing / self.net

    def _need(self, amount: float) -> float:
        """What must be there for `amount` to be taken."""
        return min(amount + self.margin, self.capacity)

    def take(self, amount: float, now: float) -> float:
        """Reserve `amount`, into debt if need be; the mark of this reservation."""
        self.refill(now)
        self.level -= amount
        self.taken += amount
        return self.taken

    def give_back(self, amount: float) -> None:
        """Undo a reservation, or the part of one that was not charged."""
        self.level = min(self.level + amount, self.capacity)

    def correct(self, reading: Reading, *, amount: float, sent_at: float, mark: float, now: float) -> float | None:
        """Learn from the header of an answer to a call that was sent at `sent_at` with the reservation `mark`.

        Returns how many times the reserved `amount` was charged, where this answer shows it: when no other call
        came between it and the answer before.

        Nobody says when within that time the header was written. If it was at the start, all that was reserved
        since is still to be taken off; if just now, nothing is. The level is corrected only as far as both
        contradict it, and an answer that was overtaken by a later call's never raises it.
        """
        self.refill(now)
        changed = reading.limit is not None and reading.limit > 0 and self._learn_limit(reading)
        if reading.remaining is None or (self.level < reading.remaining and self.capacity < self.limit):
            return None  # what is left of the whole period says nothing of what is left of a slice
        alone = mark == self.taken and mark - amount <= self.newest
        if alone and not changed and not self.drain and amount and self.level < self.capacity:
            self.newest = mark
            over = self.level - reading.remaining  # if the header was written just now
            refilled = self.net * (now - sent_at)
            if 0.0 <= over < 1.0 + refilled:
                return 1.0  # what is left is rounded down
            extra = over - refilled if over > 0.0 else over
            self.level -= extra
            return (amount + extra) / amount
        refilled, since = reading.remaining + self.net * (now - sent_at), self.taken - mark
        late = reading.remaining - self.held
        high = max(refilled - since, late)
        low = min(min(refilled, self.capacity) - since, late)  # it may have been full before all that was taken
        if changed:
            self.level, self.short_since = min(low, self.capacity), inf
        elif self.level > high + ROUNDING * self.capacity:
            self._shift(high)
            self.short_since = inf
        elif mark >= self.newest:
            self._rise(min(low, self.capacity) - self.level, now)
        self.newest = max(self.newest, mark)
        return None

    def _rise(self, short: float, now: float) -> None:
        """Answers that show more than was thought are believed once they have done so for a while, the least of them.

        Some providers show the state of a second ago, which is wrong by turns to either side.
        """
        if short <= 0.0:
            self.short_since = inf
        elif self.short_since == inf:
            self.short_since, self.short = now, short
        else:
            self.short = min(self.short, short)
            if now - self.short_since >= STEADY:
                self._shift(self.level + self.short)
                self.short_since = inf

    def refuse(
        self, amount: float, wait: float, *, mark: float, sent_at: float, now: float, shown: float | None
    ) -> None:
        """Learn from a refusal of `amount`, reserved with `mark`: it is there in `wait` seconds.

        `shown` is what the answer's own header says is left. If that is plenty, as we thought, the limit is enforced
        over slices shorter than its period: no more can be had at once than was had until then.
        """
        self.refill(now)
        if self.dimension is not Dimension.REQUESTS:  # refused requests are counted, their tokens are not
            self.give_back(amount)
        if sent_at < self.shrunk_at:
            return  # of the same burst
        # What was there for this call, whatever was taken since: many may have been sent at once.
        thought = self.level + self.taken - mark - self.net * (now - sent_at)
        thought += amount if self.dimension is Dimension.REQUESTS else 0.0
        plenty = amount + PLENTY * self.limit
        # Once slices are known of, more than was there for this call is enough to show that they are shorter still.
        sliced = shown is not None and shown > plenty and thought > (plenty if self.capacity == self.limit else amount)
        if self.guessed or sliced:
            self.shrink(max(self.capacity - thought, amount, 1.0))
            self.shrunk_at = now
        if self.guessed:
            self.growth = max(self.growth / 2, LEAST_GROWTH)
            self._resize(self.limit * FIRST_GUESS, self.period)
        self.owe(amount, wait)

    def owe(self, amount: float, wait: float) -> None:
        """`amount` is there in `wait` seconds, and not before."""
        self.level = min(self.level, self._need(amount) - self.net * wait)

    def shrink(self, capacity: float) -> None:
        """No more than this is to be had at once."""
        self.capacity, self.margin = capacity, MARGIN * capacity
        self.level = min(self.level, capacity)
        self._set_drain(self.drain)

    def resize(self, limit: float, period: float) -> None:
        """Change the limit; what was used of the old one stays used."""
        if self.guessed:
            self.guessed, self.capacity = False, self.limit  # the burst was a guess, too
        self._resize(limit, period)

    def _resize(self, limit: float, period: float) -> None:
        share = self.capacity / self.limit
        before = self.capacity
        self.limit, self.period = limit, period
        self.capacity = limit * share
        self.margin = MARGIN * self.capacity
        self.level = min(self.level + self.capacity - before, self.capacity)
        self.rate = limit / period
        self._set_drain(self.drain)

    def _learn_limit(self, reading: Reading) -> bool:
        limit, period = reading.limit or self.limit, self.period
        if limit != self.limit or self.guessed or self.looks < LOOKS:
            self.looks += 1  # the first answers may say little of the period
            period = period_of(reading, self.period)
        if limit == self.limit and period == self.period and not self.guessed:
            return False
        self.resize(limit, period)
        return True

    def _shift(self, level: float) -> None:
        """Set the level to what a header shows; what no call of ours explains is put down to someone else."""
        if level < FULL * self.capacity:
            self._set_drain(self.drain + (self.level - level) / max(DRAIN_TIME, DRAIN_UNITS / self.rate))
        self.level = level

    def _set_drain(self, drain: float) -> None:
        self.drain = max(min(drain, LARGEST_DRAIN * self.rate), 0.0)
        self.net = self.rate - self.drain
        if self.capacity < self.limit:
            self.net *= 1.0 - SLICE_SLACK / max(self.capacity, 1.0)


def period_of(reading: Reading, otherwise: float = MINUTE) -> float:
    """The seconds for which a limit is granted: as its header's name says, or as its refill shows.

    A bucket that lacks a part is full again after `reset`, so its refill is that part by that time (OpenAI's
    12 ms at 5,000 a minute, and 8.64 s at 10,000 a day).
    """
    if reading.period is not None:
        return reading.period
    limit, remaining, reset = reading.limit, reading.remaining, reading.reset
    if not limit or remaining is None or not reset or remaining >= limit:
        return otherwise
    # What is used is rounded up to whole units, the reset to milliseconds or seconds: of few units they say little.
    used, rounding = limit - remaining, 1.0 if reset == int(reset) else 0.001
    shortest = (1.0 - SNAP) * (reset - rounding) * limit / used
    longest = (1.0 + SNAP) * (reset + rounding) * limit / (used - 1.0) if used > 1.0 else inf
    fits = (period for period in (otherwise, *_PERIODS) if shortest <= period <= longest)
    return next(fits, max(reset * limit / used, 1.0))
