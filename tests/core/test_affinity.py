from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.affinity import LENGTHS, LIFETIMES, Warmth
from keyrouter_openai.providers import PROVIDERS

MINUTES = 60.0
SYSTEM = (1, 2, 3)
"""A system prompt that all share; conversations go on from it."""


def accounts(warmth: Warmth, prefixes: tuple[int, ...], now: float) -> list[str]:
    return [account for account, _ in warmth.best(prefixes, now)]


def test_a_conversation_goes_on_where_it_was() -> None:
    warmth = Warmth()
    warmth.used((*SYSTEM, 10), "a", "openai", 0.0)
    warmth.used((*SYSTEM, 20), "b", "openai", 1.0)
    assert accounts(warmth, (*SYSTEM, 10, 11), 2.0)[0] == "a"
    assert accounts(warmth, (*SYSTEM, 20, 21), 2.0)[0] == "b"


def test_the_share_is_that_of_the_longest_known_beginning() -> None:
    warmth = Warmth()
    warmth.used((1, 2, 3, 4), "a", "openai", 0.0)
    warmth.used((1, 2, 30, 40), "b", "openai", 0.0)
    assert warmth.best((1, 2, 3, 4), 0.0) == (("a", 1.0), ("b", pytest.approx(0.5)))


def test_a_new_prompt_has_no_preference() -> None:
    warmth = Warmth()
    assert warmth.best((1, 2), 0.0) == ()
    warmth.used((1, 2), "a", "openai", 0.0)
    assert warmth.best((3, 4), 0.0) == ()
    assert warmth.best((), 0.0) == ()


def test_of_two_that_are_alike_the_one_used_last_is_preferred() -> None:
    warmth = Warmth()
    for now, account in enumerate("abca"):
        warmth.used(SYSTEM, account, "openai", float(now))
    assert accounts(warmth, SYSTEM, 4.0) == ["a", "c", "b"]


@pytest.mark.parametrize(
    ("provider", "warm", "cooling", "cold"),
    [
        ("openai", 5 * MINUTES, 15 * MINUTES, 30 * MINUTES),
        ("cerebras", 5 * MINUTES, 30 * MINUTES, 60 * MINUTES),
        ("deepseek", 120 * MINUTES, 600 * MINUTES, 1440 * MINUTES),
        ("compatible", 0.0, 2 * MINUTES, 5 * MINUTES),
    ],
)
def test_warmth_ends_as_the_providers_cache_does(provider: str, warm: float, cooling: float, cold: float) -> None:
    warmth = Warmth()
    warmth.used(SYSTEM, "a", provider, 0.0)
    assert warmth.best(SYSTEM, warm) == (("a", 1.0),)
    assert 0 < warmth.best(SYSTEM, cooling)[0][1] < 1
    assert warmth.best(SYSTEM, cold) == ()


def test_warmth_that_ends_at_once() -> None:
    warmth = Warmth()
    warmth.used(SYSTEM, "a", "groq", 0.0)
    assert warmth.best(SYSTEM, 120 * MINUTES) == (("a", 1.0),)
    assert warmth.best(SYSTEM, 121 * MINUTES) == ()


def test_use_renews_warmth() -> None:
    warmth = Warmth()
    for now in range(4):
        warmth.used(SYSTEM, "a", "openai", now * 20 * MINUTES)
    assert warmth.best(SYSTEM, 64 * MINUTES) == (("a", 1.0),)


def test_a_fresh_shorter_beginning_beats_a_long_one_that_is_nearly_gone() -> None:
    warmth = Warmth()
    warmth.used((1, 2), "old", "openai", 0.0)
    warmth.used((1,), "fresh", "openai", 28 * MINUTES)
    assert accounts(warmth, (1, 2), 28 * MINUTES) == ["fresh", "old"]


def test_where_nothing_is_cached_nothing_is_preferred() -> None:
    warmth = Warmth()
    warmth.used(SYSTEM, "a", "anthropic", 0.0)
    assert warmth.best(SYSTEM, 0.0) == ()
    assert len(warmth) == 0


def test_what_was_not_used_for_longest_is_dropped() -> None:
    warmth = Warmth(capacity=3)
    for prefix in (1, 2, 3):
        warmth.used((prefix,), "a", "openai", 0.0)
    warmth.used((1,), "a", "openai", 1.0)
    warmth.used((4,), "a", "openai", 2.0)
    assert [bool(warmth.best((prefix,), 2.0)) for prefix in (1, 2, 3, 4)] == [True, False, True, True]


uses = st.lists(
    st.tuples(
        st.lists(st.integers(0, 8), max_size=6, unique=True),
        st.sampled_from("abcdefgh"),
        st.sampled_from(sorted(PROVIDERS)),
        st.floats(0, 4000),
    ),
    max_size=40,
)


@given(uses, st.lists(st.integers(0, 8), max_size=6, unique=True), st.floats(0, 4000))
def test_memory_is_bounded_and_preferences_are_few_and_in_order(
    history: list[tuple[list[int], str, str, float]], asked: list[int], later: float
) -> None:
    warmth, now = Warmth(capacity=5), 0.0
    for prefixes, account, provider, pause in history:
        now += pause
        warmth.used(prefixes, account, provider, now)
        assert len(warmth) <= 5
    best = warmth.best(asked, now)
    assert len({account for account, _ in best}) == len(best) <= 4 * len(asked)
    assert {account for account, _ in best} <= {account for prefixes, account, _, _ in history if prefixes}
    shares = [share for _, share in best]
    assert shares == sorted(shares, reverse=True)
    assert all(0 < share <= 1 for share in shares)
    cooler = dict(warmth.best(asked, now + later))
    assert all(cooler.get(account, 0.0) <= share for account, share in best)


def test_lengths_grow_by_at_most_half() -> None:
    assert all(shorter < longer <= 1.5 * shorter for shorter, longer in pairwise(LENGTHS))


def test_lifetimes_are_those_of_known_providers() -> None:
    assert LIFETIMES.keys() <= PROVIDERS.keys()
    assert all(0 <= lifetime.kept <= lifetime.gone for lifetime in LIFETIMES.values())
