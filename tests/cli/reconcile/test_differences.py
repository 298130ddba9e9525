"""Each kind of trouble, planted, and the reason that is given for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest

from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount
from tests.cli.support import Cli
from tests.ledger.support import run

from .support import TEXT, ask, in_ledger, reasons, record, routed


class TestTrouble:
    def test_another_program_uses_a_key(self, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        with routed() as client, openai.OpenAI(base_url=sim.url, api_key=sim.keys["A/key-1"]) as other:
            ask(client.with_routing(key="A1"))
            ask(other)
        (row,) = reconcile("--tolerance", "0", exit_code=1)
        today = time.strftime("%Y-%m-%d", time.gmtime())
        assert (row["day"], row["model"], row["key"]) == (today, "gpt-4o", "A1")
        assert (row["billed_requests"], row["recorded_requests"]) == (2, 1)
        assert (row["billed_prompt_tokens"], row["recorded_prompt_tokens"]) == (900, 450)
        assert (row["billed_completion_tokens"], row["recorded_completion_tokens"]) == (900, 450)
        assert (row["billed_usd"], row["recorded_usd"], row["difference_usd"]) == (0.01125, 0.005625, 0.005625)
        assert "another program uses the key, or rows are missing" in reasons([row])

    def test_the_tolerance(self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        with openai.OpenAI(base_url=sim.url, api_key=sim.keys["A/key-1"]) as other:
            ask(other)
            assert len(reconcile()) == 1
            ask(other, model="gpt-4.1")  # each line is within it, but not both together
        assert len(reconcile("--tolerance", "0.009", exit_code=1)) == 2
        assert len(reconcile("--tolerance", "0.011")) == 2

    def test_a_missing_row(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        with routed() as client:
            for _ in range(3):
                ask(client.with_routing(key="B1"))
        in_ledger(cli, "delete from attempts where id = 2")
        in_ledger(cli, "update hours set attempts = attempts - 1")
        rows = reconcile()
        assert (rows[0]["billed_requests"], rows[0]["recorded_requests"]) == (3, 2)
        assert "rows are missing" in reasons(rows)

    def test_another_price(self, cli: Cli, reconcile: Callable[..., Any], sim: ProviderSimulator) -> None:
        with routed() as client:
            ask(client.with_routing(key="B1"))
        in_ledger(cli, "update attempts set cost_microusd = 4 * cost_microusd")
        rows = reconcile("--tolerance", "0.001", exit_code=1)
        assert rows[0]["difference_usd"] == -3 * 0.005625
        assert "at 0.25 times the price: a discount, a service tier, or price_multiplier" in reasons(rows)

    def test_a_model_without_a_price(self, reconcile: Callable[..., Any], cli: Cli, sim: ProviderSimulator) -> None:
        with routed() as client:
            ask(client.with_routing(key="B1"), model="made-up")
        rows = reconcile("--tolerance", "0", exit_code=1)
        assert (rows[0]["billed_usd"], rows[0]["recorded_usd"], rows[0]["unpriced"]) == (0.0009, None, 1)
        assert "requests without a known price: 1" in reasons(rows)
        assert "unknown" in cli.run("reconcile", "--base-url", sim.url).stdout

    def test_a_stream_that_breaks(self, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        sim.fail("stream_error", times=1, events=3)
        with routed() as client, pytest.raises(openai.APIError):
            for _ in ask(client.with_routing(key="B1"), stream=True):
                pass
        rows = reconcile("--tolerance", "0", exit_code=1)
        assert (rows[0]["billed_requests"], rows[0]["recorded_requests"]) == (1, 1)
        assert "broken answers, whose tokens are estimates: 1" in reasons(rows)

    def test_a_process_that_was_killed(self, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        died = run(
            """
            import os, sys
            from keyrouter_openai import SyncRoutedOpenAI
            messages = [{"role": "user", "content": "hello " * 100}]
            stream = SyncRoutedOpenAI().chat.completions.create(model="gpt-4o", messages=messages, stream=True)
            next(iter(stream))
            os.kill(os.getpid(), 9)
            """,
            check=False,
        )
        assert died.returncode == -9, died.stderr
        rows = reconcile("--tolerance", "0", "--by", "model", exit_code=1)
        assert (rows[0]["billed_requests"], rows[0]["recorded_requests"]) == (1, 1)
        assert "broken answers, whose tokens are estimates: 1" in reasons(rows)

    def test_a_session_over_a_websocket(self, reconcile: Callable[..., Any]) -> None:
        with routed() as client, client.responses.connect() as connection:
            for _ in range(2):
                connection.response.create(model="gpt-4o", input=TEXT)
                while next(iter(connection)).type != "response.completed":
                    pass
        rows = reconcile("--tolerance", "0")
        assert (rows[0]["billed_requests"], rows[0]["recorded_requests"], rows[0]["difference_usd"]) == (2, 1, 0)
        assert "a session over a websocket is one attempt" in reasons(rows)

    def test_an_answer_that_came_too_late(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        with ProviderSimulator([SimAccount("A")], latency=Latency(first_byte=60.0)) as sim:
            cli.add("A1", "--base-url", sim.url, secret=sim.keys["A/key-1"])
            monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["org-A"])
            with routed(timeout=0.2) as client, pytest.raises(openai.APITimeoutError):
                ask(client)
            rows = cli.json("reconcile", "--base-url", sim.url, "--tolerance", "0", exit_code=1)
        assert (rows[0]["billed_requests"], rows[0]["recorded_requests"]) == (1, 0)
        assert reasons(rows) == "attempts without an answer, which may have been served all the same: 1"

    def test_a_provider_that_is_behind(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        record(cli, at=time.time() - 60)
        assert "the provider is behind" in reasons(reconcile())

    def test_what_was_not_billed_for_long(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        record(cli, at=time.time() - 2 * 86_400)
        assert reasons(reconcile()) == "requests recorded and not billed: 1"

    def test_rows_that_were_cleared_away(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        record(cli, at=time.time())
        in_ledger(cli, "delete from attempts")
        assert "cleared away by `ledger compact`" in cli.refuses("reconcile")
