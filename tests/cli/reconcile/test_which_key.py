"""Which key of the bill is which of the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from keyrouter_openai import Key, SyncRoutedOpenAI
from keyrouter_openai.reconcile import match_keys
from keyrouter_openai.testing import ProviderSimulator
from tests.cli.support import Cli

from .support import ask, reasons, routed


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
