"""What is not the pool's to serve is left as the SDK has it: no key of the pool is sent, and nothing is recorded."""

from __future__ import annotations

import base64
import hashlib
import hmac
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, Omit, OpenAI
from openai.auth import WorkloadIdentityAuth
from openai.providers import bedrock

from keyrouter_openai import RoutedOpenAI, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from keyrouter_openai.testing.faults import respond

from .support import ECHO, MESSAGES

pytestmark = pytest.mark.anyio

MINE = "mine/key-1"
"""The caller's own key, which is not in the pool."""
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret of the webhook").decode()
EVENT = json.dumps({"id": "evt_1", "object": "event", "type": "batch.completed", "created_at": 1, "data": {"id": "b"}})

Make = Callable[..., Any]


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("pool", keys=2), SimAccount("mine")]) as running:
        yield running


@pytest.fixture(params=[RoutedOpenAI, SyncRoutedOpenAI])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def new(kind: Any, sim: ProviderSimulator) -> AsyncIterator[Make]:
    """Makes routed clients of either kind, and closes them."""
    made: list[Any] = []

    def make(**arguments: Any) -> Any:
        made.append(kind(**{"base_url": sim.url, "max_retries": 0, **arguments}))
        return made[-1]

    yield make
    for client in made:
        await settled(client.close())


@pytest.fixture
def routed(new: Make, sim: ProviderSimulator) -> Make:
    """Makes clients that route over the pool."""
    return partial(new, keys=[secret for label, secret in sim.keys.items() if label != MINE])


async def settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def ask(client: Any, **arguments: Any) -> str:
    answer = await settled(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **arguments))
    return answer.choices[0].message.content


def sent_with(sim: ProviderSimulator) -> list[str | None]:
    return [call.key for call in sim.calls]


# -- credentials of the caller's own


async def test_an_authorization_in_the_default_headers(sim: ProviderSimulator, routed: Make) -> None:
    client = routed(default_headers={"authorization": f"Bearer {sim.keys[MINE]}"})

    assert await ask(client) == ECHO
    assert await ask(client.with_options(max_retries=1)) == ECHO
    assert sent_with(sim) == [MINE, MINE]
    assert client.ledger.attempts() == []


async def test_an_authorization_that_is_left_out(sim: ProviderSimulator, routed: Make) -> None:
    client = routed()

    with pytest.raises(openai.AuthenticationError):
        await ask(client, extra_headers={"Authorization": Omit()})
    assert [call.authorized for call in sim.calls] == [False]
    assert client.ledger.attempts() == []


async def test_a_callable_api_key_is_asked_each_time(sim: ProviderSimulator, new: Make, kind: Any) -> None:
    asked: list[str] = []

    def secret() -> str:
        asked.append(MINE)
        return sim.keys[MINE]

    async def async_secret() -> str:
        return secret()

    client = new(api_key=async_secret if kind is RoutedOpenAI else secret)
    assert [await ask(client), await ask(client)] == [ECHO, ECHO]
    assert (asked, sent_with(sim)) == ([MINE, MINE], [MINE, MINE])
    assert [row["outcome"] for row in client.ledger.attempts()] == ["ok", "ok"]


# -- admin routes


async def test_an_admin_route_takes_the_admin_key(sim: ProviderSimulator, routed: Make) -> None:
    organization, admin_key = next(iter(sim.admin_keys.items()))
    client = routed(admin_api_key=admin_key)

    await settled(client.admin.organization.projects.list())
    assert sent_with(sim) == [f"{organization}/admin-key"]
    assert client.ledger.attempts() == []


async def test_an_admin_route_without_an_admin_key_is_refused_as_by_the_sdk(
    sim: ProviderSimulator, routed: Make
) -> None:
    with pytest.raises(TypeError) as theirs, OpenAI(api_key="sk-a", base_url=sim.url) as plain:
        plain.admin.organization.projects.list()
    with pytest.raises(TypeError) as ours:
        await settled(routed().admin.organization.projects.list())

    assert str(ours.value) == str(theirs.value)
    assert sim.calls == []


# -- other ways to authenticate


async def test_a_workload_identity_exchanges_its_own_token(
    sim: ProviderSimulator, new: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client has no argument for the address where tokens are exchanged, which is OpenAI's own.
    exchange: Any = WorkloadIdentityAuth.__init__
    monkeypatch.setitem(exchange.__kwdefaults__, "token_exchange_url", f"{sim.url}/oauth/token")
    token = {"access_token": sim.keys[MINE], "expires_in": 3600}
    sim.fail(respond(200, body=token), path="/v1/oauth/token")
    identity = {
        "identity_provider_id": "idp_1",
        "service_account_id": "sa_1",
        "provider": {"token_type": "jwt", "get_token": lambda: "a token of the platform"},
    }
    client = new(workload_identity=identity)

    assert [await ask(client), await ask(client.with_options(max_retries=0))] == [ECHO, ECHO]
    exchanges = [json.loads(call.body) for call in sim.calls if call.path == "/v1/oauth/token"]
    assert [exchange["subject_token"] for exchange in exchanges] == ["a token of the platform"] * 2
    assert sent_with(sim) == [None, MINE, None, MINE]
    assert client.ledger.attempts() == []


async def test_a_provider_runtime_authenticates_its_own_calls(sim: ProviderSimulator, new: Make) -> None:
    client = new(provider=bedrock(region="us-east-1", base_url=sim.url, api_key=sim.keys[MINE]), base_url=None)

    answer = await settled(client.responses.create(model="gpt-4o", input=ECHO))
    assert answer.output_text == ECHO
    assert sent_with(sim) == [MINE]
    assert client.ledger.attempts() == []


# -- webhooks


def signed(payload: str, secret: bytes = b"a secret of the webhook") -> dict[str, str]:
    """The headers of a webhook, signed as https://github.com/standard-webhooks/standard-webhooks has it."""
    now = str(int(time.time()))
    signature = hmac.new(secret, f"wh_1.{now}.{payload}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": "wh_1",
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }


async def test_webhooks_are_checked_with_the_clients_own_secret(sim: ProviderSimulator, routed: Make) -> None:
    for client in (routed(webhook_secret=WEBHOOK_SECRET), routed().with_options(webhook_secret=WEBHOOK_SECRET)):
        assert client.webhooks.unwrap(EVENT, signed(EVENT)).data.id == "b"
        client.with_options(max_retries=1).webhooks.verify_signature(EVENT, signed(EVENT))
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(EVENT, signed(EVENT, b"another"))
    with pytest.raises(ValueError, match="webhook secret"):
        routed().webhooks.unwrap(EVENT, signed(EVENT))
    assert sim.calls == []


# -- what belongs to others


def test_other_clients_are_untouched_by_the_import(sim: ProviderSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for theirs in (OpenAI, AsyncOpenAI, AzureOpenAI, openai.AsyncAzureOpenAI):
        modules = {kind.__module__.partition(".")[0] for kind in theirs.__mro__}
        modules |= {value.__module__.partition(".")[0] for value in vars(theirs).values() if inspect.isfunction(value)}
        assert "keyrouter_openai" not in modules

    endpoint = sim.url.removesuffix("/v1")
    with (
        AzureOpenAI(azure_endpoint=endpoint, api_version="2024-10-21", api_key="key", max_retries=0) as azure,
        pytest.raises(openai.AuthenticationError),  # it sends its key as Azure wants it, which the simulator is not
    ):
        azure.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert [call.authorized for call in sim.calls] == [False]

    for name, value in {"_client": None, "api_key": sim.keys[MINE], "base_url": f"{sim.url}/"}.items():
        monkeypatch.setattr(openai, name, value)
    assert openai.chat.completions.create(model="gpt-4o", messages=MESSAGES).choices[0].message.content == ECHO
    assert sim.calls[-1].key == MINE
    module_client: Any = vars(openai)["_client"]
    module_client.close()
