"""The provider's bill against the ledger: where they differ, and what is likely behind it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple, TypeVar

MILLION = 1_000_000


class Line(NamedTuple):
    """What is compared with each other. What is not told apart is empty."""

    day: str = ""
    """An ISO date, UTC, by which providers bill."""
    model: str = ""
    key: str = ""


class Recorded(NamedTuple):
    """What the ledger has of one line."""

    requests: int = 0
    """Attempts that the provider served, as far as is known."""
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    microusd: int = 0
    """Over the requests whose price is known."""
    unpriced: int = 0
    """Requests whose price is not."""
    estimated: int = 0
    """Requests whose tokens are the router's estimate, as their answer broke off."""
    unanswered: int = 0
    """Attempts, no requests by this count, that brought no answer: the provider may have served them all the same."""
    recent: int = 0
    """Requests that are too recent for the provider to have billed all of them."""


class Billed(NamedTuple):
    """What the provider bills of one line."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    usd: Decimal = Decimal(0)
    uncounted: int = 0
    """Requests whose tokens the provider does not tell."""
    strange: int = 0
    """Requests with keys that the ledger does not know."""


Counts = TypeVar("Counts", Recorded, Billed)


@dataclass(frozen=True, slots=True)
class Difference:
    """One line on which bill and ledger differ. `billed` is None where there is nothing to compare with."""

    line: Line
    recorded: Recorded
    billed: Billed | None
    reasons: tuple[str, ...]

    @property
    def recorded_microusd(self) -> int | None:
        """What is recorded; None where no price is known."""
        nothing = self.recorded.unpriced and not self.recorded.microusd
        return None if nothing else self.recorded.microusd

    @property
    def microusd(self) -> int:
        """How much more is billed than recorded; negative for less."""
        return 0 if self.billed is None else excess(self.recorded, self.billed)


def excess(recorded: Recorded, billed: Billed) -> int:
    """Micro-dollars that are billed beyond what is recorded.

    What comes of the ledger's rounding, half a micro-dollar a request at most, is no difference.
    """
    more = round(billed.usd * MILLION) - recorded.microusd
    return 0 if 2 * abs(more) <= recorded.requests else more


def compare(
    recorded: Mapping[Line, Recorded],
    billed: Mapping[Line, Billed],
    *,
    by: Collection[str] = Line._fields,
    strangers: Collection[str] = (),
    unmatched: Collection[str] = (),
) -> list[Difference]:
    """The lines on which the ledger and the bill differ, in order.

    Args:
        by: the fields of `Line` that lines are told apart by.
        strangers: keys that are billed and that the ledger does not know.
        unmatched: keys of the ledger of which it is not known what they are called at the provider. They are
            listed, and compared with nothing.
    """
    theirs = _grouped(
        ((line, each._replace(strange=each.requests * (line.key in strangers))) for line, each in billed.items()), by
    )
    ours = _grouped(((line, each) for line, each in recorded.items() if line.key not in unmatched), by)
    pairs = {line: (ours.get(line, Recorded()), theirs.get(line, Billed())) for line in {*ours, *theirs}}
    found = [
        Difference(line, mine, its, tuple(_reasons(line, pairs)))
        for line, (mine, its) in sorted(pairs.items())
        if _differ(mine, its)
    ]
    apart = _grouped(((line, each) for line, each in recorded.items() if line.key in unmatched), by)
    why = "not compared: the organization has no key with this secret; if it has, say which with --map ID=NAME"
    return found + [Difference(line, each, None, (why,)) for line, each in sorted(apart.items())]


def added_up(lines: Iterable[tuple[Line, Counts]]) -> dict[Line, Counts]:
    """The sum of each line's counts."""
    sums: dict[Line, Counts] = {}
    for line, counts in lines:
        before = sums.get(line)
        sums[line] = counts if before is None else counts._make(map(sum, zip(before, counts, strict=True)))
    return sums


def _grouped(lines: Iterable[tuple[Line, Counts]], by: Collection[str]) -> dict[Line, Counts]:
    return added_up((Line(**{name: getattr(line, name) for name in by}), counts) for line, counts in lines)


def _tokens(counts: Recorded | Billed) -> tuple[int, int, int]:
    return counts.prompt, counts.cached, counts.completion


def _differ(recorded: Recorded, billed: Billed) -> bool:
    counted = bool(billed.uncounted) or _tokens(recorded) == _tokens(billed)
    return recorded.requests != billed.requests or not counted or excess(recorded, billed) != 0


def _reasons(line: Line, pairs: Mapping[Line, tuple[Recorded, Billed]]) -> Iterator[str]:
    """What is likely behind a difference: all that fits."""
    recorded, billed = pairs[line]
    more = billed.requests - recorded.requests
    if billed.usd and not billed.requests and not recorded.requests:
        yield "a fee for something else than calls to a model, which the ledger does not record"
        return
    if billed.strange:
        yield (
            f"requests with a key that the ledger does not know: {billed.strange:,} (another program's, or say which "
            "key it is with --map ID=NAME)"
        )
    if recorded.estimated:
        yield f"broken answers, whose tokens are estimates: {recorded.estimated:,}"
    if recorded.unpriced:
        yield f"requests without a known price: {recorded.unpriced:,}"
    if more and any(_tokens(billed)) and _tokens(recorded) == _tokens(billed):
        yield "the same tokens in another number of requests: a session over a websocket is one attempt"
    elif more and (neighbour := _made_up_for(line, more, pairs)):
        yield f"{neighbour} makes up for it: what runs over midnight may be billed on either day"
    elif more < 0:
        if recorded.recent:
            yield "the provider is behind: it takes up to an hour or so until all is billed"
        if -more > recorded.recent:
            yield f"requests recorded and not billed: {-more:,}"
    elif more > billed.strange:
        if recorded.unanswered:
            yield f"attempts without an answer, which may have been served all the same: {recorded.unanswered:,}"
        if more - billed.strange > recorded.unanswered:
            yield "more requests are billed than recorded: another program uses the key, or rows are missing"
    if more == 0 and not (recorded.estimated or recorded.unpriced):
        yield from _of_the_same_requests(recorded, billed)


def _of_the_same_requests(recorded: Recorded, billed: Billed) -> Iterator[str]:
    if not billed.uncounted and _tokens(recorded) != _tokens(billed):
        yield "the same requests, other tokens: the provider counts otherwise than its answers said"
    elif recorded.microusd:
        factor = float(billed.usd * MILLION / recorded.microusd)
        yield f"the same tokens at {factor:.4g} times the price: a discount, a service tier, or price_multiplier"
    else:
        yield "the same tokens, which cost nothing by the ledger: a price, or price_multiplier"


def _made_up_for(line: Line, more: int, pairs: Mapping[Line, tuple[Recorded, Billed]]) -> str:
    """The day before or after whose requests differ by as many the other way, or an empty text."""
    if not line.day:
        return ""
    for days in (-1, 1):
        day = (date.fromisoformat(line.day) + timedelta(days=days)).isoformat()
        recorded, billed = pairs.get(line._replace(day=day), (Recorded(), Billed()))
        if billed.requests - recorded.requests == -more:
            return day
    return ""
