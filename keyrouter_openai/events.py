"""Every decision worth knowing, as a frozen value. None of them ever holds a secret."""

from __future__ import annotations

from dataclasses import dataclass

from .core.forecast import Forecast, Subject
from .core.model import Fault


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all events. `at` is wall-clock time, seconds since the epoch."""

    at: float
    pool: str


@dataclass(frozen=True, slots=True)
class AttemptStarted(Event):
    """A lease was taken and the request is about to be sent."""

    request_id: str
    number: int
    key: str
    account: str
    endpoint: str
    model: str | None


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """An attempt came to its end. `status` is None where no answer came."""

    request_id: str
    number: int
    key: str
    account: str
    endpoint: str
    model: str | None
    outcome: Fault
    status: int | None
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class KeyStateChanged(Event):
    """A key went from one state to another; `reason` says why."""

    key: str
    account: str
    old: str
    new: str
    reason: str


@dataclass(frozen=True, slots=True)
class AccountParked(Event):
    """An account (or, with `family` given, its limit for one model family) gets no calls until `until`.

    `until` is wall-clock time.
    """

    account: str
    family: str | None
    reason: Fault
    until: float


@dataclass(frozen=True, slots=True)
class ProviderParked(Event):
    """A provider's host, or one model on it, is at fault and gets no calls until `until` (wall-clock time)."""

    host: str
    model: str | None
    reason: Fault
    until: float


@dataclass(frozen=True, slots=True)
class AccountLearned(Event):
    """Answers have shown to which account a key belongs; `evidence` says how, in words."""

    key: str
    account: str
    evidence: str


@dataclass(frozen=True, slots=True)
class LimitsLearned(Event):
    """An answer has shown limits of an account for a model family that were not known, or were others.

    `limits` are all that are known now, such as `{"requests per 60 s": 500.0}`.
    """

    account: str
    family: str
    limits: dict[str, float]


@dataclass(frozen=True, slots=True)
class LimitsShared(Event):
    """A refusal named the model family `shared_with`, whose limit is also that of `family`."""

    account: str
    family: str
    shared_with: str


@dataclass(frozen=True, slots=True)
class NoKey(Event):
    """A call fails as no key can serve it."""

    request_id: str
    retry_after: float | None
    reasons: dict[str, str]


@dataclass(frozen=True, slots=True)
class BudgetReached(Event):
    """Told once in each window of a budget: more was spent than it allows (`warn`), or a call is refused (`block`).

    A call that is larger than the whole budget says nothing of it.
    """

    budget: str
    action: str
    usd: float
    """What it allows, in US dollars."""
    spent_usd: float
    """What all processes have spent, as far as this one knows."""
    until: float | None
    """When its window ends, in wall-clock time; None if never."""


@dataclass(frozen=True, slots=True)
class ExhaustionPredicted(Event):
    """A limit or budget is likely to be used up before it is there again.

    Told once, and again only after it was unlikely in between.
    """

    subject: Subject
    forecast: Forecast
    """When, and what is left; `forecast.at` is the estimate."""


@dataclass(frozen=True, slots=True)
class UnknownPrice(Event):
    """A model was used that has no price (told once for each): what it costs is on record as unknown.

    `prices=` of the client can give it one.
    """

    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class UnknownAnswer(Event):
    """An error answer of a shape that no rule knows; it was treated by its status alone."""

    key: str
    provider: str
    status: int
    treated_as: Fault


@dataclass(frozen=True, slots=True)
class LedgerTrouble(Event):
    """The ledger cannot be written (said once), or can be again. Calls go on; rows wait."""

    path: str
    problem: str
    """What is wrong and what to do; empty when the trouble is over."""
    waiting: int
    """Rows that wait."""
