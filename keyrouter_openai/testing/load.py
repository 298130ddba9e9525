"""Traffic to test with: recorded traces, and a made-up service that is as bursty as the recorded ones.

A load is times and sizes, nothing else. It is cut and sped up here; `replay.play` sends it.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import floor, isfinite
from pathlib import Path
from random import Random

COLUMNS = ("arrival_s", "prompt_tokens", "completion_tokens")
MINUTE = 60.0

Row = Mapping[str, str | None]
"""A line of a recording, by the names of its columns."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds from the load's start, and tokens."""

    at: float
    prompt_tokens: int
    completion_tokens: int

    @property
    def charge(self) -> int:
        """Tokens that a limit is charged for it up front, as OpenAI does where `max_tokens` is the completion's size.

        The larger of the two (https://developers.openai.com/api/docs/guides/rate-limits).
        """
        return max(self.prompt_tokens, self.completion_tokens)


@dataclass(frozen=True, slots=True)
class Load:
    """Requests in order of arrival, over so many seconds.

    `calls_per_minute` and `tokens_per_minute` (as charged) are the means of the service that the load is taken
    from, in its own minutes: they stay what they are when a part is cut out or played faster.
    """

    arrivals: tuple[Arrival, ...]
    seconds: float
    calls_per_minute: float
    tokens_per_minute: float

    @classmethod
    def of(cls, arrivals: tuple[Arrival, ...], seconds: float) -> Load:
        """A whole recording."""
        minutes = seconds / MINUTE
        return cls(arrivals, seconds, len(arrivals) / minutes, sum(a.charge for a in arrivals) / minutes)

    def window(self, start: float, end: float) -> Load:
        """The requests from `start` up to `end`, in seconds.

        Raises:
            ValueError: there is none, or these are not two times within the load, the earlier first.
        """
        if not 0 <= start < end <= self.seconds:
            raise ValueError(f"the window {start:g},{end:g} is not within 0,{self.seconds:g}, the earlier second first")
        kept = tuple(replace(a, at=a.at - start) for a in self.arrivals if start <= a.at < end)
        if not kept:
            raise ValueError(f"no request arrives in the window {start:g},{end:g}")
        return replace(self, arrivals=kept, seconds=end - start)

    def busiest(self, seconds: float) -> tuple[float, float]:
        """The window of this length, from a whole second on, in which most requests arrive; the first of several."""
        times = [a.at for a in self.arrivals]
        length = min(seconds, self.seconds)
        starts = range(int(self.seconds - length) + 1)
        start = max(starts, key=lambda second: bisect_left(times, second + length) - bisect_left(times, second))
        return float(start), start + length

    def faster(self, times: float) -> Load:
        """The same requests, `times` as fast. Whoever plays it makes the provider's minutes as much shorter."""
        arrivals = tuple(replace(a, at=a.at / times) for a in self.arrivals)
        return replace(self, arrivals=arrivals, seconds=self.seconds / times)


def read_trace(path: Path) -> Load:
    """A recording: a CSV file, compressed with gzip, with the columns `COLUMNS` and any others, in order of arrival.

    Raises:
        ValueError: the file is none such; the text says where and why.
    """
    arrivals = tuple(arrival for arrival, _ in read_rows(path))
    if not arrivals:
        raise ValueError(f"{path}: holds no request")
    return Load.of(arrivals, floor(arrivals[-1].at) + 1.0)


def read_rows(path: Path) -> Iterator[tuple[Arrival, Row]]:
    """The requests of a recording, each with all that its line says. Raises ValueError as `read_trace` does."""
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            yield from _arrivals(csv.DictReader(file))
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise ValueError(f"{path}: is not a gzip file, or not a whole one") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path}: is not a CSV file in UTF-8") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _arrivals(rows: csv.DictReader[str]) -> Iterator[tuple[Arrival, Row]]:
    if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
        raise ValueError(f"its first line names no column {missing[0]!r}; a trace has {', '.join(COLUMNS)}")
    before = 0.0
    for row in rows:
        try:
            arrival = _arrival(row, before)
        except ValueError as error:
            raise ValueError(f"line {rows.line_num}: {error}") from None
        before = arrival.at
        yield arrival, row


def _arrival(row: Row, before: float) -> Arrival:
    at, prompt, completion = (row[name] for name in COLUMNS)
    try:
        arrival = Arrival(float(at or ""), int(prompt or ""), int(completion or ""))
    except ValueError:
        raise ValueError(f"{at!r}, {prompt!r}, {completion!r} are not a time and two numbers of tokens") from None
    if not isfinite(arrival.at) or arrival.at < before:
        raise ValueError(f"arrival_s is {at}, but must be {before:g} or later, as in the line before")
    if arrival.prompt_tokens < 1 or arrival.completion_tokens < 0:
        raise ValueError(f"{prompt} prompt tokens and {completion} completion tokens: less than a request has")
    return arrival


# A service of two kinds of requests, with the sizes of the Azure LLM inference trace of 2023
# (https://github.com/Azure/AzurePublicDataset; P. Patel et al., "Splitwise", ISCA 2024), halved.
_MEAN_PROMPT, _MEAN_COMPLETION = 750, 75
_RECORDING = 10 * MINUTE
_CALM_RATE, _BURST_RATE = 4.0, 28.0
"""Requests a second, outside and within a burst."""
_CALM, _BURST = 40.0, 7.0
"""Mean length of a calm and of a burst, in seconds."""


def bursty(rng: Random) -> Load:
    """Ten minutes of a made-up service: some calls a second, and bursts of seven times as many.

    Arrivals are random (Poisson) at a rate that switches at random; sizes are lognormal.
    """
    arrivals: list[Arrival] = []
    at, switch, bursting = 0.0, rng.expovariate(1 / _CALM), False
    while True:
        at += rng.expovariate(_BURST_RATE if bursting else _CALM_RATE)
        if at > switch:  # the wait has no memory, so it may start anew where the rate changes
            at, bursting = switch, not bursting
            switch += rng.expovariate(1 / (_BURST if bursting else _CALM))
            continue
        if at >= _RECORDING:
            return Load.of(tuple(arrivals), _RECORDING)
        arrivals.append(Arrival(at, _size(_MEAN_PROMPT, rng), _size(_MEAN_COMPLETION, rng)))


def _size(mean: int, rng: Random) -> int:
    return max(1, round(mean * rng.lognormvariate(-0.5, 1.0)))
