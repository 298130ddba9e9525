from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import (
    Log,
    Pool,
    secret,
)


@pytest.fixture
def log() -> Iterator[Log]:
    """The log of all loggers at DEBUG."""
    handler = Log()
    loggers = [logging.getLogger(name) for name in (None, "openai", "httpx2", "httpcore2", "keyrouter_openai")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(handler)
    yield handler
    loggers[0].removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    accounts = [SimAccount("a", keys=[secret(1), secret(2)]), SimAccount("b", keys=[secret(3)])]
    with ProviderSimulator(accounts) as simulator:
        yield simulator


@pytest.fixture
def sim(provider: ProviderSimulator) -> Iterator[ProviderSimulator]:
    yield provider
    provider.heal()
    provider.reset_counts()


@pytest.fixture
def pool(sim: ProviderSimulator, tmp_path: Path) -> Iterator[Pool]:
    made = Pool(sim, tmp_path / "usage.db")
    yield made
    made.ledger.close()
