"""The private seams of the SDK that `_sdk` stands on: each must be where it was, and be called as it was."""

from __future__ import annotations

import inspect
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai._models import FinalRequestOptions

from keyrouter_openai import _sdk
from keyrouter_openai.options import endpoint_of

CLIENTS: list[Any] = [OpenAI, AsyncOpenAI]


@pytest.mark.parametrize("client", CLIENTS)
def test_the_methods_that_are_overridden_or_called(client: Any) -> None:
    process = inspect.signature(client._process_response).parameters
    assert {"response", "stream", "retries_taken", "cast_to", "options", "stream_cls"} <= process.keys()
    assert all(p.kind is p.KEYWORD_ONLY for name, p in process.items() if name != "self")
    rest = inspect.signature(client._sleep_for_retry).parameters
    assert {"retries_taken", "max_retries", "options", "response"} <= rest.keys()
    assert list(inspect.signature(client._should_retry).parameters) == ["self", "response"]
    assert list(inspect.signature(client._make_status_error_from_response).parameters) == ["self", "response"]
    assert "options" in inspect.signature(client.request).parameters


@pytest.mark.parametrize("client", CLIENTS)
def test_the_attributes_that_are_read(client: Any) -> None:
    made = client(api_key="sk-a")
    assert made._provider_runtime is None
    assert made._custom_headers == {}
    assert made._idempotency_key() != made._idempotency_key()
    assert str(made._prepare_url("/x")).endswith("/v1/x")
    assert _sdk.max_retries(made, FinalRequestOptions.construct(method="get", url="/x")) == 2


def test_the_options() -> None:
    options = FinalRequestOptions.construct(method="post", url="/x", security={"bearer_auth": True})
    assert options.get_max_retries(5) == 5
    assert options.model_copy() is not options
    assert options.security == {"bearer_auth": True}


def test_the_replay_of_bodies() -> None:
    assert _sdk.BodyReplay(FinalRequestOptions.construct(method="post", url="/x", content=b"again")).rewind()
    assert not _sdk.BodyReplay(FinalRequestOptions.construct(method="post", url="/x", content=iter([b""]))).rewind()


def test_the_user_agent_is_the_sdks() -> None:
    assert _sdk.SyncSeams(api_key="sk-a").user_agent == OpenAI(api_key="sk-a").user_agent
    assert _sdk.AsyncSeams(api_key="sk-a").user_agent == AsyncOpenAI(api_key="sk-a").user_agent
    assert openai.__version__ in _sdk.SyncSeams(api_key="sk-a").user_agent


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("/chat/completions", "/chat/completions"),
        ("/files/file-abc123", "/files/{id}"),
        ("/files/file-abc123/content", "/files/{id}/content"),
        ("/vector_stores/vs_1a2b3c/file_batches/vsfb_99/files", "/vector_stores/{id}/file_batches/{id}/files"),
        ("/responses/input_tokens", "/responses/input_tokens"),
        ("https://api.example.com/v1/models?x=1", "/v1/models"),
    ],
)
def test_endpoints_have_no_ids(url: str, endpoint: str) -> None:
    assert endpoint_of(url) == endpoint
