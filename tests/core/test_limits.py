"""What headers say of limits, in the forms of all providers, and in none."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.limits import read_limits
from keyrouter_openai.core.model import DAY, MINUTE, Dimension, Reading
from keyrouter_openai.providers import PROVIDERS

REQUESTS, TOKENS, INPUT, OUTPUT = Dimension.REQUESTS, Dimension.TOKENS, Dimension.INPUT, Dimension.OUTPUT
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def readings(headers: dict[str, str], provider: str = "openai", *, now: float = NEW_YEAR) -> tuple[Reading, ...]:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return read_limits(raw, provider=provider, now=now)


def ordinary(what: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    """The three headers of one limit, as OpenAI names them."""
    values = {"limit": limit, "remaining": remaining, "reset": reset}
    return {f"x-ratelimit-{part}-{what}": value for part, value in values.items()}


def test_openai() -> None:
    headers = ordinary("requests", "5000", "4999", "12ms") | ordinary("tokens", "800000", "799987", "6m0s")
    expected = (Reading(REQUESTS, None, 5000, 4999, 0.012), Reading(TOKENS, None, 800_000, 799_987, 360.0))
    assert readings(headers) == expected
    assert readings({name.title(): value for name, value in headers.items()}) == expected
    assert readings({name.upper(): value for name, value in headers.items()}) == expected


@pytest.mark.parametrize("project_left", ["100", "900"])
def test_a_projects_own_limit_counts_where_it_is_the_tighter(project_left: str) -> None:
    organization = ordinary("tokens", "1000", "500", "30s")
    project = ordinary("project-tokens", "1000", project_left, "54s")
    left = min(500.0, float(project_left))
    for headers in ({**organization, **project}, {**project, **organization}):
        (reading,) = readings(headers)
        assert (reading.dimension, reading.remaining) == (TOKENS, left)


def test_groq_counts_requests_by_the_day_and_tokens_by_the_minute() -> None:
    headers = ordinary("requests", "14400", "14370", "2m59.56s") | ordinary("tokens", "18000", "17997", "7.66s")
    assert readings(headers, "groq") == (
        Reading(REQUESTS, DAY, 14_400, 14_370, 179.56),
        Reading(TOKENS, MINUTE, 18_000, 17_997, 7.66),
    )


def test_anthropic() -> None:
    kinds = {"requests": REQUESTS, "input-tokens": INPUT, "output-tokens": OUTPUT, "tokens": TOKENS}
    headers = {
        f"anthropic-ratelimit-{kind}-{part}": value
        for kind in kinds
        for part, value in {"limit": "4000", "remaining": "3000", "reset": "2026-01-01T00:00:08Z"}.items()
    }
    expected = tuple(Reading(dimension, MINUTE, 4000, 3000, 8.0) for dimension in kinds.values())
    assert readings(headers, "anthropic") == expected
    compatible = ordinary("requests", "50", "49", "2026-01-01T00:00:01Z")
    assert readings(compatible, "anthropic") == (Reading(REQUESTS, MINUTE, 50, 49, 1.0),)
    assert readings(ordinary("requests", "50", "49", "1s"), "anthropic") == (Reading(REQUESTS, MINUTE, 50, 49, 1.0),)
    others = {"anthropic-priority-input-tokens-limit": "10", "anthropic-fast-requests-remaining": "1"}
    assert readings(others, "anthropic") == ()


def test_azure() -> None:
    headers = ordinary("requests", "8", "7", "10") | ordinary("tokens", "8000", "1014", "-1")
    assert readings(headers, "azure") == (Reading(REQUESTS, None, 8, 7, 10.0), Reading(TOKENS, MINUTE, 8000, 1014))


def test_openrouter() -> None:
    headers = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225610500"}
    assert readings(headers, "openrouter") == (Reading(REQUESTS, None, 20, 0, 10.5),)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("req-minute", (REQUESTS, MINUTE)),  # Mistral
        ("tokens-minute", (TOKENS, MINUTE)),
        ("requests-day", (REQUESTS, DAY)),  # Cerebras
        ("requests-hour", (REQUESTS, 3600.0)),
        ("tokens-day", (TOKENS, DAY)),
    ],
)
def test_periods_in_names(what: str, expected: tuple[Dimension, float]) -> None:
    assert readings(ordinary(what, "30", "29", "33.5"), "cerebras") == (Reading(*expected, 30, 29, 33.5),)


def test_together() -> None:
    headers = {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "1"}
    tokens = {"x-tokenlimit-limit": "3000", "x-tokenlimit-remaining": "2900"}
    expected = Reading(REQUESTS, None, 10, 9, 1.0), Reading(TOKENS, None, 3000, 2900)
    assert readings(headers | tokens, "together") == expected
    assert readings({"x-ratelimit-reset": "3"}, "together") == (), "only a wait that is suggested"


def test_fireworks() -> None:
    headers = {
        "x-ratelimit-limit-tokens-prompt": "3600000",
        "x-ratelimit-remaining-tokens-prompt": "3500000",
        "x-ratelimit-limit-tokens-cache-adjusted-prompt": "900000",
        "x-ratelimit-remaining-tokens-cache-adjusted-prompt": "800000",
        "x-ratelimit-limit-tokens-generated": "36000",
        "x-ratelimit-remaining-tokens-generated": "35000",
        "x-ratelimit-over-limit": "no",
    }
    expected = Reading(INPUT, MINUTE, 900_000, 800_000), Reading(OUTPUT, MINUTE, 36_000, 35_000)
    assert readings(headers, "fireworks") == expected


def test_xai_says_neither_when_nor_for_how_long() -> None:
    headers = {"x-ratelimit-limit-requests": "480", "x-ratelimit-remaining-requests": "479"}
    assert readings(headers, "xai") == (Reading(REQUESTS, None, 480, 479),)


@pytest.mark.parametrize(
    ("value", "reset"),
    [
        *[("0s", 0), ("1s", 1), ("20ms", 0.02), ("8.64s", 8.64), ("6m0s", 360), ("1h2m3.5s", 3723.5)],
        *[("24h0m0s", DAY), ("2m", 120), ("250µs", 0.00025), ("17", 17), ("0.5", 0.5), (" 3 ", 3)],
        *[("1767225690", 90), ("1767225690500", 90.5), ("2026-01-01T00:01:30Z", 90), ("2026-01-01T01:01:30+01:00", 90)],
        *[("Thu, 01 Jan 2026 00:00:30 GMT", 30), ("2026-01-01T00:00:00Z", 0)],
        *[("-1", None), ("-1s", None), ("nan", None), ("inf", None), ("soon", None), ("", None), ("1e300s", None)],
        *[("2025-12-31T23:59:00Z", None), ("2100-01-01T00:00:00Z", None), ("1h2", None), ("m1s", None), ("s", None)],
    ],
)
def test_resets(value: str, reset: float | None) -> None:
    (reading,) = readings(ordinary("requests", "9", "3", value))
    assert reading == Reading(REQUESTS, None, 9, 3, reading.reset)
    assert reading.reset == (None if reset is None else pytest.approx(reset))


@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_moments_are_the_providers_and_so_is_the_clock(skew: float) -> None:
    headers = {"date": "Thu, 01 Jan 2026 00:00:00 GMT"} | ordinary("requests", "9", "3", "2026-01-01T00:00:12Z")
    assert readings(headers, now=NEW_YEAR + skew)[0].reset == 12.0
    assert readings({**headers, "date": "today"}, now=NEW_YEAR + 2)[0].reset == 10.0, "no date that can be read"


@pytest.mark.parametrize(
    ("limit", "remaining", "expected"),
    [
        ("10", "11", (10, None)),  # more left than granted
        ("10", "-1", (10, None)),
        ("10", "nan", (10, None)),
        ("10", "", (10, None)),
        ("10", "zehn", (10, None)),
        ("10", "9.5", (10, 9.5)),
        ("-1", "5", (None, 5)),
        ("inf", "5", (None, 5)),
        ("1e300", "5", (None, 5)),
        ("9" * 5000, "5", (None, 5)),
        ("٣", "5", (None, 5)),
    ],
)
def test_nonsense_is_left_out(limit: str, remaining: str, expected: tuple[float | None, float | None]) -> None:
    (reading,) = readings(ordinary("tokens", limit, remaining, "1s"))
    assert (reading.limit, reading.remaining) == expected


def test_no_limit_at_all_is_no_reading() -> None:
    assert readings(ordinary("tokens", "0", "0", "0s")) == ()
    assert readings(ordinary("tokens", "", "", "1s")) == ()
    assert readings({"content-type": "application/json", "date": "Thu, 01 Jan 2026 00:00:30 GMT"}) == ()


NAMES = st.sampled_from(
    [
        *(
            f"x-ratelimit-{part}{what}"
            for part in ("limit", "remaining", "reset")
            for what in ("", "-tokens", "-requests")
        ),
        *("X-RateLimit-Limit-Project-Tokens", "anthropic-ratelimit-tokens-reset", "date", "x-tokenlimit-limit"),
    ]
).map(str.encode) | st.binary(max_size=40)
NUMBERS = st.floats() | st.integers() | st.datetimes()
VALUES = st.binary(max_size=30) | NUMBERS.map(lambda value: str(value).encode()) | st.from_regex(rb"[0-9.]*[a-z]{1,2}")


@given(st.lists(st.tuples(NAMES, VALUES), max_size=12), st.sampled_from([*PROVIDERS, "?"]), st.floats(0, 4e9))
def test_any_headers_at_all_give_sane_readings(headers: list[tuple[bytes, bytes]], provider: str, now: float) -> None:
    for reading in read_limits(headers, provider=provider, now=now):
        assert reading.limit is not None or reading.remaining is not None
        numbers = [reading.limit, reading.remaining, reading.reset]
        assert all(number is None or (number >= 0 and isfinite(number)) for number in numbers)
        assert reading.limit is None or reading.limit > 0
        assert reading.limit is None or reading.remaining is None or reading.remaining <= reading.limit
