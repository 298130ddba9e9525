"""Files, batches, stored responses and the like follow the account that owns them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest

from keyrouter_openai import Key, Ledger, NoKeyAvailable, OwnerError, RoutedOpenAI, SyncRoutedOpenAI, route_of, routing
from keyrouter_openai.events import Event, NoKey
from keyrouter_openai.testing import ProviderSimulator
from keyrouter_openai.testing import respond as answer

from ..support import MESSAGES
from .support import Open, account, accounts_of, do, foreign_file, keys_of, owners_on_record, respond, upload

pytestmark = pytest.mark.anyio


async def test_files_are_used_in_the_account_that_has_them(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    for name in "ABC" * 2:
        file = await upload(client, name)
        for method, arguments in (
            ("files.retrieve", {"file_id": file}),
            ("files.content", {"file_id": file}),
            ("vector_stores.create", {"name": "s", "file_ids": [file]}),
            ("batches.create", {"input_file_id": file, "endpoint": "/v1/responses", "completion_window": "24h"}),
            ("fine_tuning.jobs.create", {"model": "gpt-4o-mini", "training_file": file}),
        ):
            assert account(await do(client, method, **arguments)) == name, method
        assert account(await respond(client, file)) == name
        assert account(await do(client, "files.delete", file_id=file)) == name
    assert sim.count(status=404) == 0


async def test_what_is_made_of_a_file_has_the_same_owner(open_client: Open) -> None:
    client = open_client()
    store = await do(client, "vector_stores.create", name="s", file_ids=[await upload(client, "B")])
    batch = await do(client, "vector_stores.file_batches.create", vector_store_id=store.id, file_ids=[])
    path = {"vector_store_id": store.id, "batch_id": batch.id}
    assert account(await do(client, "vector_stores.file_batches.retrieve", **path)) == "B"
    search = {"type": "file_search", "vector_store_ids": [store.id]}
    assert account(await respond(client, tools=[search])) == "B"


async def test_a_conversation_goes_on_where_it_began(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    first = await respond(client)
    begun = account(first)
    for _ in range(5):
        following = await respond(client, previous_response_id=first.id)
        assert account(following) == begun
    item = first.output[0].id
    reference = [{"type": "item_reference", "id": item}, *MESSAGES]
    assert account(await do(client, "responses.create", model="gpt-4o", input=reference)) == begun
    talk = await do(client, "conversations.create")
    assert account(await respond(client, conversation=talk.id)) == account(talk)
    assert account(await respond(client, extra_body={"conversation": {"id": talk.id}})) == account(talk)
    assert account(await do(client, "responses.input_items.list", response_id=first.id)) == begun
    assert sim.count(status=404) == sim.count(status=400) == 0


async def test_only_what_is_stored_binds(open_client: Open) -> None:
    client = open_client()
    spread = {account(await respond(client, store=False)) for _ in range(6)}
    assert spread == {"A", "B", "C"}
    loose = await respond(client.with_routing(account="B"), store=False)
    said = [item.to_dict() for item in loose.output]
    heard = {account(await do(client, "responses.create", model="gpt-4o", input=said)) for _ in range(6)}
    assert heard == {"A", "B", "C"}
    kept = await do(client, "chat.completions.create", model="gpt-4o", messages=MESSAGES, store=True)
    assert account(await do(client, "chat.completions.retrieve", completion_id=kept.id)) == account(kept)
    plain = await do(client, "chat.completions.create", model="gpt-4o", messages=MESSAGES)
    assert client.router.owners.place(plain.id) is None


async def test_ids_in_metadata_and_text_bind_nothing(open_client: Open) -> None:
    client = open_client()
    file = await upload(client, "B")
    free = {
        account(
            await do(client, "responses.create", model="gpt-4o", input=f"See {file}", metadata={"made_of_id": file})
        )
        for _ in range(6)
    }
    assert free == {"A", "B", "C"}


async def test_all_ways_to_read_an_answer_show_what_was_made(open_client: Open, tmp_path: Path) -> None:
    client = open_client()
    asked: dict[str, Any] = {"file": ("a.txt", b"hello"), "purpose": "user_data"}
    raw = await do(client, "files.with_raw_response.create", **asked)
    raw_id = json.loads(raw.content)["id"]
    if isinstance(client, SyncRoutedOpenAI):
        with client.files.with_streaming_response.create(**asked) as body:
            streamed_id = json.loads(body.read())["id"]
    else:
        async with client.files.with_streaming_response.create(**asked) as body:
            streamed_id = json.loads(await body.read())["id"]
    assert {raw_id, streamed_id} <= owners_on_record(tmp_path / "usage.db").keys()
    for id in (raw_id, streamed_id):
        assert client.router.owners.place(id) is not None
        await do(client, "files.retrieve", file_id=id)


async def test_a_fine_tuned_model_is_called_where_it_was_made(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    job = await do(client, "fine_tuning.jobs.create", model="gpt-4o-mini", training_file=await upload(client, "C"))
    while job.fine_tuned_model is None:
        job = await do(client, "fine_tuning.jobs.retrieve", fine_tuning_job_id=job.id)
    ask = partial(do, method="chat.completions.create", model=job.fine_tuned_model, messages=MESSAGES)
    for _ in range(4):
        assert account(await ask(client)) == "C"
    # Somebody who has never seen it finds out by using it.
    other = open_client(ledger=None)
    assert route_of(await ask(other)).account == "C"
    sim.reset_counts()
    assert account(await ask(other)) == "C"
    assert sim.count() == 1


async def test_a_stream_shows_what_is_stored_as_soon_as_it_begins(open_client: Open) -> None:
    client = open_client()
    place = client.router.owners.place
    for method, arguments in (
        ("chat.completions.create", {"messages": MESSAGES, "store": True}),
        ("responses.create", {"input": "Hello"}),
    ):
        stream = await do(client, method, model="gpt-4o", stream=True, **arguments)
        first = next(stream) if isinstance(client, SyncRoutedOpenAI) else await anext(stream)
        made = first.response.id if method == "responses.create" else first.id
        assert place(made) is not None
        await do(stream, "close") if not isinstance(client, SyncRoutedOpenAI) else stream.close()


async def test_client_secrets_are_not_kept(open_client: Open, tmp_path: Path) -> None:
    client = open_client()
    await upload(client)
    await do(client, "realtime.client_secrets.create")
    client.ledger.flush()
    assert not [id for id in owners_on_record(tmp_path / "usage.db") if not id.startswith("file-")]


# -- two owners


async def test_two_owners_are_refused_before_anything_is_sent(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    one, other = await upload(client, "A"), await upload(client, "B")
    sim.reset_counts()
    with pytest.raises(OwnerError) as caught:
        await respond(client, one, other)
    text = str(caught.value)
    assert f"account 'A' has {one}; account 'B' has {other}" in text
    assert "with_routing(account='A')" in text
    assert sim.count() == 0


async def test_an_owner_other_than_the_callers_wish_is_refused(open_client: Open, sim: ProviderSimulator) -> None:
    client: Any = open_client()
    file = await upload(client, "A")
    sim.reset_counts()
    wishes: list[dict[str, Any]] = [{"account": "B"}, {"key": "B1"}]
    for wish, said in zip(wishes, ("account='B'", "key='B1'"), strict=True):
        with pytest.raises(OwnerError, match=f"{file} belongs to account 'A'") as caught:
            await do(client.with_routing(**wish), "files.retrieve", file_id=file)
        assert said in str(caught.value)
        with routing(**wish), pytest.raises(OwnerError):
            await respond(client, file)
    assert sim.count() == 0
    for wish in ({"account": "A"}, {"key": "A2"}):
        found = await do(client.with_routing(**wish), "files.retrieve", file_id=file)
        assert route_of(found).key in ("A1", "A2") if "account" in wish else route_of(found).key == "A2"


async def test_an_account_that_is_called_after_a_key_is_named_by_that_key(
    open_client: Open, sim: ProviderSimulator
) -> None:
    """A provider that names no organisation: what accounts are called may change with what is learned."""
    client: Any = open_client([key for key in keys_of(sim) if key.name != "A2"])
    for name in "AB":
        sim.fail(answer(200, body={"id": f"file-{name}", "object": "file"}), account=name, path="/v1/files")
        await do(client.with_routing(key=f"{name}1"), "files.create", file=("a", b"b"), purpose="user_data")
    with pytest.raises(OwnerError) as caught:
        await respond(client, "file-A", "file-B")
    assert "Make what is used together through client.with_routing(key='A1')" in str(caught.value)
    with pytest.raises(OwnerError, match=r"with_routing\(key='A1' or key='B1' or key='C1'\)"):
        await do(client, "files.list")
    sim.heal()
    there = client.with_routing(key="A1")
    files = [(await do(there, "files.create", file=("a", b"b"), purpose="user_data")).id for _ in range(2)]
    assert route_of(await respond(client, *files)).key == "A1"
    assert len((await do(there, "files.list")).data) == 2


# -- an owner that cannot serve


async def test_an_owner_that_cannot_serve_is_named(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client(max_wait=0)
    file = await upload(client, "B")
    sim.fail("quota_exhausted", account="B")
    with pytest.raises(openai.RateLimitError):
        await respond(client, file)
    with pytest.raises(NoKeyAvailable) as caught:
        await respond(client, file)
    assert caught.value.reasons["A1"] == caught.value.reasons["C1"] == f"not of the account that owns {file}"
    assert "B1" in caught.value.reasons


async def test_other_keys_of_the_owner_take_over(open_client: Open, sim: ProviderSimulator) -> None:
    client: Any = open_client()
    file = (await do(client.with_routing(key="A1"), "files.create", file=("a", b"b"), purpose="user_data")).id
    sim.revoke("A/key-1")
    for _ in range(4):
        assert route_of(await respond(client, file)).key == "A2"


# -- who shares resources


async def test_an_owner_is_known_when_its_account_gets_another_name(open_client: Open, sim: ProviderSimulator) -> None:
    client: Any = open_client(keys_of(sim))
    file = (await do(client.with_routing(key="A1"), "files.create", file=("a", b"b"), purpose="user_data")).id
    other: Any = open_client(keys_of(sim), ledger=None)
    foreign = foreign_file(sim, "B")
    for _ in range(3):
        assert account(await respond(client, file)) == "org-A/proj_A"
        assert account(await respond(other, foreign)) == "org-B/proj_B"
    assert sim.count(path=f"/v1/files/{foreign}") <= 4


async def test_keys_of_other_projects_share_limits_but_no_files(open_client: Open, sim: ProviderSimulator) -> None:
    keys = [
        Key(name=label[0] + label[-1], secret=secret, base_url=sim.url, account="acme", project=f"proj_{label[0]}")
        for label, secret in sim.keys.items()
    ]
    client: Any = open_client(keys)
    file = (await do(client.with_routing(key="B1"), "files.create", file=("a", b"b"), purpose="user_data")).id
    other = (await do(client.with_routing(key="A2"), "files.create", file=("a", b"b"), purpose="user_data")).id
    foreign = foreign_file(sim, "C")
    for _ in range(3):
        assert route_of(await respond(client, file)).key == "B1"
        assert route_of(await respond(client, other)).key in ("A1", "A2")
        assert route_of(await respond(client, foreign)).key == "C1"
    with pytest.raises(OwnerError, match="the project of key 'B1'"):
        await respond(client, file, other)
    with pytest.raises(OwnerError, match="key='C1'"):
        await respond(client.with_routing(key="C1"), file)


async def test_a_pool_of_one_account_keeps_no_owners(sim: ProviderSimulator, tmp_path: Path) -> None:
    keys = [key for key in accounts_of(sim) if key.account == "A"]
    async with RoutedOpenAI(keys=keys, ledger=tmp_path / "usage.db") as client:
        file = await upload(client)
        await client.files.retrieve(file)
        with pytest.raises(openai.NotFoundError):
            await client.files.retrieve(foreign_file(sim, "B"))
        client.ledger.flush()
    assert owners_on_record(tmp_path / "usage.db") == {}


async def test_keys_that_were_called_by_their_place_own_nothing_after_a_restart(
    sim: ProviderSimulator, tmp_path: Path
) -> None:
    """The next program's `key-1` may be another key; an account that the provider has named is the same."""
    secrets = list(sim.keys.values())[1:]
    ledger = Ledger(tmp_path / "usage.db")
    async with RoutedOpenAI(keys=secrets, base_url=sim.url, ledger=ledger) as first:
        file = (await first.with_routing(key="key-2").files.create(file=("a", b"b"), purpose="user_data")).id
    sim.reset_counts()
    async with RoutedOpenAI(keys=secrets[::-1], base_url=sim.url, ledger=ledger) as second:
        assert account(await second.files.retrieve(file)) == "org-B/proj_B"
    ledger.close()


# -- what a call brings along


@pytest.mark.parametrize("trouble", ["revoked", "quota_exhausted"])
async def test_items_brought_whole_stay_with_their_owner_while_it_serves(
    open_client: Open, sim: ProviderSimulator, trouble: str
) -> None:
    client: Any = open_client()
    first = await respond(client)
    said = [item.model_dump(exclude_none=True) for item in first.output]
    question = {"role": "user", "content": "And then?"}
    again = partial(do, client, "responses.create", model="gpt-4o")
    for _ in range(4):
        assert account(await again(input=[*said, question])) == account(first)
    owner = account(first)
    sim.revoke(f"{owner}/key-1") if trouble == "revoked" else sim.fail(trouble, account=owner)
    if owner == "A" and trouble == "revoked":
        sim.revoke("A/key-2")
    elsewhere = await again(input=[*said, question])
    assert route_of(elsewhere).account != owner
    both = [*said, *(item.model_dump(exclude_none=True) for item in elsewhere.output), question]
    assert account(await again(input=both)) == route_of(elsewhere).account, "with the latest, and no error"
    with pytest.raises(openai.APIStatusError):  # a mere reference needs the provider to have it
        await again(input=[{"type": "item_reference", "id": first.output[0].id}, question])


@pytest.mark.parametrize("fault", ["server_error", "unavailable", "reset", "rate_limit"])
async def test_items_brought_whole_leave_an_owner_that_fails(
    open_client: Open, sim: ProviderSimulator, fault: str
) -> None:
    client: Any = open_client()
    first = await respond(client)
    owner = account(first)
    sim.fail(fault, account=owner, wait=0.1)
    said = [item.model_dump(exclude_none=True) for item in first.output]
    question = {"role": "user", "content": "And then?"}
    answer = await do(client, "responses.create", model="gpt-4o", input=[*said, question])
    assert [attempt.account == owner for attempt in route_of(answer).attempts] == [True, False]


async def test_the_want_of_a_key_is_told_only_of_a_call_that_fails_for_it(
    open_client: Open, sim: ProviderSimulator
) -> None:
    client: Any = open_client(max_wait=0)
    first = await respond(client)
    owner, said = account(first), [item.model_dump(exclude_none=True) for item in first.output]
    foreign = foreign_file(sim, owner), foreign_file(sim, "ABC".replace(owner, "")[1])
    sim.fail("quota_exhausted", account=owner)
    events: list[Event] = []
    client.router.on_event(events.append)
    again = partial(do, client, "responses.create", model="gpt-4o")
    for _ in range(2):
        assert route_of(await again(input=[*said, {"role": "user", "content": "And then?"}])).account != owner
    await respond(client, foreign[1])
    assert not [event for event in events if isinstance(event, NoKey)]
    for needs in (partial(again, previous_response_id=first.id, input="x"), partial(respond, client, foreign[0])):
        events.clear()
        with pytest.raises(NoKeyAvailable):
            await needs()
        assert len([event for event in events if isinstance(event, NoKey)]) == 1
