"""A secret goes to its own provider, and to no other host."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import openai
import pytest

from keyrouter_openai import ConfigError, Router, SyncRoutedOpenAI
from keyrouter_openai.testing import ProviderSimulator, SimAccount, redirect

from .support import (
    Ask,
    Log,
    Pool,
    assert_clean,
    check,
    doors,
    keys_of,
    plain_and_stream,
    secret,
)


@contextmanager
def elsewhere() -> Generator[tuple[str, list[str]]]:
    """Another origin, and everything that is sent to it."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            received.append(f"{self.path}\n{self.headers}\n{body.decode()}")
            answer = b'{"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": []}'
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()
            thread.join()


@doors
def test_a_redirect_to_another_host_gets_no_credential(sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask) -> None:
    with elsewhere() as (url, received):
        sim.fail(redirect(f"{url}/v1/chat/completions"))
        check(ask, pool, log, stream=False)
    assert_clean(received)
    assert not any("authorization" in request.lower() for request in received)


@doors
def test_a_redirect_within_the_host_leaves_no_credential_in_the_error(
    sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask
) -> None:
    sim.fail(redirect(f"{sim.url}/elsewhere"), path="/v1/chat/completions")
    error = check(ask, pool, log, stream=False)
    assert isinstance(error, openai.NotFoundError)
    assert error.response.history


@doors
def test_a_redirect_to_another_name_of_the_host_gets_no_credential(
    sim: ProviderSimulator, pool: Pool, log: Log, ask: Ask
) -> None:
    other_name = sim.url.replace("127.0.0.1", "localhost")
    sim.fail(redirect(f"{other_name}/elsewhere"), path="/v1/chat/completions")
    check(ask, pool, log, stream=False)
    assert {(call.path, call.authorized) for call in sim.calls} == {
        ("/v1/chat/completions", True),
        ("/v1/elsewhere", False),
    }


def test_a_call_to_another_origin_is_not_sent(pool: Pool) -> None:
    with elsewhere() as (url, received), SyncRoutedOpenAI(**pool.settings) as client:
        with pytest.raises(ConfigError, match="belongs to"):
            client.post(f"{url}/v1/chat/completions", cast_to=object, body={})
        assert received == []


@doors
@plain_and_stream
def test_each_secret_goes_to_its_own_provider(tmp_path: Path, ask: Ask, stream: bool) -> None:
    first, second = [SimAccount("a", keys=[secret(1), secret(2)])], [SimAccount("b", keys=[secret(3)])]
    with ProviderSimulator(first) as one, ProviderSimulator(second) as two:
        ours = keys_of(one)
        others = [key.model_copy(update={"base_url": two.url}) for key in keys_of(two)]
        router = Router([*ours, *others])
        settings = {"router": router, "base_url": one.url, "organization": "org-a", "project": "proj_a"}
        one.fail("rate_limit", times=2, wait=0.01)
        two.fail("server_error", times=2)
        for _ in range(6):
            ask(settings, stream)
        for sim, account in ((one, "a"), (two, "b")):
            assert sim.calls
            assert {call.account for call in sim.calls} == {account}
        assert {(call.organization, call.project) for call in two.calls} == {(None, None)}
