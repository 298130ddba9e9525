"""The words of the router as frozen values: what was asked, what came of it, what it cost.

Nothing here does I/O, reads a clock or knows the SDK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .objectives import Objective


class Fault(StrEnum):
    """What an attempt came to. The value is what the ledger and the events show."""

    NONE = "ok"
    RATE_LIMIT = "rate_limit"
    """The account's rate limit for this model family: other keys of the account do not help."""
    EXHAUSTED = "exhausted"
    """Credit, quota or a spending limit of the account is used up."""
    ACCOUNT_CLOSED = "account_closed"
    """The account was deactivated or banned: all its keys are dead."""
    KEY_REFUSED = "key_refused"
    """The credential itself was rejected: revoked, expired, mistyped."""
    NOT_PERMITTED = "not_permitted"
    """A valid key that may not use this endpoint: scope, role, allow list."""
    MODEL_MISSING = "model_missing"
    """A valid key whose project has no access to this model."""
    REQUEST = "bad_request"
    """The caller's fault: no other key would answer differently."""
    TOO_LARGE = "too_large"
    """One request exceeds the account's whole limit: only a larger account can take it."""
    OVERLOADED = "overloaded"
    """The provider has no capacity for this model: its other keys do not help."""
    SERVER_ERROR = "server_error"
    """The provider failed on this request."""
    HOST_LIMIT = "host_limit"
    """A front end refused this network address, without saying whose limit."""
    NOT_HERE = "not_here"
    """The provider does not serve this region or network address: the keys are fine."""
    NETWORK = "network"
    """No complete answer: refused, reset, DNS, TLS, timeout, cut short."""
    LOCAL = "local"
    """Our own fault, such as an exhausted connection pool: says nothing about any key."""
    BUDGET = "budget"
    """A budget of the caller's own does not allow it with this key; nothing was sent."""
    VAULT = "vault"
    """The key's secret could not be read; nothing was sent."""
    STREAM_BROKEN = "stream_broken"
    """A stream failed after content had reached the caller."""
    ABANDONED = "abandoned"
    """The caller stopped reading, cancelled, or timed out on its own."""


class Dimension(StrEnum):
    """What a provider limits."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    """Input and output in one count."""
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"
    CONCURRENT = "concurrent"
    """Requests at a time."""


MINUTE = 60.0
DAY = 86400.0


class Reading(NamedTuple):
    """What one answer's headers say of one limit of its account and model family.

    `period` is the seconds for which `limit` is granted, or None where the header's name does not say. `reset`
    is the seconds from the writing of the header until the bucket is full. What is not there is None.
    """

    dimension: Dimension
    period: float | None
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


class Estimate(NamedTuple):
    """The tokens of a request before it runs: those of its prompt, and the cap of its answer, 0 where there is none."""

    prompt: int = 0
    answer: int = 0


class Usage(NamedTuple):
    """What one attempt used. All tokens are parts of `prompt` or of `completion`, which include them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    """Tokens of the prompt read from the provider's cache."""
    cache_written: int = 0
    """Tokens of the prompt written to that cache."""
    cache_written_1h: int = 0
    """Those of `cache_written` that it keeps for an hour."""
    reasoning: int = 0
    """Tokens of the completion that the caller does not see."""
    audio: int = 0
    """Audio tokens of the prompt."""
    audio_answer: int = 0
    """Audio tokens of the completion."""
    image: int = 0
    """Image tokens of the prompt."""
    image_answer: int = 0
    """Image tokens of the completion."""
    cached_audio: int = 0
    """Tokens that are `cached` and `audio`; cached tokens are text where the provider does not say."""
    cached_image: int = 0
    """Tokens that are `cached` and `image`."""
    seconds: float = 0.0
    """Length of the recording, where that is charged in place of tokens."""
    web_searches: int = 0
    file_searches: int = 0
    longest_prompt: int = 0
    """Of the answers of a session: tokens of the longest prompt. 0 where there is but one answer."""
    estimated: bool = False
    """True where the provider did not say and the numbers are the router's estimate."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error answer means (made by `core.classify`).

    `wait` is how long the provider asked to wait, in seconds, or None. `status` is the HTTP status that
    the error stands for, also where it came inside a 200. `known` is False where no rule recognised the
    answer and the status alone decided. `detail` is a short machine-readable reason (a code, never free text).
    """

    fault: Fault
    status: int
    wait: float | None = None
    detail: str = ""
    known: bool = True
    limit: int | None = None
    """The account's whole limit in tokens or requests, where the answer names it."""
    dimension: Dimension | None = None
    """Which limit it was, where the answer says."""
    period: float | None = None
    """Seconds for which that limit is granted, where the answer says: 60 or 86400."""
    shared: str | None = None
    """The model whose limit this model shares, where the answer names it (`for limit gpt-4.1`)."""


class Attempt(NamedTuple):
    """One row of the ledger: one HTTP exchange with a provider. Never a secret, never prompt or answer text."""

    at: float
    """Wall-clock time of the start, seconds since the epoch."""
    request_id: str
    """The router's own id of the call; shared by all attempts of it."""
    number: int
    """1 for the first attempt of a call."""
    pool: str
    key: str
    account: str
    provider: str
    endpoint: str
    """The path with ids replaced, such as `/files/{id}`."""
    outcome: Fault
    model: str | None = None
    """Model asked for by the caller."""
    served_model: str | None = None
    """Model that the provider says has answered."""
    status: int | None = None
    """HTTP status, or None where no answer came."""
    detail: str = ""
    stream: bool = False
    service_tier: str | None = None
    """Tier that the provider says has served, such as `flex`."""
    usage: Usage | None = None
    cost_microusd: int | None = None
    """Micro-dollars; None where the cost is not known, or nothing was used."""
    price_source: str | None = None
    """Where the cost comes from (see `core.price`); None while its price has not been looked up."""
    first_byte_s: float | None = None
    """Seconds from sending to the answer's headers."""
    seconds: float = 0.0
    """Seconds from sending to the end of the answer."""
    waited_s: float = 0.0
    """Seconds the call had waited for capacity before this attempt."""
    provider_request_id: str | None = None
    tags: Mapping[str, str] = MappingProxyType({})
    budgets: tuple[tuple[str, int, str], ...] = ()
    """The budgets that it is charged to: of each the id, the start of its window in seconds since the epoch, and
    whose allowance it is (see `ledger.allowances`)."""


class RouteRequest(NamedTuple):
    """One call as the router sees it: what is needed to choose a key, and nothing of its content."""

    id: str
    endpoint: str
    """The path with ids replaced, such as `/files/{id}`."""
    model: str | None = None
    stream: bool = False
    estimate: Callable[[], Estimate] = Estimate
    """Its tokens; called often, under the router's lock, so it should be worked out once."""
    prefixes: Callable[[], Sequence[int]] = tuple
    """Hashes of ever longer beginnings of its prompt, longest last; empty where no provider would cache it."""
    tenant: str = ""
    """Who shares the pool's capacity under contention: calls of one tenant queue behind each other."""
    objective: str | Objective | None = None
    """The name of an objective, or one of the caller's own, in place of the pool's."""
    urgent: bool = True
    """False for batch work, which goes after all that is interactive."""
    tags: Mapping[str, str] = MappingProxyType({})
    key: str | None = None
    """Only this key may serve the call."""
    account: str | None = None
    """Only keys of this account may serve the call."""
    mentions: tuple[str, ...] = ()
    """Ids that it names of resources which belong to an account."""
    carried: frozenset[str] = frozenset()
    """Those of these that it can do without: their owner is asked first, and then others."""
    owned: str | None = None
    """The one of these whose owner `account` is; None where the caller has named the account, or nobody."""

    @property
    def needs_owner(self) -> bool:
        """Whether it names what must be found; items that it carries are not worth a look into the ledger."""
        return len(self.mentions) > len(self.carried)

    @property
    def pinned(self) -> bool:
        """Whether it is settled who may serve."""
        return self.key is not None or self.account is not None


class Outcome(NamedTuple):
    """What an attempt came to: what `Router.settle` learns from and the ledger records."""

    fault: Fault
    status: int | None = None
    wait: float | None = None
    """Seconds that the provider asked to wait, where it did."""
    detail: str = ""
    known: bool = True
    limit: int | None = None
    """The account's whole limit, where the answer named it."""
    dimension: Dimension | None = None
    """Which limit refused it, where the answer said."""
    period: float | None = None
    shared: str | None = None
    """The model whose limit this model shares, where the answer named it."""
    readings: Sequence[Reading] = ()
    """What the answer's headers say of the account's limits."""
    heard: bool = False
    """That was learned when they came; only what it shows of who shares limits is still to be."""
    cause: Fault = Fault.NONE
    """Why a stream broke, where its last event said so."""
    usage: Usage | None = None
    stated_microusd: int | None = None
    """What the provider itself says that it costs, in micro-dollars."""
    served_model: str | None = None
    service_tier: str | None = None
    provider_request_id: str | None = None
    first_byte_s: float | None = None
    seconds: float = 0.0
    organization: str | None = None
    """What the answer's headers say of the key's organisation and project."""
    project: str | None = None
