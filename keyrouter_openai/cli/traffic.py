"""The calls that `simulate` plays: those on record in the ledger, or those of a recorded trace."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from random import Random
from statistics import median_low
from typing import Any

from keyrouter_openai.core.model import MINUTE, Fault
from keyrouter_openai.errors import ConfigError
from keyrouter_openai.keys import Key
from keyrouter_openai.ledger import Ledger
from keyrouter_openai.testing.cache import SHORTEST
from keyrouter_openai.testing.load import read_rows
from keyrouter_openai.testing.virtual import BLOCK, VirtualCall

MOST = 100_000
"""Attempts that are read from the ledger: what is more takes minutes to play."""
REMEMBERED = 64
"""Prompts of one conversation or tenant that a later one may begin as."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Calls in order of arrival, in seconds from the first, and where they come from in words."""

    calls: Sequence[VirtualCall]
    source: str
    seen: Sequence[Key] = ()
    """The keys that served them, as far as the record tells of keys."""
    notes: Sequence[str] = ()
    """What had to be assumed of them."""

    @property
    def seconds(self) -> float:
        """From the first call to the last."""
        return self.calls[-1].at - self.calls[0].at

    def times(self, factor: float, rng: Random) -> Traffic:
        """So many times as much traffic, with each further call at a random moment of the minute after its model.

        Calls whose prompts begin alike belong together: they are copied and moved together, and what the copies
        have in a cache is their own.

        Raises:
            ConfigError: no call is left.
        """
        whole, part = divmod(factor, 1.0)
        distance = max((max(call.prefixes, default=0) for call in self.calls), default=0) + 1
        moves: dict[int, list[float]] = {}
        calls: list[VirtualCall] = []
        for number, call in enumerate(self.calls, 1):
            together = call.prefixes[0] if call.prefixes else -number
            if together not in moves:
                copies = int(whole) + (rng.random() < part)
                moves[together] = [rng.uniform(0.0, MINUTE) if copy else 0.0 for copy in range(copies)]
            for copy, move in enumerate(moves[together]):
                prefixes = tuple([prefix + copy * distance for prefix in call.prefixes])
                calls.append(replace(call, at=call.at + move, prefixes=prefixes))
        if not calls:
            raise ConfigError(f"no call is left of {self.source}: choose a larger --scale")
        return replace(self, calls=sorted(calls, key=lambda call: call.at))


def read_trace(path: Path, model: str | None) -> Traffic:
    """The calls of a recording (see `load.read_trace`); they ask for `model`, or else for what the column says.

    Where there are columns `session_id` and `reusable_prefix_tokens`, prompts begin as they say.

    Raises:
        ConfigError: the file is none such, names no model where none is given, or holds no request.
    """
    prompts = _Prompts()
    calls: list[VirtualCall] = []
    try:
        for arrival, row in read_rows(path):
            asked = model or row.get("model")
            if not asked:
                raise ConfigError(f"{path}: names no models: say with --model which one its calls ask for")
            reused = _whole(row.get("reusable_prefix_tokens"), path)
            prefixes = prompts.beginnings((row.get("session_id"), asked), arrival.prompt_tokens, reused)
            calls.append(
                VirtualCall(arrival.at, arrival.prompt_tokens, arrival.completion_tokens, asked, prefixes=prefixes)
            )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not calls:
        raise ConfigError(f"{path}: holds no request")
    return Traffic(calls, f"{len(calls):,} calls of {path.name}")


def _whole(text: str | None, path: Path) -> int:
    if text and not text.isdecimal():
        raise ConfigError(f"{path}: reusable_prefix_tokens is {text!r}, but must be a whole number")
    return int(text or 0)


def read_ledger(path: Path, pool: str, since: float | None, until: float | None) -> Traffic:
    """The calls of a pool that are on record between two moments, in seconds since the epoch.

    Raises:
        ConfigError: there is none, there are more attempts than `MOST`, or the file cannot be read.
    """
    rows = Ledger(path).attempts(since=since, until=until, pool=pool, limit=MOST + 1, newest_first=False)
    if len(rows) > MOST:
        raise ConfigError(f"there are more than {MOST:,} attempts on record: choose a shorter time (--since, --until)")
    recorded: dict[str, _Recorded] = {}
    for row in rows:
        if row["model"] is not None:
            recorded.setdefault(row["request_id"], _Recorded(row)).add(row)
    if not recorded:
        raise ConfigError(
            f"no call of pool {pool!r} is on record for that time in {path}: choose another with --since and --until, "
            "or replay a trace with --trace FILE"
        )
    calls, notes = _made_of(list(recorded.values()))
    if not calls:
        raise ConfigError(
            f"no call of pool {pool!r} on record for that time has its tokens on record: choose another with --since "
            "and --until, or replay a trace with --trace FILE"
        )
    first = calls[0].at
    for call in calls:
        call.at -= first
    return Traffic(calls, f"{len(calls):,} calls of pool {pool!r} on record", _keys(rows), notes)


@dataclass(slots=True)
class _Recorded:
    """One call on record: its first attempt, and the one that tells its tokens."""

    first: dict[str, Any]
    told: dict[str, Any] = field(default_factory=dict[str, Any])
    last: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, row: dict[str, Any]) -> None:
        """One more attempt, in order of time."""
        self.last = row
        if row["prompt_tokens"] is not None:
            self.told = row

    def call(self, prompt: int, completion: int, prefixes: tuple[int, ...]) -> VirtualCall:
        tags: dict[str, str] = self.first["tags"]
        return VirtualCall(
            self.first["at"] - self.first["waited_s"],
            prompt,
            completion,
            self.first["model"],
            self.first["stream"],
            tags.get("tenant", ""),
            prefixes,
            urgent=tags.get("priority") != "batch",
        )


def _made_of(recorded: Sequence[_Recorded]) -> tuple[list[VirtualCall], list[str]]:
    """The calls, in order of arrival, and what had to be assumed of them."""
    sizes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for each in recorded:
        if each.told:
            sizes[each.first["model"]].append((each.told["prompt_tokens"], each.told["completion_tokens"] or 0))
    usual = {model: tuple(map(median_low, zip(*known, strict=True))) for model, known in sizes.items()}
    prompts, assumed = _Prompts(), Counter[str]()
    calls: list[VirtualCall] = []
    for each in recorded:
        model = each.first["model"]
        if each.last["outcome"] == Fault.REQUEST:
            assumed["were wrong themselves (bad_request), and are left out"] += 1
            continue
        if each.told:
            prompt, completion, cached = (
                each.told[name] or 0 for name in ("prompt_tokens", "completion_tokens", "cached_tokens")
            )
        elif model in usual:
            assumed["have no tokens on record: each counts as the median of its model"] += 1
            (prompt, completion), cached = usual[model], 0
        else:
            assumed["are of models of which no tokens are on record, and are left out"] += 1
            continue
        group = (each.told.get("account"), model, tuple(each.first["tags"].items()))
        calls.append(each.call(prompt, completion, prompts.beginnings(group, prompt, cached)))
    return sorted(calls, key=lambda call: call.at), [f"{number:,} calls {what}" for what, number in assumed.items()]


def _keys(rows: Iterable[dict[str, Any]]) -> list[Key]:
    """The keys on record, each with the account and the provider that it had last."""
    latest = {row["key"]: row for row in rows}
    return [
        Key(name=name, base_url="http://localhost").model_copy(
            update={"provider": row["provider"], "account": row["account"], "base_url": None}
        )
        for name, row in latest.items()
    ]


class _Prompts:
    """Makes up how prompts begin, where it is on record how much of each was cached, but not of what.

    One of whose beginning something was cached is taken to begin as an earlier one of its group did: the shortest
    that is long enough, as in a conversation that grows.
    """

    def __init__(self) -> None:
        self._groups: defaultdict[Hashable, deque[tuple[int, ...]]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._ids = count()

    def beginnings(self, group: Hashable, prompt: int, cached: int) -> tuple[int, ...]:
        """The ids of the beginnings of a prompt of so many tokens, in blocks (see `VirtualCall.prefixes`)."""
        if prompt < SHORTEST:
            return ()
        blocks = prompt // BLOCK
        earlier = self._groups[group]
        longest = max(map(len, earlier), default=0)
        shared = min(cached // BLOCK, blocks, longest)
        source = min((known for known in earlier if len(known) >= shared), key=len, default=())[:shared]
        made = (*source, *islice(self._ids, blocks - shared))
        earlier.append(made)
        return made
