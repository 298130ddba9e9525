"""What works on `AsyncOpenAI` and `OpenAI` works on the routed clients, with the SDK's own types and rules."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

import keyrouter_openai
from keyrouter_openai import ConfigError, Key, RoutedOpenAI, Router, SyncRoutedOpenAI, route_of, routing
from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import ECHO, MESSAGES

pytestmark = pytest.mark.anyio


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A", keys=2), SimAccount("B")]) as running:
        yield running


def keys_of(sim: ProviderSimulator) -> list[Key]:
    return [Key(name=label.replace("/key-", ""), secret=secret) for label, secret in sim.keys.items()]


def routed(sim: ProviderSimulator, **arguments: Any) -> RoutedOpenAI:
    return RoutedOpenAI(keys=keys_of(sim), base_url=sim.url, **arguments)


def routed_sync(sim: ProviderSimulator, **arguments: Any) -> SyncRoutedOpenAI:
    return SyncRoutedOpenAI(keys=keys_of(sim), base_url=sim.url, **arguments)


async def ask(client: AsyncOpenAI, **arguments: Any) -> ChatCompletion:
    create: Any = client.chat.completions.create
    return await create(model="gpt-4o", messages=MESSAGES, **arguments)


def test_the_names_that_are_public() -> None:
    for name in keyrouter_openai.__all__:
        assert getattr(keyrouter_openai, name).__name__ == name
    assert issubclass(RoutedOpenAI, AsyncOpenAI)
    assert issubclass(SyncRoutedOpenAI, OpenAI)
    with pytest.raises(AttributeError, match="nonsense"):
        getattr(keyrouter_openai, "nonsense")  # noqa: B009  a checker would refuse the attribute


@pytest.mark.parametrize(("ours", "theirs"), [(RoutedOpenAI, AsyncOpenAI), (SyncRoutedOpenAI, OpenAI)])
def test_every_argument_of_the_parent_is_taken_and_copied(ours: Any, theirs: Any) -> None:
    for method in ("__init__", "copy"):
        own = inspect.signature(getattr(ours, method)).parameters
        assert inspect.signature(getattr(theirs, method)).parameters.keys() <= own.keys()
    missing = inspect.signature(ours.__init__).parameters.keys() - inspect.signature(ours.copy).parameters.keys()
    assert missing <= {"_strict_response_validation"}
    assert ours.with_options is ours.copy


async def test_with_options_keeps_the_router_and_the_wishes(sim: ProviderSimulator) -> None:
    async with routed(sim, max_wait=3.0).with_routing(tags={"tenant": "t1"}) as client:
        copied = client.with_options(timeout=5.0, max_retries=7)
        assert type(copied) is RoutedOpenAI
        assert copied.router is client.router
        assert (copied.timeout, copied.max_retries) == (5.0, 7)
        await ask(copied)
        assert client.ledger.attempts()[0]["tags"] == {"tenant": "t1"}
    with routed_sync(sim) as sync:
        assert sync.copy(default_headers={"x-a": "b"}).router is sync.router


async def test_a_copy_with_another_key_uses_that_key(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        secret = sim.keys["B/key-1"]
        other = client.with_options(api_key=secret)
        assert other.router is not client.router
        assert other.router.ledger is client.router.ledger
        for _ in range(4):
            await ask(other)
        assert sim.by_key() == {"A/key-1": 0, "A/key-2": 0, "B/key-1": 4}


async def test_the_resources_and_helpers(sim: ProviderSimulator) -> None:
    class Reply(BaseModel):
        text: str

    async with routed(sim) as client:
        assert (await ask(client)).choices[0].message.content == ECHO
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
        assert raw.parse().choices[0].message.content == ECHO
        assert raw.retries_taken == 0
        async with client.chat.completions.with_streaming_response.create(
            model="gpt-4o", messages=MESSAGES
        ) as streaming:
            assert (await streaming.parse()).choices[0].message.content == ECHO
        async with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES) as events:
            assert (await events.get_final_completion()).choices[0].message.content == ECHO
        async with client.responses.stream(model="gpt-4o", input=ECHO) as response_events:
            assert (await response_events.get_final_response()).output_text == ECHO
        parsed = await client.chat.completions.parse(model="gpt-4o", messages=MESSAGES, response_format=Reply)
        assert isinstance(parsed.choices[0].message.parsed, Reply)
        assert (await client.responses.create(model="gpt-4o", input=ECHO)).output_text == ECHO
        assert len((await client.embeddings.create(model="text-embedding-3-small", input="x")).data) == 1
        assert (await client.images.generate(model="gpt-image-1", prompt="a fox")).data
        assert [m.id async for m in client.models.list()]
    assert all(call.status == 200 for call in sim.calls)
    assert client.router.status().in_flight == 0
    assert len(client.ledger.attempts()) == len(sim.calls)


async def test_each_page_is_a_call_of_its_own(sim: ProviderSimulator) -> None:
    async with routed(sim).with_routing(key="A1") as client:
        made = [(await client.files.create(file=(f"{n}.txt", b"x"), purpose="assistants")).id for n in range(5)]
        sim.reset_counts()
        listed = [file.id async for file in client.files.list(limit=2, order="asc")]
        assert sorted(listed) == sorted(made)
        pages = sim.count(path="/v1/files")
        assert pages >= 3
        assert sum(row["endpoint"] == "/files" and row["number"] == 1 for row in client.ledger.attempts()) == 5 + pages


async def test_a_raw_response_tells_the_retries(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        sim.fail("key_revoked", times=1)
        raw = await client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
        assert raw.retries_taken == 1
        assert raw.http_request.headers["x-stainless-retry-count"] == "1"


async def test_usage_of_a_stream_is_on_record_and_hidden_from_who_did_not_ask(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices for chunk in chunks)
        assert all(chunk.usage is None for chunk in chunks)
        (row,) = client.ledger.attempts()
        assert row["completion_tokens"] > 0
        assert row["usage_estimated"] == 0

        stream = await client.chat.completions.create(
            model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        assert [chunk.usage for chunk in [chunk async for chunk in stream] if chunk.usage]


async def test_the_callers_own_authorization_is_respected(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        secret = sim.keys["B/key-1"]
        for header in ("Authorization", "authorization"):
            for _ in range(3):
                await ask(client, extra_headers={header: f"Bearer {secret}"})
        assert sim.by_key() == {"A/key-1": 0, "A/key-2": 0, "B/key-1": 6}
        assert client.ledger.attempts() == []


async def test_admin_routes_take_the_admin_key(sim: ProviderSimulator) -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"object": "list", "data": [], "has_more": False})

    client = RoutedOpenAI(
        keys=["sk-a", "sk-b"],
        admin_api_key="sk-admin",
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)),
    )
    async with client:
        await client.admin.organization.projects.list()
        await client.models.list()
    assert seen[0].headers["authorization"] == "Bearer sk-admin"
    assert seen[1].headers["authorization"] in ("Bearer sk-a", "Bearer sk-b")


async def test_the_idempotency_key_is_one_for_all_attempts() -> None:
    seen: list[str | None] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers.get("idempotency-key"))
        return httpx2.Response(401 if len(seen) == 1 else 200, json={"id": "x", "choices": []})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    client = RoutedOpenAI(keys=["sk-a", "sk-b"], http_client=http)
    # The SDK makes the key for every host, and sends it where the class says under which name.
    client._idempotency_header = "Idempotency-Key"  # pyright: ignore[reportPrivateUsage]  it has no public name
    async with client:
        await ask(client)
    assert len(seen) == 2
    assert seen[0] is not None
    assert seen[0] == seen[1]


async def test_a_body_that_can_be_read_once_is_sent_once() -> None:
    seen: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.read())
        return httpx2.Response(500)

    def sync_answer(request: httpx2.Request) -> httpx2.Response:
        return answer(request)

    http = httpx2.Client(transport=httpx2.MockTransport(sync_answer))
    with SyncRoutedOpenAI(keys=["sk-a", "sk-b"], http_client=http) as client, pytest.raises(openai.InternalServerError):
        client.post("/uploads", cast_to=object, content=iter([b"data"]))
    assert seen == [b"data"]


async def test_key_settings_travel_with_each_attempt() -> None:
    seen: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={"id": "x", "choices": []})

    keys = [
        Key(name="ours", secret="sk-a", organization="org-a", project="proj-a", models=("gpt-*",)),
        Key(name="groq", secret="gsk-b", provider="groq", models=("llama-*",), model_map={"llama-3": "llama-3.3-70b"}),
    ]
    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    async with RoutedOpenAI(keys=keys, organization="org-client", http_client=http) as client:
        await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        await client.chat.completions.create(model="llama-3", messages=MESSAGES)
    first, second = seen
    assert str(first.url) == "https://api.openai.com/v1/chat/completions"
    assert first.headers["openai-organization"] == "org-a"
    assert first.headers["openai-project"] == "proj-a"
    assert first.headers["user-agent"].startswith("AsyncOpenAI/Python ")
    assert str(second.url) == "https://api.groq.com/openai/v1/chat/completions"
    assert second.headers["authorization"] == "Bearer gsk-b"
    assert "openai-organization" not in second.headers
    assert json.loads(second.content)["model"] == "llama-3.3-70b"


async def test_a_pools_key_is_not_sent_to_an_absolute_url_elsewhere(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        with pytest.raises(ConfigError, match=r"evil\.example\.com"):
            await client.get("https://evil.example.com/v1/models", cast_to=object)
        assert (await client.get(f"{sim.url}/models", cast_to=dict[str, Any]))["data"]
        assert client.router.status().in_flight == 0


async def test_wishes(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        for _ in range(3):
            await ask(client.with_routing(key="B1"))
        assert sim.count(key="B/key-1") == 3
        sim.fail("rate_limit", key="B/key-1", wait=30)
        with pytest.raises(openai.RateLimitError), routing(key="B1", max_wait=0):
            await ask(client)
        with pytest.raises(keyrouter_openai.NoKeyAvailable) as caught, routing(key="B1", max_wait=0):
            await ask(client)
        assert caught.value.reasons["A1"] == "not the key asked for"
        with pytest.raises(ConfigError, match="no key 'nobody': it has A1"), routing(key="nobody"):
            await ask(client)
        with routing(tags={"tenant": "t1"}), routing(tags={"feature": "f"}):
            await ask(client.with_routing(tags={"who": "w"}))
        assert client.ledger.attempts()[0]["tags"] == {"tenant": "t1", "feature": "f", "who": "w"}
        sim.heal()
        sim.fail("server_error")
        with pytest.raises(openai.InternalServerError):
            await ask(client.with_routing(max_attempts=1))
        assert sim.count(status=500) == 1


async def test_the_route_of_a_call(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        client.router.prices.load(client.router.keys[0], "gpt-4o")
        sim.fail("key_revoked", times=1)
        answer = await ask(client)
        route = route_of(answer)
        assert [(a.outcome, a.status) for a in route.attempts] == [("key_refused", 401), ("ok", 200)]
        assert route.key == route.attempts[1].key
        assert route.usage is not None
        assert route.usage.completion > 0
        # A dollar for a million tokens is a micro-dollar for one: gpt-4o takes 2.5 of them, and 10.
        spent = 2.5 * route.usage.prompt + 10 * route.usage.completion
        assert route.cost_usd == route.attempts[1].cost_usd == round(spent) / 1_000_000
        assert route.attempts[0].cost_usd is None
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert route_of(stream).usage is None
        assert [chunk async for chunk in stream]
        assert route_of(stream).usage is not None
        async with client.chat.completions.stream(model="gpt-4o", messages=MESSAGES) as helper:
            assert [event async for event in helper]
            assert route_of(helper).usage is not None
        async with client.responses.stream(model="gpt-4o", input="Hello") as helper:
            assert [event async for event in helper]
            assert route_of(helper).usage is not None
        sim.fail("bad_request", times=1)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client)
        assert route_of(caught.value).attempts[0].status == 400
        with pytest.raises(ConfigError, match="no route"):
            route_of(object())


async def test_an_abandoned_stream_gives_back_its_lease(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
        assert client.router.status().in_flight == 0
        (row,) = client.ledger.attempts()
        assert row["outcome"] == "abandoned"
        assert row["usage_estimated"] == 1

        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        response = stream.response
        del stream
        await response.aclose()
        assert client.router.status().in_flight == 0


async def test_a_cancelled_call_gives_back_its_lease_and_is_on_record(sim: ProviderSimulator) -> None:
    async with routed(sim) as client:
        sim.fail("hang", times=1)
        with anyio.move_on_after(0.3):
            await ask(client)
        assert client.router.status().in_flight == 0
        (row,) = client.ledger.attempts()
        assert row["outcome"] == "abandoned"
        assert row["prompt_tokens"] > 0
        assert row["usage_estimated"] == 1


# The SDK's own stream leaves generators behind at [DONE], which trio tells of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_works_under_trio(sim: ProviderSimulator, anyio_backend: str) -> None:
    async with routed(sim) as client:
        sim.fail("key_revoked", times=1)
        assert (await ask(client)).choices[0].message.content == ECHO
        stream = await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        assert "".join([c.choices[0].delta.content or "" async for c in stream]) == ECHO


async def test_a_single_key_behaves_as_the_sdk_does(sim: ProviderSimulator) -> None:
    """It retries as often, waits as the SDK waits, and is never kept from trying."""
    secret = sim.keys["A/key-1"]
    for client in (
        RoutedOpenAI(api_key=secret, base_url=sim.url),
        RoutedOpenAI(keys=[Key(name="only", secret=secret)], base_url=sim.url),
    ):
        async with client:
            sim.reset_counts()
            sim.fail("rate_limit", times=2, wait=0.01)
            assert (await ask(client)).choices[0].message.content == ECHO
            assert sim.count() == 3
            sim.fail("key_revoked", times=3)
            for _ in range(3):
                with pytest.raises(openai.AuthenticationError):
                    await ask(client)
            assert (await ask(client)).choices[0].message.content == ECHO
            assert len(client.ledger.attempts()) == sim.count() + (7 if client.router.keys[0].name == "only" else 0)


async def test_calls_of_many_threads_share_one_sync_client(sim: ProviderSimulator) -> None:
    with routed_sync(sim) as client:

        def one() -> str | None:
            return client.chat.completions.create(model="gpt-4o", messages=MESSAGES).choices[0].message.content

        answers: list[str | None] = []

        async def run() -> None:
            answers.append(await anyio.to_thread.run_sync(one))

        async with anyio.create_task_group() as group:
            for _ in range(40):
                group.start_soon(run)
        assert answers == [ECHO] * 40
        assert client.router.status().in_flight == 0


async def test_secrets_come_from_the_vault(sim: ProviderSimulator, tmp_path: Path) -> None:
    from pydantic import SecretStr

    from keyrouter_openai.vaults.memory import MemoryVault

    vault = MemoryVault({})
    keys = [Key(name="here", base_url=sim.url), Key(name="lost", base_url=sim.url)]
    vault.set("default", "here", SecretStr(sim.keys["A/key-1"]))
    async with RoutedOpenAI(router=Router(keys, vault=vault)) as client:
        for _ in range(4):
            assert (await ask(client)).choices[0].message.content == ECHO
        assert client.router.status().key("lost").state == "invalid"
        with pytest.raises(keyrouter_openai.VaultError, match="keys add lost"), routing(key="lost"):
            await ask(RoutedOpenAI(router=Router(keys, vault=vault)))
