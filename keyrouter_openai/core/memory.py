"""What a router has learned of its pool, as it is kept from one start to the next."""

from __future__ import annotations

from dataclasses import dataclass

from .model import Dimension


@dataclass(frozen=True, slots=True)
class LearnedLimit:
    """One limit of an account for a model family."""

    account: str
    family: str
    """The model family, as `core.state.model_family` names it; empty for calls without a model."""
    dimension: Dimension
    period: float
    """Seconds for which `limit` is granted."""
    limit: float
    """Units granted per period: requests or tokens, as the dimension says."""
    burst: float
    """The most units to be had at once."""
    level: float
    """Units that were left at `at`; negative where more was taken than there was."""
    at: float
    """Wall-clock time, seconds since the epoch."""
    guessed: bool = False
    """No provider named the limit: it is what went well, and the router tries for more."""

    @property
    def subject(self) -> tuple[object, ...]:
        """What this is about: a later value with the same subject replaces it."""
        return self.account, self.family, self.dimension, self.period


@dataclass(frozen=True, slots=True)
class LearnedAccount:
    """The account that a key was found to belong to."""

    key: str
    account: str
    evidence: str
    """What showed it, in words."""
    at: float
    """Wall-clock time, seconds since the epoch."""

    @property
    def subject(self) -> tuple[object, ...]:
        """What this is about: a later value with the same subject replaces it."""
        return (self.key,)


@dataclass(frozen=True, slots=True)
class LearnedOwner:
    """The account that a resource of the provider's belongs to, such as a file or a stored response."""

    id: str
    """As the provider gave it, such as `file-abc123`."""
    key: str
    """The key that showed it. Its account may come to have another name; what it owns stays with it."""
    account: str
    at: float
    """Wall-clock time, seconds since the epoch."""

    @property
    def subject(self) -> tuple[object, ...]:
        """What this is about: a later value with the same subject replaces it."""
        return "owner", self.id


Learned = LearnedLimit | LearnedAccount | LearnedOwner
