"""A ledger that agrees with the provider's bill."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import anyio
import pytest

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator
from tests.cli.support import Cli

from .support import MESSAGES, ask, in_ledger, routed


async def make_calls(client: RoutedOpenAI, rng: Random, number: int) -> None:
    """Varied calls, at most 30 at a time."""
    kinds = ("chat", "responses", "embeddings", "images")
    models = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-5", "gpt-5-mini", "o3")
    few = anyio.CapacityLimiter(30)

    create_response: Any = client.responses.create

    async def make(kind: str, text: str, **more: Any) -> None:
        async with few:
            if kind == "embeddings":
                await client.embeddings.create(model="text-embedding-3-small", input=[text, text])
                return
            if kind == "images":
                await client.images.generate(model="gpt-image-1", prompt=text)
                return
            if kind == "chat":
                answer = await ask(client, messages=[{"role": "user", "content": text}], **more)
            else:
                answer = await create_response(input=text, **more)
            if more["stream"]:
                async for _ in answer:
                    pass

    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            text = " ".join(rng.choices(["alpha", "beta", "gamma", "delta"], k=rng.randint(1, 90)))
            more = {"stream": rng.random() < 0.5, "service_tier": rng.choice(["auto", "flex", "priority"])}
            tasks.start_soon(partial(make, rng.choice(kinds), text, model=rng.choice(models), **more))


class TestInOrder:
    async def test_300_varied_calls_differ_by_nothing(
        self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]
    ) -> None:
        async with RoutedOpenAI() as client:
            await make_calls(client, Random(1), 300)
            for _ in range(2):  # the second time from the cache
                await ask(client.with_routing(key="A1"), messages=MESSAGES * 10)
        with routed() as sync_client:
            ask(sync_client)
        assert reconcile("--tolerance", "0") == []
        (total,) = client.ledger.summary("pool")
        assert (total["attempts"], total["unpriced"], round(total["cost_usd"] * 1e6)) == (303, 0, sim.bill().total())
        assert total["cached_tokens"] > 4000

    def test_what_it_says(self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        with routed() as client:
            ask(client)
        result = cli.run("reconcile", "--base-url", sim.url)
        assert result.stdout == ""
        assert result.stderr == "Billed requests: 1, US dollars: 0.005625. The ledger agrees.\n"

    def test_nothing_at_all(self, reconcile: Callable[..., Any]) -> None:
        assert reconcile() == []

    def test_many_pages_of_days(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        with routed() as client:
            ask(client)
        assert reconcile("--since", "400d", "--tolerance", "0") == []

    def test_failures_are_neither_billed_nor_missed(
        self, sim: ProviderSimulator, reconcile: Callable[..., Any]
    ) -> None:
        sim.fail("server_error", times=2)
        with SyncRoutedOpenAI(max_retries=3) as client:
            ask(client)
            client.models.list()
        assert reconcile("--tolerance", "0") == []

    def test_one_secret_under_two_names(self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        cli.add("same", "--pool", "team", "--base-url", sim.url, secret=sim.keys["B/key-1"])
        for pool, key in (("default", "B1"), ("team", "same")):
            with routed(pool=pool) as client:
                ask(client.with_routing(key=key))
        assert reconcile("--tolerance", "0") == []
        in_ledger(cli, "delete from attempts where pool = 'team'")
        in_ledger(cli, "delete from hours where pool = 'team'")
        (row,) = reconcile()
        assert (row["key"], row["billed_requests"], row["recorded_requests"]) == ("B1, team/same", 2, 1)

    def test_days_are_those_of_the_provider(
        self, cli: Cli, reconcile: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with routed() as client:
            ask(client)
        try:
            for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
                monkeypatch.setenv("TZ", zone)
                time.tzset()
                assert reconcile("--tolerance", "0") == []
        finally:
            monkeypatch.undo()
            time.tzset()
