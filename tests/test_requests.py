"""A request is what the SDK makes of a call, to the byte, whatever was said of it and changed on the client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from keyrouter_openai import Key, SyncRoutedOpenAI
from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import ProviderSimulator, SimAccount

CALLS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "headers": {"extra_headers": {"X-Mine": "1", "accept": "text/plain", "User-Agent": openai.omit}},
    "multipart": {"extra_headers": {"Content-Type": "multipart/form-data; boundary=b"}},
    "host": {"extra_headers": {"Host": "elsewhere.test"}},
    "query": {"extra_query": {"a": "b c"}},
    "body": {"extra_body": {"more": "é"}},
    "timeout": {"timeout": 3.0},
    "no timeout": {"timeout": None},
}


def unchanged(_: OpenAI) -> None:
    pass


def moved(client: OpenAI) -> None:
    client.base_url = "http://other_host.test/v2/"


def renamed(client: OpenAI) -> None:
    client.organization, client.project = "org-1", "proj_1"


def with_cookie(client: OpenAI) -> None:
    client._client.cookies.set("__cf_bm", "1")  # pyright: ignore[reportPrivateUsage]


def requests_of(kind: type[OpenAI], change: Callable[[OpenAI], None], call: dict[str, Any], **rest: Any) -> list[Any]:
    """What a client sends in two calls, of which the second comes after a change."""
    sent: list[Any] = []

    def answer(request: Any) -> Any:
        sent.append(request)
        return httpx2.Response(200, json={"object": "list", "data": []})

    http = httpx2.Client(transport=httpx2.MockTransport(answer), headers={"X-Http": "2", "ACCEPT": "*/*"})
    with kind(api_key="sk-1", base_url="http://host.test/v1", http_client=http, **rest) as client:
        client.embeddings.create(model="m", input="x", encoding_format="float", **call)
        change(client)
        client.embeddings.create(model="m", input="x", encoding_format="float", **call)
    return sent


@pytest.mark.parametrize("change", [unchanged, moved, renamed, with_cookie])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_request_is_as_the_sdk_makes_it(change: Callable[[OpenAI], None], call: dict[str, Any]) -> None:
    plain = requests_of(OpenAI, change, call)
    routed = requests_of(SyncRoutedOpenAI, change, call, ledger=None)
    for ours, theirs in zip(routed, plain, strict=True):
        assert (ours.method, ours.url, ours.content) == (theirs.method, theirs.url, theirs.content)
        assert sorted(ours.headers.multi_items()) == sorted(theirs.headers.multi_items())
        assert ours.extensions == theirs.extensions


def test_a_key_is_chosen_by_the_model_that_is_sent() -> None:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        keys = [
            Key(name="A", secret=sim.keys["A/key-1"], base_url=sim.url, models=["large-*"]),
            Key(name="B", secret=sim.keys["B/key-1"], base_url=sim.url, models=["small-*"]),
        ]
        with SyncRoutedOpenAI(keys=keys, ledger=None) as client:
            for _ in range(4):
                client.embeddings.create(model="large-1", input="x", extra_body={"model": "small-1"})
        assert {(call.account, call.model) for call in sim.calls} == {("B", "small-1")}


@pytest.mark.parametrize("said", [{"model": "small-1"}, {"model": "x", "extra_body": {"model": "small-1"}}])
def test_the_model_that_is_sent_has_the_providers_name(said: dict[str, Any]) -> None:
    with ProviderSimulator() as sim:
        secret = next(iter(sim.keys.values()))
        key = Key(name="a", secret=secret, base_url=sim.url, model_map={"small-1": "theirs", "x": "y"})
        with SyncRoutedOpenAI(keys=[key], ledger=None) as client:
            client.embeddings.create(input="x", **said)
            client.post("/embeddings", cast_to=object, options={"extra_json": {"model": "small-1", "input": "x"}})
        assert [call.model for call in sim.calls] == ["theirs"] * 2
