"""What a project keeps, through the SDK, which checks the form of all answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from keyrouter_openai._sdk import httpx2
from keyrouter_openai.testing import ProviderSimulator

TOLD = "The quick brown fox"
CRITERIA: Any = [{"type": "string_check", "name": "same", "input": "a", "reference": "a", "operation": "eq"}]
CONFIG: Any = {"type": "custom", "item_schema": {"type": "object"}}


@pytest.fixture
def client(sim: ProviderSimulator, http: httpx2.Client) -> openai.OpenAI:
    """A client of the first project."""
    return strict(sim, http, "a/key-1")


@pytest.fixture
def colleague(sim: ProviderSimulator, http: httpx2.Client) -> openai.OpenAI:
    """Another key of the same project."""
    return strict(sim, http, "a/key-2")


@pytest.fixture
def stranger(sim: ProviderSimulator, http: httpx2.Client) -> openai.OpenAI:
    """A key of another project."""
    return strict(sim, http, "b/key-1")


def strict(sim: ProviderSimulator, http: httpx2.Client, key: str) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=sim.url,
        api_key=sim.keys[key],
        max_retries=0,
        http_client=http,
        _strict_response_validation=True,
    )


def new_file(client: openai.OpenAI, content: bytes = b'{"custom_id": "1"}\n{"custom_id": "2"}\n') -> str:
    return client.files.create(file=("input.jsonl", content), purpose="batch").id


def fine_tune(client: openai.OpenAI) -> str:
    """The name of a model that was fine-tuned until it was done."""
    job = client.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=new_file(client))
    assert [client.fine_tuning.jobs.retrieve(job.id).status for _ in range(3)] == ["running", "succeeded", "succeeded"]
    model = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert model
    return model


Make = Callable[[openai.OpenAI], str]
Use = Callable[[openai.OpenAI, str], Any]

KINDS: dict[str, tuple[Make, Use]] = {
    "file": (new_file, lambda c, id: c.files.retrieve(id)),
    "batch": (
        lambda c: c.batches.create(completion_window="24h", endpoint="/v1/responses", input_file_id=new_file(c)).id,
        lambda c, id: c.batches.retrieve(id),
    ),
    "vector store": (lambda c: c.vector_stores.create().id, lambda c, id: c.vector_stores.retrieve(id)),
    "response": (
        lambda c: c.responses.create(model="m", input=TOLD).id,
        lambda c, id: c.responses.retrieve(id),
    ),
    "chat completion": (
        lambda c: c.chat.completions.create(model="m", messages=[{"role": "user", "content": TOLD}], store=True).id,
        lambda c, id: c.chat.completions.retrieve(id),
    ),
    "conversation": (lambda c: c.conversations.create().id, lambda c, id: c.conversations.retrieve(id)),
    "container": (lambda c: c.containers.create(name="box").id, lambda c, id: c.containers.retrieve(id)),
    "fine-tuning job": (
        lambda c: c.fine_tuning.jobs.create(model="m", training_file=new_file(c)).id,
        lambda c, id: c.fine_tuning.jobs.retrieve(id),
    ),
    "eval": (
        lambda c: c.evals.create(data_source_config=CONFIG, testing_criteria=CRITERIA).id,
        lambda c, id: c.evals.retrieve(id),
    ),
    "fine-tuned model": (fine_tune, lambda c, id: c.models.retrieve(id)),
}
"""How one of each kind is made, and looked at."""


@pytest.mark.parametrize("kind", KINDS)
def test_all_keys_of_the_project_know_it_and_no_others(
    kind: str, client: openai.OpenAI, colleague: openai.OpenAI, stranger: openai.OpenAI
) -> None:
    make, look = KINDS[kind]
    id = make(client)
    assert look(client, id).id == look(colleague, id).id == id
    with pytest.raises(openai.NotFoundError) as error:
        look(stranger, id)
    assert id in str(error.value)


USES: list[tuple[str, Use]] = [
    ("file", lambda c, id: c.batches.create(
        completion_window="24h", endpoint="/v1/responses", input_file_id=id)),
    ("file", lambda c, id: c.vector_stores.create(file_ids=[id])),
    ("file", lambda c, id: c.containers.create(name="box", file_ids=[id])),
    ("file", lambda c, id: c.fine_tuning.jobs.create(model="m", training_file=id)),
    ("file", lambda c, id: c.responses.create(
        model="m", input=[{"role": "user", "content": [{"type": "input_file", "file_id": id}]}])),
    ("file", lambda c, id: c.chat.completions.create(
        model="m", messages=[{"role": "user", "content": [{"type": "file", "file": {"file_id": id}}]}])),
    ("vector store", lambda c, id: c.responses.create(
        model="m", input=TOLD, tools=[{"type": "file_search", "vector_store_ids": [id]}])),
    ("container", lambda c, id: c.responses.create(
        model="m", input=TOLD, tools=[{"type": "code_interpreter", "container": id}])),
    ("conversation", lambda c, id: c.responses.create(model="m", input=TOLD, conversation=id)),
    ("conversation", lambda c, id: c.responses.create(model="m", input=TOLD, conversation={"id": id})),
    ("response", lambda c, id: c.responses.create(model="m", input=TOLD, previous_response_id=id)),
    ("fine-tuned model", lambda c, id: c.responses.create(model=id, input=TOLD)),
]  # fmt: skip
"""Calls that name a thing of some kind in their body."""


@pytest.mark.parametrize(("name", "call"), USES)
def test_what_a_call_names_must_be_the_projects(
    name: str, call: Use, client: openai.OpenAI, stranger: openai.OpenAI
) -> None:
    id = KINDS[name][0](client)
    call(client, id)
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)) as error:
        call(stranger, id)
    assert id in str(error.value)


def test_an_item_of_another_project(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    said = client.responses.create(model="m", input=TOLD).output[0].id
    assert said
    again: Any = [{"type": "item_reference", "id": said}]
    client.responses.create(model="m", input=again)
    with pytest.raises(openai.NotFoundError, match=said):
        stranger.responses.create(model="m", input=again)
    not_kept = client.responses.create(model="m", input=TOLD, store=False).output[0].id
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="m", input=[{"type": "item_reference", "id": not_kept or ""}])


def test_the_error_of_a_previous_response_is_the_providers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client.responses.create(model="m", input=TOLD, previous_response_id="resp_1")
    assert (error.value.code, error.value.param) == ("previous_response_not_found", "previous_response_id")


def test_an_upload_becomes_a_file(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    upload = client.uploads.create(bytes=6, filename="a.txt", mime_type="text/plain", purpose="assistants")
    parts = [client.uploads.parts.create(upload.id, data=data).id for data in (b"abc", b"def")]
    with pytest.raises(openai.NotFoundError):
        stranger.uploads.complete(upload.id, part_ids=parts)
    with pytest.raises(openai.NotFoundError, match="part_0"):
        client.uploads.complete(upload.id, part_ids=["part_0"])
    done = client.uploads.complete(upload.id, part_ids=parts)
    assert done.file
    assert client.files.content(done.file.id).content == b"abcdef"
    with pytest.raises(openai.BadRequestError, match="completed"):
        client.uploads.cancel(upload.id)


def test_a_batch_goes_on_by_itself(client: openai.OpenAI) -> None:
    made = client.batches.create(completion_window="24h", endpoint="/v1/responses", input_file_id=new_file(client))
    assert (made.status, made.output_file_id) == ("validating", None)
    assert client.batches.retrieve(made.id).status == "in_progress"
    done = client.batches.retrieve(made.id)
    assert done.status == "completed"
    assert done.output_file_id
    assert client.files.content(done.output_file_id).content.count(b'"custom_id"') == 2
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(made.id)


def test_vector_stores_have_files(client: openai.OpenAI) -> None:
    store = client.vector_stores.create(name="one", file_ids=[new_file(client)])
    assert client.vector_stores.update(store.id, name="two").name == "two"
    added = client.vector_stores.files.create_and_poll(new_file(client, TOLD.encode()), vector_store_id=store.id)
    assert added.status == "completed"
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, files=[{"file_id": new_file(client)}, {"file_id": new_file(client)}]
    )
    assert (batch.status, batch.file_counts.completed) == ("completed", 2)
    assert len(client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id).data) == 2
    assert len(client.vector_stores.files.list(store.id).data) == 4
    assert client.vector_stores.files.retrieve(added.id, vector_store_id=store.id).id == added.id
    assert client.vector_stores.files.content(added.id, vector_store_id=store.id).data[0].text == TOLD
    assert len(client.vector_stores.search(store.id, query="fox").data) == 4
    assert client.vector_stores.files.delete(added.id, vector_store_id=store.id).deleted
    assert client.vector_stores.delete(store.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.vector_stores.files.list(store.id)


def test_responses_are_kept_unless_told_otherwise(client: openai.OpenAI) -> None:
    made = client.responses.create(model="m", input=TOLD)
    assert client.responses.retrieve(made.id).output_text == TOLD
    (item,) = client.responses.input_items.list(made.id).data
    assert item.type == "message"
    with client.responses.stream(model="m", input=TOLD) as stream:
        streamed = stream.get_final_response()
    assert client.responses.retrieve(streamed.id).output_text == TOLD
    client.responses.delete(made.id)
    not_kept = client.responses.create(model="m", input=TOLD, store=False)
    for gone in (made, not_kept):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone.id)


def test_a_background_response_is_made_while_nobody_waits(client: openai.OpenAI) -> None:
    made = client.responses.create(model="m", input=TOLD, background=True)
    assert (made.status, made.output, made.background) == ("queued", [], True)
    assert client.responses.retrieve(made.id).status == "in_progress"
    done = client.responses.retrieve(made.id)
    assert (done.status, done.output_text) == ("completed", TOLD)
    other = client.responses.create(model="m", input=TOLD, background=True)
    assert client.responses.cancel(other.id).status == "cancelled"
    assert client.responses.retrieve(other.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        client.responses.cancel(client.responses.create(model="m", input=TOLD).id)


def test_a_background_stream_is_taken_up_again(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="m", input=TOLD, background=True, stream=True))
    assert events[0].type == "response.created"
    assert events[0].response.background
    rest = list(client.responses.retrieve(events[0].response.id, stream=True, starting_after=3))
    assert [event.sequence_number for event in rest] == list(range(4, len(events)))
    assert rest[-1].type == "response.completed"


def test_conversations_hold_what_was_said(client: openai.OpenAI) -> None:
    talk = client.conversations.create(items=[{"role": "user", "content": "Hello"}], metadata={"topic": "a"})
    assert client.conversations.update(talk.id, metadata={"topic": "b"}).metadata == {"topic": "b"}
    client.conversations.items.create(talk.id, items=[{"role": "user", "content": "Are you there?"}])
    answer = client.responses.create(model="m", input=TOLD, conversation=talk.id)
    assert answer.conversation
    assert answer.conversation.id == talk.id
    items = list(client.conversations.items.list(talk.id, order="asc", limit=3))
    assert [item.role for item in items if item.type == "message"] == ["user", "user", "user", "assistant"]
    first = items[0].id
    assert first
    assert client.conversations.items.retrieve(first, conversation_id=talk.id) == items[0]
    assert client.conversations.items.delete(first, conversation_id=talk.id).id == talk.id
    assert client.conversations.delete(talk.id).deleted


def test_chat_completions_are_kept_only_if_asked(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": TOLD}]
    client.chat.completions.create(model="m", messages=messages)
    made = client.chat.completions.create(model="m", messages=messages, store=True)
    chunks = list(client.chat.completions.create(model="m", messages=messages, store=True, stream=True))
    assert [kept.id for kept in client.chat.completions.list(order="asc")] == [made.id, chunks[0].id]
    assert client.chat.completions.retrieve(chunks[0].id).choices[0].message.content == TOLD
    assert client.chat.completions.update(made.id, metadata={"a": "b"}).metadata == {"a": "b"}
    with client.chat.completions.messages.with_streaming_response.list(made.id) as listed:
        assert TOLD.encode() in listed.read()
    assert stranger.chat.completions.list().data == []
    assert client.chat.completions.delete(made.id).deleted


def test_containers_hold_files(client: openai.OpenAI) -> None:
    box = client.containers.create(name="box", file_ids=[new_file(client)])
    copied = client.containers.files.create(box.id, file_id=new_file(client, b"x"))
    sent = client.containers.files.create(box.id, file=("b.txt", b"y"))
    assert client.containers.files.content.retrieve(copied.id, container_id=box.id).content == b"x"
    assert client.containers.files.retrieve(sent.id, container_id=box.id).path == "/mnt/data/b.txt"
    assert len(client.containers.files.list(box.id).data) == 3
    client.containers.files.delete(sent.id, container_id=box.id)
    client.containers.delete(box.id)
    assert client.containers.list().data == []


def test_fine_tuned_models_are_the_projects(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    model = fine_tune(client)
    (job,) = client.fine_tuning.jobs.list().data
    events = client.fine_tuning.jobs.list_events(job.id, limit=1)
    assert len(list(events)) == 2
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert client.files.content(job.result_files[0]).content.startswith(b"step")
    for name in (model, checkpoint.fine_tuned_model_checkpoint):
        assert client.responses.create(model=name, input=TOLD).output_text == TOLD
        assert name in [listed.id for listed in client.models.list()]
        with pytest.raises(openai.NotFoundError) as error:
            stranger.responses.create(model=name, input=TOLD)
        assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError) as error:
        stranger.fine_tuning.jobs.cancel(job.id)
    assert error.value.code == "fine_tune_not_found"


def test_evals_have_runs(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    made = client.evals.create(name="one", data_source_config=CONFIG, testing_criteria=CRITERIA)
    source: Any = {"type": "jsonl", "source": {"type": "file_id", "id": new_file(client)}}
    run = client.evals.runs.create(made.id, data_source=source)
    assert [client.evals.runs.retrieve(run.id, eval_id=made.id).status for _ in "12"] == ["in_progress", "completed"]
    assert client.evals.runs.output_items.list(run.id, eval_id=made.id).data == []
    assert client.evals.update(made.id, name="two").name == "two"
    theirs = stranger.evals.create(data_source_config=CONFIG, testing_criteria=CRITERIA)
    with pytest.raises(openai.NotFoundError):
        stranger.evals.runs.create(theirs.id, data_source=source)
    assert client.evals.runs.delete(run.id, eval_id=made.id).deleted
    assert client.evals.delete(made.id).deleted


def test_pages_follow_one_another(client: openai.OpenAI, stranger: openai.OpenAI) -> None:
    made = [client.vector_stores.create().id for _ in range(5)]
    page = client.vector_stores.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert [store.id for store in page] == made[::-1]
    with pytest.raises(openai.NotFoundError):
        stranger.vector_stores.list(after=made[0])


@pytest.mark.parametrize(
    ("path", "missing"), [("/batches", "input_file_id"), ("/containers", "name"), ("/evals", "data_source_config")]
)
def test_what_is_missing_is_named(raw: httpx2.Client, path: str, missing: str) -> None:
    answer = raw.post(path, json={})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, missing)
    assert raw.post(path, content=b"{").status_code == 400
