from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from keyrouter_openai.testing import ProviderSimulator, SimAccount

exceptions = pytest.importorskip("websockets.exceptions", reason="needs openai[realtime]")

ITEM: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello, you."}]}


def until(connection: Any, *kinds: str) -> list[Any]:
    events: list[Any] = []
    for event in connection:
        events.append(event)
        if event.type in kinds:
            break
    return events


def test_a_realtime_session_echoes(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime"})
        connection.conversation.item.create(item=ITEM)
        connection.response.create()
        events = until(connection, "response.done")
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        *("session.created", "session.updated", "conversation.item.added", "response.created"),
        *("rate_limits.updated", "response.output_text.delta", "response.done"),
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hello, you."
    usage = events[-1].response.usage
    assert usage.input_tokens + usage.output_tokens == usage.total_tokens > 0


def test_responses_come_as_over_http(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    with client.responses.connect() as connection:
        connection.response.create(model="gpt-4o", input="Hello, you.")
        sent = [event.type for event in until(connection, "response.completed")]
    streamed = [event.type for event in client.responses.create(model="gpt-4o", input="Hello, you.", stream=True)]
    assert sent == streamed


def test_every_call_is_recorded_with_its_key(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.conversation.item.create(item=ITEM)
        connection.response.create()
        until(connection, "response.done")
    calls = [(call.method, call.path, call.key, call.model, call.status) for call in sim.calls]
    assert calls == [
        ("GET", "/v1/realtime", "a/key-1", "gpt-realtime", 101),
        ("WEBSOCKET", "/v1/realtime", "a/key-1", "gpt-realtime", 200),
    ]


def test_limits_hold_for_each_response(client: openai.OpenAI, sim: ProviderSimulator) -> None:
    sim.set_limits("a", rpm=2, tpm=None)
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.conversation.item.create(item=ITEM)
        events: list[Any] = []
        for _ in range(3):
            connection.response.create()
            events += until(connection, "response.done", "error")
    shown = [event.rate_limits[0].remaining for event in events if event.type == "rate_limits.updated"]
    assert shown == [1, 0]
    assert events[-1].error.code == "rate_limit_exceeded"
    assert sim.count(status=429) == 1


@pytest.mark.parametrize(
    ("fault", "status"), [("key_revoked", 401), ("rate_limit", 429), ("model_missing", 404), ("unavailable", 503)]
)
def test_an_upgrade_is_refused_over_http(
    sim: ProviderSimulator, client: openai.OpenAI, fault: str, status: int
) -> None:
    sim.fail(fault)
    with pytest.raises(exceptions.InvalidStatus) as caught:
        client.realtime.connect(model="gpt-realtime").enter()
    assert caught.value.response.status_code == status
    assert json.loads(caught.value.response.body)["error"]["message"]


def test_the_credential_and_the_model_are_checked() -> None:
    with ProviderSimulator([SimAccount("a", models=["gpt-4o"])]) as sim:
        for secret, status in (("sk-unknown", 401), (sim.keys["a/key-1"], 404)):
            client = openai.OpenAI(base_url=sim.url, api_key=secret)
            with pytest.raises(exceptions.InvalidStatus) as caught:
                client.realtime.connect(model="gpt-realtime").enter()
            assert caught.value.response.status_code == status
            client.close()


@pytest.mark.parametrize("fault", ["reset", "disconnect"])
def test_a_connection_is_dropped_in_its_middle(sim: ProviderSimulator, client: openai.OpenAI, fault: str) -> None:
    sim.fail(fault, path="/v1/realtime", after=1)
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.response.create(response={"input": [ITEM]})
        with pytest.raises(exceptions.ConnectionClosedError):
            until(connection, "response.done")


def test_a_response_breaks_off(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("stream_cut", events=1)
    seen: list[str] = []
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.response.create(response={"input": [ITEM]})
        with pytest.raises(exceptions.ConnectionClosedError):
            seen.extend(event.type for event in connection)
    assert sim.count(fault="stream_cut") == 1


def test_a_response_fails(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    sim.fail("stream_failed", times=1)
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.response.create(response={"input": [ITEM]})
        response = until(connection, "response.done")[-1].response
        assert (response.status, response.status_details.error.code) == ("failed", "server_error")


def test_errors_come_as_events(sim: ProviderSimulator, client: openai.OpenAI) -> None:
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.send({"type": "no.such.event"})  # pyright: ignore[reportArgumentType]
        assert until(connection, "error")[-1].error.code == "invalid_value"
    with client.responses.connect() as connection:
        connection.response.create(input="no model")
        event = json.loads(connection.recv_bytes())
    assert (event["type"], event["status"], event["error"]["type"]) == ("error", 400, "invalid_request_error")


def test_live_sessions_start_and_close(client: openai.OpenAI) -> None:
    live: Any = getattr(client, "live", None)
    if live is None:
        pytest.skip("this SDK has no Live API")
    with live.connect() as connection:
        connection.send({"type": "session.start", "session": {"model": "gpt-live"}})
        assert connection.recv().type == "session.started"
        connection.send({"type": "session.close"})
        assert connection.recv().type == "session.closed"
