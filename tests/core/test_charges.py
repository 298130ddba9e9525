"""How each provider counts tokens, before and after."""

from __future__ import annotations

import pytest

from keyrouter_openai.core.charges import charges
from keyrouter_openai.core.model import Dimension, Estimate, Usage
from keyrouter_openai.providers import PROVIDERS

DIMENSIONS = Dimension.TOKENS, Dimension.INPUT, Dimension.OUTPUT


@pytest.mark.parametrize(
    ("provider", "tokens", "read", "written"),
    [
        ("openai", 500, 300, 500),
        ("azure", 800, 300, 500),
        ("anthropic", 300, 300, 0),
        ("gemini", 300, 300, 0),
        ("groq", 800, 300, 500),
        ("compatible", 800, 300, 500),
        ("nobody", 800, 300, 500),
    ],
)
def test_before_it_runs(provider: str, tokens: int, read: int, written: int) -> None:
    how, estimate = charges(provider), Estimate(prompt=300, answer=500)
    assert [how.before(estimate, dimension) for dimension in DIMENSIONS] == [tokens, read, written]
    assert how.before(estimate, Dimension.REQUESTS) == 1


def test_openai_charges_a_prompt_that_is_longer_than_the_cap() -> None:
    assert charges("openai").before(Estimate(prompt=300, answer=50), Dimension.TOKENS) == 300


@pytest.mark.parametrize(
    ("provider", "tokens", "read"),
    [("anthropic", 120, 100), ("groq", 120, 100), ("gemini", 300, 300), ("compatible", 320, 300)],
)
def test_when_the_usage_is_known(provider: str, tokens: int, read: int) -> None:
    how, usage = charges(provider), Usage(prompt=300, completion=20, cached=200)
    assert [how.after(usage, dimension) for dimension in DIMENSIONS] == [tokens, read, 20]
    assert how.after(usage, Dimension.REQUESTS) == 1


def test_who_keeps_what_was_charged_first() -> None:
    assert {name for name in PROVIDERS if not charges(name).settles} == {"openai", "azure"}
