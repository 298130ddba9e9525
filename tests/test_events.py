"""Every decision worth knowing is an event, and a log record."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Event as Signal

import anyio.to_thread
import pytest

from keyrouter_openai import Key, Ledger, RoutedOpenAI
from keyrouter_openai.events import Event, LedgerTrouble, LimitsLearned
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import ECHO, MESSAGES, TurnedClock, call, make_pool

pytestmark = pytest.mark.anyio


async def test_what_is_told_of_a_call_that_fails_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A"), SimAccount("B")], clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock)
        sim.fail("quota_exhausted", times=1)
        with caplog.at_level(logging.DEBUG, "keyrouter_openai"):
            await call(pool, sync=False, stream=False)
        pool.ledger.close()
    told = [type(event).__name__ for event in pool.events]
    assert told == [
        "AttemptStarted",
        "AccountParked",
        "KeyStateChanged",
        "AttemptEnded",
        "AttemptStarted",
        "AttemptEnded",
    ]
    logged = {record.getMessage().split()[0]: record for record in caplog.records if record.name == "keyrouter_openai"}
    assert logged.keys() == set(told)
    assert logged["KeyStateChanged"].levelno == logging.WARNING, "a person has to do something about it"
    assert logged["AccountParked"].levelno == logging.INFO
    assert logged["AttemptStarted"].levelno == logging.DEBUG
    assert isinstance(logged["AttemptEnded"].__dict__["event"], Event)
    assert "outcome='exhausted'" in next(r.getMessage() for r in caplog.records if "AttemptEnded" in r.getMessage())


@pytest.mark.parametrize("stream", [False, True])
async def test_limits_that_are_learned_or_change_are_told(tmp_path: Path, *, stream: bool) -> None:
    clock = TurnedClock()
    with ProviderSimulator([SimAccount("A", keys=2, rpm=60, tpm=9000)], clock=clock) as sim:
        pool = make_pool(sim, tmp_path / "ledger.db", clock)
        for rpm in (60, 60, 600):
            sim.set_limits("A", rpm=rpm, tpm=9000)
            await call(pool, sync=False, stream=stream)
        pool.ledger.close()
    told = [(event.account, event.family, event.limits) for event in pool.events if isinstance(event, LimitsLearned)]
    assert told == [("A", "gpt-4o", {"requests per 60 s": rpm, "tokens per 60 s": 9000.0}) for rpm in (60.0, 600.0)]


async def test_a_ledger_that_cannot_be_written_fails_no_call_and_is_told_once(tmp_path: Path) -> None:
    obstacle = tmp_path / "folder"
    told: list[LedgerTrouble] = []
    said = Signal()

    def note(event: Event) -> None:
        if isinstance(event, LedgerTrouble):
            told.append(event)
            said.set()

    with ProviderSimulator() as sim:
        keys = [Key(name="a", secret=next(iter(sim.keys.values())), base_url=sim.url)]
        ledger = Ledger(obstacle / "usage.db")
        async with RoutedOpenAI(keys=keys, ledger=ledger) as client:
            obstacle.write_text("a file where the folder should be")
            client.router.on_event(note)
            for _ in range(3):
                await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            assert await anyio.to_thread.run_sync(said.wait, 10)
            said.clear()
            obstacle.unlink()
            assert len(client.ledger.attempts()) == 3
            assert await anyio.to_thread.run_sync(said.wait, 10)
    assert ["no folder" in told[0].problem, told[1].problem] == [True, ""]
    assert told[0].path == str(obstacle / "usage.db")
    ledger.close()


async def test_a_callback_that_raises_harms_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as sim:
        client = RoutedOpenAI(keys=list(sim.keys.values()), base_url=sim.url)
        seen: list[str] = []

        def bad(event: object) -> None:
            raise RuntimeError("a bug of the caller's")

        client.router.on_event(bad)
        client.router.on_event(lambda event: seen.append(type(event).__name__))
        assert (await client.chat.completions.create(model="gpt-4o", messages=MESSAGES)).choices[
            0
        ].message.content == ECHO
        assert seen == ["AttemptStarted", "AccountLearned", "AttemptEnded"]
        assert "a bug of the caller's" in caplog.text
        await client.close()
