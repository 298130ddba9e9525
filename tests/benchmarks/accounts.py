"""Which keys share an account, as the router learns it from answers: the partition found, against calls per key.

    python tests/benchmarks/accounts.py [--short] [--seed 100] [--seeds 5]

Fifty keys of twelve accounts with equal limits, nothing declared, in virtual time. Calls arrive at random, are of
random size, and go to a random key whose account, as far as it is known, is not held back by a refusal; answers take
seconds, refusals do not, and a refused call goes to another key at once. The score is the adjusted Rand index: 1 for
the true partition, 0 for what chance gives. `wrong` are the keys that share an account with more keys of another than
of their own.

Then keys are put where they do not belong, and their calls are counted until that is undone. From 429s alone it is
not: a refusal holds back all keys of an account, so that none of them is seen to be served meanwhile.
"""

from __future__ import annotations

import argparse
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import comb, inf
from random import Random
from statistics import mean, median
from typing import Literal

from keyrouter_openai.core.kinship import Kinship
from keyrouter_openai.core.model import MINUTE, Dimension, Fault, Outcome
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.model import Denied, SimProvider

Headers = Literal["openai", "anthropic", "none"]

KEYS, ACCOUNTS = 50, 12
MODEL = "gpt-4o"
RPM, TPM = 500, 200_000
SIZES = (400, 4000)
"""Tokens of a call, evenly spread."""
NETWORK = (0.01, 0.06)
"""Seconds until a call has reached the provider, evenly spread."""
ANSWER, SPREAD = 1.5, 0.6
"""Seconds that half of the answers take at most, and the sigma of their lognormal distribution."""
REFUSAL = 0.02
"""Seconds that a refusal takes."""
ATTEMPTS = 4
"""Attempts that are made of a call, each with another key at once."""
LATEST = 100
"""Calls of a misplaced key, after which it should be where it belongs."""
DRAINS = 2.0
"""How often a second somebody else uses an account, where somebody does."""
MISPLACED = 5
"""Keys that are put where they do not belong."""


def adjusted_rand_index(found: Mapping[str, str], truth: Mapping[str, str]) -> float:
    """How far two partitions of the same things agree (Hubert and Arabie, 1985): 1 entirely, 0 as by chance."""

    def pairs(labels: Iterable[object]) -> int:
        return sum(comb(size, 2) for size in Counter(labels).values())

    both = pairs((found[key], truth[key]) for key in truth)
    ours, theirs = pairs(found[key] for key in truth), pairs(truth.values())
    chance = ours * theirs / comb(len(truth), 2)
    most = (ours + theirs) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)


def split(rng: Random) -> list[int]:
    """Fifty keys on twelve accounts, at least one each."""
    cuts = sorted(rng.sample(range(1, KEYS), ACCOUNTS - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, KEYS], strict=True)]


def misplaced(found: Mapping[str, str], truth: Mapping[str, str]) -> int:
    """Keys that are in an account most of whose keys are another's."""
    members = defaultdict[str, Counter[str]](Counter)
    for key, account in found.items():
        members[account][truth[key]] += 1
    return sum(counts.total() - max(counts.values()) for counts in members.values())


@dataclass(frozen=True)
class Scene:
    """What the answers show, and what else goes on."""

    name: str
    headers: Headers = "openai"
    organizations: bool = False
    """Whether answers name the organisation."""
    load: float = 0.8
    """Calls offered, relative to what the accounts' tokens suffice for."""
    drained: float = 0.0
    """Share of each account's tokens that somebody else takes."""
    lag: float = 0.0
    """Seconds by which headers are late."""


class World:
    """One provider, one pool, and the traffic between them."""

    def __init__(self, scene: Scene, seed: int, *, declared: bool = False) -> None:
        self.scene, self.rng = scene, Random(seed)
        self.provider = SimProvider(
            [
                SimAccount(f"a{n}", keys=keys, rpm=RPM, tpm=TPM, headers=scene.headers, header_lag_s=scene.lag)
                for n, keys in enumerate(split(self.rng))
            ],
            self.rng,
        )
        self.truth = {label: key.account for label, key in self.provider.keys.items()}
        self.labels = list(self.truth)
        self.rng.shuffle(self.labels)
        self.kinship = Kinship()
        for label, account in self.truth.items():
            named = self._another(account) if label in self.labels[:MISPLACED] else account
            self.kinship.add(label, "host", declared=named if declared else None)
        self.found = self.kinship.accounts
        self.parked: dict[str, float] = {}
        self.calls = Counter[str]()
        self.misplaced = self.labels[:MISPLACED] if declared else []
        self.undone: dict[str, int] = {}
        """After how many of its calls a misplaced key was no longer with keys of another account."""
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._rate = scene.load * ACCOUNTS * TPM / MINUTE / mean(SIZES)
        self._at(0.0, self._arrive)
        if scene.drained:
            self._at(0.0, self._drain)

    def run(self, calls_per_key: int) -> None:
        """Let time pass until so many more calls for each key, on average, were answered."""
        target = self.calls.total() + calls_per_key * KEYS
        while self.calls.total() < target:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    @property
    def score(self) -> float:
        return adjusted_rand_index(self.found, self.truth)

    def misplace(self) -> None:
        """Put some keys into accounts of others, as a wrong guess would."""
        self.misplaced = self.labels[:MISPLACED]
        for label in self.misplaced:
            strangers = [other for other in self.labels[MISPLACED:] if self.truth[other] != self.truth[label]]
            self.kinship.restore(label, self.found[self.rng.choice(strangers)])
            self.calls[label] = 0
        self.found = self.kinship.accounts

    def _another(self, account: str) -> str:
        return self.rng.choice([other for other in self.provider.accounts if other != account])

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happen))

    def _arrive(self) -> None:
        self._at(self.now + self.rng.expovariate(self._rate), self._arrive)
        self._send(self.rng.randint(*SIZES), ATTEMPTS)

    def _send(self, tokens: int, attempts: int) -> None:
        free = (k for k in self.rng.sample(self.labels, 8) if self.parked.get(self.found[k], -inf) <= self.now)
        if attempts and (label := next(free, None)) is not None:
            self._at(self.now + self.rng.uniform(*NETWORK), partial(self._admit, label, self.now, tokens, attempts))

    def _admit(self, label: str, sent: float, tokens: int, attempts: int) -> None:
        key = self.provider.key(label)
        try:
            readings = self.provider.admit(key, MODEL, tokens, self.now).readings
            outcome, seconds = (
                Outcome(Fault.NONE, 200, readings=readings),
                self.rng.lognormvariate(0.0, SPREAD) * ANSWER,
            )
        except Denied as denied:
            outcome, seconds = Outcome(Fault.RATE_LIMIT, 429, denied.wait, readings=denied.readings), REFUSAL
        if self.scene.organizations:
            account = self.provider.account(key.account)
            outcome = outcome._replace(organization=account.organization, project=account.project)
        self._at(self.now + seconds, partial(self._settle, label, sent, tokens, attempts, outcome))

    def _settle(self, label: str, sent: float, tokens: int, attempts: int, outcome: Outcome) -> None:
        self.calls[label] += 1
        decisions = self.kinship.observe(
            label, MODEL, sent, lambda limit: 1.0 if limit is Dimension.REQUESTS else float(tokens), outcome
        )
        if decisions:
            self.found = self.kinship.accounts
            for key in self.misplaced:
                if key not in self.undone and not self._is_misplaced(key):
                    self.undone[key] = self.calls[key]
        if outcome.fault is Fault.RATE_LIMIT:
            self.parked[self.found[label]] = self.now + (outcome.wait or 0.0)
            self._send(tokens, attempts - 1)

    def _is_misplaced(self, label: str) -> bool:
        return any(
            self.found[label] == self.found[other] and self.truth[label] != self.truth[other] for other in self.labels
        )

    def _drain(self) -> None:
        self._at(self.now + self.rng.expovariate(DRAINS), self._drain)
        for name in self.provider.accounts:
            tokens = self.rng.expovariate(DRAINS) * self.scene.drained * TPM / MINUTE
            self.provider.drain(name, MODEL, tokens=tokens, now=self.now)


NAMED = Scene("organisation headers", organizations=True)
COUNTED = Scene("counters")
REFUSED = Scene("429s alone", headers="none")
SCENES = (
    NAMED,
    COUNTED,
    Scene("  at half load", load=0.5),
    Scene("  at load 1.2", load=1.2),
    Scene("  others take half", load=0.5, drained=0.5),
    Scene("  a second late", lag=1.0),
    Scene("  in thousands", headers="anthropic"),
    REFUSED,
    Scene("  at load 1.2", headers="none", load=1.2),
)


def learned(scene: Scene, marks: tuple[int, ...], seeds: range) -> str:
    """The scores of a scene after so many calls a key, and the wrong keys at the end of each run, on average."""
    scores, wrong = list[list[float]](), list[int]()
    for seed in seeds:
        world, run = World(scene, seed), list[float]()
        for before, mark in zip((0, *marks), marks, strict=False):
            world.run(mark - before)
            run.append(world.score)
        scores.append(run)
        wrong.append(misplaced(world.found, world.truth))
    return (
        f"{scene.name:22}"
        + "".join(f"{mean(column):8.3f}" for column in zip(*scores, strict=True))
        + f"{mean(wrong):8.1f}"
    )


def undone(what: str, scene: Scene, seeds: range, *, declared: bool) -> str:
    """How many calls a misplaced key makes until that is undone; those it makes later are not waited for."""
    taken = list[float]()
    for seed in seeds:
        world = World(scene, seed, declared=declared)
        if not declared:
            world.run(LATEST)
            world.misplace()
        while any(label not in world.undone and world.calls[label] < LATEST for label in world.misplaced):
            world.run(5)
        taken += [world.undone.get(label, inf) for label in world.misplaced]
    soon = sum(calls <= LATEST for calls in taken)
    shown = "".join(f"{calls:8.0f}" if calls < inf else f"{'-':>8}" for calls in (median(taken), max(taken)))
    return f"{what:38}{shown}{soon / len(taken):14.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one seed, few calls")
    parser.add_argument("--seed", type=int, default=100, help="the first; the constants were chosen on those below 20")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    options = parser.parse_args()
    marks = (5, 10, 20, 40) if options.short else (5, 10, 20, 40, 60, 100, 200, 400)
    seeds = range(options.seed, options.seed + (1 if options.short else options.seeds))
    print(f"{'calls a key':22}" + "".join(f"{mark:8}" for mark in marks) + f"{'wrong':>8}")
    for scene in SCENES:
        print(learned(scene, marks, seeds))
    print(f"\n{'calls of a misplaced key until':38}{'median':>8}{'most':>8}{f'within {LATEST}':>14}")
    print(undone("a wrong declaration, by headers", NAMED, seeds, declared=True))
    print(undone("a wrong guess, by counters", COUNTED, seeds, declared=False))
    print(undone("a wrong guess, by 429s alone", REFUSED, seeds, declared=False))


if __name__ == "__main__":
    main()
