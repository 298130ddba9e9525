"""What if the pool were another: what is replayed, against what limits, and what is said of it."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from keyrouter_openai.core.memory import Learned, LearnedAccount, LearnedLimit
from keyrouter_openai.core.model import MINUTE, Attempt, Dimension, Fault, Usage
from keyrouter_openai.keys import Key, Limits
from keyrouter_openai.ledger import Ledger, Registry
from tests.ledger.support import attempt

from .support import SECRET, Cli

MODEL = "gpt-4o"
INPUT, CACHED, OUTPUT = 2.5, 1.25, 10.0
"""Its list price at OpenAI, in micro-dollars for a token."""
START = time.time() - 3600.0


def call(place: int, at: float, **changes: Any) -> Attempt:
    """The only attempt of a call."""
    values = {"usage": Usage(prompt=1000, completion=100), "account": "key:a", "model": MODEL} | changes
    return attempt(at=START + at, request_id=f"r{place}", **values)


def record(cli: Cli, attempts: Sequence[Attempt], *learned: Learned) -> None:
    ledger = Ledger(cli.ledger)
    for each in attempts:
        ledger.record(each)
    ledger.remember("default", learned)
    ledger.close()


def add(cli: Cli, *keys: Key) -> None:
    for key in keys:
        Registry(cli.ledger).add("default", key)


def busy(cli: Cli) -> None:
    """Ten calls a second for a minute, on two accounts that grant two a second each."""
    limits = {"*": Limits(rpm=120)}
    add(cli, Key(name="a", account="A", limits=limits), Key(name="b", account="B", limits=limits))
    record(cli, [call(place, place / 10) for place in range(600)])


def learned(account: str, limit: float, dimension: Dimension = Dimension.REQUESTS, **more: Any) -> LearnedLimit:
    return LearnedLimit(account, MODEL, dimension, MINUTE, limit, limit, 0.0, time.time(), **more)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """300 calls in a minute, five a second."""
    lines = "".join(f"{place / 5},{MODEL},1000,100\n" for place in range(300))
    (tmp_path / "calm.csv.gz").write_bytes(
        gzip.compress(b"arrival_s,model,prompt_tokens,completion_tokens\n" + lines.encode())
    )
    return tmp_path / "calm.csv.gz"


# -- side by side


def test_a_further_account_takes_what_was_refused(cli: Cli) -> None:
    busy(cli)
    told = cli.json("simulate", "--add-account", "C:rpm=600", "--max-wait", "2")
    assert told["traffic"] == {"source": "600 calls of pool 'default' on record", "calls": 600, "seconds": 59.9}
    today, what_if = told["today"], told["what_if"]
    for side in (today, what_if):
        assert side["calls"] == 600 == side["answered"] + side["refused"]
        assert side["goodput"] == pytest.approx(side["answered"] / 600)
        assert side["token_goodput"] == pytest.approx(side["answered"] / 600)
        assert side["requests"] == side["answered"] + side["wasted"]
        assert sum(side["answered_by"].values()) == side["answered"]
        assert side["cost_usd"] == pytest.approx(side["answered"] * (1000 * INPUT + 100 * OUTPUT) / 1e6)
        assert side["wait_p50_s"] <= side["wait_p95_s"] <= 2.0
    # Of each account a minute's worth is there at first, and as much comes in.
    assert 440 <= today["answered"] <= 2 * (120 + 124)
    assert set(today["answered_by"]) == {"A", "B"}
    assert what_if["answered"] == 600
    assert set(what_if["answered_by"]) == {"A", "B", "C"}
    assert told["difference"]["answered"] == what_if["answered"] - today["answered"]
    assert told["difference"]["cost_usd"] == pytest.approx(what_if["cost_usd"] - today["cost_usd"])
    assert told["notes"] == []


def test_the_table(cli: Cli) -> None:
    busy(cli)
    shown = cli.run("simulate", "--add-account", "C:rpm=600,provider=compatible", "--max-wait", "2").stdout
    assert shown.startswith("600 calls of pool 'default' on record, over 0:01:00.\n")
    table = {line[:30].strip(): line[30:].split() for line in shown.splitlines() if line}
    assert table[""] == ["today", "what", "if", "difference"]
    assert table["calls"] == ["600", "600", "0"]
    before, after, change = table["answered"]
    assert (after, change) == ("600", f"+{600 - int(before)}")
    assert table["cost, US dollars"][1:] == ["unknown", "unknown"]
    assert int(table["answers without a price"][1]) == int(table["answered by C"][1]) > 0
    assert "\nNote: no price is known of gpt-4o at compatible.\n" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_without_a_change_there_is_but_today(cli: Cli) -> None:
    busy(cli)
    assert cli.json("simulate")["what_if"] is None
    assert "what if" not in cli.run("simulate").stdout


def test_it_changes_nothing_and_is_the_same_again(cli: Cli) -> None:
    busy(cli)
    before = cli.at_rest(), cli.json("usage")
    options = ("simulate", "--scale", "1.5", "--remove", "b", "--add-account", "tpm=100000", "--max-wait", "5")
    told = cli.json(*options, "--seed", "7")
    assert told == cli.json(*options, "--seed", "7")
    assert told != cli.json(*options, "--seed", "8")
    assert (cli.at_rest(), cli.json("usage")) == before


def test_where_nothing_is_stored_nothing_is_made(cli: Cli, trace: Path) -> None:
    told = cli.json("simulate", "--trace", str(trace), "--add-account", "rpm=100", "--add-account", "rpm=50")
    assert told["today"] is None
    assert told["what_if"]["answered_by"].keys() == {"new-1", "new-2"}
    assert not cli.ledger.exists()


# -- what is replayed


def test_a_call_is_replayed_once_from_when_it_came(cli: Cli) -> None:
    add(cli, Key(name="a"), Key(name="b"))
    refused = {"outcome": Fault.RATE_LIMIT, "usage": None}
    record(
        cli,
        [
            call(1, 10.0, waited_s=10.0),
            call(2, 11.0, **refused),
            call(2, 12.0, number=2, usage=Usage(prompt=5000, completion=7)),
            call(3, 70.0, outcome=Fault.REQUEST, usage=None),
            call(4, 80.0, **refused),
            call(5, 90.0, model="who-knows", **refused),
            call(6, 100.0, model=None),
            call(7, 110.0, pool="other"),
        ],
    )
    told = cli.json("simulate")
    assert told["traffic"]["seconds"] == pytest.approx(80.0), "from the first one's arrival to the fourth's"
    assert (told["today"]["calls"], told["today"]["tokens"]) == (3, 1100 + 5007 + 1007)
    assert told["notes"][:3] == [
        "1 calls were wrong themselves (bad_request), and are left out",
        "1 calls have no tokens on record: each counts as the median of its model",
        "1 calls are of models of which no tokens are on record, and are left out",
    ]


def test_between_two_moments(cli: Cli) -> None:
    add(cli, Key(name="a"), Key(name="b"))
    record(cli, [call(place, place * 600.0 - 86_400.0 * (place < 3)) for place in range(6)])

    def calls(*options: str) -> int:
        return cli.json("simulate", *options)["today"]["calls"]

    assert calls() == 3, "of the last day"
    assert calls("--since", "2d") == 6
    assert calls("--until", "45m") == 1, "of the day before"
    assert calls("--since", "2d", "--until", "12h") == 3


def test_so_many_times_the_traffic(cli: Cli) -> None:
    busy(cli)
    told = cli.json("simulate", "--scale", "3", "--max-wait", "0")
    assert (told["today"]["calls"], told["what_if"]["calls"]) == (600, 1800)
    assert told["what_if"]["answered"] > told["today"]["answered"], "they come over a longer time"
    assert cli.json("simulate", "--scale", "0.5")["what_if"]["calls"] == pytest.approx(300, abs=50)


def test_a_trace_asks_for_the_model_that_is_named(cli: Cli, trace: Path) -> None:
    options = ("simulate", "--trace", str(trace), "--add-account", "a:rpm=600", "--add-account", "b:rpm=600")
    dear, cheap = (cli.json(*options, *more)["what_if"] for more in ((), ("--model", "gpt-4o-mini")))
    assert dear["answered"] == cheap["answered"] == 300
    assert dear["cost_usd"] == pytest.approx(300 * (1000 * INPUT + 100 * OUTPUT) / 1e6)
    assert 0 < cheap["cost_usd"] < dear["cost_usd"] / 10


# -- the pool


def test_limits_are_declared_or_learned_or_none(cli: Cli) -> None:
    add(cli, Key(name="a", limits={"gpt*": Limits(rpm=60)}), Key(name="b"), Key(name="c", enabled=False))
    record(
        cli,
        [call(place, place / 10) for place in range(600)],
        learned("key:a", 6000.0),
        learned("key:a", 150_000.0, Dimension.TOKENS),
        learned("key:b", 60.0, guessed=True),
    )
    told = cli.json("simulate", "--max-wait", "0", "--add-account", "C:price=2", "--objective", "cost")
    assert told["today"]["answered_by"].keys() == {"key:a", "key:b"}
    assert max(told["today"]["answered_by"].values()) <= 60 + 61
    assert told["what_if"]["answered"] == 600
    assert told["notes"] == [
        "the limits of key:b for gpt-4o are a guess: no answer has named them",
        "no limit of C is known for gpt-4o: it is taken to have none",
    ]


def test_keys_of_one_account_go_together(cli: Cli) -> None:
    add(cli, Key(name="a"), Key(name="b"), Key(name="c", account="C"))
    record(
        cli,
        [call(place, place / 10) for place in range(600)],
        LearnedAccount("b", "key:a", "its answers name the same organisation", time.time()),
        learned("key:a", 60.0),
        learned("C", 60.0),
    )
    today = cli.json("simulate", "--max-wait", "0")["today"]
    assert max(today["answered_by"].values()) <= 60 + 61, "both keys draw on the same limit"
    removed = cli.json("simulate", "--remove", "key:a", "--add-account", "D:rpm=6000")["what_if"]
    assert removed["answered_by"].keys() == {"C", "D"}
    one_left = cli.json("simulate", "--remove", "a")["what_if"]
    assert one_left["answered_by"].keys() == {"key:a", "C"}


def test_where_no_keys_are_registered_those_on_record_count(cli: Cli) -> None:
    places = range(600)
    record(cli, [call(n, n / 10, key="ab"[n % 2], account="acme", provider="groq") for n in places])
    told = cli.json("simulate")
    assert told["today"]["answered_by"] == {"acme": 600}


def test_one_key_behaves_as_the_sdk_does(cli: Cli) -> None:
    add(cli, Key(name="a", limits={"*": Limits(rpm=60)}))
    record(cli, [call(place, place / 10) for place in range(600)])
    told = cli.json("simulate")
    today = told["today"]
    assert today["refused"] > 0
    assert today["requests"] <= 3 * 600
    assert today["wasted"] >= 3 * today["refused"], "each was tried three times"
    assert told["notes"] == ["where a is the only key, calls are tried thrice as by the SDK, and wait for no capacity"]


def test_the_objective_is_todays_unless_another_is_asked_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    add(cli, Key(name="a"), Key(name="b", price_multiplier=0.5))
    record(cli, [call(place, place) for place in range(60)])
    told = cli.json("simulate", "--objective", "cost")
    assert set(told["today"]["answered_by"]) == {"key:a", "key:b"}
    assert told["what_if"]["answered_by"] == {"key:b": 60}
    assert told["what_if"]["cost_usd"] == pytest.approx(60 * (1000 * INPUT + 100 * OUTPUT) / 2e6)
    monkeypatch.setenv("KEYROUTER_OBJECTIVE", "cost")
    assert cli.json("simulate")["today"]["answered_by"] == {"key:b": 60}


# -- what it costs


def test_what_comes_from_a_cache_costs_less(cli: Cli) -> None:
    """A conversation that grows: each prompt begins with the one before, as it was on record."""
    add(cli, Key(name="a"), Key(name="b"))
    sizes = [(2048 * (turn + 1), 2048 * turn) for turn in range(10)]
    usages = [Usage(prompt=prompt, completion=10, cached=cached) for prompt, cached in sizes]
    record(cli, [call(place, place * 20.0, usage=usage) for place, usage in enumerate(usages)])
    today = cli.json("simulate")["today"]
    assert today["answered_by"].keys() < {"key:a", "key:b"}, "all of it went where the cache is warm"
    fresh = sum(prompt - cached for prompt, cached in sizes)
    cached = sum(cached for _, cached in sizes)
    assert (today["prompt_tokens"], today["cached_tokens"]) == (fresh + cached, cached)
    assert today["cost_usd"] == pytest.approx((fresh * INPUT + cached * CACHED + 100 * OUTPUT) / 1e6)


def test_what_is_unknown_stays_unknown(cli: Cli) -> None:
    add(cli, Key(name="a"), Key(name="b"))
    record(cli, [call(1, 0.0), call(2, 1.0, model="who-knows")])
    told = cli.json("simulate")
    today = told["today"]
    assert (today["cost_usd"], today["cost_per_1000_usd"]) == (None, None)
    assert today["cost_microusd"] == 3500
    assert today["unpriced"] == {"who-knows at openai": 1}
    assert told["notes"][-1] == "no price is known of who-knows at openai"


def test_where_no_tokens_are_on_record_nothing_is_replayed(cli: Cli) -> None:
    add(cli, Key(name="a"))
    record(cli, [call(1, 0.0, usage=None)])
    assert "no call of pool 'default' on record for that time has its tokens on record" in cli.refuses("simulate")


# -- bad input


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--trace", "none.csv.gz"], "none.csv.gz: cannot be read: No such file or directory"),
        (["--trace", "TRACE", "--since", "1d"], "--since is about what is on record: leave it out where --trace is"),
        (["--model", "o3"], "--model is about a recorded trace: give --trace FILE as well"),
        (["--until", "2020-01-01"], "no call of pool 'default' is on record for that time"),
        (["--pool", "other", "--trace", "TRACE"], "pool 'other' has no keys in use: add some here, with --add-account"),
        (["--remove", "x"], "--remove: one of these is not in use: there are the keys a, b and the accounts A, B\n"),
        (["--remove", "A", "--remove", "b"], "--remove takes out all keys: leave one, or add an account"),
        (
            ["--add-account", "rps=5"],
            "--add-account: setting 1 is none of rpm, tpm, rpd, tpd, price and provider: write",
        ),
        (["--add-account", "x:rpm=1,"], "--add-account: setting 2 is none of rpm"),
        (["--add-account", "rpm=many"], "--add-account: rpm must be a number"),
        (["--add-account", "rpm=0"], "--add-account: limits: rpm: Input should be greater than 0"),
        (["--add-account", "price=-1"], "--add-account: key 'new-1': price_multiplier: "),
        (["--add-account", "price=nan"], "--add-account: key 'new-1': price_multiplier: "),
        (["--add-account", "provider=me"], "unknown provider 'me': use one of anthropic, "),
        (["--add-account", "a:rpm=5"], "--add-account: there is a key or account 'a' already: choose another name"),
        (["--add-account", "!:rpm=5"], "--add-account: '!' is not a usable name for a key"),
        (["--add-account", f"{SECRET}:rpm=5"], "--add-account: the key name looks like a secret"),
        (["--add-account", SECRET], "--add-account: setting 1 is none of rpm"),
        (["--remove", SECRET], "--remove: one of these is not in use"),
        (["--scale", "0"], "0.0 is not in the range 0<x<=1000"),
        (["--scale", "1e-9"], "no call is left of 600 calls of pool 'default' on record: choose a larger --scale"),
        (["--scale", "nan"], "nan is not a number to reckon with"),
        (["--max-wait", "inf"], "inf is not a number to reckon with"),
        (["--max-wait", "-1"], "-1.0 is not in the range x>=0"),
        (["--objective", "luck"], "'luck' is not one of 'fairness'"),
        (["--since", "yesterday"], "'yesterday' is no time"),
    ],
)
def test_bad_input_is_said(cli: Cli, trace: Path, arguments: list[str], problem: str) -> None:
    busy(cli)
    assert problem in cli.refuses("simulate", *(str(trace) if each == "TRACE" else each for each in arguments))


def test_a_trace_must_name_its_models(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "bare.csv.gz"
    file.write_bytes(gzip.compress(b"arrival_s,prompt_tokens,completion_tokens\n0,10,1\n"))
    said = cli.refuses("simulate", "--trace", str(file), "--add-account", "rpm=5")
    assert f"{file}: names no models: say with --model which one its calls ask for" in said
