"""A quantile of a stream of durations, of which it keeps one number: old ones fade by themselves."""

from __future__ import annotations

from bisect import insort
from math import ceil, exp

STEP = 0.1
"""How far one value moves the estimate: some 10 % up or 0.5 % down, for a 95th percentile."""
SMALLEST = 1e-6


class Quantile:
    """Estimate of the `p` quantile (0 to 1) of what was added lately; unknown until `least` values were added.

    Stochastic approximation (Robbins and Monro 1951) on a logarithmic scale, so that its step is a share of the
    estimate and not of a second: every value above it moves it up a little, every value below it down, in such
    proportion that it rests where a share of `p` lies below. It starts from the `p` quantile of the first `least`.
    """

    __slots__ = ("_down", "_estimate", "_first", "_least", "_p", "_up")

    def __init__(self, p: float, *, least: int) -> None:
        self._p = p
        self._least = least
        self._up, self._down = exp(STEP * p), exp(STEP * (p - 1.0))
        self._first: list[float] = []
        self._estimate: float | None = None

    @property
    def value(self) -> float | None:
        """The estimate, or None while too few values were added."""
        return self._estimate

    def add(self, value: float) -> None:
        """Take in one value, in the unit of the estimate; it must not be negative."""
        value = max(value, SMALLEST)
        if self._estimate is not None:
            self._estimate *= self._up if value > self._estimate else self._down
            return
        first = self._first
        insort(first, value)
        if len(first) >= self._least:
            self._estimate, self._first = first[ceil(self._p * self._least) - 1], []
