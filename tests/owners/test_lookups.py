"""Owners are known after a restart, and looked up where nobody has seen the resource."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest

from keyrouter_openai import NoKeyAvailable, RoutedOpenAI, Router, SyncRoutedOpenAI, route_of
from keyrouter_openai.core.model import RouteRequest
from keyrouter_openai.core.select import History
from keyrouter_openai.lease import Lease
from keyrouter_openai.owners import MOST, NOWHERE_S
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from ..ledger.support import run
from ..support import TurnedClock, make_pool
from .support import Open, account, accounts_of, do, foreign_file, owners_on_record, respond, upload

pytestmark = pytest.mark.anyio


async def test_owners_are_known_after_a_restart(open_client: Open, sim: ProviderSimulator, tmp_path: Path) -> None:
    first = open_client()
    files = {await upload(first, name): name for name in "ABC"}
    begun = await respond(first)
    # What lasts is in the file by now; an ordinary response follows within a hundredth of a second.
    assert owners_on_record(tmp_path / "usage.db").items() >= files.items()
    first.ledger.flush()
    sim.reset_counts()
    second = open_client()
    for file, name in files.items():
        assert account(await do(second, "files.retrieve", file_id=file)) == name
    assert account(await respond(second, previous_response_id=begun.id)) == account(begun)
    assert sim.count() == 4


async def test_what_two_clients_make_at_a_time_is_known_to_both(open_client: Open, sim: ProviderSimulator) -> None:
    one, other = open_client(), open_client()
    for client, another in ((one, other), (other, one)):
        file = await upload(client, "B")
        assert account(await do(another, "files.retrieve", file_id=file)) == "B"
    assert sim.count() == 4


async def test_what_nobody_has_seen_is_looked_up_once(open_client: Open, sim: ProviderSimulator) -> None:
    file = foreign_file(sim, "C")
    client = open_client()
    sim.reset_counts()
    assert account(await respond(client, file)) == "C"
    assert sim.count(path=f"/v1/files/{file}") == 3
    assert sim.count(path="/v1/responses") == 1
    sim.reset_counts()
    assert account(await respond(client, file)) == "C"
    client.ledger.flush()
    assert account(await respond(open_client(), file)) == "C"
    assert sim.count() == 2, "neither this client nor another asks again"
    rows = client.ledger.attempts(newest_first=False)
    assert [row["endpoint"] for row in rows[:4]] == ["/files/{id}"] * 3 + ["/responses"], "look-ups are on record"


async def test_a_call_that_is_a_look_up_itself_is_not_sent_twice(open_client: Open, sim: ProviderSimulator) -> None:
    client = open_client()
    for name in "ABC":
        file = foreign_file(sim, name)
        sim.reset_counts()
        found = await do(client, "files.retrieve", file_id=file)
        assert (found.id, account(found)) == (file, name)
        assert sim.count() <= 3
        assert sim.count(status=200) == 1


async def test_where_no_key_may_be_used_nothing_is_looked_up(open_client: Open, sim: ProviderSimulator) -> None:
    keys = [key.model_copy(update={"enabled": False, "secret": key.secret}) for key in accounts_of(sim)]
    with pytest.raises(NoKeyAvailable, match="disabled"):
        await do(open_client(keys), "files.delete", file_id="file-000000000000")
    assert sim.count() == 0


async def test_what_nobody_has_gets_the_providers_own_answer(sim: ProviderSimulator, tmp_path: Path) -> None:
    clock = TurnedClock()
    pool = make_pool(sim, tmp_path / "usage.db", clock)
    async with pool.client() as client:
        with pytest.raises(openai.NotFoundError, match="No such File object: file-none"):
            await client.files.retrieve("file-none")
        assert sim.count() == 3
        for asked in (1, 4):
            sim.reset_counts()
            with pytest.raises(openai.NotFoundError, match="file-none"):
                await respond(client, "file-none")
            assert sim.count() == asked
            clock.pass_(NOWHERE_S + 1)
        file = foreign_file(sim, "A")
        sim.reset_counts()
        with pytest.raises(openai.NotFoundError):
            await respond(client, "file-none", file)
        assert sim.count(path=f"/v1/files/{file}") == 0, "the call fails anyway"
    pool.ledger.close()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_those_who_ask_at_the_same_time_ask_once(open_client: Open, sim: ProviderSimulator) -> None:
    file = foreign_file(sim, "C")
    client = open_client()
    sim.reset_counts()
    served: list[str] = []

    async def ask() -> None:
        served.append(account(await respond(client, file)))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert served == ["C"] * 5
    assert sim.count(path=f"/v1/files/{file}") == 3


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_those_who_wait_go_on_when_the_one_that_asks_is_cancelled(sim: ProviderSimulator) -> None:
    file = foreign_file(sim, "C")
    sim.fail("hang", path=f"/v1/files/{file}", times=1)
    started, scope = anyio.Event(), anyio.CancelScope()
    served: list[str] = []

    async def ask(client: RoutedOpenAI) -> None:
        served.append(account(await respond(client, file)))

    async def ask_in_vain(client: RoutedOpenAI) -> None:
        with scope:
            await ask(client)

    async with (
        RoutedOpenAI(keys=accounts_of(sim), ledger=None, timeout=20.0) as client,
        anyio.create_task_group() as tasks,
    ):
        client.router.on_event(lambda _: started.set())
        tasks.start_soon(ask_in_vain, client)
        await started.wait()
        tasks.start_soon(ask, client)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
    assert served == ["C"]


async def test_an_account_that_cannot_be_asked_is_not_taken_for_one_that_has_nothing(
    open_client: Open, sim: ProviderSimulator
) -> None:
    mine, hidden = foreign_file(sim, "A"), foreign_file(sim, "B")
    client: Any = open_client(max_wait=0)
    sim.fail("server_error", account="B", path=f"/v1/files/{hidden}")
    assert account(await respond(client, mine)) == "A", "found elsewhere: it does not matter"
    with pytest.raises(openai.InternalServerError) as caught:
        await respond(client, hidden)
    assert any(f"whose {hidden} is cannot be told" in note for note in caught.value.__notes__)
    assert sim.count(path="/v1/responses") == 1
    sim.heal()
    client = open_client()
    assert account(await respond(client, hidden)) == "B"


@pytest.mark.parametrize("fault", ["key_revoked", "missing_scope", "quota_exhausted"])
async def test_an_account_that_refuses_to_say_may_have_it(
    open_client: Open, sim: ProviderSimulator, fault: str
) -> None:
    mine, hidden, nobodys = foreign_file(sim, "C"), foreign_file(sim, "B"), "file-none"
    client: Any = open_client(max_wait=0)
    sim.fail(fault, account="B")
    for _ in range(3):  # from the second refusal on the key is not used
        for file in (hidden, nobodys):
            with pytest.raises(openai.APIStatusError) as caught:
                await respond(client, file)
            notes = [note for note in caught.value.__notes__ if "cannot be told" in note]
            assert notes == [f"whose {file} is cannot be told: account 'B' could not be asked"]
    assert account(await respond(client, mine)) == "C", "found elsewhere: it does not matter"
    assert sim.count(path="/v1/responses") == 1
    sim.heal()
    assert account(await respond(open_client(), hidden)) == "B"


async def test_one_account_that_cannot_say_keeps_none_from_being_asked_again(
    open_client: Open, sim: ProviderSimulator
) -> None:
    file = foreign_file(sim, "C")
    client: Any = open_client(max_attempts=1)
    sim.fail("missing_scope", account="B", path=f"/v1/files/{file}")
    sim.fail("server_error", account="C", path=f"/v1/files/{file}", times=1)
    assert account(await respond(client, file)) == "C"
    hidden = foreign_file(sim, "C")
    for name in "BC":
        sim.fail("server_error", account=name, path=f"/v1/files/{hidden}")
    with pytest.raises(openai.InternalServerError) as caught:
        await respond(client, hidden)
    notes = [note for note in caught.value.__notes__ if "cannot be told" in note]
    assert notes == [f"whose {hidden} is cannot be told: account {name!r} could not be asked" for name in "BC"]


async def test_another_key_of_the_project_is_asked_in_place_of_one_that_is_refused(
    open_client: Open, sim: ProviderSimulator
) -> None:
    keys = [
        key.model_copy(update={"account": "acme", "project": f"proj_{key.name[0]}", "secret": key.secret})
        for key in accounts_of(sim)
    ]
    file, other = foreign_file(sim, "A"), foreign_file(sim, "A")
    sim.revoke("A/key-1")
    client = open_client(keys)
    for id in (file, other, file):
        assert route_of(await respond(client, id)).key == "A2"


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_those_who_wait_for_a_search_that_fails_fail_with_it(sim: ProviderSimulator) -> None:
    hidden = foreign_file(sim, "B")
    sim.fail("server_error", account="B", path=f"/v1/files/{hidden}")
    sim.reset_counts()
    notes: list[str] = []

    async def ask(client: RoutedOpenAI) -> None:
        with pytest.raises(openai.InternalServerError) as caught:
            await respond(client, hidden)
        notes.extend(note for note in caught.value.__notes__ if "cannot be told" in note)

    async with (
        RoutedOpenAI(keys=accounts_of(sim), ledger=None, timeout=20.0, max_attempts=1) as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(5):
            tasks.start_soon(ask, client)
    assert len(notes) == 5
    assert sim.count(path=f"/v1/files/{hidden}") == 4, "each account once, and the one that could not tell once more"


def test_nobody_waits_for_a_search_of_an_event_loop_that_stands_still(sim: ProviderSimulator) -> None:
    file = foreign_file(sim, "B")
    client = RoutedOpenAI(keys=accounts_of(sim), ledger=None, timeout=20.0)
    loop, began = asyncio.new_event_loop(), asyncio.Event()
    client.router.on_event(lambda _: began.set())
    standing = loop.create_task(client.files.content(file))
    loop.run_until_complete(began.wait())

    async def another() -> str:
        async with RoutedOpenAI(router=client.router, timeout=20.0) as own:
            with anyio.move_on_after(10):
                return account(await own.files.retrieve(file))
        return "nobody"

    served = asyncio.run(another())
    standing.cancel()
    loop.run_until_complete(asyncio.wait([standing]))
    loop.run_until_complete(client.close())
    loop.close()
    assert served == "B"


async def test_look_ups_bring_the_headers_of_the_call(open_client: Open, sim: ProviderSimulator) -> None:
    seen: list[Any] = []
    client: Any = open_client(ledger=None)
    hook = seen.append if isinstance(client, SyncRoutedOpenAI) else partial(note, seen)
    client._client.event_hooks["request"].append(hook)  # pyright: ignore[reportPrivateUsage]
    extra = {"X-Team": "blue", "Idempotency-Key": "once", "Content-Type": "application/json; charset=utf-8"}
    for name in "ABC":
        await respond(client, foreign_file(sim, name), extra_headers=extra)
    for method in ("files.delete", "files.with_raw_response.delete"):
        await do(client, method, file_id=foreign_file(sim, "C"), extra_headers={**extra, "Range": "bytes=0-1"})
    looks = [request for request in seen if request.url.path.removeprefix("/v1/files/").count("/") == 0]
    looks = [request.headers for request in looks if request.method == "GET"]
    assert len(looks) >= 9
    assert {headers["x-team"] for headers in looks} == {"blue"}
    assert {headers["accept"] for headers in looks} == {"application/json"}
    unwanted = {"idempotency-key", "content-type", "range", "x-stainless-raw-response"}
    assert [headers.keys() & unwanted for headers in looks] == [set()] * len(looks)


async def note(seen: list[Any], request: Any) -> None:
    seen.append(request)


def test_look_ups_bring_the_headers_that_the_provider_wants(sim: ProviderSimulator) -> None:
    seen: list[Any] = []
    http_client = openai.DefaultHttpxClient(event_hooks={"request": [seen.append]})
    with openai.OpenAI(api_key=sim.keys["C/key-1"], base_url=sim.url) as plain:
        store = plain.vector_stores.create(name="s").id
    with SyncRoutedOpenAI(keys=accounts_of(sim), ledger=None, http_client=http_client) as client:
        client.vector_stores.files.list(store)
    assert [request.method for request in seen] == ["GET"] * len(seen) and len(seen) > 1
    assert {request.headers.get("openai-beta") for request in seen} == {"assistants=v2"}


def test_memory_is_bounded_and_what_is_used_stays(sim: ProviderSimulator) -> None:
    router = Router(accounts_of(sim))
    lease = router.acquire(RouteRequest("r", "/files", account="B"), History(), number=1, max_wait=0)
    assert isinstance(lease, Lease)
    owners = router.owners
    owners.learn(["file-used", "file-unused"], lease.state)
    for number in range(3 * MOST):
        owners.learn([f"resp_{number}"], lease.state)
        if number % 1000 == 0:
            assert owners.place("file-used") == ("B", None)
    kept = [number for number in range(3 * MOST) if owners.place(f"resp_{number}") is not None]
    assert MOST <= len(kept) <= 2 * MOST
    assert kept == list(range(kept[0], 3 * MOST)), "the latest"
    assert owners.place("file-unused") is None
    ids, known = list[str](), list[str]()
    for _ in range(6):  # all are used, again and again
        ids += (f"file-{len(ids) + number}" for number in range(MOST - 1))
        owners.learn(ids[1 - MOST :], lease.state)
        known = [id for id in ids if owners.place(id) is not None]
    assert len(known) <= 4 * MOST
    router.release(lease)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_child_of_a_fork_does_not_wait_for_what_its_parent_looks_up(tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from threading import Event, Thread
        from keyrouter_openai import Key, SyncRoutedOpenAI, route_of
        url, file, *secrets = sys.argv[1:]
        keys = [Key(name=name, account=name, secret=secret, base_url=url) for name, secret in zip("ABC", secrets)]
        client = SyncRoutedOpenAI(keys=keys, ledger=None)
        client.models.list()  # the SDK takes locks when it is first used, which a child would find taken
        asking = Event()
        client.router.on_event(lambda event: asking.set())
        Thread(target=client.files.retrieve, args=(file,), daemon=True).start()
        asking.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            with SyncRoutedOpenAI(router=client.router, timeout=0.5, max_retries=0) as own:
                print(route_of(own.files.retrieve(file)).account, flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """
    with ProviderSimulator([SimAccount("A"), SimAccount("B"), SimAccount("C")]) as sim:
        file = foreign_file(sim, "B")
        sim.fail("hang", path=f"/v1/files/{file}", account="A")
        assert run(script, sim.url, file, *sim.keys.values()).stdout == "B\n"
