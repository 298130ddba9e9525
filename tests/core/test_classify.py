"""What error answers are taken for: those of `provider_answers.txt`, and anything at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.classify import classify, default_fault
from keyrouter_openai.core.model import Dimension, Failure, Fault
from keyrouter_openai.core.rules import DEFAULTS
from keyrouter_openai.providers import PROVIDERS

NOW = 1_767_225_600.0  # 2026-01-01 00:00 UTC


def judged(status: int, body: object = "", *, provider: str = "compatible") -> Failure:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return classify(provider=provider, status=status, headers={}, body=text, now=NOW)


def recorded() -> Iterator[tuple[str, str, int, str]]:
    for line in Path(__file__).with_name("provider_answers.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            fault, provider, status, *body = line.split(maxsplit=3)
            yield fault, provider, int(status), "".join(body).replace("↵", "\n")


@pytest.mark.parametrize(("fault", "provider", "status", "body"), list(recorded()))
def test_answers_of_providers(fault: str, provider: str, status: int, body: str) -> None:
    assert judged(status, body, provider=provider).fault == fault


RATE_LIMIT = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(RATE_LIMIT),
        json.dumps([RATE_LIMIT]),
        json.dumps({"detail": RATE_LIMIT["error"]}),
        json.dumps({"error": {"message": json.dumps(RATE_LIMIT), "code": "unknown"}}),
        json.dumps({"error": {"message": f"relayed: {json.dumps([RATE_LIMIT])} (request id: 1)"}}),
        json.dumps({"error": {"message": f"litellm.APIError: Error code: 429 - {RATE_LIMIT}"}}),
        json.dumps(json.dumps(RATE_LIMIT)),
        json.dumps(RATE_LIMIT)[:-20],
        f"Error: {RATE_LIMIT}",
        f"event: error\ndata: {json.dumps(RATE_LIMIT)}\n\n",
        f": keep-alive\n\ndata: {{}}\n\ndata: {json.dumps(RATE_LIMIT)}\n\ndata: [DONE]\n\n",
        json.dumps(RATE_LIMIT) + 'data: {"choices":[]}',
    ],
)
def test_an_error_is_found_wherever_it_is_nested(body: str) -> None:
    for answer in (body, body.encode()):
        assert judged(400, answer).fault is Fault.RATE_LIMIT
        failure = judged(200, answer)
        assert failure == Failure(Fault.RATE_LIMIT, 429, detail=failure.detail, dimension=Dimension.REQUESTS)


def test_what_the_caller_wrote_is_no_evidence() -> None:
    quoted = "insufficient_quota: You exceeded your current quota. Incorrect API key provided."
    body = {
        "detail": [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": {"message": quoted}}],
        "messages": [{"message": quoted}],
        "error": {"message": "Moderated", "metadata": {"flagged_input": quoted}},
    }
    assert judged(422, body).fault is Fault.REQUEST


def test_a_stream_error_gets_the_status_that_it_stands_for() -> None:
    assert judged(200, 'data: {"error":{"code":502,"message":"Bad gateway"}}').status == 502
    assert judged(200, 'data: {"error":{"type":"overloaded_error","message":"Overloaded"}}').status == 503
    assert judged(200, 'data: {"error":{"message":"insufficient_quota","code":"insufficient_quota"}}').status == 429
    assert judged(400, {"error": {"message": '{"error": {"code": 429}}'}}).status == 400, "was sent as a 400"


def test_the_detail_is_the_most_telling_code() -> None:
    message = "x"
    openai = {"error": {"message": message, "type": "insufficient_quota", "code": "project_spend_limit_exceeded"}}
    assert judged(429, openai).detail == "project_spend_limit_exceeded"
    deepseek = {"error": {"message": message, "type": "authentication_error", "code": "invalid_request_error"}}
    assert judged(401, deepseek).detail == "authentication_error"
    assert judged(429, {"error": {"message": "Limit 5, Requested 6", "code": None}}).detail == "requested_above_limit"
    assert judged(502, "<html><h1>502 Bad Gateway</h1></html>").detail == "html_page"
    assert judged(500, "It broke.").detail == ""


@pytest.mark.parametrize(("status", "fault"), list(DEFAULTS.items()))
def test_an_answer_that_says_nothing_is_judged_by_its_status(status: int, fault: Fault) -> None:
    assert judged(status) == Failure(fault, status, known=False)


@pytest.mark.parametrize("status", [*range(400, 430), *range(500, 530)])
def test_other_statuses_are_the_callers_or_the_servers_fault(status: int) -> None:
    if status not in DEFAULTS:
        assert default_fault(status) is (Fault.REQUEST if status < 500 else Fault.SERVER_ERROR)


def test_known_are_answers_that_say_something() -> None:
    assert judged(400, {"error": {"message": "?", "type": "invalid_request_error"}}).known
    assert judged(422, "missing field `model`").known
    assert not judged(400, {"error": {"message": "?"}}).known


def test_an_error_that_nobody_knows_is_the_servers() -> None:
    assert judged(200, {"error": "?"}) == Failure(Fault.SERVER_ERROR, 500, known=False)
    assert judged(302) == Failure(Fault.SERVER_ERROR, 302, known=False)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
FIELDS = st.sampled_from(["error", "message", "code", "type", "status", "details", "retry_after", "param"]) | st.text()
TREES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(FIELDS, inner), max_leaves=12)
BODIES = st.binary() | st.text() | TREES.map(json.dumps) | TREES.map(repr) | TREES.map(lambda t: json.dumps(repr(t)))
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-reset", "X-RateLimit-Remaining"]) | st.text(),
    st.text() | st.floats().map(str) | st.integers().map(str),
)


@given(st.sampled_from([*PROVIDERS, "?"]), st.integers(100, 999), HEADERS, BODIES, st.floats(0, 4e9))
def test_any_answer_at_all_is_judged(
    provider: str, status: int, headers: dict[str, str], body: str | bytes, now: float
) -> None:
    failure = classify(provider=provider, status=status, headers=headers, body=body, now=now)
    assert failure.status >= 300
    assert failure.wait is None or (failure.wait > 0 and isfinite(failure.wait))
    assert set(failure.detail) <= set("abcdefghijklmnopqrstuvwxyz_.-")
    assert len(failure.detail) <= 60


SECRETS = st.from_regex(r"(?:sk-|sk-proj-|gsk_|AIza|xai-)[A-Za-z0-9]{20,40}", fullmatch=True)


@given(st.integers(200, 599), SECRETS, st.sampled_from(["code", "type", "message", "reason", "status", "error"]))
def test_a_secret_that_an_answer_quotes_is_not_repeated(status: int, secret: str, field: str) -> None:
    for quoted in (secret, f"invalid_{secret}", f"Incorrect API key provided: {secret}."):
        for body in ({field: quoted}, {"error": {field: quoted}}, {"error": {"message": str({field: quoted})}}):
            failure = judged(status, body)
            assert secret.lower() not in repr(failure).lower()


@pytest.mark.parametrize(
    "body", ["{" * 70_000, '{"a":' * 20_000, "[" * 70_000, '{"a":"' * 9_000 + "\\", "<style" * 12_000]
)
def test_hostile_bodies_are_read_all_the_same(body: str) -> None:
    assert judged(500, body).fault is Fault.SERVER_ERROR


@pytest.mark.parametrize("words", ["out of credits", "billing limit", "the account 42 is suspended", "rate limit"])
@pytest.mark.parametrize(
    "error",
    [
        {"message": "Invalid value: '{}'. Supported values are: 'system'.", "code": "invalid_value", "param": "role"},
        {"message": "The model `{}` does not exist or you do not have access to it.", "code": "model_not_found"},
        {"message": "Invalid schema for response_format 'x': In context=('properties', '{}'), 'type' is missing."},
    ],
)
def test_what_the_caller_wrote_does_not_choose_the_fault(words: str, error: dict[str, str]) -> None:
    """Else any user of a service could have all its accounts put aside."""
    answer = {**error, "type": "invalid_request_error", "message": error["message"].format(words)}
    status = 404 if error.get("code") == "model_not_found" else 400
    fault = judged(status, json.dumps({"error": answer})).fault
    assert fault == (Fault.MODEL_MISSING if status == 404 else Fault.REQUEST)
