"""What an error answer means: whose fault it is, how long to wait, and which limit was hit.

An answer is read whole (`core.answers`), the tables of `core.rules` name the fault, `core.waits` the wait and
`core.named_limit` the limit. What follows from a fault is the other half, in `core.verdict`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .answers import Answer, read_answer
from .model import Failure, Fault
from .named_limit import named_limit
from .rules import DEFAULTS, RULES
from .waits import named_wait

_STANDS_FOR: dict[Fault, int] = {
    Fault.RATE_LIMIT: 429,
    Fault.EXHAUSTED: 429,
    Fault.TOO_LARGE: 429,
    Fault.HOST_LIMIT: 429,
    Fault.KEY_REFUSED: 401,
    Fault.ACCOUNT_CLOSED: 403,
    Fault.NOT_PERMITTED: 403,
    Fault.NOT_HERE: 403,
    Fault.MODEL_MISSING: 404,
    Fault.REQUEST: 400,
    Fault.OVERLOADED: 503,
}
"""The status of an error inside a 200 that names none; all else is a 500."""


def classify(*, provider: str, status: int, headers: Mapping[str, str], body: str | bytes, now: float) -> Failure:
    """Say what an error answer means. Never raises, whatever the answer holds.

    Args:
        provider: who answered; a name that no rule knows is fine.
        status: the answer's HTTP status; 200 for an error inside a body or stream.
        headers: in any letter case.
        body: as it came: JSON, an event stream, a page, text, nothing.
        now: wall-clock seconds since the epoch, to turn dates into waits.
    """
    answer = read_answer(status, body)
    fault, code, known = _fault(provider, answer)
    if status < 300:
        status = answer.status if answer.status >= 400 else _STANDS_FOR.get(fault, 500)
    wait = named_wait(answer, fault, headers, now)
    named = named_limit(answer, fault)
    return Failure(
        fault,
        status,
        wait,
        _detail(code, answer),
        known,
        limit=named.limit,
        dimension=named.dimension,
        period=named.period,
        shared=named.shared,
    )


def default_fault(status: int) -> Fault:
    """What a status means where nothing else is known."""
    return DEFAULTS.get(status) or (Fault.REQUEST if 400 <= status < 500 else Fault.SERVER_ERROR)


def _fault(provider: str, answer: Answer) -> tuple[Fault, str, bool]:
    """The fault, the code that told it (if one did), and whether a rule knew the answer."""
    for rule in RULES:
        if rule.provider not in (None, provider) or (rule.on is not None and answer.status not in rule.on):
            continue
        if rule.codes is None and rule.words is None:
            return rule.fault, "", True
        if rule.codes and (code := next(filter(rule.codes.fullmatch, answer.codes), None)):
            return rule.fault, code, True
        if rule.words and rule.words.search(answer.text):
            return rule.fault, "", True
    return default_fault(answer.status), "", False


# Words of usual length joined by separators, free of digits: no credential, id or quoted text looks like that.
_PRESENTABLE = re.compile(r"(?!(?:.*[_.-])?(?:sk|gsk|csk|fw|xai)[-_.]|key[-_.])[a-z]{1,19}(?:[_.-][a-z]{1,19})*")
_VAGUE = frozenset(
    [
        "error",
        "invalid_request_error",
        "unknown_error",
        "response.failed",
        "html_page",
        "limit_is_zero",
        "requested_above_limit",
        "requested_within_limit",
    ]
)
"""Codes to be shown only where there is no better one: too general, or the reader's own words."""


def _detail(code: str, answer: Answer) -> str:
    """The most telling code of an answer; empty where it has none that is fit to be shown."""
    telling = [
        *([] if code in _VAGUE else [code]),
        *(other for other in answer.codes if other not in _VAGUE and other not in answer.unsure),
        *(other for other in answer.codes if other not in answer.unsure),
    ]
    return next((code for code in telling if len(code) <= 60 and _PRESENTABLE.fullmatch(code)), "")
