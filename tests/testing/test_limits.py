"""What the simulated provider limits, how it shows that, and its cache of prompts, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from email.utils import formatdate
from itertools import accumulate
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.limits import read_limits
from keyrouter_openai.core.model import DAY, MINUTE, Dimension, Reading
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.model import Admitted, Denied, SimProvider

EPOCH = 1_800_000_000.3


class Books(SimProvider):
    """A provider with the one account `a`, and what tests ask of it."""

    def __init__(self, minute: float = MINUTE, **limits: Any) -> None:
        super().__init__([SimAccount("a", **limits)], Random(1), minute=minute, epoch=EPOCH)

    def ask(self, now: float, tokens: int = 1, *, model: str = "m", input_tokens: int | None = None) -> Admitted:
        return self.admit(self.key("a/key-1"), model, tokens, now, input_tokens)

    def refuse(self, now: float, tokens: int = 1, *, model: str = "m", input_tokens: int | None = None) -> Denied:
        with pytest.raises(Denied) as caught:
            self.ask(now, tokens, model=model, input_tokens=input_tokens)
        return caught.value

    def cached(self, now: float, prefixes: Sequence[int], block: int = 512) -> int:
        return self.cached_tokens(self.key("a/key-1"), prefixes, block, now)

    def level(self, dimension: Dimension, now: float, model: str = "m") -> float:
        (level,) = (level.level for level in self.status("a", model, now) if level.dimension is dimension)
        return level


def message(denied: Denied) -> str:
    return json.loads(denied.reply.body)["error"]["message"]


def test_a_daily_limit_refills_continuously() -> None:
    # The numbers of an answer from OpenAI: 86,400 s / 200 are 7m12s.
    books = Books(rpd=200, rpm=100_000, organization="org-1")
    for _ in range(200):
        books.ask(0.0)
    denied = books.refuse(0.0)
    assert message(denied).startswith(
        "Rate limit reached for m in organization org-1 on requests per day (RPD): Limit 200, Used 200, Requested 1. "
        "Please try again in 7m12s."
    )
    assert (denied.dimension, denied.period, denied.limit) == (Dimension.REQUESTS, DAY, 200)
    assert denied.wait == 432.0
    assert denied.reply.headers["x-ratelimit-limit-requests"] == "200", "of two limits, the daily one is shown"
    books.ask(864.0)


def test_a_daily_limit_of_tokens() -> None:
    books = Books(tpd=1000)
    books.ask(0.0, 900)
    assert "on tokens per day (TPD): Limit 1000, Used 900, Requested 200" in message(books.refuse(0.0, 200))
    assert "on tokens per day (TPD): Limit 1000, Requested 1001" in message(books.refuse(0.0, 1001))


def test_cached_tokens_are_not_charged_as_input() -> None:
    books = Books(itpm=1000)
    books.ask(0.0, 5000, input_tokens=600)
    assert books.level(Dimension.INPUT, 0.0) == 400
    denied = books.refuse(0.0, 500)
    assert (denied.error, denied.dimension, denied.limit, denied.wait) == ("rate_limit", Dimension.INPUT, 1000, 6.0)
    books.ask(0.0, 500, input_tokens=400)


def test_output_is_charged_when_a_call_ends() -> None:
    books = Books(otpm=600)
    first, second = books.ask(0.0), books.ask(0.0)
    books.finish(first, at=2.0, output_tokens=500)
    books.finish(second, at=1.0, output_tokens=400)
    books.ask(0.5)
    assert [books.level(Dimension.OUTPUT, at) for at in (1.0, 2.0)] == [200, -290], "10 came in from 1.0 to 2.0"
    denied = books.refuse(2.0)
    assert (denied.dimension, denied.wait) == (Dimension.OUTPUT, 29.1)
    books.ask(31.1)


def test_calls_at_a_time() -> None:
    books = Books(concurrent=2, rpm=600)
    first, second = books.ask(0.0), books.ask(0.0)
    denied = books.refuse(0.0)
    assert (denied.error, denied.status, denied.wait) == ("concurrency_limit", 429, None)
    assert message(denied) == "Too many concurrent requests"
    assert not any(name.startswith("retry-after") for name in denied.reply.headers)
    assert denied.readings[0].remaining == 597, "it counts as a request"
    books.finish(first, at=0.0)
    books.finish(second, at=5.0)
    books.ask(0.0)
    books.refuse(4.9, model="other")
    books.ask(5.0)


def test_slices_let_less_through_at_once_than_headers_show() -> None:
    books = Books(rpm=120, slice_s=1.0)
    assert [books.ask(0.0).readings[0].remaining for _ in range(2)] == [119, 118]
    denied = books.refuse(0.0)
    assert (denied.limit, denied.wait, denied.readings[0].remaining) == (120, 0.5, 118)
    books.ask(0.5)
    Books(rpm=30, slice_s=1.0).ask(0.0)  # there is room for one request at least


def test_headers_can_lag() -> None:
    books = Books(rpm=60, header_lag_s=1.0)
    left = [books.ask(at).readings[0].remaining for at in (0.0, 0.5, 1.0, 1.5, 3.0)]
    assert left == [60, 60, 59, 58, 58], "at 3.0 it is as it was at 2.0"
    assert books.level(Dimension.REQUESTS, 3.0) == 58


def test_models_that_share_a_limit() -> None:
    books = Books(rpm=1, tpm=100, shared={"gpt-4o": "gpt-4.1"})
    books.ask(0.0, model="gpt-4.1")
    denied = books.refuse(0.0, model="gpt-4o-2024-08-06")
    assert denied.shared == "gpt-4.1"
    assert message(denied).startswith("Rate limit reached for gpt-4o-2024-08-06 (for limit gpt-4.1) in organization")
    assert "gpt-4o (for limit gpt-4.1)" in message(books.refuse(0.0, 101, model="gpt-4o"))
    assert books.refuse(0.0, model="gpt-4.1-2025-04-14").shared is None, "a snapshot is the model itself"
    books.ask(0.0, model="gpt-4o-mini")


def test_a_model_can_have_limits_of_its_own() -> None:
    books = Books(rpm=1, by_model={"big": {"tpm": 5000}, "slow": {"otpm": 60}})
    books.ask(0.0)
    assert books.refuse(0.0).dimension is Dimension.REQUESTS
    for _ in range(5):
        books.ask(0.0, 1000, model="big-2026-01-31")
    assert (books.refuse(0.0, model="big").dimension, books.refuse(0.0, model="big").limit) == (Dimension.TOKENS, 5000)
    books.finish(books.ask(0.0, model="slow"), at=1.0, output_tokens=120)
    assert books.refuse(2.0, model="slow").dimension is Dimension.OUTPUT


def test_other_applications_can_drain_an_account() -> None:
    books = Books(rpm=60, tpm=6000, itpm=100, otpm=50)
    books.drain("a", "m", requests=0.5, tokens=70.5, now=0.0)
    assert [level.level for level in books.status("a", "m", 0.0)] == [5929.5, 59.5, 29.5, 50]
    books.drain("a", "m", requests=100, now=0.0)
    assert books.refuse(0.0).wait == 1.0, "it took what there was, and owes nothing"
    books.ask(0.0, model="other")
    with pytest.raises(ValueError, match="no account 'b'"):
        books.drain("b", "m", now=0.0)


def test_the_status_is_exact() -> None:
    books = Books(rpm=90, slice_s=10.0, tpm=6000, minute=6.0)
    books.ask(0.0, 1000)
    tokens, requests = books.status("a", "m", 0.5)
    assert (tokens.dimension, tokens.period, tokens.limit, tokens.capacity) == (Dimension.TOKENS, 60.0, 6000, 6000)
    assert (tokens.per_second, tokens.level) == (1000.0, 5500.0), "ten times faster"
    assert (requests.limit, requests.capacity, requests.per_second, requests.level) == (90, 15, 15.0, 15.0)


def test_a_changed_limit_leaves_the_others_as_they_are() -> None:
    books = Books(rpm=10, rpd=100, otpm=100)
    running = books.ask(0.0)
    books.set_limits("a", rpm=5, tpm=50, now=0.0)
    books.finish(running, at=0.0, output_tokens=30)
    levels = {(level.dimension, level.period): level.level for level in books.status("a", "m", 0.0)}
    assert levels == {
        (Dimension.TOKENS, MINUTE): 50,
        (Dimension.REQUESTS, MINUTE): 4,
        (Dimension.REQUESTS, DAY): 99,
        (Dimension.OUTPUT, MINUTE): 70,
    }


LIMITS: dict[str, Any] = {"rpm": 60, "rpd": 1000, "tpm": 90_000, "itpm": 50_000, "otpm": 8000}
SHOWN: dict[str, dict[str, str]] = {
    "openai": {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "1m26.4s",
        "x-ratelimit-limit-tokens": "90000",
        "x-ratelimit-remaining-tokens": "88766",
        "x-ratelimit-reset-tokens": "823ms",
    },
    "azure": {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1",
        "x-ratelimit-limit-tokens": "90000",
        "x-ratelimit-remaining-tokens": "88766",
        "x-ratelimit-reset-tokens": "1",
    },
    "groq": {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "999",
        "x-ratelimit-reset-requests": "1m26.4s",
        "x-ratelimit-limit-tokens": "90000",
        "x-ratelimit-remaining-tokens": "88766",
        "x-ratelimit-reset-tokens": "823ms",
    },
    "anthropic": {
        "anthropic-ratelimit-requests-limit": "60",
        "anthropic-ratelimit-requests-remaining": "59",
        "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:07Z",
        "anthropic-ratelimit-tokens-limit": "90000",
        "anthropic-ratelimit-tokens-remaining": "89000",
        "anthropic-ratelimit-tokens-reset": "2027-01-15T08:00:07Z",
        "anthropic-ratelimit-input-tokens-limit": "50000",
        "anthropic-ratelimit-input-tokens-remaining": "49000",
        "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:00:08Z",
        "anthropic-ratelimit-output-tokens-limit": "8000",
        "anthropic-ratelimit-output-tokens-remaining": "8000",
        "anthropic-ratelimit-output-tokens-reset": "2027-01-15T08:00:06Z",
    },
    "none": {},
}


@pytest.mark.parametrize("style", SHOWN)
def test_headers_are_as_each_provider_writes_them(style: str) -> None:
    assert Books(headers=style, **LIMITS).ask(5.5, 1234).headers == SHOWN[style]


@pytest.mark.parametrize(
    ("style", "waits"),
    [
        ("openai", {"retry-after": "1", "retry-after-ms": "823"}),
        ("none", {"retry-after": "1", "retry-after-ms": "823"}),
        ("groq", {"retry-after": "1"}),
        ("anthropic", {"retry-after": "1"}),
    ],
)
def test_refusals_name_the_wait_as_each_provider_does(style: str, waits: dict[str, str]) -> None:
    books = Books(headers=style, tpm=90_000)
    books.ask(0.0, 90_000)
    denied = books.refuse(0.0, 1234)
    headers = denied.reply.headers
    assert {name: value for name, value in headers.items() if name.startswith("retry-after")} == waits
    assert denied.wait == (0.823 if "retry-after-ms" in waits else 1.0)


def test_what_headers_show_is_of_the_moment_of_admission() -> None:
    books = Books(rpm=60)
    first = books.ask(0.0)
    books.ask(0.0)
    assert first.readings == (Reading(Dimension.REQUESTS, None, 60, 59, 1.0),)


def in_order(readings: Sequence[Reading]) -> list[Reading]:
    """Sorted, and without what floats lose."""
    rounded = [reading._replace(reset=round(reading.reset or 0.0, 6)) for reading in readings]
    return sorted(rounded, key=lambda reading: reading.dimension)


calls = st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 400)), min_size=1, max_size=40)


@given(calls=calls, style=st.sampled_from(list(SHOWN)), lag=st.sampled_from([0.0, 1.0]))
def test_numbers_in_virtual_time_are_those_that_headers_say(
    calls: list[tuple[float, int]], style: str, lag: float
) -> None:
    books = Books(headers=style, header_lag_s=lag, rpm=30, rpd=1000, tpm=5000, itpm=2000, otpm=3000)
    now = 0.0
    for pause, tokens in calls:
        now += pause
        try:
            admitted = books.ask(now, tokens)
            books.finish(admitted, now + 1.0, tokens)
            numbers, headers = admitted.readings, admitted.headers
        except Denied as denied:
            numbers, headers = denied.readings, denied.reply.headers
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        raw.append((b"date", formatdate(EPOCH + now, usegmt=True).encode()))
        read = read_limits(raw, provider=style, now=0.0)
        assert in_order(read) == in_order(numbers)


@st.composite
def accounts(draw: st.DrawFn) -> dict[str, Any]:
    """Limits of all kinds; each may be missing."""
    limits = {
        "rpm": st.integers(1, 100),
        "rpd": st.integers(1, 100),
        "tpm": st.integers(400, 5000),
        "tpd": st.integers(400, 5000),
        "itpm": st.integers(400, 5000),
    }
    drawn = {name: draw(st.none() | limit) for name, limit in limits.items()}
    return {**drawn, "slice_s": draw(st.sampled_from([1.0, 10.0, 60.0]))}


steps = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "ask", "fail", "drain"]), st.floats(0.0, 5.0), st.integers(1, 400)),
    min_size=1,
    max_size=50,
)


@given(limits=accounts(), steps=steps, minute=st.sampled_from([60.0, 1.0]))
def test_in_no_window_is_more_granted_than_there_can_be(
    limits: dict[str, Any], steps: list[tuple[str, float, int]], minute: float
) -> None:
    books = Books(minute, **limits)
    granted: list[tuple[float, dict[Dimension, int]]] = []
    now = 0.0
    for step, pause, tokens in steps:
        now += pause
        if step == "fail":
            books.count_failed(books.key("a/key-1"), "m", now)
        elif step == "drain":
            books.drain("a", "m", requests=tokens / 100, tokens=tokens, now=now)
        else:
            try:
                books.ask(now, tokens, input_tokens=tokens // 2)
            except Denied:
                continue
            amounts = {Dimension.REQUESTS: 1, Dimension.TOKENS: tokens, Dimension.INPUT: tokens // 2}
            granted.append((now, amounts))
    for level in books.status("a", "m", now):
        assert 0 <= level.level <= level.capacity
        for first, (start, _) in enumerate(granted):
            sums = accumulate(amounts[level.dimension] for _, amounts in granted[first:])
            for (end, _), used in zip(granted[first:], sums, strict=True):
                assert used <= level.capacity + level.per_second * (end - start) + 1e-3


@given(calls=calls, style=st.sampled_from(list(SHOWN)), limits=accounts())
def test_who_waits_as_long_as_told_is_served(
    calls: list[tuple[float, int]], style: str, limits: dict[str, Any]
) -> None:
    books = Books(headers=style, **limits)
    now = 0.0
    for pause, tokens in calls:
        now += pause
        for _ in range(6):  # five limits, so at most five waits
            try:
                books.ask(now, tokens)
                break
            except Denied as denied:
                assert denied.wait
                now += denied.wait
        else:
            pytest.fail("refused after the waits that it was told")


def test_the_cache_has_what_was_sent_lately() -> None:
    books = Books(cache=True)
    conversation = [1, 2, 3, 4]
    assert books.cached(0.0, conversation[:3]) == 0
    assert books.cached(10.0, conversation) == 1536, "the last block is new"
    assert books.cached(20.0, [1, 2, 30]) == 1024, "another conversation with the same beginning"
    assert books.cached(20.0, [1, 20, 30]) == 0, "one block is shorter than what is cached"
    assert books.cached(311.0, conversation) == 1024, "3 and 4 were last used 301 s ago"
    assert books.cached(611.0, conversation) == 2048, "to use it renews it"
    assert books.cached(912.0, conversation) == 0


def test_short_prompts_are_not_cached() -> None:
    books = Books(cache=True)
    assert [books.cached(0.0, [1]), books.cached(0.0, [1, 2])] == [0, 0]
    assert books.cached(0.0, list(range(8)), block=128) == 0
    assert books.cached(0.0, list(range(8)), block=128) == 1024
    assert books.cached(0.0, list(range(7)), block=128) == 0, "896 tokens"


def test_accounts_share_no_cache_and_keys_do() -> None:
    specs = [SimAccount("a", keys=2, cache=True, cache_ttl_s=60.0), SimAccount("b", cache=True), SimAccount("c")]
    books = SimProvider(specs, Random(1), minute=6.0)
    found = [
        books.cached_tokens(books.key(label), [1, 2], 512, at)
        for label, at in [("a/key-1", 0.0), ("b/key-1", 0.0), ("a/key-2", 6.0), ("a/key-1", 12.1), ("c/key-1", 0.0)]
    ]
    assert found == [0, 0, 1024, 0, 0], "its time passes ten times faster"
    assert books.cached_tokens(books.key("c/key-1"), [1, 2], 512, 0.0) == 0, "it caches nothing"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"rpd": 0}, "rpd is 0; give 1 or more"),
        ({"otpm": -1}, "otpm is -1"),
        ({"concurrent": 0}, "concurrent is 0"),
        ({"slice_s": 0.0}, "slice_s is 0.0"),
        ({"slice_s": 61.0}, "up to 60 seconds"),
        ({"headers": "x"}, "headers is 'x'; use one of openai, azure, groq, anthropic, none"),
        ({"header_lag_s": -1.0}, "header_lag_s must not be below 0"),
        ({"cache_ttl_s": 0.0}, "cache_ttl_s must be above"),
        ({"by_model": {"big": {"rpm": 0}}}, "by_model gives 'big' rpm=0; give any of tpm, rpm, .*, of 1 or more"),
        ({"by_model": {"big": {"rps": 5}}}, "by_model gives 'big' rps=5; give any of tpm"),
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Books(**wrong)
