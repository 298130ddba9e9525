"""When what is left of a limit or budget is used up at the present pace, and how sure that is.

Use is counted in slots. For each of many spans of time, each twice as long as the one before, the use of the next span
is foretold by the past, fading over spans of about that length (which suits traffic that is bursty at all time scales:
W. Leland et al., IEEE/ACM ToN 2(1), 1994), and compared with the truth when it is known. How far such forecasts were
off, by span, says how far this one may be. What is left is used up by a time if the use until then is at least that:
the time's distribution follows from that of the use, taken to be lognormal. The bounds of its intervals move so that
the truth lies within as often as is stated (adaptive conformal inference: I. Gibbs and E. Candès, NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import erfc, exp, log, log1p, log2, pi, sqrt
from typing import NamedTuple

from .model import DAY

SLOT = 10.0
"""Seconds in which use is counted together."""
SPANS = 18
"""Spans by which forecasts are made: a slot, twice as long, and so on, up to 15 days."""
HOUR = 3600.0
FARTHEST = 30 * DAY
"""Seconds for which is foretold what never resets."""
COVERAGE = 0.8
"""The share of cases in which the truth lies within the interval."""

MIX = 2
"""The past fades over spans that are up to so many doublings longer or shorter than what is foretold."""
FADE = 0.95
"""Weight of a forecast's error once the next of its span is known."""
ENOUGH = 10.0
"""Errors of one span beyond which more say no more of other spans."""
REACH = 2.0
"""Doublings within which errors say something of those of other spans."""
STEADY = 3.0
"""Weight of the belief that errors are, in proportion, the same for all spans."""
BEYOND = 0.2
"""Logarithm by which the squared error grows, at least, for each doubling of a span that is longer than the past."""
DRIFT = 0.003
"""What is added to it, times the doublings squared: what was even for a minute says little of a month."""
ERRORS = (0.01, 2.5)
"""Bounds of the relative error: nothing is quite even, and what is right in the mean is not off by more."""
FEW = 0.7
"""Share by which an interval is wider that rests on a single error: they vary, too."""
STEP = 0.05
"""Share by which a bound moves that the truth went beyond."""
MOVES = (0.5, 2.0)
"""How far it moves at most, times where it would be if errors were normally distributed: one outage is no rule."""
MOST_HOURS = 14 * 24
"""Hours without use that are counted one by one."""
DAY_DOUBT = 1.0
"""Days that speak for no pattern of the day."""
DAY_FADE = 0.9
"""Weight of a day once the next is known."""
LEAST_SLOTS = 6
"""Slots of use before anything is foretold."""
FINE = 4
"""Times for each doubling at which a forecast is worked out."""

_BOUND = 1.2815515655446004
"""Standard deviations to either side of the mean that hold the middle 80 % of a normal distribution."""
_MISS = (1.0 - COVERAGE) / 2.0
_LEVELS = (-_BOUND, 0.0, _BOUND)
_CERTAIN = 40.0
"""Standard deviations beyond which nothing is told apart."""
_MEAN_ERROR = sqrt(2.0 / pi)
"""The mean distance from the mean of a normal distribution, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is foretold: a limit of an account, or a budget."""

    kind: str
    """`account` or `budget`."""
    name: str
    dimension: str
    """What is counted: `requests`, `tokens`, `input_tokens`, `output_tokens`, or `usd`."""
    family: str = ""
    """The model family of an account's limit."""
    period: float | None = None
    """The seconds for which an account's limit is granted."""


@dataclass(frozen=True, slots=True)
class Meter:
    """How much of something limited is used up.

    `resets_at` is the wall-clock time at which all of it is there again, None if never. `refill` is what comes in until
    then, in units per second.
    """

    limit: float
    used: float
    resets_at: float | None = None
    refill: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """When what is left will be used up. Times are wall-clock seconds.

    `at` is as likely too early as too late; None means not before the reset. The truth lies from `earliest` to
    `latest` in 80 % of cases; None there means a time after the reset.
    """

    limit: float
    left: float
    pace: float
    """Units per second that are expected to be used until `at`; where that is None, until the reset."""
    likelihood: float
    """How likely it is that they are used up before the reset, 0 to 1; without a reset, within 30 days."""
    at: float | None
    earliest: float | None
    latest: float | None
    resets_at: float | None


class DayPattern:
    """How use varies with the hour of the day (UTC), once some whole days of it are known.

    Each day counts relative to its own mean: neither growth nor the number of processes that were counted matters.
    """

    __slots__ = ("_day", "_days", "_factors", "_hour", "_sums", "_total")

    def __init__(self) -> None:
        self._sums = [0.0] * 24
        """Of the days, fading: the use of each hour, relative to the day's mean."""
        self._days = 0.0
        self._factors = [1.0] * 24
        self._hour: int | None = None
        """The hour that is being counted, since the epoch; None before the first."""
        self._total = 0.0
        self._day: list[tuple[int, float]] = []
        """The hours of the present day that are over; it begins at any hour."""

    def recall(self, hours: Iterable[tuple[float, float]]) -> None:
        """Take in hours on record: the start of each in wall-clock seconds, and what was used. None need be of 0."""
        for start, amount in sorted(hours):
            if self._hour is None:
                self._hour = int(start // HOUR)
            self.add(start, amount)
        self._hour, self._total = None, 0.0  # the last may not be over
        self._day.clear()

    def add(self, at: float, amount: float) -> None:
        """Count what was used at wall-clock time `at`."""
        hour = int(at // HOUR)
        if self._hour is None:
            self._hour = hour + 1  # the present one is not seen from its start
        if hour > self._hour:
            self._close(hour)
        if hour == self._hour:
            self._total += amount

    def _close(self, hour: int) -> None:
        for each in range(max(self._hour or 0, hour - MOST_HOURS), hour):
            self._day.append((each % 24, self._total))
            self._total = 0.0
            if len(self._day) == 24:
                self._learn()
        self._hour, self._total = hour, 0.0

    def _learn(self) -> None:
        """A day is over."""
        mean = sum([used for _, used in self._day]) / 24
        if mean:
            self._days = self._days * DAY_FADE + 1.0
            for place, used in self._day:
                self._sums[place] = self._sums[place] * DAY_FADE + used / mean
            if self._days > 1.0:
                self._factors = [(total + DAY_DOUBT) / (self._days + DAY_DOUBT) for total in self._sums]
        self._day.clear()

    def between(self, start: float, end: float) -> float:
        """The seconds from `start` to `end` (wall-clock times), each counted by how much is used in its hour."""
        if self._days <= 1.0:
            return max(end - start, 0.0)
        seconds = DAY * max((end - start) // DAY, 0.0)
        start += seconds
        while start < end:
            until = min((start // HOUR + 1.0) * HOUR, end)
            seconds += (until - start) * self._factors[int(start // HOUR) % 24]
            start = until
        return seconds


class _Span:
    """What is known of the use in spans of one length, in slots."""

    __slots__ = (
        *("block", "decay", "early", "error", "expected", "late", "left", "rate", "scored", "spread"),
        *("total", "units", "weight", "length"),
    )

    def __init__(self, length: int) -> None:
        self.length = length
        self.decay = exp(-1.0 / length)
        self.total = self.weight = 0.0
        """The past, fading; their ratio is the use of a slot."""
        self.left = length
        """Slots of the present span that are to come."""
        self.block = self.units = 0.0
        """Its use so far, and the slots, weighed by the hour."""
        self.rate = 0.0
        """What was foretold for it; 0 where nothing was."""
        self.error = self.expected = self.scored = 0.0
        """Sums, fading: how far forecasts were off, what they foretold, and how many there were."""
        self.spread = 0.0
        """The standard deviation of the logarithm of the truth over what was foretold; 0 while unknown."""
        self.early = self.late = _BOUND
        """How many of these the truth may lie above and below, in the share of cases that is stated."""

    def compare(self) -> None:
        """A span is over: learn how far its forecast was off."""
        foretold = self.rate * self.units
        if foretold <= 0.0:
            return
        if self.spread:
            off = (log(self.block) - log(foretold)) / self.spread if self.block > 0.0 else -_CERTAIN
            self.early = _moved(self.early, missed=off > self.early)
            self.late = _moved(self.late, missed=off < -self.late)
        self.error = self.error * FADE + abs(self.block - foretold)
        self.expected = self.expected * FADE + foretold
        self.scored = self.scored * FADE + 1.0
        if self.scored > 2.0:
            self.spread = sqrt(log1p(exp(self.log_variance)))

    @property
    def log_variance(self) -> float:
        """The logarithm of the relative squared error."""
        least, most = ERRORS
        return 2.0 * log(min(max(self.error / self.expected / _MEAN_ERROR, least), most))


def _moved(bound: float, *, missed: bool) -> float:
    """A bound rests where the truth is beyond it as often as is stated."""
    least, most = MOVES
    return min(max(bound * (1.0 + STEP * (missed - _MISS)), least * _BOUND), most * _BOUND)


class _Sight(NamedTuple):
    """What a pace says of the time to come, by span."""

    rates: list[float]
    spreads: list[float]
    bounds: list[tuple[float, float]]


class Pace:
    """The pace at which something is used, and how well its past has foretold its future."""

    __slots__ = ("_slots", "_spans")

    def __init__(self) -> None:
        self._spans = [_Span(2**place) for place in range(SPANS)]
        self._slots = 0

    @property
    def is_known(self) -> bool:
        """Whether there is enough of a past to say anything."""
        return self._slots >= LEAST_SLOTS

    def add(self, amount: float, slots: int = 1, weight: float = 1.0) -> None:
        """`amount` was used in the first of so many slots, and nothing in the rest.

        `weight` is how much is used in a slot at this hour, relative to the mean of a day.
        """
        while slots > 0:
            # Long silence is gone over in long steps, each aligned as the spans are.
            aligned = self._slots & -self._slots or 1
            step = min(aligned, 1 << max(slots.bit_length() - 4, 0))
            self._pass(step, amount, weight * step)
            slots -= step
            amount = 0.0

    def _pass(self, slots: int, amount: float, units: float) -> None:
        self._slots += slots
        over: list[int] = []
        for place, span in enumerate(self._spans):
            decay = span.decay if slots == 1 else span.decay**slots
            span.total = span.total * decay + amount
            span.weight = span.weight * decay + units
            span.block += amount
            span.units += units
            span.left -= slots
            if span.left <= 0:
                over.append(place)
        for place in over:
            span = self._spans[place]
            if not span.scored and place:
                span.early, span.late = self._spans[place - 1].early, self._spans[place - 1].late
            span.compare()
            span.rate = self._rate(place)
            span.block = span.units = 0.0
            span.left = span.length

    def _rate(self, place: int) -> float:
        """The use of a slot that is foretold for a span."""
        mixed = self._spans[max(place - MIX, 0) : place + MIX + 1]
        return sum([span.total / span.weight for span in mixed]) / len(mixed)

    def forecast(self, meter: Meter, now: float, pattern: DayPattern) -> Forecast:
        """When what is left will be used up, seen from wall-clock time `now`."""
        left = max(meter.limit - meter.used, 0.0)
        end = now + FARTHEST if meter.resets_at is None else meter.resets_at
        if left <= 0.0:
            return Forecast(meter.limit, 0.0, self._rate(0) / SLOT, 1.0, now, now, now, meter.resets_at)
        sight = self._sight()
        horizon = max(end - now, SLOT) / SLOT
        times: list[float | None] = []
        pace = sight.rates[0]
        before, reached = 0.0, -_CERTAIN
        step = 1 - FINE
        while before < horizon:
            slots = min(2.0 ** (step / FINE), horizon)
            foretold = _between(sight.rates, slots) * pattern.between(now, now + slots * SLOT) / SLOT
            score = _score(sight, slots, foretold, left + meter.refill * slots * SLOT)
            while len(times) < len(_LEVELS) and score >= (level := _LEVELS[len(times)]):
                share = (level - reached) / (score - reached)
                times.append(now + SLOT * (before * (slots / before) ** share if before else slots * share))
            if len(times) < 2:
                pace = foretold / slots
            before, reached = slots, max(reached, score)
            step += 1
        earliest, at, latest = [*times, None, None, None][: len(_LEVELS)]
        return Forecast(
            meter.limit, left, pace / SLOT, 0.5 * erfc(-reached / sqrt(2.0)), at, earliest, latest, meter.resets_at
        )

    def _sight(self) -> _Sight:
        rates = [self._rate(place) for place in range(SPANS)]
        known = [
            (place, span.log_variance, min(span.scored, ENOUGH))
            for place, span in enumerate(self._spans)
            if span.scored
        ]
        longest = log2(max(self._slots, 1))
        spreads = [_spread(known, float(place), longest) for place in range(SPANS)]
        bounds: list[tuple[float, float]] = []
        for span in self._spans:
            bounds.append((span.early, span.late) if span.scored or not bounds else bounds[-1])
        return _Sight(rates, spreads, bounds)


def _score(sight: _Sight, slots: float, foretold: float, need: float) -> float:
    """How likely it is that no less than `need` is used, as a quantile of the standard normal distribution."""
    if foretold <= 0.0:
        return -_CERTAIN
    off = (log(foretold) - log(need)) / _between(sight.spreads, slots)
    early, late = sight.bounds[min(max(round(log2(slots)), 0), SPANS - 1)]
    return off * _BOUND / (early if off < 0.0 else late)


def _spread(known: Sequence[tuple[int, float, float]], place: float, longest: float) -> float:
    """The standard deviation of the logarithm of the truth over what is foretold for a span.

    A line through the errors of spans of about that length; it does not fall for spans longer than the past.
    """
    near = min(place, longest)
    weights = [(n * exp(-abs(x - near) / REACH), x - near, y) for x, y, n in known]
    weight = sum([w for w, _, _ in weights])
    if not weight:
        return 1.0
    x_mean = sum([w * x for w, x, _ in weights]) / weight
    y_mean = sum([w * y for w, _, y in weights]) / weight
    slope = sum([w * (x - x_mean) * (y - y_mean) for w, x, y in weights])
    slope /= sum([w * (x - x_mean) ** 2 for w, x, _ in weights]) + STEADY
    beyond = max(place - longest, 0.0)
    squared = y_mean - slope * x_mean + max(slope, BEYOND) * beyond
    return sqrt(log1p(exp(squared)) + DRIFT * beyond**2) * (1.0 + FEW / weight)


def _between(values: Sequence[float], slots: float) -> float:
    """The value for so many slots, from those for each span."""
    place = min(max(log2(slots), 0.0), SPANS - 1.0)
    low = min(int(place), SPANS - 2)
    share = place - low
    return values[low] + share * (values[low + 1] - values[low])
