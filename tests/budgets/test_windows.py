"""When a budget opens again, by the clock of its time zone, whatever becomes of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from keyrouter_openai import Budget, BudgetExceeded, Ledger, RoutedOpenAI, Router
from keyrouter_openai.ledger.database import reading
from keyrouter_openai.testing import ProviderSimulator

from .support import WallClock, ask, billed, keys_of, spent

COST = 1625
"""Micro-dollars of a call of `ask`."""
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def machine_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets the time zone of this machine, by which `usage` tells days apart."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def client_at(clock: WallClock, sim: ProviderSimulator, path: Path | None, budget: Budget) -> RoutedOpenAI:
    """As in a process that starts then."""
    ledger = None if path is None else Ledger(path)
    return RoutedOpenAI(router=Router(keys_of(sim), budgets=[budget], ledger=ledger, clock=clock), timeout=60.0)


async def end(client: RoutedOpenAI) -> None:
    """As its process does."""
    await client.close()
    client.ledger.close()


async def spend(client: RoutedOpenAI) -> tuple[int, BudgetExceeded]:
    """Make calls until one is refused: how many were not, and the refusal."""
    for made in range(20):
        try:
            await ask(client)
        except BudgetExceeded as error:
            return made, error
    raise AssertionError("no call was refused")


def windows(path: Path) -> dict[int, int]:
    """What was spent in each window of the only budget."""
    with reading(path) as connection:
        assert connection is not None
        return dict(connection.execute("select window, spent_microusd from budget_windows"))


def days(path: Path) -> dict[str, int]:
    """What was spent on each day, as `usage` says."""
    with closing(Ledger(path)) as ledger:
        return {row["day"]: round(row["cost_usd"] * 1e6) for row in ledger.summary("day")}


async def test_a_new_window_opens_and_a_clock_that_jumps_back_charges_the_earlier_one(sim: ProviderSimulator) -> None:
    clock = WallClock(datetime(2026, 3, 31, 23, 50, tzinfo=UTC))
    async with client_at(clock, sim, None, Budget(usd=0.0045, per="month")) as client:
        made, refusal = await spend(client)
        assert made == 2 and refusal.retry_after == pytest.approx(600)
        clock.wall += 600
        await ask(client)
        (status,) = client.router.status().budgets
        assert status.since == datetime(2026, 4, 1, tzinfo=UTC).timestamp() and status.spent_usd == COST / 1e6
        clock.wall -= 3600
        with pytest.raises(BudgetExceeded):
            await ask(client)


@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "one after another"])
async def test_nothing_is_counted_twice_or_not_at_all_where_the_clock_jumps_back_over_midnight(
    sim: ProviderSimulator, tmp_path: Path, machine_in: Callable[[str], None], *, restarts: bool
) -> None:
    machine_in("Europe/Berlin")
    path, budget = tmp_path / "usage.db", Budget(usd=0.0045, zone="Europe/Berlin")
    clock = WallClock(datetime(2026, 10, 10, 0, 10, tzinfo=BERLIN))
    client = client_at(clock, sim, path, budget)
    try:
        for jump, calls in ((0, 2), (-3600, 2), (3600, 0), (-3600, 0), (2 * 3600, 0), (86_400, 2), (-86_400, 0)):
            clock.wall += jump
            if restarts:
                await end(client)
                client = client_at(clock, sim, path, budget)
            made, refusal = await spend(client)
            assert (made, refusal.left_usd) == (calls, 0.00125)
    finally:
        await end(client)
    midnights = [int(datetime(2026, 10, day, tzinfo=BERLIN).timestamp()) for day in (9, 10, 11)]
    assert windows(path) == dict.fromkeys(midnights, 2 * COST)
    assert days(path) == dict.fromkeys(["2026-10-09", "2026-10-10", "2026-10-11"], 2 * COST)
    assert spent(path)["rows"] == billed(sim) == 6 * COST


@pytest.mark.parametrize(
    ("zone", "day", "hours", "opens"),
    [
        ("Europe/Berlin", "2026-03-29", 23, "00:00"),
        ("Europe/Berlin", "2026-10-25", 25, "00:00"),
        ("America/Santiago", "2026-04-04", 25, "00:00"),  # whose last hour comes twice
        ("America/Santiago", "2026-09-05", 24, "01:00"),  # after which there is no midnight
        ("America/Santiago", "2026-09-06", 23, "00:00"),
    ],
)
@pytest.mark.parametrize("restarts", [False, True], ids=["one process", "one after another"])
async def test_a_day_on_which_clocks_change_is_as_long_as_it_is(
    sim: ProviderSimulator,
    tmp_path: Path,
    machine_in: Callable[[str], None],
    *,
    zone: str,
    day: str,
    hours: int,
    opens: str,
    restarts: bool,
) -> None:
    machine_in(zone)
    path, budget = tmp_path / "usage.db", Budget(usd=0.006, zone=zone)
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone))
    clock = WallClock(start)
    client = client_at(clock, sim, path, budget)
    try:
        for hour in (0, hours // 2):
            clock.wall = start.timestamp() + hour * 3600
            await ask(client)
            if restarts:
                await end(client)
                client = client_at(clock, sim, path, budget)
        clock.wall = start.timestamp() + hours * 3600 - 1
        made, refusal = await spend(client)
        assert made == 1 and refusal.opens_at is not None
        assert refusal.retry_after == pytest.approx(1)
        assert (refusal.opens_at.date(), f"{refusal.opens_at:%H:%M}") == (start.date() + timedelta(days=1), opens)
        clock.wall += 1
        assert (await spend(client))[0] == 3
    finally:
        await end(client)
    first = int(start.timestamp())
    assert windows(path) == {first: 3 * COST, first + hours * 3600: 3 * COST}
    assert days(path) == {day: 3 * COST, f"{start.date() + timedelta(days=1)}": 3 * COST}
    assert spent(path)["rows"] == billed(sim) == 6 * COST
