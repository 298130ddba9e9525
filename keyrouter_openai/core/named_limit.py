"""Which limit an answer says was hit: of what, for how long, how much, and with which model it is shared."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .answers import LIMIT, Answer
from .model import DAY, MINUTE, Dimension, Fault

_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_UNIT = r"(?P<unit>(?:in|out)put tokens?|tokens?|requests?|queries|calls?|free-models)"
_PERIOD = r"(?P<period>second|min|hour|da[yi])"
_TOKENS = {"i": Dimension.INPUT, "o": Dimension.OUTPUT, "t": Dimension.TOKENS}
_PERIODS = {"s": 1.0, "m": MINUTE, "h": 3600.0, "d": DAY}
"""Units and periods by their first letters, which differ; all other units are of requests."""

_TEXTS = tuple(
    re.compile(pattern)
    for pattern in (
        # Nearly all of them; the number stands before it at Anthropic and Together.
        rf"(?:(?P<limit>{_NUMBER}) )?\b{_UNIT}(?:_usage_based)?[ -]per[ -]{_PERIOD}",
        r"\((?P<unit>[io]?t|r)p(?P<period>[md])\)",  # `(TPM)`, `(RPD)`, `(ITPM)`
        rf"\bnumber of (?:request )?{_UNIT} has exceeded your (?:per-)?{_PERIOD}",  # Anthropic, until 2025
        rf"\brate limit reached for {_UNIT}\. limit: {_NUMBER} ?/ ?1? ?{_PERIOD}",  # OpenAI, until 2023
        rf"(?:\bexceeded |\A|\| ){_UNIT} rate limit",  # Azure, Mistral
    )
)
_QUOTA_ID = re.compile(r"generate\w*?(?P<unit>inputtokens|requests)\w*?per(?P<period>minute|day)\w*(?:-\w+)?")
"""Gemini's, in the details of its errors; one answer may name several."""
_CODE = re.compile(r"(?:dynamic_)?(?P<unit>tokens?|requests?)(?:_usage_based|_quota_exceeded|_limited)?")
"""OpenAI's and Groq's type, Cerebras' code, Together's error_type."""

_CONCURRENT = re.compile(r"\bconcurren(?:t|cy)\b")
"""DeepSeek's, Mistral's and others' that limit how many requests are served at a time."""
_SHARED = re.compile(r"\(for limit (?P<model>[\w./:-]{1,100})\)")
"""OpenAI's, of models that have no limit of their own; a long prompt's is called `gpt-4.1-long-context`."""


@dataclass(frozen=True, slots=True)
class NamedLimit:
    """What is said of a limit; None where nothing is. The fields are those of `Failure`."""

    dimension: Dimension | None = None
    period: float | None = None
    limit: int | None = None
    shared: str | None = None


def named_limit(answer: Answer, fault: Fault) -> NamedLimit:
    """The limit that an answer with this fault names; a fault that is not about one has none."""
    if fault not in (Fault.RATE_LIMIT, Fault.TOO_LARGE):
        return NamedLimit()
    amounts = {_whole(number) for number in LIMIT.findall(answer.text)}
    amount = amounts.pop() if len(amounts) == 1 else None
    named = _kind(answer)
    if named.dimension is None and fault is Fault.RATE_LIMIT:
        amount = None  # of what?
    shared = _SHARED.search(answer.text)
    return replace(named, limit=amount or named.limit, shared=shared["model"] if shared else None)


def _kind(answer: Answer) -> NamedLimit:
    """What was limited, for how long, and how much of it where that stands beside it."""
    if _CONCURRENT.search(answer.text):
        return NamedLimit(Dimension.CONCURRENT)
    for text in _TEXTS:
        if found := text.search(answer.text):
            return _named(found)
    quotas = [found for code in answer.codes if (found := _QUOTA_ID.fullmatch(code))]
    if len(quotas) == 1:
        return replace(_named(quotas[0]), limit=_whole(answer.fields.get("quotavalue", "")))
    if quotas:  # the longest is the one to wait for
        return max(map(_named, quotas), key=lambda quota: quota.period or 0.0)
    codes = filter(None, map(_CODE.fullmatch, answer.codes))
    return next(map(_named, codes), NamedLimit())


def _named(found: re.Match[str]) -> NamedLimit:
    said = found.groupdict()
    dimension = _TOKENS.get(found["unit"][0], Dimension.REQUESTS)
    period = said.get("period")
    return NamedLimit(dimension, _PERIODS[period[0]] if period else None, _whole(said.get("limit") or ""))


def _whole(number: str) -> int | None:
    """A number as it is written in a text, or None if it is none or below 1."""
    try:
        return int(float(number.replace(",", ""))) or None
    except (ValueError, OverflowError):
        return None
