from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import Program


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProviderSimulator]:
    """A provider with two accounts, whose keys and address are in the environment."""
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        monkeypatch.setenv("OPENAI_API_KEYS", ",".join(sim.keys.values()))
        monkeypatch.setenv("OPENAI_BASE_URL", sim.url)
        yield sim


@pytest.fixture
def program(sim: ProviderSimulator, tmp_path: Path) -> Program:
    return Program(tmp_path)
