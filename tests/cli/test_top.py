"""`top`: what running programs say and what the record has, on terminals of several sizes."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from io import StringIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from keyrouter_openai import Key, Ledger, Router
from keyrouter_openai.cli.frame import frame
from keyrouter_openai.core.budget import window_at
from keyrouter_openai.core.forecast import Forecast, Subject
from keyrouter_openai.core.model import Fault, Usage
from keyrouter_openai.ledger import database
from keyrouter_openai.ledger.database import writing
from keyrouter_openai.ledger.screens import sight, watch
from keyrouter_openai.status import AccountStatus, BucketStatus, ForecastStatus, KeyStatus, PoolStatus
from keyrouter_openai.testing import ProviderSimulator, SimAccount
from tests.ledger.support import attempt

from .support import Cli, at_screen, is_clean, record, start

if sys.platform != "win32":
    import termios

USAGE = Usage(prompt=1000, completion=50)


def drawn(view: Any, width: int, height: int | None = None) -> list[str]:
    """The lines of a frame, without colours."""
    out = StringIO()
    Console(file=out, width=width, markup=False).print(frame(view, width=width, height=height))
    return out.getvalue().splitlines()


class TestNoProgramRuns:
    def test_how_each_key_last_fared(self, cli: Cli) -> None:
        now = time.time()
        record(
            cli,
            attempt(at=now - 30, key="a", usage=USAGE, cost_microusd=1500),
            attempt(at=now - 20, key="a", outcome=Fault.RATE_LIMIT),
            attempt(at=now - 3 * 86_400, key="b", account="other", usage=USAGE, cost_microusd=9),
        )
        told = cli.json("top", "--once")
        assert told["programs"] == told["parked"] == told["limits"] == told["budgets"] == []
        first, second = told["keys"]
        assert first == {
            "pool": "default",
            "key": "a",
            "provider": "openai",
            "account": "acme",
            "state": None,
            "reason": None,
            "until": None,
            "in_flight": None,
            "attempts_last_minute": 2,
            "tokens_last_minute": 1050,
            "cost_usd_today": 0.0015,
            "unpriced_today": 0,
            "last_used": now - 20,
            "last_outcome": "rate_limit",
        }
        assert (second["key"], second["account"], second["cost_usd_today"]) == ("b", "other", None)
        shown = cli.run("top", "--once").stdout
        assert re.search(r"a +acme +openai +rate_limit \d+ s ago +2 +1,050 +0.0015", shown)
        assert re.search(r"b +other +openai +ok 3 days ago", shown) or "72 h ago" in shown
        assert "no program runs" in shown

    def test_an_unknown_cost_is_no_cost_of_0(self, cli: Cli) -> None:
        record(cli, attempt(at=time.time(), usage=USAGE))
        shown = cli.run("top", "--once").stdout
        assert re.search(r"today +unknown cost of 1 attempt, 1 attempt, 0 failed", shown)
        assert re.search(r"unknown +1$", shown, re.MULTILINE)

    def test_nothing_on_record(self, cli: Cli) -> None:
        assert f"No attempts are on record in {cli.ledger}" in cli.run("top", "--once").stdout
        assert cli.json("top")["keys"] == []
        assert not cli.ledger.exists()

    def test_a_file_that_another_program_has_locked_is_still_read(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record(cli, attempt(at=time.time()))
        monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
        with closing(sqlite3.connect(cli.ledger)) as other:
            other.execute("begin immediate")
            told = cli.json("top")
        assert [key["key"] for key in told["keys"]] == ["a"]
        assert "close it, or use another file" in told["trouble"]


def key(name: str, state: str = "available", *, until: float | None = None, in_flight: int = 0) -> KeyStatus:
    return KeyStatus(name, "openai", f"org-{name}", state, "" if state == "available" else "why", until, in_flight)


def bucket(family: str, dimension: str, limit: float, level: float) -> BucketStatus:
    return BucketStatus(family, dimension, 60.0, limit, level, guessed=False)


def say(
    cli: Cli,
    holder: str,
    *keys: KeyStatus,
    accounts: Sequence[AccountStatus] = (),
    forecasts: Sequence[ForecastStatus] = (),
    pool: str = "default",
) -> None:
    """What a program says of itself, where it says it; it holds for longer than the slowest test."""
    now = time.time()
    in_flight = sum(each.in_flight for each in keys)
    status = PoolStatus(pool, now, in_flight, keys, tuple(accounts), forecasts=tuple(forecasts))
    with writing(cli.ledger) as connection:
        connection.execute("insert into live values (?, ?, ?)", (holder, now + 600, json.dumps([asdict(status)])))


PROGRAM = """
import sys, time
from keyrouter_openai import Key, SyncRoutedOpenAI
url, *secrets = sys.argv[1:]
keys = [Key(name=f"k{at}", secret=secret, base_url=url) for at, secret in enumerate(secrets)]
with SyncRoutedOpenAI(keys=keys) as client:
    while True:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hello."}])
        print("called", flush=True)
        time.sleep(0.05)
"""


def test_programs_that_run(cli: Cli) -> None:
    account = SimAccount("A", keys=3, rpm=100_000, tpm=1_000_000)
    with ProviderSimulator([account]) as sim, started(sim) as one, started(sim) as two:
        for program in (one, two):
            assert program.stdout is not None
            assert program.stdout.readline() == "called\n"
        deadline = time.monotonic() + 60
        told = cli.json("top")
        while [program["pool"] for program in told["programs"]] != ["default", "default"]:
            assert time.monotonic() < deadline
            told = cli.json("top")
        assert is_clean(json.dumps(told))
        assert len({program["program"] for program in told["programs"]}) == 2
        assert {key["key"]: key["state"] for key in told["keys"]} == dict.fromkeys(["k0", "k1", "k2"], "available")
        assert sum(key["attempts_last_minute"] for key in told["keys"]) >= 2
        assert {limit["dimension"] for limit in told["limits"]} == {"requests", "tokens"}
    assert cli.json("top")["programs"] == []


@contextmanager
def started(sim: ProviderSimulator) -> Generator[subprocess.Popen[str]]:
    with start(command=[sys.executable, "-c", PROGRAM, sim.url, *sim.keys.values()]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_program_that_makes_no_calls(cli: Cli) -> None:
    ledger = Ledger(cli.ledger)
    ledger.record(attempt())
    ledger.flush()
    (program,) = cli.json("top")["programs"]
    assert (program["pool"], program["in_flight"]) == (None, None)
    assert "1 program without calls" in cli.run("top", "--once").stdout
    ledger.close()
    assert "no program runs" in cli.run("top", "--once").stdout


def test_all_pools_of_a_program(cli: Cli, sim: ProviderSimulator) -> None:
    ledger = Ledger(cli.ledger)
    keys = [
        Key(name=name, secret=secret, base_url=sim.url) for name, secret in zip("abc", sim.keys.values(), strict=True)
    ]
    routers = [Router([key], pool=f"pool-{key.name}", ledger=ledger) for key in keys]
    Router([Key(name="forgotten", secret="sk-forgotten")], pool="forgotten", ledger=ledger)
    Router(
        [Key(name="elsewhere", secret="sk-elsewhere")], pool="elsewhere", ledger=Ledger(cli.ledger.with_name("b.db"))
    )
    ledger.record(attempt())
    ledger.flush()
    watch(cli.ledger, time.time() + 60)
    deadline = time.monotonic() + 30
    while not (live := sight(cli.ledger, since=0).live):
        assert time.monotonic() < deadline
        ledger.record(attempt())
        ledger.flush()
    assert [status["pool"] for status in live[0]["status"]] == [router.pool for router in routers]
    ledger.close()


class TestPrograms:
    def test_the_graver_view_of_two_programs(self, cli: Cli) -> None:
        soon, later = time.time() + 60, time.time() + 600
        full, tight = (bucket("gpt-4o", "tokens", 1000, left) for left in (1000, 100))
        say(
            cli,
            "one",
            key("a", in_flight=2),
            key("b", "throttled", until=soon),
            accounts=[AccountStatus("acme", ("a", "b"), "available", None, {"gpt-4o": soon}, (full,))],
        )
        say(
            cli,
            "two",
            key("a", "invalid", in_flight=3),
            key("b", "throttled", until=later),
            accounts=[AccountStatus("acme", ("a", "b"), "throttled", soon, {"gpt-4o": later, "o3": soon}, (tight,))],
        )
        say(cli, "three", key("a"), pool="other")
        told = cli.json("top")
        assert [(p["program"], p["pool"], p["in_flight"]) for p in told["programs"]] == [
            ("one", "default", 5 - 3),
            ("three", "other", 0),
            ("two", "default", 3),
        ]
        keys = {(k["pool"], k["key"]): (k["state"], k["until"], k["in_flight"]) for k in told["keys"]}
        assert keys == {
            ("default", "a"): ("invalid", None, 5),
            ("default", "b"): ("throttled", later, 0),
            ("other", "a"): ("available", None, 0),
        }
        assert [(p["account"], p["family"], p["until"]) for p in told["parked"]] == [
            ("acme", "o3", soon),
            ("acme", "gpt-4o", later),
        ]
        (limit,) = told["limits"]
        assert (limit["account"], limit["level"], limit["used"]) == ("acme", 100, 0.9)

    def test_the_earliest_of_what_is_foretold(self, cli: Cli) -> None:
        now = time.time()
        for holder, at in (("one", now + 7200), ("two", now + 3600)):
            known = Forecast(100, 10, 0.1, 0.9, at, at - 600, at + 600, now + 86_400)
            never = Forecast(100, 90, 0.0, 0.0, None, None, None, now + 86_400)
            account = Subject("account", "acme", "tokens", "gpt-4o", 86_400.0)
            budget = Subject("budget", "cap", "usd")
            say(cli, holder, key("a"), forecasts=[ForecastStatus(account, known), ForecastStatus(budget, never)])
        (told,) = cli.json("top")["running_dry"]
        assert (told["name"], told["family"], told["dimension"], told["at"]) == ("acme", "gpt-4o", "tokens", now + 3600)
        assert re.search(r"acme +gpt-4o tokens/day +.*, in 60 min +.* to ", cli.run("top", "--once").stdout)

    def test_what_a_program_said_long_ago_is_forgotten(self, cli: Cli) -> None:
        say(cli, "gone", key("a"))
        with writing(cli.ledger) as connection:
            connection.execute("update live set at = at - 660")
        assert cli.json("top")["programs"] == []

    def test_budgets_in_the_windows_that_are_open(self, cli: Cli) -> None:
        window = window_at("day", ZoneInfo("Asia/Tokyo"), time.time())
        declared = {"name": "cap", "pool": "default", "microusd": 20_000_000, "per": "day", "zone": "Asia/Tokyo"}
        declared |= {"scope": "pool", "action": "block"}
        with writing(cli.ledger) as connection:
            for id_, at in (("cap", 0.0), ("new", time.time()), ("given up", window.start - 1)):
                row = (id_, json.dumps(declared | {"name": id_}), at)
                connection.execute("insert into budgets values (?, ?, ?)", row)
            windows = [("cap", window.start - 86_400, 20_000_000), ("cap", window.start, 5_000_000)]
            connection.executemany("insert into budget_windows values (?, ?, ?)", windows)
            held = [("cap", window.start, "one", 2_000_000), ("cap", window.start, "two", -1)]
            connection.executemany("insert into allowances values (?, ?, ?, ?)", held)
        cap, new = cli.json("top")["budgets"]
        spent = {name: cap[name] for name in ("budget", "limit_usd", "spent_usd", "held_usd", "until")}
        assert spent == {"budget": "cap", "limit_usd": 20, "spent_usd": 5, "held_usd": 2, "until": window.end}
        assert (new["budget"], new["spent_usd"]) == ("new", None)
        shown = cli.run("top", "--once").stdout
        assert re.search(r"cap +pool +[━╸╺]+ +25% +\$5.0000 of \$20.00 a day", shown)
        assert re.search(r"new +pool +not used yet, of \$20.00 a day", shown)

    @pytest.mark.parametrize(
        ("limit", "shown"),
        [
            (1, "$0.000001"),
            (4_500, "$0.0045"),
            (10_000, "$0.01"),
            (100_000, "$0.10"),
            (1_234_567, "$1.234567"),
            (2_000_000_000, "$2,000.00"),
        ],
    )
    def test_what_a_budget_allows_is_shown_in_full(self, cli: Cli, limit: int, shown: str) -> None:
        declared = {"name": "cap", "pool": "default", "microusd": limit, "per": "total", "zone": "UTC"}
        declared |= {"scope": "pool", "action": "block"}
        with writing(cli.ledger) as connection:
            connection.execute("insert into budgets values ('cap', ?, 0)", (json.dumps(declared),))
            connection.execute("insert into budget_windows values ('cap', 0, ?)", (limit // 2,))
        assert re.search(rf"cap .* of {re.escape(shown)} in all\b", cli.run("top", "--once").stdout)


class TestTheFrame:
    @pytest.fixture
    def busy(self, cli: Cli) -> Any:
        """Fifty keys, sixty limits, ten parked families, six budgets and three programs."""
        keys = [key(f"key-number-{n:02}", in_flight=n) for n in range(49)]
        buckets = tuple(bucket(f"model-{n}", "tokens", 1e6, n * 1e4) for n in range(6))
        parked = {"model-1": time.time() + 99}
        accounts = [AccountStatus(f"account-{n}", (), "available", None, parked, buckets) for n in range(10)]
        for holder in ("one", "two", "three"):
            say(cli, holder, *keys, key("lame", "exhausted", until=time.time() + 3600), accounts=accounts)
        declared = {"pool": "default", "microusd": 1, "per": "total", "zone": "UTC", "scope": "pool", "action": "warn"}
        with writing(cli.ledger) as connection:
            rows = [(f"budget-{n}", json.dumps(declared | {"name": f"budget-{n}"}), 0.0) for n in range(6)]
            connection.executemany("insert into budgets values (?, ?, ?)", rows)
        return cli.json("top")

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 50), (100, 30), (200, 60), (76, 21)])
    def test_it_fits(self, busy: Any, width: int, height: int) -> None:
        lines = drawn(busy, width, height)
        assert len(lines) <= height
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        parts = ["key-number-48", "budget-0", "limits of", "parked", "program "]
        assert [part for part in parts if part in text] == parts[: {21: 3, 24: 4, 30: 4}.get(height)]
        assert "49 available, 1 exhausted" in text

    def test_numbers_are_never_cut(self, busy: Any) -> None:
        for width in (80, 120, 200):
            header = next(line for line in drawn(busy, width, 40) if line.startswith("key "))
            assert re.search(r"in flight +att/min +tok/min +\$ today$", header)

    def test_the_busiest_come_first_and_the_others_are_counted(self, busy: Any) -> None:
        lines = drawn(busy, 80, 24)
        names = [line.split()[0] for line in lines if line.startswith("key-number")]
        assert names == [f"key-number-{n:02}" for n in range(48, 48 - len(names), -1)]
        after = lines[lines.index(next(line for line in lines if line.startswith(names[-1]))) + 1]
        assert after == f"and {50 - len(names)} more"

    def test_whole_without_a_terminal(self, cli: Cli, busy: Any) -> None:
        shown = cli.run("top", "--once").stdout
        assert len(re.findall(r"^key-number-", shown, re.MULTILINE)) == 49
        assert "more" not in shown
        assert "\x1b" not in shown

    def test_names_drive_no_terminal(self, cli: Cli) -> None:
        record(cli, attempt(at=time.time(), key="z\x1b]0;x", account="\x1b"))
        say(cli, "h\x1b[31m", key("k\x1b[2J[bold]"), accounts=[AccountStatus("a\x07", (), "available", None, {}, ())])
        shown = cli.run("top", "--once").stdout
        assert "\x1b" not in shown and "\x07" not in shown
        assert "k?[2J[bold]" in shown


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
class TestTheTerminal:
    @pytest.mark.parametrize("end", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
    def test_until_q_or_interrupted(self, cli: Cli, end: bytes) -> None:
        say(cli, "one", key("a"))
        with at_screen("top") as screen:
            screen.sees("available")
            before = screen.mode()
            screen.types(end)
            assert screen.ends() == 0
        seen = screen.seen
        assert "\x1b[?1049h" in seen, "its own screen"
        assert seen.rindex("\x1b[?1049l") > seen.rindex("available"), "and the old one back"
        assert not before[3] & termios.ICANON, "keys come at once"
        assert "Traceback" not in seen

    def test_the_terminal_is_as_before(self, cli: Cli) -> None:
        say(cli, "one", key("a"))
        with at_screen("top") as screen:
            screen.sees("available")
            screen.types(b"q")
            screen.ends()
            assert screen.mode()[3] & termios.ICANON
            assert screen.mode()[3] & termios.ECHO

    def test_colours_unless_they_are_not_wanted(self, cli: Cli) -> None:
        say(cli, "one", key("a"))
        for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            with at_screen("top", **environ) as screen:
                screen.sees("available")
                screen.types(b"q")
                screen.ends()
            assert bool(re.search(r"\x1b\[[\d;]*3[0-9][\d;]*m", screen.seen)) is coloured

    def test_it_goes_with_what_happens(self, cli: Cli) -> None:
        say(cli, "one", key("a"))
        with at_screen("top") as screen:
            screen.sees("available")
            with writing(cli.ledger) as connection:
                connection.execute("delete from live")
            say(cli, "one", key("a", "suspect"))
            screen.sees("suspect")
