"""The provider's books, in virtual time."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.model import Latency, SimProvider
from keyrouter_openai.testing.wire import Refused, Reply, go_duration


def provider(*accounts: SimAccount, minute: float = 60.0) -> SimProvider:
    return SimProvider(accounts, Random(1), minute=minute)


def refusal(books: SimProvider, label: str, model: str, tokens: int, now: float) -> Reply:
    with pytest.raises(Refused) as caught:
        books.admit(books.key(label), model, tokens, now)
    return caught.value.reply


def message(reply: Reply) -> str:
    return json.loads(reply.body)["error"]["message"]


def test_durations_are_written_as_openai_writes_them() -> None:
    seen = {0.0: "0s", 0.012: "12ms", 0.0001: "1ms", 1.0: "1s", 8.64: "8.64s", 432.0: "7m12s", 360: "6m0s"}
    assert {seconds: go_duration(seconds) for seconds in seen} == seen
    assert go_duration(3600.0) == "1h0m0s"


def test_headers_show_what_is_left_and_when_the_bucket_is_full() -> None:
    books = provider(SimAccount("a", rpm=60, tpm=6000))
    headers = books.admit(books.key("a/key-1"), "gpt-4o", 150, now=0.0).headers
    assert headers == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5850",
        "x-ratelimit-reset-tokens": "1.5s",
    }


def test_a_token_limit_says_when_there_is_enough_again() -> None:
    # The numbers of an answer from OpenAI: 18,928 and 11,159 are 87 more than 30,000.
    books = provider(SimAccount("a", tpm=30_000, organization="org-1"))
    books.admit(books.key("a/key-1"), "gpt-4.1", 18_928, now=0.0)
    reply = refusal(books, "a/key-1", "gpt-4.1", 11_159, now=0.0)
    assert reply.status == 429
    assert message(reply) == (
        "Rate limit reached for gpt-4.1 in organization org-1 on tokens per min (TPM): Limit 30000, Used 18928, "
        "Requested 11159. Please try again in 174ms. Visit https://platform.openai.com/account/rate-limits to "
        "learn more."
    )
    assert json.loads(reply.body)["error"]["type"] == "tokens"
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["retry-after-ms"] == "174"
    books.admit(books.key("a/key-1"), "gpt-4.1", 11_159, now=0.174)


def test_a_request_limit_refills_continuously_and_refused_requests_count() -> None:
    books = provider(SimAccount("a", rpm=2))
    for _ in range(2):
        books.admit(books.key("a/key-1"), "m", 1, now=0.0)
    reply = refusal(books, "a/key-1", "m", 1, now=29.0)
    assert "Limit 2, Used 2, Requested 1. Please try again in 30s" in message(reply)
    assert reply.headers["x-ratelimit-remaining-requests"] == "0"
    assert refusal(books, "a/key-1", "m", 1, now=58.0).status == 429, "the refused request has used it up"
    books.admit(books.key("a/key-1"), "m", 1, now=88.0)


def test_a_request_above_the_whole_limit_is_told_so() -> None:
    books = provider(SimAccount("a", tpm=1000))
    reply = refusal(books, "a/key-1", "m", 1001, now=0.0)
    assert message(reply).startswith("Request too large for m in organization org-a on tokens per min (TPM)")
    assert "Limit 1000, Requested 1001" in message(reply)
    assert "retry-after" not in reply.headers


def test_limits_belong_to_account_and_model() -> None:
    books = provider(SimAccount("a", keys=2, rpm=1), SimAccount("b", rpm=1))
    books.admit(books.key("a/key-1"), "gpt-4o", 1, now=0.0)
    assert refusal(books, "a/key-2", "gpt-4o", 1, now=0.0).status == 429, "another key does not help"
    assert refusal(books, "a/key-1", "gpt-4o-2024-08-06", 1, now=0.0).status == 429, "nor does a snapshot"
    books.admit(books.key("a/key-1"), "gpt-4o-mini", 1, now=0.0)
    books.admit(books.key("b/key-1"), "gpt-4o", 1, now=0.0)


def test_an_account_runs_dry_and_is_refilled() -> None:
    books = provider(SimAccount("calls", credit_calls=1), SimAccount("tokens", credit_tokens=10))
    books.admit(books.key("calls/key-1"), "m", 1, now=0.0)
    books.admit(books.key("tokens/key-1"), "m", 1, now=0.0)
    books.bill(books.key("tokens/key-1"), 12)
    for label in ("calls/key-1", "tokens/key-1"):
        reply = refusal(books, label, "m", 1, now=0.0)
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["type"], error["code"]) == (429, "insufficient_quota", "insufficient_quota")
        assert not any(name.startswith(("x-ratelimit", "retry-after")) for name in reply.headers)
    books.set_credit("calls", calls=1, tokens=None)
    books.admit(books.key("calls/key-1"), "m", 1, now=0.0)


def test_a_changed_limit_keeps_what_was_used() -> None:
    books = provider(SimAccount("a", rpm=10))
    for _ in range(4):
        books.admit(books.key("a/key-1"), "m", 1, now=0.0)
    books.set_limits("a", rpm=5, tpm=None, now=0.0)
    assert books.admit(books.key("a/key-1"), "m", 1, now=0.0).headers["x-ratelimit-remaining-requests"] == "0"
    books.set_limits("a", rpm=None, tpm=None, now=0.0)
    assert books.admit(books.key("a/key-1"), "m", 1, now=0.0).headers == {}


def test_a_missing_model_is_told_apart_from_a_forbidden_one() -> None:
    books = provider(SimAccount("a", models=["small"]), SimAccount("b", models=["large"]))
    forbidden, missing = (refusal(books, "a/key-1", model, 1, now=0.0) for model in ("large", "none"))
    assert (forbidden.status, missing.status) == (403, 404)
    assert message(forbidden) == "Project `proj_a` does not have access to model `large`"
    assert json.loads(missing.body)["error"]["code"] == "model_not_found"


def test_secrets_come_from_the_seed_and_are_shown_nowhere() -> None:
    first, second = (SimProvider([SimAccount("a", keys=2)], Random(5)).keys for _ in range(2))
    assert first == second
    assert first["a/key-1"].secret.startswith("sk-sim-")
    assert "sk-sim-" not in repr(first)
    assert "sk-mine" not in repr(SimAccount("a", keys=["sk-mine"]))


@pytest.mark.parametrize(
    ("accounts", "complaint"),
    [
        ([SimAccount("a"), SimAccount("a")], "two accounts are called 'a'"),
        ([SimAccount("a", keys=["s"]), SimAccount("b", keys=["s"])], "b/key-1 has the secret of a/key-1"),
        ([SimAccount("a", keys=0)], "account 'a' has no keys"),
        ([SimAccount("a", keys="sk-1")], "give a number, or a list of secrets"),
        ([SimAccount("a", rpm=0)], "account 'a': rpm is 0"),
        ([SimAccount("a", credit_calls=-1)], "account 'a': credit_calls is -1"),
    ],
)
def test_accounts_that_make_no_sense_are_refused(accounts: list[SimAccount], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        provider(*accounts)


def test_latency_is_lognormal_around_its_median_and_seeded() -> None:
    latency = Latency(first_byte=0.2, sigma=0.5, tokens_per_second=100)
    rng = Random(3)
    delays = sorted(latency.apply(Reply(200, completion_tokens=50), rng).delay - 0.5 for _ in range(2001))
    assert 0.19 < delays[1000] < 0.21, "the median"
    assert delays[100] < 0.1 < 0.4 < delays[1900], "the spread"
    assert latency.apply(Reply(200, events=()), Random(1)) == latency.apply(Reply(200, events=()), Random(1))
    assert latency.faster(2).apply(Reply(200, events=()), Random(1)).pace == 0.005


calls = st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(1, 400)), min_size=1, max_size=60)


@given(calls=calls, rpm=st.integers(1, 100), tpm=st.integers(400, 5000), minute=st.sampled_from([60.0, 1.0]))
def test_no_more_is_admitted_than_the_limits_allow(
    calls: list[tuple[float, int]], rpm: int, tpm: int, minute: float
) -> None:
    books = provider(SimAccount("a", rpm=rpm, tpm=tpm), minute=minute)
    now, requests, used = 0.0, 0, 0
    for pause, tokens in calls:
        now += pause
        try:
            books.admit(books.key("a/key-1"), "m", tokens, now)
        except Refused:
            continue
        requests, used = requests + 1, used + tokens
        assert requests <= rpm * (1 + now / minute) + 1e-3
        assert used <= tpm * (1 + now / minute) + 1e-3


@given(calls=calls, rpm=st.integers(1, 100), tpm=st.integers(400, 5000), minute=st.sampled_from([60.0, 1.0]))
def test_who_waits_as_long_as_told_is_served(calls: list[tuple[float, int]], rpm: int, tpm: int, minute: float) -> None:
    books = provider(SimAccount("a", rpm=rpm, tpm=tpm), minute=minute)
    now = 0.0
    for pause, tokens in calls:
        now += pause
        for _ in range(3):  # two limits, so at most two waits
            try:
                books.admit(books.key("a/key-1"), "m", tokens, now)
                break
            except Refused as refused:
                now += int(refused.reply.headers["retry-after-ms"]) / 1000
        else:
            pytest.fail("refused after the waits that it was told")
