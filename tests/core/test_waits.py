"""How long providers ask to wait, in the ways in which they say so."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.classify import classify
from keyrouter_openai.core.durations import LONGEST, seconds
from keyrouter_openai.core.model import Failure, Fault

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
DAY = 86_400.0


def answer(
    status: int = 429,
    body: object = "",
    headers: dict[str, str] | None = None,
    *,
    provider: str = "compatible",
    now: float = NEW_YEAR,
) -> Failure:
    text = body if isinstance(body, str) else json.dumps(body)
    return classify(provider=provider, status=status, headers=headers or {}, body=text, now=now)


def limited(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": "rate_limit_exceeded", **fields}}


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("56", 56),
        ("0.25", 0.25),
        ("20ms", 0.02),
        ("6m0s", 360),
        ("7m12s", 432),
        ("2m59.56s", 179.56),
        ("10h50m43.65s", 39_043.65),
        ("1 hour, 2 minutes and 3 seconds", 3_723),
        ("2026-01-01T00:01:00Z", 60),
        ("2026-01-01T01:01:00+01:00", 60),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30),
        ("1767225690", 90),  # epoch seconds
        ("1767225690500", 90.5),  # epoch milliseconds
    ],
)
def test_formats(value: str, wait: float) -> None:
    assert seconds(value, NEW_YEAR) == pytest.approx(wait)  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    "value",
    ["", "0", "-1", "-1s", "nan", "inf", "1e400", "soon", "5 parsecs", "2020-01-01T00:00:00Z", "9999999", "100d"],
)
def test_what_is_no_wait(value: str) -> None:
    assert seconds(value, NEW_YEAR) is None


@given(st.text() | st.floats().map(str) | st.datetimes().map(str), st.floats(0, 4e9))
def test_any_value_is_a_sane_wait_or_none(value: str, now: float) -> None:
    wait = seconds(value, now)
    assert wait is None or 0 < wait <= LONGEST


@pytest.mark.parametrize(
    ("text", "wait"),
    [
        ("Rate limit reached. Please try again in 7m12s. Visit https://example.com/1s.", 432),
        ("Please try again in 644ms", 0.644),
        ("please slow down and try again after 51.84 seconds.", 51.84),
        ("Rate limit is exceeded. Try again in 2 seconds.", 2),
        ("have exceeded token rate limit. Please retry after 86400 seconds.", 86_400),
        ("Quota exceeded. Please retry in 34.074824224s.", 34.074824224),
        ("Your quota will reset after 18h31m10s.", 66_670),
        ("You will regain access on 2026-01-03 at 06:30 UTC.", 2 * DAY + 6.5 * 3_600),
        ("Rate limit. Please wait a moment and try again.", None),
    ],
)
def test_texts(text: str, wait: float | None) -> None:
    assert answer(429, limited(text)).wait == (None if wait is None else pytest.approx(wait))


def test_the_most_exact_of_several_waits_counts() -> None:
    headers = {
        "Retry-After-Ms": "1500",
        "Retry-After": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "4s",
    }
    said = limited("Please try again in 3s.")
    for name, wait in zip(headers.copy(), (1.5, 2.0), strict=False):
        assert answer(429, said, headers).wait == wait
        del headers[name]
    assert answer(429, said, headers).wait == 3.0
    assert answer(429, limited("Slow down."), headers).wait == 4.0


def test_a_bad_header_gives_way_to_the_next() -> None:
    assert answer(429, "", {"retry-after-ms": "-1", "retry-after": "5"}).wait == 5.0
    assert answer(429, limited("Try again in 3s."), {"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}).wait == 3.0
    assert answer(429, "", {"retry-after": "99999999"}).wait is None


@pytest.mark.parametrize(
    "field",
    [{"retry_after": 20}, {"retry_after_seconds": 20}, {"retryDelay": "20s"}, {"headers": {"Retry-After": "20"}}],
)
def test_fields_of_the_body(field: dict[str, Any]) -> None:
    assert answer(429, limited("Slow down.", details=[field])).wait == 20.0


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        (  # OpenAI: only the exhausted one
            {
                "x-ratelimit-remaining-requests": "7",
                "x-ratelimit-reset-requests": "9s",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            360.0,
        ),
        (  # Anthropic
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2026-01-01T00:00:08Z",
            },
            8.0,
        ),
        ({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225610000"}, 10.0),  # OpenRouter
        ({"x-ratelimit-reset": "3"}, 3.0),  # Together
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "-1"}, None),  # Azure
        ({"x-ratelimit-remaining-tokens": "?", "x-ratelimit-reset-tokens": "5"}, None),
    ],
)
def test_limit_headers(headers: dict[str, str], wait: float | None) -> None:
    assert answer(429, limited("Rate limit reached."), headers).wait == wait


def test_limit_headers_say_nothing_of_other_faults() -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "9s"}
    assert answer(400, {"error": {"code": "content_filter"}}, headers).wait is None


GEMINI_DAY = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
            {"violations": [{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]},
            {"retryDelay": "38s"},
        ],
    }
}


@pytest.mark.parametrize(
    ("now", "midnight"),
    [
        ("2026-01-01T00:00:00+00:00", "2026-01-01T08:00:00+00:00"),  # winter: UTC-8
        ("2026-07-01T00:00:00+00:00", "2026-07-01T07:00:00+00:00"),  # summer: UTC-7
        ("2026-03-08T09:00:00+00:00", "2026-03-09T07:00:00+00:00"),  # the day of 23 hours
        ("2026-01-01T08:00:00+00:00", "2026-01-02T08:00:00+00:00"),  # midnight itself
    ],
)
def test_geminis_day_ends_at_midnight_pacific_whatever_the_retry_delay(now: str, midnight: str) -> None:
    at = datetime.fromisoformat(now).timestamp()
    failure = answer(429, [GEMINI_DAY], provider="gemini", now=at)
    assert (failure.fault, failure.wait) == (Fault.RATE_LIMIT, datetime.fromisoformat(midnight).timestamp() - at)


def test_openrouters_day_ends_at_midnight_utc() -> None:
    body = limited("Rate limit exceeded: free-models-per-day. Add 10 credits to unlock more")
    assert answer(429, body, now=NEW_YEAR + 3_600).wait == DAY - 3_600
    body["error"]["metadata"] = {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225660000"}}
    assert answer(429, body).wait == 60.0


@pytest.mark.parametrize(
    "error",
    [
        {"code": "organization_spend_limit_exceeded", "type": "insufficient_quota"},
        {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}},
        {"status": "RESOURCE_EXHAUSTED", "message": "Your project has exceeded its monthly spending cap."},
    ],
)
def test_spend_limits_end_with_the_month(error: dict[str, Any]) -> None:
    failure = answer(429, {"error": error})
    assert (failure.fault, failure.wait) == (Fault.EXHAUSTED, 31 * DAY)
    assert answer(429, {"error": error}, now=NEW_YEAR + 58.5 * DAY).wait == 0.5 * DAY, "February has 28 days"


def test_nobody_knows_when_credit_comes() -> None:
    assert answer(429, {"error": {"code": "insufficient_quota"}}).wait is None
    either = "Your team has either used all available credits or reached its monthly spending limit."
    assert answer(403, {"error": either}).wait is None


def test_a_budget_names_its_end() -> None:
    failure = answer(403, {"error": {"message": "Budget limit exceeded", "resets_at": "2026-01-01T06:00:00Z"}})
    assert (failure.fault, failure.wait) == (Fault.EXHAUSTED, 21_600.0)
