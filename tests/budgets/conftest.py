from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        yield sim
