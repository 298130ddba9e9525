"""How long a provider asks to wait, in whatever way it says so. All results are seconds from `now`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from .answers import Answer
from .durations import DURATION, seconds
from .model import Fault

_PACIFIC = ZoneInfo("America/Los_Angeles")

_TOLD = re.compile(
    r"(?:try again|retry|wait|resets?|available again) (?:(?:again|in|after|for|at least|about) )*"
    rf"(?P<duration>{DURATION})"
)
_TOLD_DATE = re.compile(
    r"(?:regain access|try again|resets?) (?:on|at) (?P<date>\d{4}-\d\d-\d\d)(?:(?: at |t| )(?P<time>\d\d:\d\d))?"
)

_FIELDS = (
    "retry-after-ms",
    "retry-after",
    "retry-after-seconds",
    "retrydelay",
    "resets-in-seconds",
    "resets-at",
)
"""Headers and fields that name a wait or its end, the most exact first."""
_BUCKET = re.compile(
    r"(?:x|anthropic)-ratelimit-(?:(?P<before>[a-z-]+)-)?(?P<what>remaining|reset)(?:-(?P<after>[a-z-]+))?"
)

# Google counts a day from midnight US Pacific, and sends a short retryDelay with it that is no use
# (continuedev/continue#10921); OpenRouter counts it in UTC.
_PACIFIC_DAY = re.compile(r"perday|quota metric .{0,200}per day")
_UTC_DAY = re.compile(r"free-models-per-day")
# Spending limits start afresh on the first of a month, UTC (OpenAI error codes; Anthropic rate limits).
# Fireworks and xAI say "credits or the monthly limit", so nothing is known there.
_MONTH = re.compile(
    r"\b(?:enforced|organization|project)_spend_limit|organization_usage_limit|monthly spending cap|api usage limits"
)


def named_wait(answer: Answer, fault: Fault, headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that an answer asks to wait, or None if it does not say; `now` is wall-clock time."""
    said = " ".join((*answer.codes, answer.text))
    if fault is Fault.RATE_LIMIT and _PACIFIC_DAY.search(said):
        return _until_midnight(now, _PACIFIC)
    fields = answer.fields | {name.lower(): value for name, value in headers.items()}
    wait = _from_fields(fields, now) or _from_text(answer.text, now)
    if wait is None and fault is Fault.RATE_LIMIT:
        wait = _from_buckets(fields, now) or (_until_midnight(now, UTC) if _UTC_DAY.search(said) else None)
    if wait is None and fault is Fault.EXHAUSTED and _MONTH.search(said):
        wait = _until_next_month(now)
    return wait


def _from_fields(fields: Mapping[str, str], now: float) -> float | None:
    for name in _FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        wait = seconds(f"{value.strip()}ms" if name.endswith("-ms") else value, now)
        if wait is not None:
            return wait
    return None


def _from_text(text: str, now: float) -> float | None:
    if told := _TOLD.search(text):
        return seconds(told["duration"].rstrip(" ,"), now)
    if told := _TOLD_DATE.search(text):
        return seconds(f"{told['date']}T{told['time'] or '00:00'}+00:00", now)
    return None


def _from_buckets(fields: Mapping[str, str], now: float) -> float | None:
    """The longest reset among the exhausted limits that headers describe.

    OpenAI's resets say when a bucket is full again, not when one call fits, so they come last.
    """
    return max(_resets_of_exhausted(fields, now), default=None)


def _resets_of_exhausted(fields: Mapping[str, str], now: float) -> Iterator[float]:
    for name, value in fields.items():
        header = _BUCKET.fullmatch(name)
        if header is None or header["what"] != "reset":
            continue
        # Together sends `x-ratelimit-reset` as a suggested wait with no `remaining` of its own.
        default = "" if header["before"] or header["after"] else "0"
        if fields.get(name.replace("reset", "remaining"), default).strip() == "0":
            wait = seconds(value, now)
            if wait is not None:
                yield wait


def _until_midnight(now: float, zone: tzinfo) -> float:
    tomorrow = datetime.fromtimestamp(now, zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), zone).timestamp() - now


def _until_next_month(now: float) -> float:
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (month + timedelta(days=32)).replace(day=1).timestamp() - now
