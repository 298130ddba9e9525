"""Secrets that can be recognised, and all the places in which to look for them.

Every secret here holds `PATTERN` several times over, so that a mere piece of one gives itself away.
"""

from __future__ import annotations

import json
import logging
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import SecretStr

from keyrouter_openai import Key, RoutedOpenAI, Router, SyncRoutedOpenAI
from keyrouter_openai.ledger import Ledger
from keyrouter_openai.testing import ProviderSimulator

PATTERN = "TrEaSuRe"
PROMPT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "a prompt of several tokens"}]

Ask = Callable[[dict[str, Any], bool], tuple[openai.OpenAIError | None, list[str]]]
"""Makes one call, streamed or not: the error it ended in, and all that the client shows of itself."""


def secret(number: int) -> str:
    """A credential. Providers quote the first eight and the last four characters of one; the pattern is between."""
    return f"sk-sim-{number}{PATTERN * 4}-{number:04}"


def seen_in_error(error: BaseException) -> Iterator[str]:
    """All that a debugger, an error tracker or a careless `print` shows of an exception and of those behind it."""
    todo, done = [error], set[int]()
    while todo:
        link = todo.pop()
        if id(link) in done:
            continue
        done.add(id(link))
        todo += [behind for behind in (link.__cause__, link.__context__) if behind is not None]
        yield from (repr(link), str(link), repr(link.args), repr(vars(link)))
        yield from traceback.TracebackException.from_exception(link, capture_locals=True).format()
        if isinstance(link, openai.APIError):
            yield repr(link.body)
            yield from seen_in_request(link.request)
            yield pickle.dumps(link.request).decode("latin-1")
        if isinstance(link, openai.APIStatusError):
            yield from seen_in_response(link.response)
            yield link.response.text
            yield pickle.dumps(link.response).decode("latin-1")


def seen_in_response(response: Any) -> Iterator[str]:
    for hop in (*response.history, response):
        yield from (repr(hop), repr(hop.headers), repr(hop.headers.raw))
        yield from seen_in_request(hop.request)


def seen_in_request(request: Any) -> Iterator[str]:
    yield from (repr(request), repr(request.headers), repr(request.headers.raw))


def assert_clean(seen: Iterable[str]) -> None:
    """No text holds a piece of a secret, in any letter case."""
    for text in seen:
        at = text.lower().find(PATTERN.lower())
        assert at < 0, f"a secret is seen in: ...{text[max(at - 300, 0) : at + 80]}..."


_TRACES_OF_HEADERS = ("receive_response_headers.complete", "request_id: ", "HTTP Response: ")
"""What the HTTP library and the SDK log of an answer's headers before anyone else sees them."""


class Log(logging.Handler):
    """Everything that was logged, in full: messages, arguments, and tracebacks with their local variables."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(_TRACES_OF_HEADERS):
            return
        self.lines += [record.getMessage(), repr(vars(record))]
        if record.exc_info and record.exc_info[1] is not None:
            self.lines += seen_in_error(record.exc_info[1])


class Pool:
    """A router over all keys of a simulator, with its ledger, and everything that it told."""

    def __init__(self, sim: ProviderSimulator, path: Path) -> None:
        self.ledger = Ledger(path)
        self.router = Router(keys_of(sim), ledger=self.ledger)
        self.events: list[Any] = []
        self.router.on_event(self.events.append)
        self.settings: dict[str, Any] = {
            "router": self.router,
            "base_url": sim.url,
            "max_attempts": 3,
            "max_wait": 0.01,
            "timeout": 0.2,
        }

    def seen(self) -> Iterator[str]:
        """All that the router shows of itself and of what happened."""
        status = self.router.status()
        yield from (repr(self.router), repr(vars(self.router)), repr(status), json.dumps(asdict(status)))
        yield from (repr(event) for event in self.events)
        self.ledger.flush()
        files = list(self.ledger.path.parent.iterdir())
        assert self.ledger.path in files
        yield from (file.read_bytes().decode("latin-1") for file in files)


def keys_of(sim: ProviderSimulator) -> list[Key]:
    return [Key(name=label.replace("/", "-"), secret=SecretStr(value)) for label, value in sim.keys.items()]


def ask_async(settings: dict[str, Any], stream: bool) -> tuple[openai.OpenAIError | None, list[str]]:
    async def call() -> tuple[openai.OpenAIError | None, list[str]]:
        http = openai.DefaultAsyncHttpxClient(verify=False)  # no certificates to load: that is half of the time
        async with RoutedOpenAI(**settings, http_client=http) as client:
            failed = None
            try:
                answer = await client.chat.completions.create(model="gpt-4o", messages=PROMPT, stream=stream)
                if isinstance(answer, openai.AsyncStream):
                    async for _ in answer:
                        pass
            except openai.OpenAIError as error:
                logging.getLogger("app").exception("the call failed")
                failed = error
            return failed, [repr(client), str(client), repr(vars(client))]

    return anyio.run(call)


def ask_sync(settings: dict[str, Any], stream: bool) -> tuple[openai.OpenAIError | None, list[str]]:
    with SyncRoutedOpenAI(**settings, http_client=openai.DefaultHttpxClient(verify=False)) as client:
        failed = None
        try:
            answer = client.chat.completions.create(model="gpt-4o", messages=PROMPT, stream=stream)
            if isinstance(answer, openai.Stream):
                for _ in answer:
                    pass
        except openai.OpenAIError as error:
            logging.getLogger("app").exception("the call failed")
            failed = error
        return failed, [repr(client), str(client), repr(vars(client))]


doors = pytest.mark.parametrize("ask", [ask_async, ask_sync])
plain_and_stream = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def check(ask: Ask, pool: Pool, log: Log, *, stream: bool) -> openai.OpenAIError | None:
    """Make one call, and look for secrets in everything that it left behind; the error it ended in."""
    error, shown = ask(pool.settings, stream)
    assert_clean(shown)
    assert_clean(log.lines)
    assert_clean(pool.seen())
    if error is not None:
        assert_clean(seen_in_error(error))
    return error
