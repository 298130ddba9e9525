"""What follows from each fault: the failover table, and the two questions that are answered from it.

How an answer is recognised as a fault is the other half, in `core.classify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from random import Random

from .model import Fault

BACKOFF_BASE = 0.5
BACKOFF_CAP = 8.0
"""Seconds; the official SDK's own bounds, so that patience does not change with the client."""


class Verdict(Enum):
    """What to do after an attempt."""

    RETURN = "return the answer"
    ROTATE = "another key at once"
    RETRY = "back off, then prefer another account"
    WAIT = "the provider is at fault: wait out its pause, or use another provider"
    FAIL = "raise the provider's own error"


class Scope(StrEnum):
    """What a call must not try again after a fault."""

    NOTHING = "nothing"
    KEY = "key"
    ACCOUNT = "account"
    HOST = "host"


class Blame(StrEnum):
    """Whose fault it is, as the notes on errors say."""

    NOBODY = "nobody"
    CALLER = "the caller"
    KEY = "the key"
    ACCOUNT = "the account"
    PROVIDER = "the provider"
    NETWORK = "the network"
    OURSELVES = "this program"


@dataclass(frozen=True, slots=True)
class Policy:
    """One row of the failover table."""

    blame: Blame
    verdict: Verdict
    avoid: Scope


_NOTHING, _KEY, _ACCOUNT, _HOST = Scope.NOTHING, Scope.KEY, Scope.ACCOUNT, Scope.HOST

POLICIES: dict[Fault, Policy] = {
    #                             whose fault      what to do       not again in this call
    Fault.NONE:            Policy(Blame.NOBODY,    Verdict.RETURN,  _NOTHING),
    Fault.RATE_LIMIT:      Policy(Blame.ACCOUNT,   Verdict.ROTATE,  _NOTHING),  # parked: not before its time
    Fault.EXHAUSTED:       Policy(Blame.ACCOUNT,   Verdict.ROTATE,  _ACCOUNT),
    Fault.ACCOUNT_CLOSED:  Policy(Blame.ACCOUNT,   Verdict.ROTATE,  _ACCOUNT),
    Fault.TOO_LARGE:       Policy(Blame.ACCOUNT,   Verdict.ROTATE,  _ACCOUNT),
    Fault.KEY_REFUSED:     Policy(Blame.KEY,       Verdict.ROTATE,  _KEY),
    Fault.NOT_PERMITTED:   Policy(Blame.KEY,       Verdict.ROTATE,  _KEY),
    Fault.MODEL_MISSING:   Policy(Blame.KEY,       Verdict.ROTATE,  _KEY),
    Fault.BUDGET:          Policy(Blame.CALLER,    Verdict.ROTATE,  _KEY),
    Fault.VAULT:           Policy(Blame.KEY,       Verdict.ROTATE,  _KEY),
    Fault.REQUEST:         Policy(Blame.CALLER,    Verdict.FAIL,    _NOTHING),
    Fault.ABANDONED:       Policy(Blame.CALLER,    Verdict.FAIL,    _NOTHING),
    Fault.SERVER_ERROR:    Policy(Blame.PROVIDER,  Verdict.RETRY,   _NOTHING),
    Fault.OVERLOADED:      Policy(Blame.PROVIDER,  Verdict.WAIT,    _NOTHING),
    Fault.HOST_LIMIT:      Policy(Blame.PROVIDER,  Verdict.WAIT,    _NOTHING),
    Fault.STREAM_BROKEN:   Policy(Blame.PROVIDER,  Verdict.FAIL,    _NOTHING),
    Fault.NETWORK:         Policy(Blame.NETWORK,   Verdict.RETRY,   _NOTHING),
    Fault.NOT_HERE:        Policy(Blame.NETWORK,   Verdict.ROTATE,  _HOST),
    Fault.LOCAL:           Policy(Blame.OURSELVES, Verdict.RETRY,   _NOTHING),
}  # fmt: skip


FREE = (Fault.KEY_REFUSED, Fault.RATE_LIMIT, Fault.EXHAUSTED, Fault.ACCOUNT_CLOSED, Fault.TOO_LARGE)
"""Faults after which an attempt does not count against a call: each puts a key or an account aside, which ends."""


def may_try_again(fault: Fault) -> bool:
    """Whether another attempt makes sense after one that ended in `fault`."""
    return POLICIES[fault].verdict not in (Verdict.RETURN, Verdict.FAIL)


def backoff(attempts: int, rng: Random) -> float:
    """Seconds to wait before the next attempt: full jitter under an exponential ceiling."""
    return rng.uniform(0.0, min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempts - 1, 10)))
