"""The ledger against the simulated provider's own bill: in order, and with each kind of trouble planted."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from random import Random
from typing import Any

import anyio
import openai
import pytest
from pydantic import SecretStr

from keyrouter_openai import Key, RoutedOpenAI, SyncRoutedOpenAI
from keyrouter_openai.core.model import Usage
from keyrouter_openai.ledger import Ledger
from keyrouter_openai.reconcile import match_keys
from keyrouter_openai.testing import Latency, ProviderSimulator, SimAccount, redirect, respond
from tests.ledger.support import attempt, run

from .support import Cli

TEXT = "The quick brown fox jumps over the lazy dog. " * 40
"""450 tokens by the simulator's rule of thumb, of a question as of its echo."""
MESSAGES: Any = [{"role": "user", "content": TEXT}]


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    """Two projects of one organization, and one of another."""
    accounts = [
        SimAccount("A", keys=2, organization="acme", cache=True),
        SimAccount("B", organization="acme"),
        SimAccount("X", organization="other"),
    ]
    with ProviderSimulator(accounts) as simulator:
        yield simulator


@pytest.fixture
def reconcile(cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs the command as the owner of acme, whose keys A1, A2 and B1 are in the default pool."""
    for label in ("A/key-1", "A/key-2", "B/key-1"):
        cli.add(label.replace("/key-", ""), "--base-url", sim.url, secret=sim.keys[label])
    monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])

    def reconcile(*arguments: str, exit_code: int = 0) -> Any:
        return cli.json("reconcile", "--base-url", sim.url, *arguments, exit_code=exit_code)

    return reconcile


def ask(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-4o", "messages": MESSAGES, **more})


def routed(**more: Any) -> SyncRoutedOpenAI:
    return SyncRoutedOpenAI(max_retries=0, **more)


def reasons(rows: list[dict[str, Any]]) -> str:
    """The reasons of the only difference."""
    (row,) = rows
    return "; ".join(row["reasons"])


def in_ledger(cli: Cli, sql: str) -> None:
    with closing(sqlite3.connect(cli.ledger)) as connection, connection:
        connection.execute(sql)


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


class TestKeys:
    """Which key is which."""

    @pytest.fixture
    def unknown(self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        """A key that was given in code, so that no vault has its secret."""
        with SyncRoutedOpenAI(keys=[Key(name="own", secret=sim.keys["A/key-2"], base_url=sim.url)]) as client:
            ask(client)
        cli.run("keys", "remove", "A2", "--yes")

    @pytest.mark.usefixtures("unknown")
    def test_a_key_without_a_counterpart(self, reconcile: Callable[..., Any]) -> None:
        billed, recorded = reconcile("--tolerance", "0", exit_code=1)
        assert (billed["key"], billed["billed_requests"], billed["recorded_requests"]) == ("key_A_key-2", 1, 0)
        assert "requests with a key that the ledger does not know: 1" in reasons([billed])
        assert (recorded["key"], recorded["billed_requests"], recorded["difference_usd"]) == ("own", None, None)
        assert reasons([recorded]).startswith("not compared")

    @pytest.mark.usefixtures("unknown")
    def test_is_mapped(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        assert reconcile("--tolerance", "0", "--map", "key_A_key-2=own") == []
        reconcile("--tolerance", "0", "--by", "day", exit_code=1)

    def test_a_map_to_nobody(self, cli: Cli, reconcile: Callable[..., Any]) -> None:
        assert "names no key 'nobody': there are A1, A2, B1" in cli.refuses("reconcile", "--map", "key_A_key-2=nobody")

    def test_two_ids_of_one_key(self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        """A key whose secret was replaced."""
        for secret in (sim.keys["A/key-1"], sim.keys["A/key-2"]):
            for name in ("A1", "A2", "B1"):
                if name in {key["name"] for key in cli.json("keys", "list")}:
                    cli.run("keys", "remove", name, "--yes")
            cli.add("A1", "--base-url", sim.url, secret=secret)
            with routed() as client:
                ask(client)
        assert len(reconcile("--tolerance", "0", exit_code=1)) == 2
        assert reconcile("--tolerance", "0", "--map", "key_A_key-1=A1") == []

    def test_another_organization(self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]) -> None:
        cli.add("X1", "--base-url", sim.url, secret=sim.keys["X/key-1"])
        with routed() as client:
            ask(client.with_routing(key="X1"))
            ask(client.with_routing(key="A1"))
        assert "not compared" in reasons(reconcile("--tolerance", "0"))
        assert reconcile("--tolerance", "0", "--by", "day,model")[0]["recorded_requests"] == 1

    def test_what_was_not_compared_does_not_agree(
        self, cli: Cli, sim: ProviderSimulator, reconcile: Callable[..., Any]
    ) -> None:
        cli.add("X1", "--base-url", sim.url, secret=sim.keys["X/key-1"])
        with routed() as client:
            ask(client.with_routing(key="X1"))
        assert "not compared" in reasons(reconcile(exit_code=1))
        told = cli.run("reconcile", "--base-url", sim.url, exit_code=1).stderr
        assert told.endswith("Nothing could be compared. Lines that were not compared: 1.\n")
        with routed() as client:
            ask(client.with_routing(key="A1"))
        told = cli.run("reconcile", "--base-url", sim.url).stderr
        assert told.endswith("The ledger agrees. Lines that were not compared: 1.\n")

    @pytest.mark.parametrize(
        ("shown", "found"),
        [
            ({"id": "sk-...wxyz"}, {"id": ["a", "b"]}),
            ({"id": "sk-1*****wxyz"}, {"id": ["a", "b"]}),
            ({"id": "sk-2...wxyz"}, {}),
            ({"id": "sk-...xyz"}, {}),  # too little to be sure
            ({"id": "sk-123wxyz"}, {}),
            ({"id": "sk-...wxyz", "other": "sk-1...wxyz"}, {}),  # it is one of them
            ({"id": "...9999"}, {}),  # it is one of two secrets
            ({"id": "", "other": "sk-...8888"}, {"other": ["e"]}),
        ],
    )
    def test_match(self, shown: dict[str, str], found: dict[str, list[str]]) -> None:
        secrets = {"a": "sk-123wxyz", "b": "sk-123wxyz", "c": "sk-19999", "d": "sk-29999", "e": "sk-8888"}
        assert match_keys(shown, {name: SecretStr(secret) for name, secret in secrets.items()}) == found


class TestAdminKey:
    def test_rests_in_the_vault(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        says = cli.refuses("reconcile", "--base-url", sim.url)
        assert "--set-admin-key" in says and "OPENAI_ADMIN_KEY" in says
        cli.run("reconcile", "--set-admin-key", input=sim.admin_keys["acme"] + "\n")
        assert cli.secret("openai", "_admin") == sim.admin_keys["acme"]
        assert cli.json("reconcile", "--base-url", sim.url) == []
        assert cli.json("keys", "list") == []
        monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-unknown")
        assert "answered 401" in cli.refuses("reconcile", "--base-url", sim.url)
        monkeypatch.delenv("OPENAI_ADMIN_KEY")
        cli.run("reconcile", "--forget-admin-key")
        assert cli.secret("openai", "_admin") is None

    def test_no_pool_can_have_its_place(self, cli: Cli) -> None:
        assert "is not a usable name for a pool" in cli.refuses("keys", "add", "openai", "--pool", "_admin")

    @pytest.mark.parametrize("bad", ["", "two words", "zwei\nzeilen"])
    def test_what_is_no_key(self, cli: Cli, bad: str) -> None:
        assert "the secret" in cli.refuses("reconcile", "--set-admin-key", input=bad)

    def test_another_key_will_not_do(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.keys["A/key-1"])
        says = cli.refuses("reconcile", "--base-url", sim.url)
        assert "asked what it bills, answered 403: is this an admin key" in says

    def test_goes_nowhere_else(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])
        unencrypted = cli.refuses("reconcile", "--base-url", "http://example.com/v1")
        assert "would send the key over the network unencrypted" in unencrypted
        with ProviderSimulator() as elsewhere:
            monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.url)
            sim.fail(redirect(elsewhere.url + "/organization/usage/completions"))
            assert "answered 307" in cli.refuses("reconcile", "--base-url", sim.url)
            assert elsewhere.calls == []
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-canary")
        assert "OPENAI_CUSTOM_HEADERS sets Authorization" in cli.refuses("reconcile", "--base-url", sim.url)

    def test_an_unusable_variable(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-admin-\ncanary")
        assert "OPENAI_ADMIN_KEY: the secret holds a newline" in cli.refuses("reconcile")

    def test_nobody_answers(self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])
        monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.0)
        sim.fail("disconnect")
        assert "did not answer" in cli.refuses("reconcile", "--base-url", sim.url)

    @pytest.mark.parametrize("body", ["<html>", {"error_free": True}])
    def test_something_else_answers(
        self, cli: Cli, sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch, body: object
    ) -> None:
        monkeypatch.setenv("OPENAI_ADMIN_KEY", sim.admin_keys["acme"])
        sim.fail(respond(200, body=body))
        assert "what answered is no admin API" in cli.refuses("reconcile", "--base-url", sim.url)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "yesterday"], "'yesterday' is no day: write it as 7d, 2w (ago) or 2026-11-01"),
        (["--until", "2026-13-01"], "is no day"),
        (["--since", "2026-11-02", "--until", "2026-11-02"], "there is no day between --since and --until"),
        (["--by", "day,colour"], "cannot compare by colour: use day, model and key"),
        (["--map", "work"], "write it as ID=NAME, such as key_abc=work"),
        (["--tolerance", "-1"], "not in the range"),
    ],
)
def test_what_makes_no_sense(cli: Cli, arguments: list[str], says: str) -> None:
    assert says in cli.refuses("reconcile", *arguments)


def record(cli: Cli, **changes: Any) -> None:
    """Put an attempt into the ledger that the provider knows nothing of."""
    ledger = Ledger(cli.ledger)
    ledger.record(attempt(**{"key": "A1", "model": "gpt-4o", "usage": Usage(100, 10), "cost_microusd": 350, **changes}))
    ledger.close()
