"""Budgets: which calls one concerns, its windows in time, and what this process may spend of it.

What may be spent is handed out before it is spent (the escrow method: P. O'Neil, ACM TODS 1986): of what a budget has
left, the ledger sets aside an allowance for each process, and a process reserves from its own before each attempt what
that may cost at most. All amounts are whole micro-dollars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from math import ceil, inf
from typing import Literal, NamedTuple, cast

from .body import ATTACHMENT_TOKENS, ATTACHMENTS, is_data_url
from .model import Estimate, Fault, Outcome, RouteRequest, Usage
from .price import Price, cost

Per = Literal["day", "week", "month", "total"]
Kind = Literal["pool", "key", "account", "tag", "model"]

DEFAULT_ANSWER = 4096
"""Tokens that an answer without a cap is taken to have at most, until enough answers of its model have been seen."""
ASK_S = 5.0
"""Seconds to wait for an answer of the ledger. Then a process goes on with what it knows: see `Share.lend`."""
BYTES_PER_TOKEN = 2
"""Twice as many tokens as most English has for its bytes. It is no proven bound: a byte can be a token of its own."""
MARGIN = 1.05
"""What is allowed for prompts that have more tokens than those before them."""
EASING = 8
"""A process asks for an eighth of what would be its even share, so that little lies idle in others' hands."""

_UNBILLED = re.compile(
    r".*/(?:moderations|responses/input_tokens|assistants(?:/\{id\})?|fine_tuning/jobs|batches|evals|containers"
    r"|realtime/(?:client_secrets|sessions|transcription_sessions))"
)
"""Endpoints that take a model and whose answers cost nothing, or are billed by other things than them."""


class Window(NamedTuple):
    """The time from `start` up to `end`, in seconds since the epoch."""

    start: int
    end: float


def window_at(per: Per, zone: tzinfo, at: float) -> Window:
    """The day, week (from Monday), month, or all of time in which `at` lies, by the calendar of a time zone.

    Where clocks change, a day has 23 or 25 hours; it starts when its date first does.
    """
    if per == "total":
        return Window(0, inf)
    day = datetime.fromtimestamp(at, zone).date()
    if per == "day":
        first, following = day, day + timedelta(days=1)
    elif per == "week":
        first = day - timedelta(days=day.weekday())
        following = first + timedelta(days=7)
    else:
        first = day.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
    start, end = (int(datetime(d.year, d.month, d.day, tzinfo=zone).timestamp()) for d in (first, following))
    return Window(start, end)


@dataclass(frozen=True, slots=True)
class Rule:
    """A budget as it is enforced."""

    id: str
    """The same in all processes that share it, and after a restart."""
    name: str
    """What errors and events call it."""
    pool: str
    microusd: int
    per: Per
    zone: tzinfo
    kind: Kind
    value: str
    """The name, `TAG=VALUE` or pattern of what it is for; empty for the pool."""
    blocks: bool
    admits_unpriced: bool

    @property
    def scope(self) -> str:
        """What it is for, as it was declared."""
        return f"{self.kind}:{self.value}" if self.value else self.kind

    def concerns(self, request: RouteRequest, key: str, account: str) -> bool:
        """Whether it is charged for an attempt of this call with that key."""
        if self.kind == "pool":
            return True
        if self.kind == "key":
            return key == self.value
        if self.kind == "account":
            return account == self.value
        if self.kind == "tag":
            tag, _, value = self.value.partition("=")
            return tag in request.tags and str(request.tags[tag]) == value
        return fnmatchcase(request.model or "", self.value)

    def window(self, at: float) -> Window:
        """Its window at a time."""
        return window_at(self.per, self.zone, at)

    def declaration(self) -> dict[str, str | int]:
        """What is put on record of it, for those who look."""
        return {
            "name": self.name,
            "pool": self.pool,
            "microusd": self.microusd,
            "per": self.per,
            "zone": str(self.zone),
            "scope": self.scope,
            "action": "block" if self.blocks else "warn",
        }


class Share:
    """What this process has of a budget in one window.

    What it was granted is in the ledger an allowance of this process, which shrinks as its attempts are charged there.
    """

    __slots__ = (
        *("asked", "granted", "holder", "holders", "least", "left", "lent", "looked", "reached", "refuses", "reserved"),
        *("rule", "settled", "spent", "stale", "used", "waiting", "wanted", "window", "written"),
    )

    def __init__(self, rule: Rule, window: Window, *, alone: bool, holder: str = "") -> None:
        self.rule = rule
        self.window = window
        self.holder = holder
        """Whose it is, of those in this process."""
        self.looked = alone
        """It is known what was spent before; there is nothing to know without a ledger."""
        self.granted = rule.microusd if alone else 0
        self.reserved = 0
        """For attempts that are out."""
        self.settled = 0
        """By attempts that have ended."""
        self.spent = 0
        """In all, by all processes, as the ledger had it at the last look."""
        self.written = 0
        """That part of it that had been settled here."""
        self.asked = 0
        """What was granted when the ledger was asked the last time."""
        self.left = rule.microusd
        """Set aside for nobody, at the last look."""
        self.lent = 0
        """That part of `granted` of which the ledger knows nothing: see `lend`."""
        self.holders = 1
        """Processes for which something was set aside by then, this one counted."""
        self.stale = not alone
        """It is time for another look."""
        self.wanted = self.least = 0
        """By attempts that wait: in all, and by the one that wants least."""
        self.used = True
        """Since `spare` was last called."""
        self.reached = False
        """It was told that the budget is reached."""
        self.refuses = False
        """The last call that it concerned was refused."""
        self.waiting: dict[Callable[[], None], int] = {}
        """Those that wait for what is reserved to come back: what to call, and what they need."""

    @property
    def free(self) -> int:
        """What can be reserved at once."""
        return self.granted - self.settled - self.reserved

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to give back, now or when attempts end."""
        return not self.reserved and self.free <= 0

    @property
    def surely_spent(self) -> int:
        """What has been spent by all processes, at least: it never gets less."""
        return self.spent + self.settled - self.written

    def want(self, amount: int) -> None:
        """Ask for so much when the ledger is asked the next time."""
        self.least = min(self.least, amount) if self.wanted else amount
        self.wanted += amount

    def wish(self) -> tuple[int, int]:
        """What to ask for now beyond what is free: for all that wait, and for the one that needs least."""
        if self.waiting:
            self.want(min(self.waiting.values()))
        free, wanted, self.wanted = self.free - self.lent, self.wanted, 0
        self.asked = self.granted - self.lent
        return max(wanted - free, 0), max(self.least - free, 0)

    def reserve(self, amount: int) -> None:
        """Set aside what an attempt may cost."""
        self.refuses = False
        self.reserved += amount
        self.used = True

    def settle(self, amount: int, cost: int) -> None:
        """An attempt for which `amount` was reserved has cost `cost`."""
        self.reserved -= amount
        self.settled += cost
        self.used = True

    def learn(self, *, spent: int, left: int, granted: int, own: int, holders: int) -> None:
        """The ledger has answered: what was spent there, what it has granted, and what this process's allowance is."""
        self.looked, self.stale = True, False
        self.spent, self.written = spent, self.asked + granted - own
        self.left, self.holders = left, holders
        self.granted += granted - self.lent
        self.lent = 0

    def lend(self) -> None:
        """The ledger cannot be asked: go on with this process's part of what was set aside for nobody, until it can."""
        lent, self.left = self.left // self.holders, 0
        self.granted += lent
        self.lent += lent

    def spare(self) -> int:
        """Take what lies idle, to be given back: all if nothing has used it since the last time."""
        kept = self.left // (EASING * self.holders) if self.used else 0
        self.stale = self.stale or self.used
        self.used = False
        spare = max(self.free - self.lent - kept, 0)
        self.granted -= spare
        return spare

    def keep(self, amount: int) -> None:
        """What was to be given back could not be."""
        self.granted += amount

    def to_wake(self) -> list[Callable[[], None]]:
        """Take out those that need wait no longer, in the order in which they came: they can go on, or never will."""
        free, found = self.free, list[Callable[[], None]]()
        for wake, need in list(self.waiting.items()):
            if need <= free:
                free -= need
            elif self.surely_spent + need <= self.rule.microusd:
                continue
            found.append(wake)
            del self.waiting[wake]
        return found


class Shortage(NamedTuple):
    """Why an attempt cannot be made now."""

    rule: Rule
    window: Window
    need: int | None
    """Micro-dollars that it can cost at most; None where that is not known."""
    left: int
    """Micro-dollars that the budget has left."""
    asked: bool = False
    """The ledger has been asked for more, and will answer soon."""
    final: bool = False
    """It will not be less in this window: what is spent stays spent."""


class Outlay(NamedTuple):
    """What an attempt may cost, in micro-dollars."""

    most: int = 0
    """At most, as far as `most_usage` can say."""
    likely: int | None = None
    """If all of the answer is generated, and the prompt has as many tokens as such have; None if there is no price."""
    source: str | None = None
    """Where the price comes from."""
    prompt: int = 0
    """The most tokens that its prompt can have."""


class Spending(NamedTuple):
    """What was reserved for one attempt: `outlay.most` in each share that blocks."""

    shares: Sequence[Share]
    outlay: Outlay

    @property
    def charges(self) -> tuple[tuple[str, int, str], ...]:
        """The budgets that it is charged to, as the ledger records them."""
        return tuple([(share.rule.id, share.window.start, share.holder) for share in self.shares])

    def charge(self, outcome: Outcome, cost: int | None) -> int | None:
        """What to charge for an attempt: its `cost` if that is exact, else what it may have been billed."""
        likely, usage = self.outlay.likely, outcome.usage
        if likely is None or (cost is not None and usage is not None and not usage.estimated):
            return cost
        if outcome.fault is Fault.NONE:
            return likely if cost is None else cost
        served = outcome.fault in (Fault.ABANDONED, Fault.STREAM_BROKEN, Fault.NETWORK)
        return likely if served and outcome.detail not in _NEVER_SENT else cost


_NEVER_SENT = ("ConnectError", "ConnectTimeout", "redirected")
"""Causes of a network failure before the provider had the request."""


def is_billed(method: str, request: RouteRequest) -> bool:
    """Whether a call is billed by what it is answered with. Of what is looked up, only websockets name a model."""
    if _UNBILLED.fullmatch(request.endpoint):
        return False
    return request.model is not None or (method.lower() == "post" and request.endpoint.endswith("/responses"))


def most_usage(body: Mapping[str, object], estimate: Estimate, request: RouteRequest, longest: float | None) -> Usage:
    """The most tokens that a call can use: of its prompt, and its cap or else what the model's answers have at most.

    `longest` is a high quantile of the model's answers, None while too few were seen.
    """
    answer = estimate.answer
    if not answer and not request.endpoint.endswith("/embeddings"):
        copies = body.get("n")
        answer = ceil(longest or DEFAULT_ANSWER) * (copies if isinstance(copies, int) and copies > 1 else 1)
    return Usage(prompt=most_prompt(body), completion=answer, estimated=True)


def outlay_of(price: Price, most: Usage, prompt: float) -> Outlay:
    """What an attempt may cost that uses so much at most, and whose prompt has `prompt` tokens by what is known.

    At most, all of the prompt is written to a cache, if that costs more.
    """
    tokens, answer = most.prompt, most.completion
    costs = [cost(price, most)]
    if any(part.startswith("cache_written") for part, _ in price.rates):
        costs.append(cost(price, most._replace(cache_written=tokens, cache_written_1h=tokens)))
    usual = Usage(prompt=min(ceil(prompt * MARGIN), tokens), completion=answer)
    known = [found for found in costs if found is not None]
    return Outlay(max(known), cost(price, usual), price.source, tokens) if known else Outlay()


def most_prompt(body: object) -> int:
    """The most tokens that a provider makes of a body, the names of its fields included, which it may show the model.

    What an image, a recording or a document makes is a guess: its size is not in its bytes.
    """
    size = tokens = 0
    stack: list[object] = [body]
    for item in stack:  # which grows as it is gone through
        if isinstance(item, str):
            if is_data_url(item):
                tokens += 2 * ATTACHMENT_TOKENS
            else:
                size += len(item) if item.isascii() else len(item.encode("utf-8", "replace"))
        elif isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            if fields.get("type") in ATTACHMENTS:
                tokens += 2 * ATTACHMENT_TOKENS
            else:
                size += sum(map(len, fields))
                stack += fields.values()
        elif isinstance(item, list | tuple):
            items = cast("Sequence[object]", item)
            if items and isinstance(items[0], int):
                tokens += len(items)  # an embedding's input
            else:
                stack += items
    return tokens - (-size // BYTES_PER_TOKEN)
