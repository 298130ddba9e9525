"""Which limit a refusal names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyrouter_openai.core.classify import classify
from keyrouter_openai.core.model import DAY, MINUTE, Dimension, Failure, Fault

REQUESTS, TOKENS, INPUT, OUTPUT = Dimension.REQUESTS, Dimension.TOKENS, Dimension.INPUT, Dimension.OUTPUT
Limit = tuple[Dimension | None, float | None, int | None]


def refused(error: dict[str, Any] | str, status: int = 429) -> Failure:
    body = json.dumps({"error": {"message": error} if isinstance(error, str) else error})
    return classify(provider="compatible", status=status, headers={}, body=body, now=0.0)


def limit_of(failure: Failure) -> Limit:
    return failure.dimension, failure.period, failure.limit


OPENAI = "Rate limit reached for gpt-4o in organization org-a on {}. Please try again in 7m12s."
GROQ = "Rate limit reached for model `m` in organization `o` service tier `on_demand` on {}. Try again in 1s."
ANTHROPIC = "This request would exceed your organization's rate limit of {} (org: 9b-1, model: claude-x). For details"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OPENAI.format("tokens per min (TPM): Limit 30000, Used 29800, Requested 644"), (TOKENS, MINUTE, 30_000)),
        (OPENAI.format("requests per min (RPM): Limit 500, Used 500, Requested 1"), (REQUESTS, MINUTE, 500)),
        (OPENAI.format("requests per day (RPD): Limit 200, Used 200, Requested 1"), (REQUESTS, DAY, 200)),
        (OPENAI.format("tokens per day (TPD): Limit 90000, Used 90000, Requested 9"), (TOKENS, DAY, 90_000)),
        (OPENAI.format("requests per min. Limit: 60 / min"), (REQUESTS, MINUTE, 60)),
        (OPENAI.format("images per minute. Limit: 5 / 1min"), (None, None, None)),
        (
            "Rate limit reached for tokens. Limit: 150000.000000 / min. Current: 176000.0 / min.",
            (TOKENS, MINUTE, 150_000),
        ),
        ("Rate limit exceeded (RPD)", (REQUESTS, DAY, None)),
        (GROQ.format("tokens per day (TPD): Limit 100000, Used 97050, Requested 3619"), (TOKENS, DAY, 100_000)),
        (
            GROQ.format("input tokens per minute (ITPM): Limit 9,000, Used 8,900, Requested ~200"),
            (INPUT, MINUTE, 9_000),
        ),
        (ANTHROPIC.format("1,000,000 input tokens per minute"), (INPUT, MINUTE, 1_000_000)),
        (ANTHROPIC.format("8,000 output tokens per minute"), (OUTPUT, MINUTE, 8_000)),
        (ANTHROPIC.format("50 requests per minute"), (REQUESTS, MINUTE, 50)),
        ("Number of request tokens has exceeded your per-minute rate limit", (TOKENS, MINUTE, None)),
        ("Number of requests has exceeded your daily rate limit", (REQUESTS, DAY, None)),
        ("The Operation has exceeded token rate limit of your current OpenAI S0 pricing tier.", (TOKENS, None, None)),
        ("The Operation has exceeded call rate limit of your current OpenAI S0 pricing tier.", (REQUESTS, None, None)),
        ("Requests rate limit exceeded", (REQUESTS, None, None)),
        ("Rate limit exceeded: free-models-per-min. ", (REQUESTS, MINUTE, None)),
        (
            "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 requests per day",
            (REQUESTS, DAY, None),
        ),
        (
            "Too many tokens. Your rate limit is — Tokens per Minute (actual/limit): 65605/16000.",
            (TOKENS, MINUTE, 16_000),
        ),
        ("The maximum rate limit for this model is 9.0 queries per minute.", (REQUESTS, MINUTE, 9)),
        ("The maximum rate limit for this model is 0.6 queries per minute.", (REQUESTS, MINUTE, None)),
        ("Tokens per day limit exceeded - too many tokens processed.", (TOKENS, DAY, None)),
        ("Rate limit reached. Limit 500, Used 500, Requested 2.", (None, None, None)),
        ("Too many requests", (None, None, None)),
    ],
)
def test_texts(text: str, expected: Limit) -> None:
    failure = refused(text)
    assert failure.fault is Fault.RATE_LIMIT
    assert limit_of(failure) == expected


@pytest.mark.parametrize(
    ("error", "dimension"),
    [
        ({"type": "tokens", "code": "rate_limit_exceeded"}, TOKENS),
        ({"type": "requests", "code": "rate_limit_exceeded"}, REQUESTS),
        ({"type": "too_many_tokens_error", "code": "token_quota_exceeded"}, TOKENS),
        ({"type": "rate_limit", "error_type": "dynamic_token_limited"}, TOKENS),
        ({"type": "images", "code": "rate_limit_exceeded"}, None),
        ({"type": "too_many_requests"}, None),  # Azure says so of tokens too
    ],
)
def test_codes(error: dict[str, Any], dimension: Dimension | None) -> None:
    assert limit_of(refused(error)) == (dimension, None, None)


def gemini(*violations: tuple[str, str]) -> dict[str, Any]:
    details = [{"quotaId": name, "quotaValue": value} for name, value in violations]
    text = "You exceeded your current quota, please check your plan and billing details."
    return {"code": 429, "message": text, "status": "RESOURCE_EXHAUSTED", "details": [{"violations": details}]}


MINUTELY, DAILY = (f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier" for period in ("Minute", "Day"))
PAID = "GenerateContentPaidTierInputTokensPerModelPerMinute"


@pytest.mark.parametrize(
    ("violations", "expected"),
    [
        ([(MINUTELY, "15")], (REQUESTS, MINUTE, 15)),
        ([(DAILY, "50")], (REQUESTS, DAY, 50)),
        ([(PAID, "1000000")], (INPUT, MINUTE, 1_000_000)),
        ([(MINUTELY, "15"), (DAILY, "50")], (REQUESTS, DAY, None)),  # which of the two is 15?
        ([(MINUTELY, "many")], (REQUESTS, MINUTE, None)),
    ],
)
def test_geminis_quota_ids(violations: list[tuple[str, str]], expected: Limit) -> None:
    assert limit_of(refused(gemini(*violations))) == expected


def test_a_limit_that_models_share() -> None:
    text = "{} for gpt-4o-2024-08-06 (for limit gpt-4o) in organization org-a on tokens per min (TPM): Limit 500, {}"
    for said, fault in (
        (text.format("Rate limit reached", "Used 400, Requested 200"), Fault.RATE_LIMIT),
        (text.format("Request too large", "Requested 600"), Fault.TOO_LARGE),
    ):
        failure = refused(said)
        assert (failure.fault, failure.shared, *limit_of(failure)) == (fault, "gpt-4o", TOKENS, MINUTE, 500)


def test_a_request_that_is_too_large_has_a_limit_even_without_a_unit() -> None:
    failure = refused("Request too large: Limit 6000, Requested ~7000")
    assert (failure.fault, *limit_of(failure)) == (Fault.TOO_LARGE, None, None, 6000)


QUOTED = "tokens per day (TPD): Limit 1 (for limit gpt-9)"


@pytest.mark.parametrize("quote", ['"{}"', "'{}'", "`{}`"])
def test_what_the_caller_wrote_names_no_limit(quote: str) -> None:
    failure = refused(f"Rate limit reached for model {quote.format(QUOTED)} in organization org-a.")
    assert (failure.shared, *limit_of(failure)) == (None, None, None, None)
    echo = {"message": "Rate limit reached", "input": QUOTED, "metadata": {"flagged_input": QUOTED}}
    assert limit_of(refused(echo)) == (None, None, None)


def test_other_faults_name_none() -> None:
    text = "Invalid value: Limit 5, on tokens per min (TPM)"
    for code, fault in (("invalid_value", Fault.REQUEST), ("insufficient_quota", Fault.EXHAUSTED)):
        failure = refused({"message": text, "code": code}, 400)
        assert failure.fault is fault
        assert limit_of(failure) == (None, None, None)
