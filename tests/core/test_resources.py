"""Which ids of resources a call mentions, and which an answer shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyrouter_openai.core.resources import (
    carried,
    is_shown_by_use,
    lasts,
    mentioned,
    passes,
    reading_path,
    shown,
    shows,
)


@pytest.mark.parametrize(
    ("path", "query", "body", "ids"),
    [
        ("/files/file-abc/content", {}, None, ("file-abc",)),
        ("https://api.openai.com/v1/files/file-abc", {}, None, ("file-abc",)),
        ("/vector_stores/vs_1/files/file-2", {}, None, ("vs_1", "file-2")),
        ("/models/ft%3Agpt-4o%3Aacme%3A%3Ab1", {}, None, ("ft:gpt-4o:acme::b1",)),
        ("/files", {"after": "file-abc", "limit": 20}, None, ("file-abc",)),
        ("/responses/resp_1?beta=true&after=msg_2", {}, None, ("resp_1", "msg_2")),
        ("/batches", {}, {"input_file_id": "file-abc", "endpoint": "/v1/responses"}, ("file-abc",)),
        ("/fine_tuning/jobs", {}, {"training_file": "file-1", "validation_file": "file-2"}, ("file-1", "file-2")),
        ("/vector_stores/vs_1/file_batches", {}, {"file_ids": ("file-1", "file-2")}, ("vs_1", "file-1", "file-2")),
        ("/uploads/upload_1/complete", {}, {"part_ids": ["part_1", "part_2"]}, ("upload_1", "part_1", "part_2")),
        ("/chat/completions", {}, {"model": "ft:gpt-4o:acme::b1", "messages": []}, ("ft:gpt-4o:acme::b1",)),
        ("/chat/completions", {}, {"model": "gpt-4o", "messages": [{"role": "user", "content": "file-abc"}]}, ()),
        ("/embeddings", {}, {"model": "e", "input": ["file-abc", "resp_1"]}, ()),
        ("/responses", {}, {"input": "resp_1", "instructions": "file-abc"}, ()),
        ("/responses", {}, {"previous_response_id": "resp_1", "conversation": {"id": "conv_1"}}, ("resp_1", "conv_1")),
        ("/responses", {}, {"conversation": "conv_1", "prompt": {"id": "pmpt_1"}}, ("conv_1", "pmpt_1")),
        ("/responses", {}, {"input": [{"type": "item_reference", "id": "msg_1"}]}, ("msg_1",)),
        ("/responses", {}, {"metadata": {"file_id": "file-abc"}, "prompt_cache_key": "resp_1"}, ()),
        ("/responses", {}, {"tools": [{"type": "function", "parameters": {"id": "file-abc"}}]}, ()),
        ("/organization/projects/proj_1/api_keys/key_1", {}, {"user_id": "user-1", "request_id": "req_1"}, ()),
        ("/realtime/client_secrets", {}, {"client_id": "ek_123"}, ()),
        ("/files/file-1", {}, {"file_id": "file-1"}, ("file-1",)),
        ("/files", {}, {"id": "file-abc/../../organization"}, ()),
    ],
)
def test_a_call_mentions_what_its_path_query_and_body_name(
    path: str, query: dict[str, Any], body: object, ids: tuple[str, ...]
) -> None:
    assert mentioned(path, query, body) == ids


def test_ids_are_found_deep_in_a_body() -> None:
    body: dict[str, Any] = {
        "tools": [
            {"type": "file_search", "vector_store_ids": ["vs_1", "vs_2"]},
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}},
            {"type": "code_interpreter", "container": "cntr_1"},
        ],
        "input": [
            {"role": "user", "content": [{"type": "input_file", "file_id": "file-2"}]},
            {"role": "user", "content": "file-3"},
            {"type": "reasoning", "id": "rs_1", "summary": []},
        ],
    }
    assert set(mentioned("/responses", {}, body)) == {"vs_1", "vs_2", "file-1", "cntr_1", "file-2", "rs_1"}


def test_what_can_be_read_only_once_is_left_alone() -> None:
    parts = iter([{"file_id": "file-1"}])
    assert mentioned("/responses", {}, {"input": parts, "file_ids": parts}) == ()
    assert next(parts) == {"file_id": "file-1"}


def test_an_answer_shows_what_was_made_and_what_it_names() -> None:
    batch = {"id": "batch_1", "input_file_id": "file-1", "output_file_id": "file-2", "metadata": {"id": "file-9"}}
    assert shown("/batches", json.dumps(batch).encode()) == ("batch_1", "file-1", "file-2")
    job = {"id": "ftjob-1", "fine_tuned_model": "ft:gpt-4o:acme::b1", "result_files": ["file-3"], "model": "gpt-4o"}
    assert shown("/fine_tuning/jobs/{id}", job) == ("ftjob-1", "ft:gpt-4o:acme::b1", "file-3")
    page = {"object": "list", "data": [{"id": "file-1"}, {"id": "file-2"}], "last_id": "file-2"}
    assert set(shown("/files", page)) == {"file-1", "file-2"}


def test_of_a_response_that_is_not_stored_only_what_is_bound_to_the_account_is_shown() -> None:
    response: dict[str, Any] = {
        "id": "resp_1",
        "store": True,
        "output": [
            {"type": "reasoning", "id": "rs_1"},
            {"type": "message", "id": "msg_1", "content": [{"type": "output_text", "text": "file-9"}]},
            {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"},
        ],
    }
    all_of_it, bound = {"resp_1", "rs_1", "msg_1", "ci_1", "cntr_1"}, {"rs_1", "cntr_1"}
    assert everything_shown(response) == all_of_it
    assert everything_shown({**response, "store": False}) == bound
    for name in ("metadata", "attributes"):
        own = {name: {"file_id": "file-8"}, "text": '{"id": "file-7"} "store": false'}
        assert everything_shown({**response, **own}) == all_of_it


def everything_shown(response: dict[str, Any]) -> set[str]:
    """What a response shows, whether it is read from its bytes or comes with a stream."""
    parsed = set(shown("/responses", response))
    assert set(shown("/responses", json.dumps(response).encode())) == parsed
    return parsed


@pytest.mark.parametrize("answer", [b"", b"no json", b"[" * 100_000, b'{"id": "fi', b'"file-1"', b"3"])
def test_an_answer_that_is_no_object_shows_nothing(answer: bytes) -> None:
    for path in ("/files", "/responses"):
        assert shown(path, answer) == ()


def test_no_secret_is_taken_for_a_resource() -> None:
    secret = {
        "value": "ek_68af",
        "id": "ek_68af",
        "client_secret": {"value": "ek_68af"},
        "session": {"type": "realtime"},
    }
    assert shown("/realtime/client_secrets", secret) == ()
    assert shown("/responses", json.dumps(secret).encode()) == ()
    assert not shows("/realtime/client_secrets", {})


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/files", {}, True),
        ("/responses", {"model": "gpt-4o"}, True),
        ("/fine_tuning/jobs/{id}/checkpoints", {}, True),
        ("/chat/completions", {"model": "gpt-4o"}, False),
        ("/chat/completions", {"model": "gpt-4o", "store": True}, True),
        ("/chat/completions", {}, True),
        ("/chat/completions/{id}", {}, True),
        ("/files/{id}/content", {}, False),
        ("/embeddings", {"model": "e"}, False),
        ("/models", {}, False),
    ],
)
def test_only_answers_that_may_show_resources_are_looked_through(
    path: str, body: dict[str, Any], expected: bool
) -> None:
    assert shows(path, body) is expected


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("post", "/files", {}, True),
        ("POST", "/batches", {}, True),
        ("post", "/uploads/{id}/complete", {}, True),
        ("post", "/vector_stores", {}, True),
        ("post", "/vector_stores/{id}/file_batches", {}, True),
        ("post", "/fine_tuning/jobs", {}, True),
        ("post", "/responses", {"background": True}, True),
        ("post", "/responses", {}, False),
        ("post", "/chat/completions", {"store": True}, False),
        ("post", "/vector_stores/{id}/search", {}, False),
        ("get", "/files", {}, False),
        ("delete", "/files/{id}", {}, False),
    ],
)
def test_what_lasts(method: str, path: str, body: dict[str, Any], expected: bool) -> None:
    assert lasts(method, path, body) is expected


def test_resources_are_looked_up_where_their_kind_can_be_read() -> None:
    assert reading_path("file-abc") == "/files/file-abc"
    assert reading_path("ftjob-abc") == "/fine_tuning/jobs/ftjob-abc"
    assert reading_path("chatcmpl-abc") == "/chat/completions/chatcmpl-abc"
    for id in ("msg_1", "rs_1", "upload_1", "vsfb_1", "ft:gpt-4o:acme::b1", "unknown"):
        assert reading_path(id) is None


def test_responses_and_their_items_pass_and_the_rest_lasts() -> None:
    assert [id for id in ("resp_1", "msg_1", "chatcmpl-1", "file-1", "batch_1", "conv_1") if passes(id)] == [
        "resp_1",
        "msg_1",
        "chatcmpl-1",
    ]
    assert is_shown_by_use("ft:gpt-4o:acme::b1")
    assert not is_shown_by_use("file-1")


def test_items_that_are_brought_whole_can_do_without_their_owner() -> None:
    items: list[Any] = [
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "message", "id": "msg_1", "role": "assistant", "content": []},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "reasoning", "id": "rs_2", "summary": []},
        {"type": "item_reference", "id": "msg_2"},
        {"id": "msg_3"},
        {"type": "input_file", "id": "file-1", "file_id": "file-2"},
        "text",
    ]
    assert carried({"input": items}) == {"fc_1", "msg_1", "rs_1"}
    assert carried({"input": "msg_1"}) == carried({}) == set()
