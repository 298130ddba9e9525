"""How each kind of resource is made, and what else is done with it.

Fields are those of the API reference (https://developers.openai.com/api/reference).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from .errors import invalid
from .project import Ask, Resource, Shelf, missing
from .wire import Json, Refused, Reply, as_list, as_object, json_reply, to_json

HOUR = 3600


# -- how each is made


def file(ask: Ask) -> Resource:
    name, content = ask.upload or ("", b"")
    return ask.keep_file(name, content, ask.fields["purpose"])


def upload(ask: Ask) -> Resource:
    asked = {name: ask.fields[name] for name in ("bytes", "filename", "purpose")}
    return Resource({**asked, "status": "pending", "expires_at": ask.now + HOUR, "file": None})


def part(ask: Ask) -> Resource:
    _, content = ask.upload or ("", b"")
    return Resource({"upload_id": ask.owners[-1].about["id"]}, content)


def batch(ask: Ask) -> Resource:
    lines = ask.project.find("files", ask.fields["input_file_id"]).content.splitlines()
    counts = {"total": len(lines), "completed": 0, "failed": 0}

    def complete() -> Json:
        output = b"\n".join(_batch_line(ask, line) for line in lines)
        made = ask.keep_file("output.jsonl", output, "batch_output")
        done = {**counts, "completed": len(lines)}
        return {
            "status": "completed",
            "output_file_id": made.about["id"],
            "request_counts": done,
            "completed_at": ask.now,
        }

    about: Json = {
        "endpoint": ask.fields["endpoint"],
        "input_file_id": ask.fields["input_file_id"],
        "completion_window": ask.fields["completion_window"],
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "metadata": ask.fields.get("metadata"),
        "request_counts": counts,
    }
    return Resource(about, stages=[lambda: {"status": "in_progress", "in_progress_at": ask.now}, complete])


def _batch_line(ask: Ask, line: bytes) -> bytes:
    try:
        asked = as_object(json.loads(line))
    except ValueError:
        asked = {}
    answer: Json = {"status_code": 200, "request_id": f"req_{ask.new_id()}", "body": {}}
    return to_json(
        {"id": f"batch_req_{ask.new_id()}", "custom_id": asked.get("custom_id"), "response": answer, "error": None}
    )


def vector_store(ask: Ask) -> Resource:
    made = Resource(
        {
            "name": ask.fields.get("name") or "",
            "status": "completed",
            "usage_bytes": 0,
            "file_counts": _file_counts(0),
            "metadata": ask.fields.get("metadata") or {},
            "last_active_at": ask.now,
            "expires_after": ask.fields.get("expires_after"),
            "expires_at": None,
        }
    )
    ask.keep("vector_stores", made)
    for id in as_list(ask.fields.get("file_ids")):
        _index(ask, made, {"file_id": id})
    return made


def vector_store_file(ask: Ask) -> Resource:
    return _index(ask, ask.owners[-1], ask.fields)


def vector_store_batch(ask: Ask) -> Resource:
    store = ask.owners[-1]
    asked = [as_object(file) for file in as_list(ask.fields.get("files"))]
    asked += [{"file_id": id} for id in as_list(ask.fields.get("file_ids"))]
    indexed = [_index(ask, store, each) for each in asked]
    about: Json = {
        "vector_store_id": store.about["id"],
        "status": "in_progress",
        "file_counts": _file_counts(0, under_way=len(indexed)),
    }
    done: Json = {"status": "completed", "file_counts": _file_counts(len(indexed))}
    files = {file.about["id"]: file for file in indexed}
    return Resource(about, stages=[lambda: done], parts={"files": files})


def _index(ask: Ask, store: Resource, asked: Json) -> Resource:
    """Put a file of the project into a vector store."""
    file = ask.project.find("files", str(asked.get("file_id")))
    about: Json = {
        "id": file.about["id"],
        "vector_store_id": store.about["id"],
        "status": "in_progress",
        "usage_bytes": len(file.content),
        "last_error": None,
        "attributes": asked.get("attributes") or {},
        "chunking_strategy": {
            "type": "static",
            "static": {"max_chunk_size_tokens": 800, "chunk_overlap_tokens": 400},
        },
    }
    made = Resource(about, file.content, stages=[lambda: {"status": "completed"}])
    ask.keep("vector_stores/files", made, store.shelf("files"))
    store.about["file_counts"] = _file_counts(len(store.shelf("files")))
    store.about["usage_bytes"] += len(file.content)
    return made


def _file_counts(completed: int, under_way: int = 0) -> Json:
    counts = {"in_progress": under_way, "completed": completed, "failed": 0, "cancelled": 0}
    return {**counts, "total": completed + under_way}


def conversation(ask: Ask) -> Resource:
    made = Resource({"metadata": ask.fields.get("metadata") or {}})
    ask.keep("conversations", made)
    say(ask, made.shelf("items"), as_list(ask.fields.get("items")))
    return made


def conversation_items(ask: Ask) -> list[Resource]:
    return say(ask, ask.owners[-1].shelf("items"), as_list(ask.fields["items"]))


def say(ask: Ask, shelf: Shelf, said: Iterable[object]) -> list[Resource]:
    """Keep what was said, as items with ids."""
    items: list[Resource] = []
    for each in said:
        item = as_object(each)
        if item.get("type", "message") == "message":
            item = {"id": f"msg_{ask.new_id()}", "type": "message", "status": "completed", **item}
            item["content"] = _content_of(item)
        else:
            item = {"id": f"item_{ask.new_id()}", "status": "completed", **item}
        shelf[item["id"]] = Resource(item)
        ask.project.items.add(item["id"])
        items.append(shelf[item["id"]])
    return items


def _content_of(message: Json) -> object:
    """The parts of a message, which may have come as a mere text."""
    content: object = message.get("content")
    if not isinstance(content, str):
        return content
    if message.get("role") == "assistant":
        part: Json = {"type": "output_text", "text": content, "annotations": []}
        return [part]
    return [{"type": "input_text", "text": content}]


def container(ask: Ask) -> Resource:
    about: Json = {
        "name": ask.fields["name"],
        "status": "running",
        "last_active_at": ask.now,
        "expires_after": ask.fields.get("expires_after") or {"anchor": "last_active_at", "minutes": 20},
        "memory_limit": ask.fields.get("memory_limit") or "1g",
        "network_policy": {"type": "disabled"},
    }
    made = ask.keep("containers", Resource(about))
    for id in as_list(ask.fields.get("file_ids")):
        file = ask.project.find("files", id)
        copy = _put(made, file.about["filename"], file.content)
        ask.keep("containers/files", copy, made.shelf("files"))
    return made


def container_file(ask: Ask) -> Resource:
    if ask.upload is not None:
        return _put(ask.owners[-1], *ask.upload)
    file = ask.project.find("files", str(ask.fields.get("file_id")))
    return _put(ask.owners[-1], file.about["filename"], file.content)


def _put(container: Resource, name: str, content: bytes) -> Resource:
    about = {"container_id": container.about["id"], "bytes": len(content), "path": f"/mnt/data/{name}"}
    return Resource({**about, "source": "user"}, content)


def fine_tuning_job(ask: Ask) -> Resource:
    ask.project.find("files", ask.fields["training_file"])
    made = Resource(
        {
            "model": ask.fields["model"],
            "training_file": ask.fields["training_file"],
            "validation_file": ask.fields.get("validation_file"),
            "status": "validating_files",
            "fine_tuned_model": None,
            "finished_at": None,
            "hyperparameters": {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"},
            "organization_id": ask.project.organization,
            "result_files": [],
            "seed": ask.fields.get("seed") or 0,
            "error": None,
            "trained_tokens": None,
            "integrations": [],
            "metadata": ask.fields.get("metadata"),
        }
    )
    ask.keep("fine_tuning/jobs", made)
    _tell(ask, made, f"Created fine-tuning job: {made.about['id']}")
    made.stages = [lambda: {"status": "running"}, partial(_succeed, ask, made)]
    return made


def _succeed(ask: Ask, job: Resource) -> Json:
    model = f"ft:{job.about['model']}:{ask.project.organization}:{ask.fields.get('suffix') or ''}:{ask.new_id()[:8]}"
    step = f"{model}:ckpt-step-1"
    checkpoint: Json = {
        "fine_tuned_model_checkpoint": step,
        "fine_tuning_job_id": job.about["id"],
        "metrics": {"step": 1, "train_loss": 0.5},
        "step_number": 1,
    }
    ask.keep("fine_tuning/jobs/checkpoints", Resource(checkpoint), job.shelf("checkpoints"))
    ask.project.models |= {model: ask.now, step: ask.now}
    results = ask.keep_file("step_metrics.csv", b"step,train_loss\n1,0.5\n", "fine-tune-results")
    _tell(ask, job, "The job has successfully completed")
    return {
        "status": "succeeded",
        "fine_tuned_model": model,
        "finished_at": ask.now,
        "trained_tokens": 1,
        "result_files": [results.about["id"]],
    }


def _tell(ask: Ask, job: Resource, message: str) -> None:
    event: Json = {"level": "info", "message": message, "type": "message", "data": {}}
    ask.keep("fine_tuning/jobs/events", Resource(event), job.shelf("events"))


def eval(ask: Ask) -> Resource:
    source = as_object(ask.fields["data_source_config"])
    schema = as_object(source.get("item_schema")) or as_object(source.get("schema"))
    config: Json = {"type": source.get("type", "custom"), "schema": schema, "metadata": source.get("metadata")}
    criteria = [{"id": f"criterion-{ask.new_id()}", **each} for each in as_list(ask.fields["testing_criteria"])]
    about: Json = {"name": ask.fields.get("name") or "", "metadata": ask.fields.get("metadata")}
    return Resource({**about, "data_source_config": config, "testing_criteria": criteria})


def eval_run(ask: Ask) -> Resource:
    source = as_object(ask.fields["data_source"])
    about: Json = {
        "eval_id": ask.owners[-1].about["id"],
        "data_source": source,
        "status": "queued",
        "model": source.get("model") or "",
        "name": ask.fields.get("name") or "",
        "metadata": ask.fields.get("metadata"),
        "error": {"code": "", "message": ""},
        "per_model_usage": [],
        "per_testing_criteria_results": [],
        "report_url": "https://platform.openai.com/evaluations",
        "result_counts": {"total": 0, "passed": 0, "failed": 0, "errored": 0},
    }
    return Resource(about, stages=[lambda: {"status": "in_progress"}, lambda: {"status": "completed"}])


# -- what else is done with them


def content(_: Ask, resource: Resource) -> Reply:
    return Reply(200, {"content-type": "application/octet-stream"}, resource.content)


def cancel(status: str) -> Callable[[Ask, Resource], Reply]:
    def end(_: Ask, resource: Resource) -> Reply:
        about = resource.about
        if about["status"] not in ("pending", "in_progress", "running", "queued", "validating", "validating_files"):
            raise Refused(invalid(f"Cannot cancel a {about['object']} with status '{about['status']}'."))
        resource.stages.clear()
        about["status"] = status
        return json_reply(about)

    return end


def cancel_response(ask: Ask, response: Resource) -> Reply:
    if response.about["background"] is not True:
        raise Refused(invalid("Cannot cancel a synchronous response."))
    return cancel("cancelled")(ask, response)


def complete(ask: Ask, upload: Resource) -> Reply:
    parts: list[bytes] = []
    for id in as_list(ask.fields.get("part_ids")):
        part = upload.shelf("parts").get(id)
        if part is None:
            raise missing("uploads/parts", id, param="part_ids")
        parts.append(part.content)
    made = ask.keep_file(upload.about["filename"], b"".join(parts), upload.about["purpose"])
    upload.about |= {"status": "completed", "file": made.about}
    return json_reply(upload.about)


def search(ask: Ask, store: Resource) -> Reply:
    found = [
        {
            "file_id": id,
            "filename": ask.project.find("files", id).about["filename"],
            "score": 1.0,
            "attributes": file.about["attributes"],
            "content": _text(file),
        }
        for id, file in store.shelf("files").items()
        if id in ask.project.shelf("files")
    ]
    asked = ask.fields.get("query")
    query = cast("object", asked if isinstance(asked, list) else [asked])
    page = {"object": "vector_store.search_results.page", "search_query": query, "data": found}
    return json_reply({**page, "has_more": False, "next_page": None})


def parsed(_: Ask, file: Resource) -> Reply:
    page = {"object": "vector_store.file_content.page", "data": _text(file), "has_more": False, "next_page": None}
    return json_reply(page)


def _text(file: Resource) -> list[Json]:
    return [{"type": "text", "text": file.content.decode(errors="replace")}]
