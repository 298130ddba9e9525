"""What each call costs, to the micro-dollar, and what is said where nobody knows."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import genai_prices
import openai
import pytest

from keyrouter_openai import Key, Ledger, RoutedOpenAI, Router, SyncRoutedOpenAI, route_of
from keyrouter_openai.clock import SystemClock
from keyrouter_openai.core.model import Attempt, Fault, Usage
from keyrouter_openai.events import Event, UnknownPrice
from keyrouter_openai.prices import Prices, price_late
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .life.support import Program
from .priced_answers import Answer, AnswerMaker, serving

PROVIDERS = ("openai", "azure", "anthropic", "gemini", "openrouter", "groq", "deepseek", "xai")
MORE = ("together", "mistral", "cerebras", "fireworks")
TABLE = f"genai-prices {genai_prices.__version__}"
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


class SetClock(SystemClock):
    """The time of day that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


def arguments(place: int, answer: Answer) -> dict[str, Any]:
    """The call that brings an answer."""
    given: dict[str, Any] = {"model": answer.model, "extra_headers": {"X-Answer": str(place)}}
    match answer.kind:
        case "chat":
            return {**given, "messages": HELLO, "stream": answer.stream}
        case "responses":
            return {**given, "input": "Hello", "stream": answer.stream}
        case "embeddings":
            return {**given, "input": "Hello"}
        case "images":
            return {**given, "prompt": "Hello"}
        case _:
            return {**given, "file": ("hello.wav", io.BytesIO(b"RIFF"))}


def method(client: Any, answer: Answer) -> Any:
    """The client's method that brings an answer."""
    return {
        "chat": client.chat.completions.create,
        "responses": client.responses.create,
        "embeddings": client.embeddings.create,
        "images": client.images.generate,
        "transcriptions": client.audio.transcriptions.create,
    }[answer.kind]


async def ask(client: RoutedOpenAI, place: int, answer: Answer) -> Any:
    result = await method(client, answer)(**arguments(place, answer))
    if answer.stream:
        assert [event async for event in result]
    return result


def ask_sync(client: SyncRoutedOpenAI, place: int, answer: Answer) -> Any:
    result = method(client, answer)(**arguments(place, answer))
    if answer.stream:
        assert list(result)
    return result


async def test_300_varied_answers_cost_what_genai_prices_says(tmp_path: Path) -> None:
    answers, clock, ledger = AnswerMaker(seed=6).make(300), SetClock(), Ledger(tmp_path / "usage.db")
    routes: list[Any] = []
    with serving(answers) as url:
        keys = [Key(name=name, secret=f"sk-{name}", provider=name, base_url=url) for name in PROVIDERS + MORE]
        router = Router(keys, ledger=ledger, clock=clock)
        async with RoutedOpenAI(router=router) as client:
            sync = SyncRoutedOpenAI(router=router)
            for place, answer in enumerate(answers):
                clock.now = answer.at
                wishes: Any = {"key": answer.provider, "tags": {"place": str(place)}}
                if place % 2:
                    result = await ask(client.with_routing(**wishes), place, answer)
                else:
                    result = await anyio.to_thread.run_sync(ask_sync, sync.with_routing(**wishes), place, answer)
                routes.append(result)
            sync.close()
    router.prices.load(keys[0], "gpt-4o")
    rows = {int(row["tags"]["place"]): row for row in ledger.attempts()}
    ledger.close()
    for place, answer in enumerate(answers):
        expected, row = answer.microusd(), rows[place]
        assert (row["cost_microusd"], row["outcome"]) == (expected, "ok"), (answer, row)
        assert row["price_source"] == (TABLE if answer.stated is None else "provider")
        assert route_of(routes[place]).cost_usd == expected / 1_000_000
    assert {answer.provider for answer in answers} >= {*PROVIDERS}


def chat(model: str, prompt: int, completion: int, *, served: str | None = None, tier: str | None = None) -> Answer:
    """A plain answer of a chat."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    choices = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}]
    body = {"id": "c", "object": "chat.completion", "created": 1, "model": served or model, "choices": choices}
    return Answer("openai", "chat", model, {}, {**body, "usage": usage, **({"service_tier": tier} if tier else {})})


def price_of(
    path: Path, answers: list[Answer], *, prices: Any = None, **settings: Any
) -> tuple[list[Any], list[Event]]:
    """Cost and source of these answers on record, of a pool of one key with such settings, and what was told of it."""
    events: list[Event] = []
    with serving(answers) as url, closing(Ledger(path / "usage.db")) as ledger:
        router = Router([Key(name="k", secret="sk-1", base_url=url, **settings)], ledger=ledger, prices=prices)
        router.on_event(events.append)
        with SyncRoutedOpenAI(router=router) as client:
            for place, answer in enumerate(answers):
                ask_sync(client, place, answer)
        rows = ledger.attempts(newest_first=False)
    return [(row["cost_microusd"], row["price_source"]) for row in rows], events


def test_a_discount_of_a_key(tmp_path: Path) -> None:
    answers = [chat("gpt-4o", 1000, 100), chat("my-model", 1000, 100)]
    costs, _ = price_of(tmp_path, answers, prices={"my-*": {"input": "1", "output": 2}}, price_multiplier=0.9)
    assert costs == [(3150, TABLE), (1080, "user")]


def test_the_tier_of_the_answer_counts(tmp_path: Path) -> None:
    answers = [chat("gpt-5", 8000, 800, tier=tier) for tier in ("default", "flex", "priority", "scale")]
    costs, _ = price_of(tmp_path, answers)
    assert [cost for cost, _ in costs] == [18_000, 9_000, 36_000, 18_000]


def test_prices_of_ones_own_win(tmp_path: Path) -> None:
    """By the name that was asked for, or by that which has served; the first pattern that matches counts."""
    prices = {"gpt-4o-2024-08-06": {"input": 1, "output": 1}, "gpt-4o*": {"input": 7, "cached": 1, "output": 7}}
    answers = [chat("gpt-4o", 100, 10, served="gpt-4o-2024-08-06"), chat("gpt-4o-mini", 100, 10)]
    assert price_of(tmp_path, answers, prices=prices)[0] == [(110, "user"), (770, "user")]


def test_what_another_name_stands_for(tmp_path: Path) -> None:
    """What serves counts; where the answer does not say, or a name that nobody knows, what was asked for."""
    answers = [
        chat("best", 1000, 0, served="gpt-4o-mini-2024-07-18"),
        chat("best", 1000, 0, served="deployment-7"),
        chat("gpt-4o", 1000, 0, served="deployment-7"),
    ]
    costs, events = price_of(tmp_path, answers, model_map={"best": "gpt-4o"})
    assert [cost for cost, _ in costs] == [150, 2500, 2500]
    assert not [event for event in events if isinstance(event, UnknownPrice)]


def test_an_unknown_price_is_unknown_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tuned = "ft:gpt-4.1-mini-2025-04-14:acme::1"  # costs more than its base, which says nothing of how much
    answers = [chat(tuned, 10, 1), chat(tuned, 10, 1), chat("own-model", 10, 1), chat("free-model", 10, 1)]
    with caplog.at_level(logging.WARNING, "keyrouter_openai"):
        costs, events = price_of(tmp_path, answers, prices={"free-*": {"input": 0, "output": 0}})
    assert costs == [(None, "unknown")] * 3 + [(0, "user")]
    told = [(event.provider, event.model) for event in events if isinstance(event, UnknownPrice)]
    assert told == [("openai", tuned), ("openai", "own-model")]
    assert [record.getMessage().split()[0] for record in caplog.records] == ["UnknownPrice"] * 2


def test_nothing_is_said_of_a_model_that_was_not_used(tmp_path: Path) -> None:
    events: list[Event] = []
    with ProviderSimulator([SimAccount("A")]) as sim, closing(Ledger(tmp_path / "usage.db")) as ledger:
        sim.fail("model_missing")
        router = Router([Key(name="k", secret=next(iter(sim.keys.values())), base_url=sim.url)], ledger=ledger)
        router.prices.load(router.keys[0], "gpt-4o")
        router.on_event(events.append)
        with SyncRoutedOpenAI(router=router) as client, pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="own-model", messages=HELLO)
    assert not [event for event in events if isinstance(event, UnknownPrice)]


def test_an_answer_without_a_usage_has_no_cost(tmp_path: Path) -> None:
    answer = chat("gpt-4o", 1, 1)
    without = replace(answer, body={name: value for name, value in answer.body.items() if name != "usage"})
    costs, events = price_of(tmp_path, [without])
    assert costs == [(None, None)]
    assert not [event for event in events if isinstance(event, UnknownPrice)]


def test_a_cost_is_believed_only_of_those_who_are_known_to_state_it(tmp_path: Path) -> None:
    answer = chat("gpt-4o", 1000, 100)
    stating = replace(answer, body={**answer.body, "usage": {**answer.body["usage"], "cost": 0}})
    assert price_of(tmp_path, [stating])[0] == [(3500, TABLE)]


def test_a_broken_stream_is_priced_by_what_came(tmp_path: Path) -> None:
    with ProviderSimulator([SimAccount("A")]) as sim, closing(Ledger(tmp_path / "usage.db")) as ledger:
        keys = [Key(name="k", secret=secret, base_url=sim.url) for secret in sim.keys.values()]
        with SyncRoutedOpenAI(router=Router(keys, ledger=ledger)) as client:
            stream = client.chat.completions.create(model="gpt-4o", messages=HELLO, stream=True)
            assert next(stream)
            stream.close()
            client.router.prices.load(keys[0], "gpt-4o")
            row = ledger.attempts()[0]
            assert row["usage_estimated"]
            # 2.5 micro-dollars a token, and 10.
            assert row["cost_microusd"] == round(2.5 * row["prompt_tokens"] + 10 * row["completion_tokens"]) > 0
            assert route_of(stream).cost_usd == row["cost_microusd"] / 1_000_000


def test_where_an_address_is_known_it_decides() -> None:
    prices = Prices()
    for url, model in (
        ("https://api.groq.com/openai/v1", "llama-3.3-70b-versatile"),
        ("https://api.x.ai/v1", "grok-4"),
    ):
        assert prices.load(Key(name="k", provider="compatible", base_url=url), model) is not None
    assert prices.known(Key(name="k", provider="compatible", base_url="https://models.test/v1"), "gpt-4o") is None
    assert prices.known(Key(name="k", base_url="https://eu.api.openai.com/v1"), "gpt-4o") is not None
    assert prices.known(Key(name="k"), None) is None


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Program]:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        monkeypatch.setenv("OPENAI_API_KEYS", ",".join(sim.keys.values()))
        monkeypatch.setenv("OPENAI_BASE_URL", sim.url)
        yield Program(tmp_path)


def assert_priced(row: dict[str, Any]) -> None:
    assert row["cost_microusd"] == round(2.5 * row["prompt_tokens"] + 10 * row["completion_tokens"])
    assert row["price_source"] == TABLE


def test_the_first_call_of_a_program_is_priced_though_the_table_comes_later(program: Program) -> None:
    program.run("""
        client = SyncRoutedOpenAI()
        assert "genai_prices" not in sys.modules
        client.chat.completions.create(**CHAT)
    """)
    assert_priced(program.ledger.attempts()[0])


def test_a_call_is_priced_late_for_the_key_that_made_it_and_not_for_another_of_its_name(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "usage.db")) as ledger:
        attempts: list[Attempt] = []
        routers: list[Router] = []
        for number, multiplier in enumerate((1, 10, 100), 1):
            key = Key(name="key-1", secret="sk", price_multiplier=multiplier)
            router = Router([key], ledger=ledger)
            used = Attempt(
                1e9, f"call-{number}", 1, "default", "key-1", "a", "openai", "/x", Fault.NONE, model="gpt-4o"
            )
            attempts.append(used._replace(usage=Usage(prompt=1_000_000)))
            router.prices.expect(attempts[-1], key)
            routers.append(router)
        assert [price_late(attempt).cost_microusd for attempt in attempts] == [2_500_000, 25_000_000, 250_000_000]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_child_that_is_forked_while_the_table_is_loaded_has_its_prices(program: Program) -> None:
    program.run("""
        client = SyncRoutedOpenAI()
        client.chat.completions.create(**CHAT)
        child = os.fork()
        client.chat.completions.create(**CHAT)
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """)
    rows = program.ledger.attempts()
    assert len(rows) == 3
    for row in rows:
        assert_priced(row)


async def test_what_is_asked_for_again_costs_nothing_again(tmp_path: Path) -> None:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as simulator:
        keys = [
            Key(name=label[0], secret=secret, base_url=simulator.url, account=label[0])
            for label, secret in simulator.keys.items()
        ]
        ledger = Ledger(tmp_path / "usage.db")
        async with RoutedOpenAI(keys=keys, ledger=ledger) as client:
            response = await client.responses.create(model="gpt-5", input="Hello")
            await client.responses.retrieve(response.id)
            completion = await client.chat.completions.create(model="gpt-4o", messages=HELLO, store=True)
            await client.chat.completions.retrieve(completion.id)
            for account in ("A", "B"):
                async for _ in client.with_routing(account=account).chat.completions.list():
                    pass
            background = await client.responses.create(model="gpt-5", input="Hello", background=True)
            while background.status != "completed":
                background = await client.responses.retrieve(background.id)
            await client.responses.retrieve(background.id)
        [made] = await anyio.to_thread.run_sync(lambda: ledger.summary("pool"))
        assert round(made["cost_usd"] * 1e6) == simulator.bill().total()
