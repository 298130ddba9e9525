"""`ProviderSimulator`: a provider to test against, with its books open."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Self

from ..core.model import MINUTE
from .account import SimAccount
from .bills import BillLine, Bills
from .faults import FAULTS, Fault, FaultRules, Rule
from .handler import Call, Handler, TimeSource
from .model import Latency, SimProvider
from .server import HOST, HttpServer
from .wire import Reply, Request


class ProviderSimulator:
    """An OpenAI-like provider on a loopback port, for tests of whatever talks to one.

    It is a real HTTP server on a thread of its own. Enter it, with `with` or `async with`, and point clients
    to `url` with one of `keys`. All methods may be called from any thread while it runs.

        with ProviderSimulator([SimAccount("a", keys=2, rpm=60), SimAccount("b", credit_calls=100)]) as sim:
            client = OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"])
            sim.fail("rate_limit", account="a", times=1, wait=0.5)
            ...
            assert sim.count(account="a", status=429) == 1

    What a model answers is a function of the request: chat, responses and completions echo the last user
    text (or JSON that fits the schema, if one is given), so that callers can check that they got their own.
    Functions among the `tools` of a request are called if the last user text names them, or `tool_choice` demands
    it; what a function returned is then echoed.

    Args:
        accounts: default: one account, `account-1`, with one key and no limits.
        latency: default: none.
        seed: of all that is random: generated secrets, ids, latencies.
        time_scale: how many times faster than real time the provider lives: at 60 a minute's limit refills
            in a second, and latencies shrink likewise. What clients are told is in their own seconds.
        clock: what limits and dates go by; latencies pass in real time. Default: Python's `time`.
        port: default: a free one.

    Raises:
        ValueError: an account makes no sense; the text says why.
    """

    def __init__(
        self,
        accounts: Sequence[SimAccount] = (SimAccount("account-1"),),
        *,
        latency: Latency | None = None,
        seed: int = 0,
        time_scale: float = 1.0,
        clock: TimeSource = time,
        port: int = 0,
    ) -> None:
        if time_scale <= 0:
            raise ValueError(f"time_scale is {time_scale}, but must be above 0")
        rng = Random(seed)
        self._clock = clock
        epoch = clock.time() - clock.monotonic()
        self._provider = SimProvider(accounts, rng, minute=MINUTE / time_scale, epoch=epoch)
        self._faults = FaultRules()
        self._bills = Bills(self._provider, Random(f"{seed} admin keys"))
        latency = (latency or Latency()).faster(time_scale)
        self._handler = Handler(self._provider, self._bills, self._faults, latency, rng, clock)
        self._calls: list[Call] = []
        self._lock = threading.Lock()
        self._server = HttpServer(self._answer, port)

    # Starting and stopping block for milliseconds at most: neither waits for a client.

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    @property
    def url(self) -> str:
        """The base URL for clients."""
        return f"http://{HOST}:{self._server.port}/v1"

    @property
    def keys(self) -> dict[str, str]:
        """The secrets by label (`account-1/key-1`)."""
        return {label: key.secret for label, key in self._provider.keys.items()}

    @property
    def accounts(self) -> dict[str, SimAccount]:
        """The accounts by name, with the limits and the credit that they have now."""
        with self._lock:
            return self._provider.accounts

    @property
    def admin_keys(self) -> dict[str, str]:
        """The secrets of the admin keys by organization: one each, for its usage, its costs and its keys."""
        return {organization: key.secret for organization, key in self._bills.admin_keys.items()}

    # What came

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._server.connections

    @property
    def calls(self) -> list[Call]:
        """All requests so far, in order."""
        with self._lock:
            return list(self._calls)

    def count(
        self,
        *,
        key: str | None = None,
        account: str | None = None,
        status: int | None = None,
        path: str | None = None,
        model: str | None = None,
        fault: str | None = None,
    ) -> int:
        """How many requests there were of this kind; None is any. `key` is a label, `path` has `/v1`."""
        return sum(
            key in (None, call.key)
            and account in (None, call.account)
            and status in (None, call.status)
            and path in (None, call.path)
            and model in (None, call.model)
            and fault in (None, call.fault)
            for call in self.calls
        )

    def by_key(self) -> dict[str, int]:
        """Requests for each key by label, those that got none included."""
        counts = Counter(call.key for call in self.calls)
        return {label: counts[label] for label in self._provider.keys}

    def bill(self) -> Counter[BillLine]:
        """What has been served so far costs, in micro-dollars, by day, model and key: `bill().total()` is all of it.

        Each request is billed at list price times its account's `price_multiplier`, whether its answer was read or not.
        """
        with self._lock:
            return self._bills.total()

    def reset_counts(self) -> None:
        """Forget the requests so far; limits, credit, faults and the bill stay as they are."""
        with self._lock:
            self._calls.clear()

    # What goes wrong

    def fail(
        self,
        fault: str | Fault,
        *,
        key: str | None = None,
        account: str | None = None,
        model: str | None = None,
        path: str | None = None,
        times: int | None = None,
        after: int = 0,
        wait: float = 1.0,
        events: int = 0,
    ) -> None:
        """Make matching calls fail. Of several faults that match, the one that was added first hits.

        Args:
            fault: a name in `FAULTS`, or what `respond` or `redirect` made.
            key: only calls with this key (its label or its secret).
            account, model, path: only calls of this account, for this model, to this path (`/v1/...`).
            times: so many calls. Default: all, until `heal`.
            after: so many matching calls go well first.
            wait: seconds that the answer asks to wait, if it is of a kind that asks.
            events: for `stream_...` faults: so many events with content come first.

        Raises:
            ValueError: no fault, key or account has that name.
        """
        if isinstance(fault, str):
            if fault not in FAULTS:
                raise ValueError(f"no fault {fault!r}: there are {', '.join(FAULTS)}")
            fault = FAULTS[fault]
        if account is not None:
            self._provider.account(account)
        label = None if key is None else self._label(key)
        with self._lock:
            self._faults.add(Rule(fault, label, account, model, path, times, after, wait, events))

    def heal(self, fault: str | None = None, *, key: str | None = None, account: str | None = None) -> None:
        """End the faults that were added with this name, key and account; `heal()` ends them all."""
        label = None if key is None else self._label(key)
        with self._lock:
            self._faults.heal(fault, label, account)

    def revoke(self, key: str) -> None:
        """Make the key with this label invalid, as if its owner had deleted it."""
        with self._lock:
            self._provider.revoke(key)

    def restore(self, key: str) -> None:
        """Make a revoked key valid again."""
        with self._lock:
            self._provider.restore(key)

    def set_credit(self, account: str, *, calls: int | None = None, tokens: int | None = None) -> None:
        """Give an account this much credit; None has no end, 0 is dry at once."""
        with self._lock:
            self._provider.set_credit(account, calls=calls, tokens=tokens)

    def set_limits(self, account: str, *, rpm: int | None, tpm: int | None) -> None:
        """Give an account these limits per minute; None is no limit. What is used up stays used up."""
        with self._lock:
            self._provider.set_limits(account, rpm=rpm, tpm=tpm, now=self._clock.monotonic())

    def drain(self, account: str, model: str, *, requests: float = 0.0, tokens: float = 0.0) -> None:
        """Let another application use an account: it takes so much from the limits of a model, or what there is."""
        with self._lock:
            self._provider.drain(account, model, requests=requests, tokens=tokens, now=self._clock.monotonic())

    @contextmanager
    def unreachable(self) -> Generator[None]:
        """Within this block no connection is accepted, and those that were open are dropped."""
        self._server.refuse_connections()
        try:
            yield
        finally:
            self._server.take_connections()

    def _label(self, key: str) -> str:
        found = self._provider.find_key(key)
        return found.label if found else self._provider.key(key).label

    def _answer(self, request: Request) -> Reply:
        with self._lock:
            reply, call = self._handler.handle(request)
            self._calls.append(call)
            return reply
