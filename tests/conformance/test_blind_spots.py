"""What the SDK's own tests would not notice of a subclass: state that a copy loses, and what goes on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

import httpx2
import openai
import pytest

from keyrouter_openai import Key, RoutedOpenAI, SyncRoutedOpenAI

pytestmark = pytest.mark.anyio

MESSAGES = [{"role": "user", "content": "hello"}]
KEYS = [Key(name="a", secret="sk-a", account="A"), Key(name="b", secret="sk-b", account="B")]


class Events(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """An event stream that tells nothing until it is read."""

    was_read = False

    def __iter__(self) -> Iterator[bytes]:
        self.was_read = True
        yield b"data: {}\n\n"

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.was_read = True
        yield b"data: {}\n\n"


@dataclass
class Wire:
    """Answers every request, the first `refused` of them with 401, and keeps them."""

    refused: int = 0
    seen: list[httpx2.Request] = field(default_factory=list[httpx2.Request])
    events: Events = field(default_factory=Events)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.seen.append(request)
        if request.url.path.endswith("/events"):
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=self.events)
        body: dict[str, Any] = {"id": "x", "object": "list", "data": [], "choices": [], "has_more": False}
        return httpx2.Response(401 if len(self.seen) <= self.refused else 200, json=body)

    def sent(self, header: str) -> list[str | None]:
        """The values of a header, request by request."""
        return [request.headers.get(header) for request in self.seen]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(params=["async", "sync"])
async def client(request: pytest.FixtureRequest, wire: Wire) -> AsyncIterator[Any]:
    transport = httpx2.MockTransport(wire)
    if request.param == "sync":
        with SyncRoutedOpenAI(
            keys=KEYS, admin_api_key="sk-admin", http_client=httpx2.Client(transport=transport)
        ) as sync:
            yield sync
    else:
        async with RoutedOpenAI(
            keys=KEYS, admin_api_key="sk-admin", http_client=httpx2.AsyncClient(transport=transport)
        ) as made:
            yield made


async def done(result: Any) -> Any:
    """What a call of either client brings."""
    return await result if isawaitable(result) else result


COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": lambda client: client.copy(max_retries=1),
    "with_options": lambda client: client.with_options(timeout=5.0),
    "with_options of a copy": lambda client: client.copy().with_options(default_headers={"x-a": "b"}),
    "with_options of a class of one's own": lambda client: subclass_of(client).with_options(timeout=5.0),
}


def subclass_of(client: Any) -> Any:
    """The same client as one of a subclass that changes nothing."""

    class Own(client.__class__):
        pass

    return Own(router=client.router, admin_api_key="sk-admin", http_client=client._client)


@pytest.mark.parametrize("way", COPIES)
async def test_a_copy_routes_over_the_same_pool(client: Any, wire: Wire, way: str) -> None:
    copied = COPIES[way](client)
    wire.refused = 1

    await done(copied.chat.completions.create(model="gpt-4o", messages=MESSAGES))

    assert copied.router is client.router
    assert sorted(wire.sent("authorization"), key=str) == ["Bearer sk-a", "Bearer sk-b"]
    assert len(client.ledger.attempts()) == 2


async def test_all_attempts_have_one_idempotency_key(client: Any, wire: Wire) -> None:
    client._idempotency_header = "Idempotency-Key"  # the SDK makes the key, and sends it where a class says so
    wire.refused = 1

    await done(client.chat.completions.create(model="gpt-4o", messages=MESSAGES))
    await done(client.chat.completions.create(model="gpt-4o", messages=MESSAGES))

    first, again, other = wire.sent("idempotency-key")
    assert first is not None
    assert first == again != other


async def test_routes_that_take_the_admin_key_never_get_one_of_the_pool(client: Any, wire: Wire) -> None:
    await done(client.admin.organization.projects.list())
    await done(client.admin.organization.users.retrieve("user_1"))
    await done(client.models.list())

    *admin, routed = wire.sent("authorization")
    assert admin == ["Bearer sk-admin"] * 2
    assert routed in ("Bearer sk-a", "Bearer sk-b")
    assert len(client.ledger.attempts()) == 1


async def test_who_follows_what_goes_on_elsewhere_does_not_wait_for_its_first_event(client: Any, wire: Wire) -> None:
    stream_cls: Any = openai.Stream[object] if isinstance(client, SyncRoutedOpenAI) else openai.AsyncStream[object]
    stream = await done(client.get("/work/1/events", cast_to=object, stream=True, stream_cls=stream_cls))

    assert not wire.events.was_read
    await done(stream.close())
