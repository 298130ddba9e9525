"""A pytest plugin (`-p plugin`): puts our clients in the place of the SDK's, and writes down what came of each test.

The environment says how: CONFORMANCE_LANE names the lane, CONFORMANCE_REPORT the file of results.
"""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from functools import wraps
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import openai
import pytest
from pydantic import SecretStr

from keyrouter_openai import ConfigError, Key, OwnerError, RoutedOpenAI, Router, SyncRoutedOpenAI, routing
from keyrouter_openai.clock import Signal, SystemClock, ThreadSignal
from keyrouter_openai.vaults.memory import MemoryVault

POOL_SIZES = {"one-key": 0, "pool-of-one": 1, "pool-of-two": 2}
"""Lane to the keys of the pool that an `api_key` is made into; 0 leaves it as it is."""


class NoWaiting(SystemClock):
    """Real time, but for waits: it jumps ahead over them."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self._ahead

    def time(self) -> float:
        return super().time() + self._ahead

    async def sleep(self, seconds: float, signal: Signal | None = None) -> None:
        self._ahead += seconds
        await super().sleep(0.0, signal)

    def sleep_sync(self, seconds: float, signal: ThreadSignal | None = None) -> None:
        self._ahead += seconds


class Counts:
    """How many calls were made and routed, over all workers; and how many tests, in this one."""

    def __init__(self) -> None:
        self.tests = 0
        self.requests = 0
        self.routed = 0


counts = Counts()
pools: WeakKeyDictionary[Router, tuple[str, int]] = WeakKeyDictionary()
"""The secret of each pool that was made here, and for which test it was made."""


def swap(size: int) -> None:
    """Put our clients in the place of the SDK's, before any test module imports them."""

    class AsyncClient(RoutedOpenAI):
        @wraps(RoutedOpenAI.__init__)
        def __init__(self, **arguments: Any) -> None:
            construct(super().__init__, self, arguments, size)

        async def request(self, *arguments: Any, **options: Any) -> Any:
            counts.requests += 1
            try:
                return await super().request(*arguments, **options)
            except OwnerError:  # the list of an account, where there are two
                with routing(account="*"):
                    return await super().request(*arguments, **options)

        def _new_call(self, *arguments: Any, **options: Any) -> Any:
            renew(self, size)
            counts.routed += len(self.router.keys) == max(size, 1)
            return super()._new_call(*arguments, **options)

    class SyncClient(SyncRoutedOpenAI):
        @wraps(SyncRoutedOpenAI.__init__)
        def __init__(self, **arguments: Any) -> None:
            construct(super().__init__, self, arguments, size)

        def request(self, *arguments: Any, **options: Any) -> Any:
            counts.requests += 1
            try:
                return super().request(*arguments, **options)
            except OwnerError:
                with routing(account="*"):
                    return super().request(*arguments, **options)

        def _new_call(self, *arguments: Any, **options: Any) -> Any:
            renew(self, size)
            counts.routed += len(self.router.keys) == max(size, 1)
            return super()._new_call(*arguments, **options)

    module: Any = openai
    module.AsyncOpenAI = module.AsyncClient = AsyncClient
    module.OpenAI = module.Client = SyncClient


def construct(init: Any, client: Any, arguments: dict[str, Any], size: int) -> None:
    """Construct a client over a pool of `size` keys with the secret that was given as `api_key`.

    `client.api_key` still answers that secret: the SDK's tests look.
    """
    secret = arguments.get("api_key")
    other = any(arguments.get(name) for name in ("router", "provider", "workload_identity"))
    if size and not other and isinstance(secret, str) and secret:
        try:
            init(**arguments, router=make_pool(secret, size))
        except ConfigError:
            # What a pool refuses a single key may do: plain HTTP to another host.
            init(**arguments)
    else:
        init(**arguments)
    if not client.router.sdk_credential and isinstance(secret, str):
        client.api_key = secret


def make_pool(secret: str, size: int) -> Router:
    """A router over keys of as many accounts, their one secret in a vault: a pool refuses twins that carry it."""
    secret = secret.replace(" ", "-")  # no real key has blanks, and a pool refuses them
    names = [f"key-{place}" for place in range(1, size + 1)]
    router = Router(
        [Key(name=name, account=name) for name in names],
        vault=MemoryVault(dict.fromkeys(names, SecretStr(secret))),
        clock=NoWaiting(),
    )
    for name in names:
        router.vault_secrets.load_sync(name)
    pools[router] = secret, counts.tests
    return router


def renew(client: Any, size: int) -> None:
    """A fresh pool for each test: one remembers what happened to its keys, and the SDK's tests share clients."""
    secret, test = pools.get(client.router, ("", counts.tests))
    if test != counts.tests:
        client.router = make_pool(secret, size)


def pytest_runtest_setup() -> None:
    counts.tests += 1


class Report:
    """The results of a run, written to a file at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, str] = {}
        self._passed = {"sync": 0, "async": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        kind = "async" if "asyncio" in report.keywords else "sync"
        if report.failed:
            self._failed[report.nodeid] = kind
        elif report.passed and report.when == "call":
            self._passed[kind] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = "sync"

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object) -> None:
        output: dict[str, int] = getattr(node, "workeroutput", {})
        counts.requests += output.get("requests", 0)
        counts.routed += output.get("routed", 0)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self) -> Generator[None]:
        yield
        results = {"passed": self._passed, "failed": self._failed, **vars(counts)}
        self._path.write_text(json.dumps(results))


class Worker:
    """Sends the counts of a worker to where the results are gathered."""

    def __init__(self, output: dict[str, int]) -> None:
        self._output = output

    def pytest_sessionfinish(self) -> None:
        self._output.update(vars(counts))


def pytest_configure(config: pytest.Config) -> None:
    output: dict[str, int] | None = getattr(config, "workeroutput", None)
    reporter = Worker(output) if output is not None else Report(Path(os.environ["CONFORMANCE_REPORT"]))
    config.pluginmanager.register(reporter)


if (lane := os.environ["CONFORMANCE_LANE"]) != "plain":
    swap(POOL_SIZES[lane])
