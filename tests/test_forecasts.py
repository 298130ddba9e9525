"""Forecasts as users meet them: in the status, as events, and in where calls go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from keyrouter_openai import Budget, Key, Ledger, Limits, RoutedOpenAI, Router, SyncRoutedOpenAI
from keyrouter_openai.core.forecast import SLOT, Forecast
from keyrouter_openai.core.model import DAY
from keyrouter_openai.events import Event, ExhaustionPredicted
from keyrouter_openai.testing import ProviderSimulator, SimAccount

from .support import MESSAGES, TurnedClock

pytestmark = pytest.mark.anyio

PER_DAY = 200


@pytest.fixture
def sim() -> Iterator[ProviderSimulator]:
    with ProviderSimulator([SimAccount("A"), SimAccount("B")]) as running:
        yield running


def key_of(sim: ProviderSimulator, account: str, per_day: int | None = None, **settings: Any) -> Key:
    secret: Any = sim.keys[f"{account}/key-1"]
    limits = {} if per_day is None else {"*": Limits(rpd=per_day)}
    return Key(name=account, secret=secret, base_url=sim.url, account=account, limits=limits, **settings)


class House:
    """A router whose time passes as the test says, and what it told."""

    def __init__(self, keys: Sequence[Key], **settings: Any) -> None:
        self.clock = TurnedClock()
        self.router = Router(keys, clock=self.clock, rng=Random(1), **settings)
        self.told: list[ExhaustionPredicted] = []
        self.router.on_event(self._hear)

    def _hear(self, event: Event) -> None:
        if isinstance(event, ExhaustionPredicted):
            self.told.append(event)

    def use(self, slots: int, calls: int = 1) -> None:
        """So many calls in each slot."""
        with SyncRoutedOpenAI(router=self.router) as client:
            for _ in range(slots):
                for _ in range(calls):
                    client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
                self.clock.pass_(SLOT)

    def forecast(self, name: str) -> Forecast:
        return next(f.forecast for f in self.router.status().forecasts if f.subject.name == name)


def test_the_status_says_when_a_limit_per_day_runs_dry(sim: ProviderSimulator) -> None:
    house = House([key_of(sim, "A", PER_DAY), key_of(sim, "B")])
    assert house.router.status().forecasts == ()
    house.use(20, calls=4)  # two of each four go to each
    (status,) = house.router.status().forecasts
    subject, forecast = status.subject, status.forecast
    assert (subject.kind, subject.name, subject.dimension) == ("account", "A", "requests")
    assert (subject.family, subject.period) == ("gpt-4o", DAY)
    assert forecast.limit == PER_DAY
    used = sim.by_key()["A/key-1"]
    assert forecast.left == pytest.approx(PER_DAY - used, abs=5)
    rate = used / (20 * SLOT)
    assert forecast.pace == pytest.approx(rate, rel=0.1)
    assert forecast.at == pytest.approx(house.clock.time() + forecast.left / rate, abs=200)
    assert forecast.at is not None
    assert forecast.earliest is not None
    assert forecast.earliest <= forecast.at
    assert forecast.likelihood > 0.9


def test_limits_per_minute_are_not_foretold(sim: ProviderSimulator) -> None:
    key = key_of(sim, "A").model_copy(update={"limits": {"*": Limits(rpm=1000)}})
    house = House([key, key_of(sim, "B")])
    house.use(8, calls=2)
    assert house.router.status().forecasts == ()


def test_it_is_told_once_and_again_only_after_it_was_unlikely(sim: ProviderSimulator) -> None:
    house = House([key_of(sim, "A", PER_DAY), key_of(sim, "B", models=["another"])])
    house.use(30)
    (event,) = house.told
    assert event.subject.name == "A"
    assert event.forecast.at is not None
    assert event.at < event.forecast.at < event.at + DAY
    assert event.forecast.limit == PER_DAY
    house.clock.pass_(DAY)  # all is there again
    house.use(1)
    assert house.forecast("A").likelihood < 0.2
    assert len(house.told) == 1
    house.use(185)
    assert len(house.told) == 2


@pytest.mark.parametrize("per_day", [2_000, 20_000])
def test_what_lasts_until_it_is_there_again_is_not_told(sim: ProviderSimulator, per_day: int) -> None:
    house = House([key_of(sim, "A", 10 * per_day), key_of(sim, "B", models=["another"])])
    house.use(10, calls=2)
    assert house.told == []
    assert house.forecast("A").at is None


def test_nothing_is_foretold_of_a_single_key_whose_limits_are_not_counted(sim: ProviderSimulator) -> None:
    house = House([key_of(sim, "A", PER_DAY)])
    house.use(10)
    assert house.router.status().forecasts == ()


async def test_a_budget_that_runs_dry_is_told_of(sim: ProviderSimulator) -> None:
    house = House([key_of(sim, "A"), key_of(sim, "B")], budgets=[Budget(usd=0.01, per="total", name="ours")])
    async with RoutedOpenAI(router=house.router) as client:
        for _ in range(12):
            await client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=10)
            house.clock.pass_(SLOT)
            house.router.status()  # whoever looks takes nothing from those who listen
    spent = house.router.status().budgets[0].spent_usd
    assert spent is not None
    (status,) = house.router.status().forecasts
    assert (status.subject.kind, status.subject.name, status.subject.dimension) == ("budget", "ours", "usd")
    forecast = status.forecast
    assert forecast.limit == 0.01
    assert forecast.left == pytest.approx(0.01 - spent)
    assert forecast.pace == pytest.approx(spent / (12 * SLOT), rel=0.2)
    assert forecast.resets_at is None
    assert [event.subject.name for event in house.told] == ["ours"]


def share_of(sim: ProviderSimulator, account: str) -> float:
    served = sim.by_key()
    return served[f"{account}/key-1"] / sum(served.values())


def test_what_will_run_dry_gets_fewer_calls_and_is_not_left_out(sim: ProviderSimulator) -> None:
    """By their limits and weights, the two would get as many calls each."""
    house = House([key_of(sim, "A", PER_DAY, weight=100.0), key_of(sim, "B", 100 * PER_DAY)])
    house.use(10, calls=2)
    before = sim.by_key()["A/key-1"]
    house.use(30, calls=2)
    assert house.told
    later = sim.by_key()["A/key-1"] - before
    assert 5 <= before <= 15
    assert 10 <= later <= 25


def test_cost_pays_a_little_more_to_spare_what_will_run_dry(sim: ProviderSimulator) -> None:
    cheap = key_of(sim, "A", PER_DAY, price_multiplier=1.0)
    house = House([cheap, key_of(sim, "B", price_multiplier=1.05)], objective="cost")
    house.use(6, calls=2)
    assert share_of(sim, "B") == 0.0
    house.use(20, calls=2)
    assert 0.1 < share_of(sim, "B") < 0.9


def test_cost_does_not_pay_much_more(sim: ProviderSimulator) -> None:
    cheap = key_of(sim, "A", PER_DAY, price_multiplier=1.0)
    house = House([cheap, key_of(sim, "B", price_multiplier=1.5)], objective="cost")
    house.use(25, calls=2)
    assert house.told
    assert share_of(sim, "B") == 0.0


def test_accounts_that_are_gone_are_foretold_no_more(sim: ProviderSimulator) -> None:
    a, b = key_of(sim, "A", PER_DAY), key_of(sim, "B", PER_DAY)
    house = House([a, b])
    house.use(10, calls=2)
    assert {f.subject.name for f in house.router.status().forecasts} == {"A", "B"}
    house.router.reload([b])
    assert {f.subject.name for f in house.router.status().forecasts} == {"B"}


def test_hours_on_record_tell_what_the_day_will_be_like(sim: ProviderSimulator) -> None:
    """It is 17:46 UTC on the test's clock: mornings have been busy, and the rest of the day was not."""

    def likelihood(busy: Sequence[int]) -> float:
        house = House([key_of(sim, "A", 1500), key_of(sim, "B", models=["another"])])
        today = house.clock.time() // DAY * DAY
        house.router.recall((), [(today - day * DAY + hour * 3600, 100.0) for day in range(1, 9) for hour in busy])
        house.use(10)
        return house.forecast("A").likelihood

    hour = int(TurnedClock().time() % DAY // 3600)
    quiet_from_now = likelihood([(hour + offset) % 24 for offset in (-3, -2, -1, 0)])
    busy_from_now = likelihood([(hour + offset) % 24 for offset in range(1, 24)])
    assert quiet_from_now < busy_from_now


def test_a_client_starts_with_the_hours_that_others_have_put_on_record(sim: ProviderSimulator, tmp_path: Path) -> None:
    found: list[tuple[tuple[float, float], ...]] = []

    class Watched(Ledger):
        def calls_by_hour(self, pool: str) -> tuple[tuple[float, float], ...]:
            found.append(super().calls_by_hour(pool))
            return found[-1]

    keys = [key_of(sim, "A", 1500), key_of(sim, "B")]
    for _ in range(2):
        with SyncRoutedOpenAI(keys=keys, ledger=Watched(tmp_path / "usage.db")) as client:
            client.models.list()
    first, then = found
    assert not first
    assert [calls for _, calls in then] == [1.0]
