"""How good the forecasts are of when a limit or budget is used up: their intervals, errors and alarms.

    python tests/benchmarks/forecast.py --data FOLDER [--short] [--seeds 12] [--seed 1]

A trace, or a random stretch of it, is played as one day: its times are stretched to 24 hours, nothing else is changed.
Requests, tokens and money are each counted; money at 2.50, 0.25 and 10 dollars for a million tokens of prompt, of
prompt that repeats what was there before, and of answer. Made-up traffic:

    even        Poisson arrivals                      sizes       Poisson arrivals of lognormal sizes
    rare        one call in eight minutes             sessions    15 users who come and go, for times of a Pareto law
    waves       a rate that goes up and down          wander      a rate whose logarithm is a random walk

`intervals`: a limit of 0.8 or 1.0 times the day's use (of made-up traffic: 0.9). Forecasts are made when 20, 35, 50,
65, 80 and 90 % of it are used, for a window that lasts longer, so that there always is a truth. `within` is the share
of cases in which it lies within the stated 80 % interval; `sooner` and `later` are where else it lies. `width` is the
median of latest / earliest, in seconds from now. `error` is the median distance of the estimate from the truth in
hours, `line` that of the naive straight line: what is left over the mean rate since the day began.

`alarms`: the same days, looked at every minute, with a limit of 1.2, 1.0 and 0.8 times the day's tokens, which is reset
when the day ends. `false` counts days with an alarm whose limit was not used up (at 1.2), `missed` those without one
before it was (at 0.8); at 1.0 it is used up with the last call. `ahead` is the median of hours from the alarm to
that moment. Errors are in hours, at 50 and 80 % used, where the limit is used up: `median worst (of the line)`.

`days`: ten days of calls that follow the hour, seen on the last day at each even hour; a limit of one more day's use.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from math import exp, inf, pi, sin
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

from keyrouter_openai.core.forecast import HOUR, SLOT, DayPattern, Forecast, Meter, Pace
from keyrouter_openai.core.model import DAY, MINUTE
from keyrouter_openai.forecasts import LIKELY, UNLIKELY

SLOTS = int(DAY / SLOT)
TRACES = ("azure2023_A", "mooncake_conv_A", "claude_code_A", "servegen_A")
USED = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9)
PRICES = (2.5, 0.25, 10.0)

Use = list[float]
"""What is used in each slot of a day."""


class Case(NamedTuple):
    """One forecast and the truth, in seconds from when it was made."""

    used: float
    truth: float
    line: float
    forecast: Forecast

    @property
    def earliest(self) -> float:
        return inf if self.forecast.earliest is None else self.forecast.earliest

    @property
    def latest(self) -> float:
        return inf if self.forecast.latest is None else self.forecast.latest

    @property
    def error(self) -> float:
        """Hours; an estimate that is not within the window counts as 30 days."""
        return abs((30 * DAY if self.forecast.at is None else self.forecast.at) - self.truth) / HOUR


def trace(folder: Path, name: str, rng: Random, seeds: int) -> Iterator[dict[str, Use]]:
    """The use of days made from a trace: the whole of it, then random stretches."""
    with gzip.open(folder / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        rows = [
            (
                float(row["arrival_s"]),
                int(row["prompt_tokens"]),
                int(row["completion_tokens"]),
                int(row.get("reusable_prefix_tokens") or 0),
            )
            for row in csv.DictReader(file)
        ]
    end = rows[-1][0]
    for seed in range(seeds):
        length = end * (rng.uniform(0.4, 1.0) if seed else 1.0)
        start = rng.uniform(0.0, end - length)
        day: dict[str, Use] = {name: [0.0] * SLOTS for name in ("requests", "tokens", "usd")}
        for at, prompt, completion, repeated in rows:
            slot = int((at - start) / length * SLOTS)
            if 0 <= slot < SLOTS:
                day["requests"][slot] += 1
                day["tokens"][slot] += prompt + completion
                parts = (prompt - repeated, repeated, completion)
                day["usd"][slot] += sum(n * price for n, price in zip(parts, PRICES, strict=True)) / 1e6
        yield day


def poisson(rng: Random, mean: float) -> int:
    """A number of events."""
    events, left = 0, mean
    while (left := left - rng.expovariate(1.0)) > 0.0:
        events += 1
    return events


def even(rng: Random) -> Use:
    return [float(poisson(rng, 2.0)) for _ in range(SLOTS)]


def sizes(rng: Random) -> Use:
    return [sum(rng.lognormvariate(6.0, 1.2) for _ in range(poisson(rng, 1.0))) for _ in range(SLOTS)]


def rare(rng: Random) -> Use:
    return [float(poisson(rng, 0.02)) for _ in range(SLOTS)]


def sessions(rng: Random) -> Use:
    rates = [0.0] * SLOTS
    for _ in range(15):
        slot = -int(rng.uniform(0, 500))
        while slot < SLOTS:
            on, off = int(20 * rng.paretovariate(1.4)) - 15, int(40 * rng.paretovariate(1.4)) - 35
            for each in range(max(slot, 0), min(slot + on, SLOTS)):
                rates[each] += 1.0
            slot += on + off
    return [float(poisson(rng, rate)) for rate in rates]


def waves(rng: Random) -> Use:
    number, phase = rng.uniform(1.0, 4.0), rng.uniform(0.0, 2 * pi)
    return [float(poisson(rng, 2.0 + 1.4 * sin(phase + number * 2 * pi * slot / SLOTS))) for slot in range(SLOTS)]


def wander(rng: Random) -> Use:
    walk = accumulate(rng.gauss(0.0, 0.02) for _ in range(SLOTS))
    return [float(poisson(rng, exp(min(step, 4.0)))) for step in walk]


MADE_UP: dict[str, Callable[[Random], Use]] = {
    "even": even,
    "sizes": sizes,
    "rare": rare,
    "sessions": sessions,
    "waves": waves,
    "wander": wander,
}


def cases(day: Use, limit: float, points: Sequence[float] = USED) -> Iterator[Case]:
    """The forecasts of a day, made when these shares of a limit are used."""
    sums = list(accumulate(day))
    dry = bisect_left(sums, limit * (1.0 - 1e-9))
    pace, pattern, place = Pace(), DayPattern(), 0
    for slot, amount in enumerate(day):
        pace.add(amount)
        if slot == dry or place == len(points):
            return
        if sums[slot] < points[place] * limit or not pace.is_known:
            continue
        left = limit - sums[slot]
        forecast = pace.forecast(Meter(limit, sums[slot], 20 * DAY), 0.0, pattern)
        while place < len(points) and sums[slot] >= points[place] * limit:
            yield Case(points[place], (dry - slot) * SLOT, left * (slot + 1) * SLOT / sums[slot], forecast)
            place += 1


def show_intervals(name: str, found: Sequence[Case]) -> None:
    """One line of the table of intervals."""
    sooner = sum(case.truth < case.earliest for case in found) / len(found)
    later = sum(case.truth > case.latest for case in found) / len(found)
    width = median(case.latest / case.earliest for case in found if case.earliest < inf)
    error, line = (median(errors) for errors in errors_of(found))
    within = f"{1 - sooner - later:9.1%}{sooner:9.1%}{later:9.1%}"
    print(f"{name:28}{len(found):7}{within}{width:9.2f}{error:9.2f}{line:9.2f}", flush=True)


def errors_of(found: Sequence[Case]) -> tuple[list[float], list[float]]:
    """Hours by which the forecasts were off, and the straight line."""
    return [case.error for case in found], [abs(case.line - case.truth) / HOUR for case in found]


class Day(NamedTuple):
    """One day with a limit that is reset at its end."""

    dry: float
    """Seconds from its start until the limit is used up; infinite if it is not."""
    alarm: float
    """Until the first alarm that stood, or would have stood, then."""
    alarms: int


def watch(day: Use, limit: float) -> Day:
    """Look at a day as a router does."""
    pace, pattern = Pace(), DayPattern()
    used, told, alarms, first = 0.0, False, 0, inf
    for slot, amount in enumerate(day):
        pace.add(amount)
        used += amount
        now = (slot + 1) * SLOT
        if used >= limit * (1.0 - 1e-9):
            return Day(now, first, alarms)
        if now % MINUTE:
            continue
        likelihood = pace.forecast(Meter(limit, used, DAY), now, pattern).likelihood
        if not told and likelihood >= LIKELY:
            told, alarms, first = True, alarms + 1, min(first, now)
        elif told and likelihood <= UNLIKELY:
            told, first = False, inf
    return Day(inf, first, alarms)


def show_alarms(name: str, share: float, days: Sequence[Use]) -> None:
    """One line of the table of alarms."""
    seen = [watch(day, share * sum(day)) for day in days]
    false = sum(day.alarms > 0 for day in seen if day.dry == inf)
    missed = sum(day.alarm == inf for day in seen if day.dry < DAY)
    ahead = [(day.dry - day.alarm) / HOUR for day in seen if day.alarm < day.dry < inf]
    shown = f"{name:17}{share:5.1f}{len(days):6}{sum(day.alarms for day in seen):8}{false:7}{missed:8}"
    shown += f"{median(ahead):8.1f}" if ahead else f"{'-':>8}"
    for point in (0.5, 0.8) if share <= 1.0 else ():
        found = [case for day in days for case in cases(day, share * sum(day), (point,))]
        error, line = errors_of(found)
        shown += f"{median(error):8.2f}{max(error):7.2f} ({median(line):5.2f}{max(line):7.2f})"
    print(shown, flush=True)


def show_days(seeds: int, rng: Random) -> None:
    """What the pattern of the day is worth, once there are days of it."""
    found: dict[str, list[Case]] = {"with the hour": [], "without": []}
    for _ in range(seeds):
        phase, depth = rng.uniform(0.0, 24.0), rng.uniform(0.5, 0.95)
        rates = [2.0 * (1.0 + depth * sin((hour + phase) / 12 * pi)) for hour in range(24)]
        use = [float(poisson(rng, rates[int(slot * SLOT // HOUR) % 24])) for slot in range(11 * SLOTS)]
        sums = list(accumulate(use))
        for name in found:
            pace, pattern = Pace(), DayPattern()
            for slot, amount in enumerate(use[: 10 * SLOTS]):
                at = slot * SLOT
                if name == "with the hour":
                    pattern.add(at, amount)
                pace.add(amount, weight=pattern.between(at, at + SLOT) / SLOT)
                if at >= 9 * DAY and (at + SLOT) % (2 * HOUR) == 0:
                    limit = sums[slot] + rng.uniform(0.3, 0.9) * (sums[-1] - sums[slot])
                    dry = bisect_left(sums, limit)
                    now = at + SLOT
                    seen = pace.forecast(Meter(limit, sums[slot], now + 20 * DAY), now, pattern)
                    left = (limit - sums[slot]) * DAY / (sums[slot] - sums[slot - SLOTS])
                    found[name].append(Case(0.0, (dry - slot) * SLOT, left, from_now(seen, now)))
    for name, each in found.items():
        show_intervals(name, each)


def from_now(seen: Forecast, now: float) -> Forecast:
    """A forecast whose times are seconds from now."""
    at, earliest, latest = (None if at is None else at - now for at in (seen.at, seen.earliest, seen.latest))
    return replace(seen, at=at, earliest=earliest, latest=latest)


def show_cost() -> None:
    """What it costs to count, and to look ahead."""
    rng, pattern, pace = Random(1), DayPattern(), Pace()
    day = sizes(rng)
    start = time.process_time()
    for amount in day:
        pace.add(amount)
    counted = (time.process_time() - start) / SLOTS
    start = time.process_time()
    for _ in range(200):
        pace.forecast(Meter(2 * sum(day), sum(day), DAY), 0.0, pattern)
    made = (time.process_time() - start) / 200
    print(f"a slot of {SLOT:.0f} s costs {counted * 1e6:.0f} µs of CPU, a forecast {made * 1e6:.0f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="where the traces are")
    parser.add_argument("--short", action="store_true", help="one day of each, for a look")
    parser.add_argument("--seeds", type=int, default=12, help="days of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    seeds, rng = 1 if options.short else options.seeds, Random(options.seed)
    header = f"{'cases':>7}{'within':>9}{'sooner':>9}{'later':>9}{'width':>9}{'error':>9}{'line':>9}"
    print(f"{'intervals':28}{header}")
    days = {name: list(trace(options.data, name, rng, seeds)) for name in TRACES}
    by_kind: dict[str, list[Case]] = {"requests": [], "tokens": [], "usd": []}
    for name, made in days.items():
        for counted, all_found in by_kind.items():
            use = [(day[counted], 0.8 if place % 2 else 1.0) for place, day in enumerate(made)]
            found = [case for day, share in use for case in cases(day, share * sum(day))]
            show_intervals(f"{name} {counted}", found)
            all_found.extend(found)
    for counted, all_found in by_kind.items():
        show_intervals(f"all traces {counted}", all_found)
    show_intervals("all traces", [case for all_found in by_kind.values() for case in all_found])
    total = list[Case]()
    for name, make in MADE_UP.items():
        use = [make(rng) for _ in range(2 * seeds)]
        found = [case for day in use for case in cases(day, 0.9 * sum(day))]
        show_intervals(name, found)
        total += found
    show_intervals("all made up", total)
    print(f"\n{'days':28}{header}")
    show_days(seeds, rng)
    print(f"\n{'alarms':17}{'limit':>5}{'days':>6}{'alarms':>8}{'false':>7}{'missed':>8}{'ahead':>8}", end="")
    print("".join(f"{f'at {point}: median worst (line)':>30}" for point in ("50 %", "80 %")))
    for name, made in days.items():
        for share in (1.2, 1.0, 0.8):
            show_alarms(name, share, [day["tokens"] for day in made])
    print()
    show_cost()


if __name__ == "__main__":
    main()
