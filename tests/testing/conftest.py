from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import ProviderSimulator, SimAccount


class FakeClock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_800_000_000.0 + self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sim(clock: FakeClock) -> Iterator[ProviderSimulator]:
    """Two accounts without limits; the first has two keys."""
    with ProviderSimulator([SimAccount("a", keys=2), SimAccount("b")], clock=clock) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def http() -> Iterator[httpx2.Client]:
    """Connections for all tests: to make a client takes longer than most tests do."""
    with openai.DefaultHttpxClient() as connections:
        yield connections


@pytest.fixture
def client(sim: ProviderSimulator, http: httpx2.Client) -> openai.OpenAI:
    """The SDK with the first key, without retries."""
    return openai.OpenAI(base_url=sim.url, api_key=sim.keys["a/key-1"], max_retries=0, http_client=http)


@pytest.fixture
def raw(sim: ProviderSimulator) -> Iterator[httpx2.Client]:
    """Plain HTTP with the first key."""
    headers = {"Authorization": f"Bearer {sim.keys['a/key-1']}"}
    with httpx2.Client(base_url=sim.url, headers=headers) as http:
        yield http
