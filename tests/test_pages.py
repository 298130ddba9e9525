"""Lists of what an account keeps, in a pool of several accounts; on the async and on the sync client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import anyio.to_thread
import openai
import pytest
from openai.pagination import AsyncCursorPage, SyncCursorPage
from openai.types import FileObject

from keyrouter_openai import ConfigError, Key, OwnerError, RoutedOpenAI, SyncRoutedOpenAI, route_of, routing
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import name_of

NAMES = {account: [f"{account}{number}" for number in range(3)] for account in "ABC"}
ALL = [name for account in "ABC" for name in NAMES[account]]


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderSimulator]:
    """Three accounts, of which the first has two keys; each with three files."""
    with (
        ProviderSimulator([SimAccount("A", keys=2), SimAccount("B"), SimAccount("C")]) as simulator,
        openai.OpenAI(base_url=simulator.url, api_key="x") as plain,
    ):
        for account, names in NAMES.items():
            files = plain.with_options(api_key=simulator.keys[f"{account}/key-1"]).files
            for name in names:
                files.create(file=(name, b"x"), purpose="batch")
        yield simulator


@pytest.fixture
def sim(provider: ProviderSimulator) -> ProviderSimulator:
    """The provider as if nothing had been asked of it."""
    provider.restore("B/key-1")
    provider.reset_counts()
    return provider


@pytest.fixture(params=["async", "sync"])
def door(request: pytest.FixtureRequest) -> Any:
    """The class of the client."""
    return RoutedOpenAI if request.param == "async" else SyncRoutedOpenAI


def keys_of(sim: ProviderSimulator, *, declared: bool = True) -> list[Key]:
    return [
        Key(
            name=name_of(label),
            secret=secret,
            base_url=sim.url,
            account=label.partition("/")[0] if declared else None,
        )
        for label, secret in sim.keys.items()
    ]


def make(door: Any, keys: list[Key]) -> Any:
    return door(keys=keys, ledger=None, max_retries=0)


@pytest.fixture
async def client(door: Any, sim: ProviderSimulator) -> AsyncIterator[Any]:
    """A client over the keys of all three accounts."""
    made = make(door, keys_of(sim))
    yield made
    await call(made.close)


async def names_of(page: Any) -> list[str]:
    """The names of the files on this page and all that follow."""
    if not hasattr(page, "__aiter__"):
        return await anyio.to_thread.run_sync(lambda: [file.filename for file in page])
    return [file.filename async for file in page]


async def call(method: Any, *args: Any, **arguments: Any) -> Any:
    """What a method of either client returns."""
    result = await anyio.to_thread.run_sync(partial(method, *args, **arguments))
    return await result if hasattr(result, "__await__") else result


async def test_a_walk_shows_one_account_after_another(client: Any, sim: ProviderSimulator) -> None:
    assert await names_of(await call(client.with_routing(account="*").files.list, limit=2, order="asc")) == ALL
    assert [made.account for made in sim.calls] == ["A", "A", "B", "B", "C", "C"]


async def test_a_list_of_nobody_in_particular_is_not_sent(client: Any, sim: ProviderSimulator) -> None:
    for listing in (client.files, client.batches, client.vector_stores, client.fine_tuning.jobs, client.containers):
        with pytest.raises(OwnerError, match=r"account='\*'") as error:
            await call(listing.list)
        assert "client.with_routing(account='A' or account='B' or account='C')" in str(error.value)
    with pytest.raises(OwnerError):
        await call(client.chat.completions.list)
    with pytest.raises(OwnerError):
        await call(client.evals.list)
    assert sim.calls == []


async def test_a_list_that_the_sdk_does_not_know_yet(client: Any, sim: ProviderSimulator) -> None:
    page_class: Any = AsyncCursorPage if isinstance(client, RoutedOpenAI) else SyncCursorPage
    with pytest.raises(OwnerError, match="/widgets lists what one account has"):
        await call(client.get, "/widgets", cast_to=page_class[FileObject])
    page = await call(client.with_routing(account="C").get, "/files", cast_to=page_class[FileObject])
    assert len(page.data) == 3
    assert [made.account for made in sim.calls] == ["C"]
    with pytest.raises(openai.NotFoundError):  # what belongs to something is no list of an account
        await call(client.get, "/widgets/parts/mine/pins", cast_to=page_class[FileObject])


@pytest.mark.parametrize("named", [{"account": "B"}, {"key": "B1"}])
@pytest.mark.parametrize("by", ["client", "block"])
async def test_one_account_is_listed_to_its_end(client: Any, sim: ProviderSimulator, named: Any, by: str) -> None:
    named_client = client.with_routing(**named) if by == "client" else client
    with routing(**named) if by == "block" else nullcontext():
        page = await call(named_client.files.list, limit=2, order="asc")
    assert await names_of(page) == NAMES["B"]
    assert {made.account for made in sim.calls} == {"B"}


async def test_pages_one_by_one(client: Any, sim: ProviderSimulator) -> None:
    page = first = await call(client.with_routing(account="*").files.list, limit=3)
    assert issubclass(type(page), (SyncCursorPage, AsyncCursorPage))
    seen: list[str] = []
    while True:
        account = route_of(page).account
        seen.append(account)
        assert {file.filename[0] for file in page.data} == {account}
        if not page.has_next_page():
            break
        page = await call(page.get_next_page)
    assert seen == ["A", "B", "C"]
    assert (await call(first.get_next_page)).data[0].filename == "B2"


async def test_raw_and_streaming_responses(client: Any, sim: ProviderSimulator) -> None:
    raw = await call(client.with_routing(account="*").files.with_raw_response.list, order="asc")
    assert raw.http_response.headers["openai-project"] == "proj_A"
    assert await names_of(raw.parse()) == ALL


async def test_a_streaming_response_of_the_async_client(sim: ProviderSimulator) -> None:
    async with (
        make(RoutedOpenAI, keys_of(sim)).with_routing(account="*") as client,
        client.files.with_streaming_response.list(order="asc") as response,
    ):
        page = await response.parse()
        assert [len(each.data) async for each in page.iter_pages()] == [3, 3, 3]


async def test_an_account_that_cannot_answer_is_not_left_out(client: Any, sim: ProviderSimulator) -> None:
    page = await call(client.with_routing(account="*").files.list)
    sim.revoke("B/key-1")
    with pytest.raises(openai.AuthenticationError):
        await call(page.get_next_page)
    assert [made.account for made in sim.calls] == ["A", "B"]
    assert page.has_next_page()


async def test_two_keys_that_turn_out_to_share_an_account_list_it_once(door: Any, sim: ProviderSimulator) -> None:
    client = make(door, keys_of(sim, declared=False))
    page = await call(client.with_routing(account="*").files.list, limit=2, order="asc")
    assert await names_of(page) == ALL
    await call(client.close)


async def test_what_has_an_owner_goes_to_its_owner(client: Any, sim: ProviderSimulator) -> None:
    store = await call(client.with_routing(account="C").vector_stores.create)
    assert (await call(client.vector_stores.files.list, store.id)).data == []
    assert sim.calls[-1].account == "C"
    assert (await call(client.models.list)).data
    with pytest.raises(ConfigError, match=r"files\.list"):
        await call(client.with_routing(account="*").vector_stores.files.list, store.id)


@pytest.mark.parametrize("named", [{"account": "*"}, {"account": "*", "key": "A1"}])
async def test_all_accounts_are_for_lists_alone(client: Any, sim: ProviderSimulator, named: Any) -> None:
    client = client.with_routing(**named)
    with pytest.raises(ConfigError, match=r"account='\*' walks the lists"):
        await call(client.responses.create, model="m", input="Hello")
    if "key" in named:
        with pytest.raises(ConfigError):
            await call(client.files.list)
    assert sim.calls == []


@pytest.mark.parametrize("account", [None, "*"])
async def test_nothing_changes_where_there_is_one_account(door: Any, account: str | None) -> None:
    with ProviderSimulator([SimAccount("A", keys=2)]) as sim:
        client = make(door, keys_of(sim))
        await call(client.files.create, file=("a", b"x"), purpose="batch")
        assert await names_of(await call(client.with_routing(account=account).files.list)) == ["a"]
        await call(client.close)


async def test_keys_of_an_account_that_name_different_projects(door: Any, sim: ProviderSimulator) -> None:
    keys = [key.model_copy(update={"account": "team", "project": f"proj_{key.account}"}) for key in keys_of(sim)[1:3]]
    client = make(door, keys)
    with pytest.raises(OwnerError, match="with_routing\\(key='A2' or key='B1'\\)"):
        await call(client.with_routing(account="team").files.list)
    assert len((await call(client.with_routing(key="B1").files.list)).data) == 3
    page = await call(client.with_routing(account="*").files.list, order="asc")
    assert await names_of(page) == NAMES["A"] + NAMES["B"]
    await call(client.close)
