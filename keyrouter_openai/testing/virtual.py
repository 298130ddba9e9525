"""Callers and a provider in virtual time: an hour of traffic passes in seconds or minutes, the same from each seed.

Nothing waits and nothing runs at the same time. Whatever takes time is a generator that yields the time at which
it goes on; `VirtualTime` resumes whichever is due next. The books of the provider are `SimProvider`, as over HTTP.
How a caller with a router makes its calls is in `virtual_client`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import cycle
from math import exp, isnan, nan
from random import Random

from ..core.affinity import LENGTHS
from ..core.model import Estimate, RouteRequest
from .account import Admitted, Denied, SimAccount
from .model import Latency, SimProvider

NETWORK = 0.015
"""Median seconds between caller and provider, each way."""
NETWORK_SPREAD = 0.2
"""Spread of these (lognormal)."""
NETWORK_MOST = 0.1
"""The longest of these, in seconds."""
BLOCK = 512
"""Tokens of prompt in a block of the provider's cache."""
EPOCH = 1_700_000_000.0
"""Wall-clock time at which virtual time begins, in seconds since 1970."""
STANDSTILL = 100_000
"""Steps at one time after which something is taken to go round in circles."""

Steps = Generator[float, None, None]
"""What takes time: yields when, in virtual time, it goes on at the latest."""


class Process:
    """Steps that are under way."""

    __slots__ = ("_time", "steps", "ticket")

    def __init__(self, time: VirtualTime, steps: Steps) -> None:
        self._time = time
        self.steps = steps
        self.ticket = -1
        """The one entry of the agenda that counts: a process that is woken leaves stale ones behind."""

    def wake(self) -> None:
        """Go on now, before the time that was yielded."""
        self._time.schedule(self, self._time.now)


class VirtualTime:
    """An agenda of processes, and the router's clock (`protocols.Clock`): it shows when the step that runs was due."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds."""
        self.current: Process | None = None
        """The process that runs."""
        self._agenda: list[tuple[float, int, Process]] = []
        self._tickets = 0

    def start(self, steps: Steps) -> Process:
        """Begin `steps` now, after what is due already."""
        process = Process(self, steps)
        self.schedule(process, self.now)
        return process

    def schedule(self, process: Process, when: float) -> None:
        """Have a process go on at `when`, and at no other time."""
        self._tickets = process.ticket = self._tickets + 1
        heappush(self._agenda, (when, process.ticket, process))

    def run(self) -> None:
        """Let time pass until nothing is left to happen.

        Raises:
            RuntimeError: time stands still, since processes go on again and again without waiting.
        """
        agenda = self._agenda
        steps = 0
        while agenda:
            when, ticket, process = heappop(agenda)
            if ticket != process.ticket:
                continue
            steps += 1
            if when > self.now:
                self.now, steps = when, 0
            elif steps > STANDSTILL:
                raise RuntimeError(f"time stands still at {self.now}: more than {STANDSTILL} steps at once")
            self.current = process
            for until in process.steps:
                if process.ticket == ticket:  # else it was woken during this very step
                    self.schedule(process, until)
                break

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return EPOCH + self.now

    async def sleep(self, seconds: float, signal: object = None) -> None:
        self.sleep_sync(seconds, signal)

    def sleep_sync(self, seconds: float, signal: object = None) -> None:
        raise NotImplementedError("in virtual time nobody sleeps: yield the time at which to go on")


@dataclass(slots=True)
class VirtualCall:
    """One call of a user, and what came of it. Times are virtual, in seconds."""

    at: float
    prompt_tokens: int
    completion_tokens: int
    model: str = "gpt-4o"
    stream: bool = False
    tenant: str = ""
    prefixes: tuple[int, ...] = ()
    """Ids of the beginnings of its prompt, each a block longer than the one before."""
    urgent: bool = True
    """False for batch work."""
    key: str = ""
    """The name of the key that served it."""
    sent_at: float = nan
    """When the attempt left that was served; NaN if none was."""
    ended_at: float = nan
    cached_tokens: int = 0

    @property
    def charge(self) -> int:
        """Tokens that limits are charged for it up front where its cap is the size of its answer (see `load`)."""
        return max(self.prompt_tokens, self.completion_tokens)

    @property
    def served(self) -> bool:
        return not isnan(self.sent_at)

    def describe(self) -> RouteRequest:
        """The call as the router sees it."""
        return RouteRequest(
            "",
            "/chat/completions",
            self.model,
            self.stream,
            self._estimate,
            self._beginnings,
            self.tenant,
            urgent=self.urgent,
        )

    def _estimate(self) -> Estimate:
        return Estimate(self.prompt_tokens, self.completion_tokens)

    def _beginnings(self) -> Sequence[int]:
        """The ids at the lengths at which the router tells beginnings apart."""
        ids = self.prefixes
        if not ids:
            return ()
        return [ids[length // BLOCK - 1] for length in LENGTHS if length // BLOCK <= len(ids)]


@dataclass(slots=True)
class Answer:
    """What the provider answers: `refusal` is None where it serves the call."""

    date: float
    """When the provider decided, by its own clock: seconds since the epoch."""
    refusal: Denied | None = None
    account: SimAccount | None = None
    """Whose organization and project the headers show, where they do."""
    admitted: Admitted | None = None
    """What shows the limits of the moment at which the provider decided; `refusal` does, too."""
    cached_tokens: int = 0
    first_byte_s: float = 0.0


class VirtualProvider:
    """`SimProvider` with the time that network and models take.

    Args:
        time: whose time passes.
        accounts: as they are at the start.
        latency: of the models.
        rng: of secrets, latencies and network delays.
        clock_error: seconds by which the provider's clock is ahead of the callers'.
    """

    def __init__(
        self,
        time: VirtualTime,
        accounts: Sequence[SimAccount],
        latency: Latency,
        rng: Random,
        *,
        clock_error: float = 0.0,
    ) -> None:
        self._epoch = EPOCH + clock_error
        self.books = SimProvider(accounts, rng, epoch=self._epoch)
        self.error: str | None = None
        """The error of `errors.ERRORS` that every call gets while there is an outage."""
        self.came_at = array("d")
        """When each request came, and, in `statuses`, the status of its answer."""
        self.statuses = array("H")
        self._time = time
        self._latency = latency
        self._rng = rng
        # Drawn once and used in turn: a draw costs as much as the rest of a step.
        self._network = cycle([min(NETWORK * exp(rng.gauss(0.0, NETWORK_SPREAD)), NETWORK_MOST) for _ in range(4096)])

    def attempt(
        self, secret: str, call: VirtualCall, heard: Callable[[Answer], None] | None = None
    ) -> Generator[float, None, Answer]:
        """Send a call. It is over when the whole answer is with the caller.

        Headers are written when the provider decides. They come with the first byte where the call streams, which
        `heard` is told, else with the whole answer.
        """
        time, latency = self._time, self._latency
        start = time.now
        yield start + next(self._network)
        answer = Answer(date=self._epoch + time.now)
        generation = call.completion_tokens / latency.tokens_per_second
        first_byte = latency.first_byte * exp(self._rng.gauss(0.0, latency.sigma))
        try:
            self._admit(secret, call, answer, time.now + first_byte + generation)
        except Denied as denied:
            answer.refusal = denied
            first_byte = generation = 0.0
        self.came_at.append(time.now)
        self.statuses.append(200 if answer.refusal is None else answer.refusal.status)
        yield time.now + first_byte + next(self._network) + (0.0 if call.stream else generation)
        answer.first_byte_s = time.now - start
        if call.stream and answer.refusal is None:
            if heard is not None:
                heard(answer)
            yield time.now + generation
        return answer

    def _admit(self, secret: str, call: VirtualCall, answer: Answer, end: float) -> None:
        books, now = self.books, self._time.now
        if self.error is not None:
            raise Denied(self.error)
        key = books.authenticate(secret)
        answer.account = books.account(key.account)
        if call.prefixes:
            answer.cached_tokens = books.cached_tokens(key, call.prefixes, BLOCK, now)
        answer.admitted = books.admit(key, call.model, call.charge, now, call.prompt_tokens - answer.cached_tokens)
        books.finish(answer.admitted, end, call.completion_tokens)


def play(time: VirtualTime, calls: Iterable[VirtualCall], caller: Callable[[VirtualCall], Steps]) -> None:
    """Make each of `calls`, which are in order of arrival, at its time, and let time pass until all are over."""

    def arrivals() -> Steps:
        for call in calls:
            yield call.at
            time.start(caller(call))

    time.start(arrivals())
    time.run()
