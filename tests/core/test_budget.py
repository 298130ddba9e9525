"""Budgets as they are decided: windows by the calendar, what concerns whom, and what a process may spend."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyrouter_openai.budget import Budget
from keyrouter_openai.core.budget import (
    DEFAULT_ANSWER,
    Outlay,
    Per,
    Share,
    Spending,
    Window,
    is_billed,
    most_prompt,
    most_usage,
    outlay_of,
    window_at,
)
from keyrouter_openai.core.model import Estimate, Fault, Outcome, RouteRequest, Usage
from keyrouter_openai.core.price import NO_PRICE, own_price

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600


def at(zone: ZoneInfo, year: int, month: int, day: int, hour: int = 0, minute: int = 0) -> int:
    return int(datetime(year, month, day, hour, minute, tzinfo=zone).timestamp())


@pytest.mark.parametrize(
    ("day", "hours"),
    [((2026, 3, 28), 24), ((2026, 3, 29), 23), ((2026, 10, 25), 25)],
    ids=["usual", "clocks go forward", "clocks go back"],
)
def test_a_day_lasts_from_midnight_to_midnight_of_its_zone(day: tuple[int, int, int], hours: int) -> None:
    start = at(BERLIN, *day)
    for moment in (start, start + HOUR, start + hours * HOUR - 1):
        assert window_at("day", BERLIN, moment) == Window(start, start + hours * HOUR)
    assert window_at("day", BERLIN, start - 1).end == start


def test_a_day_whose_midnight_is_left_out_begins_with_its_first_moment() -> None:
    beirut = ZoneInfo("Asia/Beirut")  # clocks go forward at midnight
    first = int(datetime(2026, 3, 28, 22, tzinfo=UTC).timestamp())
    assert window_at("day", beirut, first).start == first
    assert window_at("day", beirut, first - 1).end == first


def test_a_week_begins_on_monday_and_a_month_on_its_first_day() -> None:
    sunday = at(BERLIN, 2026, 3, 1, 12)
    assert window_at("week", BERLIN, sunday) == Window(at(BERLIN, 2026, 2, 23), at(BERLIN, 2026, 3, 2))
    assert window_at("month", BERLIN, sunday) == Window(at(BERLIN, 2026, 3, 1), at(BERLIN, 2026, 4, 1))
    assert window_at("month", BERLIN, at(BERLIN, 2026, 12, 31, 23, 59)).end == at(BERLIN, 2027, 1, 1)
    assert window_at("total", BERLIN, sunday) == Window(0, inf)


@given(
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Pacific/Apia", "Asia/Beirut"]),
    st.floats(0, 4e9),
)
@settings(max_examples=300, deadline=None)
def test_windows_cover_all_of_time_and_none_overlap(per: Per, zone: str, moment: float) -> None:
    window = window_at(per, ZoneInfo(zone), moment)
    assert window.start <= moment < window.end
    assert window_at(per, ZoneInfo(zone), window.start) == window
    assert window_at(per, ZoneInfo(zone), window.end).start == window.end


@pytest.mark.parametrize(
    ("scope", "concerned"),
    [
        ("pool", True),
        ("key:k1", True),
        ("key:k2", False),
        ("account:acme", True),
        ("account:other", False),
        ("tag:team=search", True),
        ("tag:team=ads", False),
        ("tag:other=search", False),
        ("model:gpt-4o*", True),
        ("model:gpt-5*", False),
    ],
)
def test_a_scope_says_whom_a_budget_concerns(scope: str, concerned: bool) -> None:
    request = RouteRequest("id", "/chat/completions", "gpt-4o-mini", tags={"team": "search"})
    assert Budget(usd=1, scope=scope).rule("default").concerns(request, "k1", "acme") is concerned


def share(usd: float, *, alone: bool = False) -> Share:
    return Share(Budget(usd=usd, per="total").rule("default"), Window(0, inf), alone=alone)


def test_what_was_not_used_is_free_again_and_what_was_used_is_not() -> None:
    own = share(1, alone=True)
    own.reserve(400_000)
    own.reserve(500_000)
    assert own.free == 100_000
    own.settle(400_000, 150_000)
    assert (own.free, own.surely_spent) == (350_000, 150_000)
    own.settle(500_000, 0)
    assert (own.free, own.surely_spent) == (850_000, 150_000)


def test_a_process_keeps_little_that_it_does_not_use_and_nothing_when_idle() -> None:
    own = share(10)
    own.want(300_000)
    assert own.wish() == (300_000, 300_000)
    own.learn(spent=2_000_000, left=6_400_000, granted=1_500_000, own=1_500_000, holders=2)
    own.reserve(300_000)
    assert own.spare() == 1_500_000 - 300_000 - 6_400_000 // 16  # an eighth of its part of what is left
    assert own.free == 6_400_000 // 16
    own.settle(300_000, 200_000)
    assert own.spare() == 100_000
    assert own.spare() == 6_400_000 // 16  # it was not used since
    assert own.free == 0


def test_what_was_lent_while_the_ledger_could_not_be_asked_is_not_there_twice() -> None:
    own = share(1)
    own.want(100_000)
    own.wish()
    own.lend()
    own.reserve(100_000)
    own.settle(100_000, 80_000)
    assert (own.free, own.spare()) == (920_000, 0)  # the ledger has set nothing aside that could be given back
    own.want(50_000)
    assert own.wish() == (130_000, 130_000)  # what was spent of it is to be set aside too, until it is written
    own.learn(spent=0, left=750_000, granted=250_000, own=250_000, holders=1)
    assert (own.free, own.surely_spent) == (170_000, 80_000)


def test_those_who_wait_are_woken_in_turn_as_far_as_there_is_room_or_if_there_will_never_be() -> None:
    own, woken = share(1, alone=True), list[str]()
    own.reserve(1_000_000)
    for name, need in (("first", 300_000), ("second", 300_000), ("third", 100_000), ("hopeless", 900_000)):
        own.waiting[lambda name=name: woken.append(name)] = need
    own.settle(1_000_000, 500_000)
    for wake in own.to_wake():
        wake()
    assert woken == ["first", "third", "hopeless"]
    assert list(own.waiting.values()) == [300_000]


@pytest.mark.parametrize(
    ("outcome", "cost", "charged"),
    [
        (Outcome(Fault.NONE, 200, usage=Usage(10, 5)), 70, 70),
        (Outcome(Fault.NONE, 200, usage=Usage(10, 5, estimated=True)), 70, 70),
        (Outcome(Fault.NONE, 200), None, 100),
        (Outcome(Fault.STREAM_BROKEN, 200, usage=Usage(10, 5)), 70, 70),
        (Outcome(Fault.STREAM_BROKEN, 200, usage=Usage(10, 5, estimated=True)), 70, 100),
        (Outcome(Fault.ABANDONED, usage=Usage(10, 0, estimated=True)), 10, 100),
        (Outcome(Fault.NETWORK, detail="ReadTimeout"), None, 100),
        (Outcome(Fault.NETWORK, detail="ConnectError"), None, None),
        (Outcome(Fault.RATE_LIMIT, 429), None, None),
        (Outcome(Fault.SERVER_ERROR, 500), None, None),
    ],
)
def test_where_it_is_not_known_what_was_billed_the_most_that_it_can_be_is_charged(
    outcome: Outcome, cost: int | None, charged: int | None
) -> None:
    assert Spending([share(1)], Outlay(120, 100, "genai-prices 1")).charge(outcome, cost) == charged
    assert Spending([share(1)], Outlay()).charge(outcome, cost) == cost


def test_only_calls_that_are_billed_by_their_answers_touch_budgets() -> None:
    def billed(endpoint: str, model: str | None = "m", method: str = "post") -> bool:
        return is_billed(method, RouteRequest("id", endpoint, model))

    assert billed("/chat/completions") and billed("/embeddings") and billed("/realtime", method="get")
    assert billed("/responses", None) and billed("/deployments/{id}/chat/completions")
    assert (
        not billed("/models", None, "get") and not billed("/files", None) and not billed("/responses/{id}", None, "get")
    )
    assert not billed("/moderations") and not billed("/fine_tuning/jobs") and not billed("/responses/input_tokens")


@given(st.text(max_size=200))
def test_a_prompt_is_taken_to_have_a_token_for_every_two_bytes(text: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    assert most_prompt(body) >= len(text.encode("utf-8", "replace")) / 2


def test_attachments_do_not_count_by_their_bytes_and_tokens_count_as_such() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    assert 1000 < most_prompt({"messages": [{"role": "user", "content": [image]}]}) < 10_000
    assert most_prompt({"image": f"data:image/png;base64,{'iVBORw0KGgo' * 9_000}"}) < 10_000
    assert most_prompt({"input": [1, 2, 3]}) == 3 + 3


@pytest.mark.parametrize("head", ["data:", "data: ", "data:text/csv\n", "data:image/png;base64, what is this? "])
def test_a_text_that_begins_as_a_data_url_does_is_a_text(head: str) -> None:
    assert most_prompt({"input": head + "17;4;23\n" * 10_000}) >= 40_000


def test_an_answer_has_at_most_its_cap_or_else_what_answers_of_its_model_rarely_exceed() -> None:
    request = RouteRequest("id", "/chat/completions", "m")
    assert most_usage({}, Estimate(1, 50), request, None).completion == 50
    assert most_usage({}, Estimate(1, 0), request, None).completion == DEFAULT_ANSWER
    assert most_usage({"n": 3}, Estimate(1, 0), request, 200.5).completion == 603
    assert most_usage({}, Estimate(1, 0), RouteRequest("id", "/embeddings", "m"), None).completion == 0


def test_an_outlay_counts_the_prompt_as_written_to_a_cache_and_the_likely_one_as_prompts_are() -> None:
    most = Usage(1000, 100)
    assert outlay_of(own_price({"input": 1, "output": 10}), most, 900) == Outlay(2000, 1945, "user", 1000)
    assert outlay_of(own_price({"input": 1, "output": 10, "cache_written": 1.25}), most, 500) == Outlay(
        2250, 1525, "user", 1000
    )
    assert outlay_of(NO_PRICE, most, 500) == Outlay()
