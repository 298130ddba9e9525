"""What is said of a bill that differs from the ledger."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyrouter_openai.core.reconcile import Billed, Difference, Line, Recorded, compare

LINE = Line("2026-11-20", "gpt-4o", "work")
NEXT = LINE._replace(day="2026-11-21")
RECORDED = Recorded(requests=10, prompt=1000, completion=100, microusd=3500)
BILLED = Billed(requests=10, prompt=1000, completion=100, usd=Decimal("0.0035"))


def differ(recorded: Recorded | None, billed: Billed | None, **arguments: Any) -> Difference | None:
    """The difference on one line, if there is one."""
    found = compare({LINE: recorded} if recorded else {}, {LINE: billed} if billed else {}, **arguments)
    assert len(found) <= 1
    return found[0] if found else None


def reason(recorded: Recorded | None, billed: Billed | None, **arguments: Any) -> str:
    found = differ(recorded, billed, **arguments)
    assert found is not None
    return "; ".join(found.reasons)


def test_nothing_differs() -> None:
    assert differ(RECORDED, BILLED) is None
    assert differ(None, None) is None


def test_the_rounding_of_the_ledger_is_no_difference() -> None:
    assert differ(RECORDED, BILLED._replace(usd=Decimal("0.003505"))) is None  # half a micro-dollar a request
    off = differ(RECORDED, BILLED._replace(usd=Decimal("0.003506")))
    assert off is not None and off.microusd == 6


@pytest.mark.parametrize(
    ("recorded", "billed", "says"),
    [
        ({}, {"usd": "0.00175"}, ["the same tokens at 0.5 times the price: a discount, a service tier, or price_mult"]),
        ({"microusd": 0}, {}, ["which cost nothing by the ledger"]),
        ({}, {"prompt": 1001}, ["the same requests, other tokens"]),
        ({}, {"cached": 512}, ["the same requests, other tokens"]),
        ({"unpriced": 2, "microusd": 3000}, {}, ["requests without a known price: 2"]),
        ({"estimated": 3, "completion": 90}, {}, ["broken answers, whose tokens are estimates: 3"]),
        ({}, {"requests": 12, "prompt": 1200}, ["another program uses the key, or rows are missing"]),
        (
            {"unanswered": 2},
            {"requests": 12, "prompt": 1200},
            ["attempts without an answer, which may have been served all the same: 2"],
        ),
        (
            {"unanswered": 1},
            {"requests": 12, "prompt": 1200},
            ["attempts without an answer", "another program"],
        ),
        ({}, {"requests": 12}, ["a session over a websocket is one attempt"]),
        ({}, {"requests": 7, "prompt": 700}, ["requests recorded and not billed: 3"]),
        ({"recent": 4}, {"requests": 7, "prompt": 700}, ["the provider is behind"]),
        ({"recent": 1}, {"requests": 7, "prompt": 700}, ["the provider is behind", "requests recorded and not billed"]),
    ],
)
def test_reasons(recorded: dict[str, int], billed: dict[str, Any], says: list[str]) -> None:
    if "usd" in billed:
        billed = billed | {"usd": Decimal(billed["usd"])}
    found = differ(RECORDED._replace(**recorded), BILLED._replace(**billed))
    assert found is not None
    assert len(found.reasons) == len(says)
    assert all(part in text for part, text in zip(says, found.reasons, strict=True)), found.reasons


def test_tokens_that_the_provider_does_not_tell_are_not_compared() -> None:
    assert differ(RECORDED, Billed(requests=10, usd=Decimal("0.0035"), uncounted=10)) is None


def test_a_key_of_others() -> None:
    says = reason(None, BILLED, strangers={"work"})
    assert says.startswith("requests with a key that the ledger does not know: 10")
    assert "another program uses the key" not in says


def test_a_fee_for_no_call_to_a_model() -> None:
    assert "a fee for something else" in reason(None, Billed(usd=Decimal("0.01")))


def test_what_runs_over_midnight() -> None:
    found = compare(
        {LINE: RECORDED, NEXT: RECORDED},
        {LINE: BILLED._replace(requests=9, prompt=900), NEXT: BILLED._replace(requests=11, prompt=1100)},
    )
    assert [each.reasons[0][:30] for each in found] == [
        "2026-11-21 makes up for it: wh",
        "2026-11-20 makes up for it: wh",
    ]


def test_keys_without_a_counterpart_are_listed_and_not_compared() -> None:
    found = differ(RECORDED, None, unmatched={"work"})
    assert found is not None
    assert (found.billed, found.microusd) == (None, 0)
    assert "--map ID=NAME" in found.reasons[0]


def test_what_is_not_told_apart_is_added_up() -> None:
    other = LINE._replace(model="o3", key="home")
    lines = {LINE: RECORDED, other: RECORDED}
    bills = {LINE: BILLED._replace(requests=11), other: BILLED._replace(requests=9)}
    assert [each.line for each in compare(lines, bills)] == [LINE, other]
    assert compare(lines, bills, by=("day",)) == []
    assert compare(lines, bills, by=()) == []
    (found,) = compare(lines, bills, by=("model",), unmatched={"home"}, strangers={"home"})[:1]
    assert (found.line, found.recorded.requests) == (Line(model="gpt-4o"), 10)


COUNTS = st.integers(0, 1000)
LINES = st.builds(Line, st.sampled_from(["2026-11-20", "2026-11-21"]), st.sampled_from("ab"), st.sampled_from("xy"))


@given(
    st.dictionaries(LINES, st.builds(Recorded, *[COUNTS] * 9)),
    st.dictionaries(LINES, st.builds(Billed, *[COUNTS] * 4, st.decimals(0, 1, places=8), COUNTS)),
    st.sets(st.sampled_from(Line._fields)),
)
def test_each_difference_has_a_reason_and_all_money_is_accounted_for(
    recorded: dict[Line, Recorded], billed: dict[Line, Billed], by: set[str]
) -> None:
    found = compare(recorded, billed, by=by)
    assert all(each.reasons for each in found)
    off = sum(each.usd for each in billed.values()) * 1_000_000 - sum(each.microusd for each in recorded.values())
    rounding = sum(each.requests for each in recorded.values()) / 2 + len(billed)
    assert abs(off - sum(each.microusd for each in found)) <= rounding
