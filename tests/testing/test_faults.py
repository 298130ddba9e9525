"""Each fault as the plain SDK meets it."""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
import pytest

from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import FAULTS, ProviderSimulator, redirect, respond

TEXT = "twelve chars"  # three events with content

# What the SDK raises, the status, and the code in the body.
ANSWERS: dict[str, tuple[type[openai.APIStatusError], int, str | None]] = {
    "rate_limit": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "request_too_large": (openai.RateLimitError, 429, "rate_limit_exceeded"),
    "concurrency_limit": (openai.RateLimitError, 429, "invalid_request_error"),
    "quota_exhausted": (openai.RateLimitError, 429, "insufficient_quota"),
    "spend_limit_project": (openai.RateLimitError, 429, "project_spend_limit_exceeded"),
    "spend_limit_organization": (openai.RateLimitError, 429, "organization_spend_limit_exceeded"),
    "slow_down": (openai.RateLimitError, 429, "slow_down"),
    "payment_required": (openai.APIStatusError, 402, "invalid_request_error"),
    "no_key": (openai.AuthenticationError, 401, None),
    "key_revoked": (openai.AuthenticationError, 401, "invalid_api_key"),
    "key_echo": (openai.AuthenticationError, 401, "invalid_api_key"),
    "account_deactivated": (openai.AuthenticationError, 401, "account_deactivated"),
    "wrong_organization": (openai.AuthenticationError, 401, "mismatched_organization"),
    "wrong_project": (openai.AuthenticationError, 401, "mismatched_project"),
    "missing_scope": (openai.PermissionDeniedError, 403, "missing_scope"),
    "region": (openai.PermissionDeniedError, 403, "unsupported_country_region_territory"),
    "model_missing": (openai.NotFoundError, 404, "model_not_found"),
    "model_forbidden": (openai.PermissionDeniedError, 403, "model_not_found"),
    "bad_request": (openai.BadRequestError, 400, "unsupported_parameter"),
    "context_too_long": (openai.BadRequestError, 400, "context_length_exceeded"),
    "content_policy": (openai.BadRequestError, 400, "content_policy_violation"),
    "not_found": (openai.NotFoundError, 404, None),
    "unknown_route": (openai.NotFoundError, 404, None),
    "conflict": (openai.ConflictError, 409, None),
    "too_large_body": (openai.APIStatusError, 413, None),
    "unprocessable": (openai.UnprocessableEntityError, 422, None),
    "server_error": (openai.InternalServerError, 500, None),
    "bad_gateway": (openai.InternalServerError, 502, None),
    "unavailable": (openai.InternalServerError, 503, "server_is_overloaded"),
    "gateway_timeout": (openai.InternalServerError, 504, None),
    "overloaded": (openai.InternalServerError, 529, None),
    "front_end": (openai.RateLimitError, 429, None),
}
BROKEN_CONNECTIONS = ["reset", "disconnect", "garbage"]
BROKEN_STREAMS = ["stream_error", "stream_failed", "stream_end", "stream_cut", "stream_stall"]


def chat(client: openai.OpenAI, *, stream: bool = False, model: str = "m") -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": TEXT}], stream=stream)


def test_every_fault_is_tested() -> None:
    tested = {*ANSWERS, *BROKEN_CONNECTIONS, *BROKEN_STREAMS, "hang", "error_in_200"}
    assert tested == set(FAULTS)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ANSWERS)
def test_error_answers(sim: ProviderSimulator, client: openai.OpenAI, fault: str, stream: bool) -> None:
    expected, status, code = ANSWERS[fault]
    sim.fail(fault, times=1)
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client, stream=stream)
    error = caught.value
    assert type(error) is expected
    assert (error.status_code, error.code) == (status, code)
    list(chat(client, stream=stream))
    assert [(call.status, call.fault, call.stream) for call in sim.calls] == [
        (status, fault, stream),
        (200, None, stream),
    ]


def test_a_rate_limit_names_the_wait_in_every_way(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("rate_limit", wait=0.644)
    with pytest.raises(openai.RateLimitError, match="Please try again in 644ms") as caught:
        chat(client)
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "644")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "644ms"
    assert (headers["openai-organization"], headers["openai-project"]) == ("org-a", "proj_a")


def test_a_front_end_tells_nothing_of_accounts(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("front_end", wait=30)
    with pytest.raises(openai.RateLimitError) as caught:
        chat(client)
    answer = caught.value.response
    assert answer.headers["retry-after"] == "30"
    assert answer.headers["content-type"] == "text/html"
    assert not any(name.startswith(("x-", "openai-")) for name in answer.headers)


def test_only_key_echo_repeats_the_credential(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    secret = sim.keys["a/key-1"]
    for fault in ANSWERS:
        sim.fail(fault, times=1)
        with pytest.raises(openai.APIStatusError) as caught:
            chat(client)
        assert (secret in caught.value.response.text) == (fault == "key_echo"), fault


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_inside_a_200(sim: ProviderSimulator, client: openai.OpenAI, stream: bool) -> None:
    sim.fail("error_in_200", times=1)
    answer = client.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": TEXT}], stream=stream
    )
    assert answer.status_code == 200
    assert json.loads(answer.http_response.read())["error"]["code"] == 502


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", BROKEN_CONNECTIONS)
def test_broken_connections(sim: ProviderSimulator, client: openai.OpenAI, fault: str, stream: bool) -> None:
    sim.fail(fault, times=1)
    with pytest.raises(openai.APIConnectionError) as caught:
        chat(client, stream=stream)
    assert type(caught.value) is openai.APIConnectionError
    cause = httpx2.ReadError if fault == "reset" else httpx2.RemoteProtocolError
    assert type(caught.value.__cause__) is cause
    list(chat(client, stream=stream))
    assert [call.status for call in sim.calls] == [None, 200]


def test_a_hang_lasts_until_the_client_gives_up(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("hang", times=1)
    with pytest.raises(openai.APITimeoutError):
        chat(client.with_options(timeout=0.05))
    assert chat(client).choices[0].message.content == TEXT


# In earlier versions of the SDK, streams raise the errors of the HTTP library as they are.
wraps_errors = hasattr(sys.modules["openai._streaming"], "APIConnectionError")
CUT: type[Exception] = openai.APIConnectionError if wraps_errors else httpx2.RemoteProtocolError
STALLED: type[Exception] = openai.APITimeoutError if wraps_errors else httpx2.ReadTimeout


def read(events: Any) -> tuple[list[str], Exception | None]:
    """The text of a stream piece by piece, and how it ended."""
    texts: list[str] = []
    try:
        for event in events:
            texts += [event.choices[0].delta.content] if event.choices[0].delta.content else []
    except (openai.OpenAIError, CUT, STALLED) as error:
        return texts, error
    return texts, None


@pytest.mark.parametrize("count", [0, 2, 9])
@pytest.mark.parametrize("fault", BROKEN_STREAMS)
def test_chat_streams_that_break(sim: ProviderSimulator, client: openai.OpenAI, fault: str, count: int) -> None:
    sim.fail(fault, events=count, times=1)
    texts, error = read(chat(client.with_options(timeout=0.05), stream=True))
    assert texts == ["twel", "ve c", "hars"][:count]
    expected = {
        "stream_error": openai.APIError,
        "stream_failed": openai.APIError,
        "stream_end": type(None),
        "stream_cut": CUT,
        "stream_stall": STALLED,
    }
    assert type(error) is expected[fault]
    assert read(chat(client, stream=True)) == (["twel", "ve c", "hars"], None)


def test_a_silent_end_has_no_finish_reason_and_no_done(sim: ProviderSimulator, raw: httpx2.Client) -> None:
    sim.fail("stream_end", events=2)
    body = {"model": "m", "messages": [{"role": "user", "content": TEXT}], "stream": True}
    answer = raw.post("/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.text.count("data: ") == 3
    assert '"finish_reason":"stop"' not in answer.text
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize(
    ("fault", "last"),
    [
        ("stream_error", "error"),
        ("stream_failed", "response.failed"),
        ("stream_end", "response.output_text.delta"),
    ],
)
def test_response_streams_that_break(sim: ProviderSimulator, client: openai.OpenAI, fault: str, last: str) -> None:
    sim.fail(fault, events=2, times=1)
    events = list(client.responses.create(model="m", input=TEXT, stream=True))
    kinds = [event.type for event in events]
    assert kinds[-1] == last
    assert kinds.count("response.output_text.delta") == 2
    assert [event.sequence_number for event in events] == list(range(len(events)))
    if events[-1].type == "response.failed":
        assert events[-1].response.status == "failed"
        assert events[-1].response.error
        assert events[-1].response.error.code == "server_error"


def test_stream_faults_leave_plain_calls_alone(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("stream_cut", times=1)
    assert chat(client).choices[0].message.content == TEXT
    _, error = read(chat(client, stream=True))
    assert type(error) is CUT


def test_faults_hit_the_calls_they_are_meant_for(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    def hit(label: str, *, model: str = "m", path: str = "chat") -> bool:
        used = client.with_options(api_key=sim.keys[label])
        try:
            chat(used, model=model) if path == "chat" else used.models.list()
        except openai.InternalServerError:
            return True
        return False

    sim.fail("server_error", key="a/key-1")
    assert [hit("a/key-1"), hit("a/key-2"), hit("b/key-1")] == [True, False, False]
    sim.heal()
    sim.fail("server_error", key=sim.keys["a/key-2"])
    assert [hit("a/key-1"), hit("a/key-2"), hit("b/key-1")] == [False, True, False]
    sim.heal()
    sim.fail("server_error", account="a")
    assert [hit("a/key-1"), hit("a/key-2"), hit("b/key-1")] == [True, True, False]
    sim.heal()
    sim.fail("server_error", model="m")
    assert [hit("a/key-1"), hit("a/key-1", model="n"), hit("a/key-1", path="models")] == [True, False, False]
    sim.heal()
    sim.fail("server_error", path="/v1/models")
    assert [hit("a/key-1"), hit("a/key-1", path="models")] == [False, True]
    sim.heal()
    sim.fail("server_error", after=1, times=2)
    assert [hit("a/key-1") for _ in range(4)] == [False, True, True, False]


def test_healing_is_as_narrow_as_asked(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("server_error", account="b")
    sim.fail("key_revoked", account="a")
    sim.fail("bad_request", key="a/key-1")
    sim.heal(account="b")
    sim.heal("key_revoked")
    with pytest.raises(openai.BadRequestError):
        chat(client)
    chat(client.with_options(api_key=sim.keys["b/key-1"]))
    sim.heal(key="a/key-1")
    chat(client)


def test_any_answer_can_be_given(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    recorded = {"Content-Length": "999", "Transfer-Encoding": "chunked", "X-Request-Id": "req_1"}
    sim.fail(respond(418, recorded, {"error": {"code": "teapot"}}), times=1)
    with pytest.raises(openai.APIStatusError) as caught:
        chat(client)
    assert (caught.value.status_code, caught.value.code, caught.value.request_id) == (418, "teapot", "req_1")
    assert caught.value.response.headers["content-type"] == "application/json"
    sim.fail(respond(200, body='data: {"choices": [{"delta": {"content": "x"}}]}\n\n'), times=1)
    assert read(chat(client, stream=True)) == (["x"], None)
    assert [call.fault for call in sim.calls] == ["respond 418", "respond 200"]


def test_a_redirect_leads_to_another_origin(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    with ProviderSimulator() as other:
        sim.fail(redirect(f"{other.url}/chat/completions"))
        with pytest.raises(openai.AuthenticationError):
            chat(client)
        (call,) = other.calls
        assert not call.authorized, "HTTP clients take the credential off on the way to another origin"


def test_a_failed_request_counts(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.set_limits("a", rpm=2, tpm=None)
    sim.fail("server_error", times=1)
    sim.fail("reset", times=1)
    with pytest.raises(openai.InternalServerError):
        chat(client)
    with pytest.raises(openai.APIConnectionError):
        chat(client)
    chat(client)
    with pytest.raises(openai.RateLimitError):
        chat(client)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"fault": "sunspots"}, "no fault 'sunspots': there are no_key, "),
        ({"fault": "reset", "account": "c"}, "no account 'c': there are a, b"),
        ({"fault": "reset", "key": "sk-mine"}, "no such key: there are a/key-1, a/key-2, b/key-1"),
    ],
)
def test_faults_that_could_hit_nothing_are_refused(
    sim: ProviderSimulator, arguments: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        sim.fail(**arguments)
    with pytest.raises(ValueError, match="99 is not the status of an answer"):
        respond(99)
