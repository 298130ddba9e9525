"""A provider that bills, and the command that compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount
from tests.cli.support import Cli


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
