"""The answers that are read out of the SDK satisfy the SDK."""

from __future__ import annotations

import re

import openai
import pytest
from pydantic import TypeAdapter

from keyrouter_openai.testing.sdk_routes import SdkRoute, sdk_routes
from keyrouter_openai.testing.wire import Reply


def is_bare(route: SdkRoute) -> bool:
    return route.reply.status == 204 or route.answers is openai.HttpxBinaryResponseContent


def answer(method: str, target: str, *, stream: bool = False) -> Reply:
    path, _, query = target.partition("?")
    reply = sdk_routes().answer(method, path, dict([query.split("=")] if query else []), stream=stream)
    assert reply is not None
    return reply


def test_it_finds_every_route_of_the_sdk() -> None:
    assert len(sdk_routes().routes) > 280
    named = {(route.method, route.path) for route in sdk_routes().routes}
    assert {("POST", "/chat/completions"), ("GET", "/models/{model}"), ("DELETE", "/files/{file_id}")} <= named


def test_every_answer_is_valid_for_the_type_that_the_sdk_reads_it_as() -> None:
    models = [route for route in sdk_routes().routes if not is_bare(route)]

    assert len(models) > 250
    for route in models:
        TypeAdapter(route.answers).validate_json(route.reply.body)


def test_no_route_is_taken_for_another() -> None:
    first = {(route.method, route.path, *route.query.items()): route for route in reversed(sdk_routes().routes)}

    for route in first.values():
        reply = sdk_routes().answer(route.method, re.sub(r"{.*?}", "some-id", route.path), route.query, stream=False)
        assert reply is route.reply, route


def test_a_query_tells_routes_of_one_path_apart() -> None:
    beta = next(route for route in sdk_routes().routes if route.query == {"beta": "true"})

    assert answer(beta.method, beta.path) is not beta.reply
    assert answer(beta.method, f"{beta.path}?beta=true") is beta.reply


def test_methods_of_lists_are_those_that_the_sdk_sends() -> None:
    assert answer("GET", "/files").status == 200
    assert answer("POST", "/vector_stores/vs_1/search").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/files/file-1/content", 200, "application/octet-stream"),
        ("POST", "/audio/transcriptions", 200, "application/json"),
        ("DELETE", "/containers/cntr_1", 204, None),
    ],
)
def test_answers_that_are_no_model(method: str, path: str, status: int, kind: str | None) -> None:
    reply = answer(method, path)

    assert (reply.status, reply.headers.get("content-type")) == (status, kind)


def test_streams_are_answered_where_the_sdk_can_read_them() -> None:
    streamed = answer("POST", "/chat/completions", stream=True)

    assert streamed.events and streamed.events[-1].data == b"data: [DONE]\n\n"
    assert answer("POST", "/embeddings", stream=True).events is None


def test_what_the_sdk_never_asks_for_has_no_answer() -> None:
    assert sdk_routes().answer("GET", "/nothing/of/the/kind", {}, stream=False) is None
    assert sdk_routes().answer("PATCH", "/chat/completions", {}, stream=False) is None
