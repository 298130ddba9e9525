"""What the attempts on record add up to, as a table, JSON and comma-separated values."""

from __future__ import annotations

import csv
import os
import re
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import anyio.to_thread
import pytest

from keyrouter_openai import Ledger
from keyrouter_openai.core.model import Fault, Usage
from keyrouter_openai.testing import ProviderSimulator
from tests.ledger.support import attempt
from tests.support import TurnedClock, call, make_pool

from .support import Cli, record, start

BY = ["key", "account", "model", "provider", "pool", "day", "outcome", "tag:tenant"]
TOKENS = Usage(prompt=10, completion=1)


@pytest.fixture
def month(cli: Cli) -> None:
    record(
        cli,
        attempt(at=at("2026-10-31T23:59"), model="gpt-4o", usage=TOKENS, tags={"tenant": "t1"}),
        attempt(at=at("2026-11-01T00:00"), model="gpt-4o", usage=Usage(prompt=20, completion=2), cost_microusd=1_500),
        attempt(at=at("2026-11-02T12:00"), key="b", model="o3", outcome=Fault.RATE_LIMIT, tags={"tenant": "t2"}),
    )


def at(time_: str) -> float:
    return datetime.fromisoformat(time_).timestamp()


@pytest.mark.usefixtures("month")
class TestUsage:
    def test_by_key(self, cli: Cli) -> None:
        counts = {"attempts": 1, "succeeded": 0, "failed": 1, "unpriced": 0}
        nothing = {"prompt_tokens": None, "cached_tokens": None, "completion_tokens": None, "cost_usd": None}
        first, second = cli.json("usage")
        assert second == {"key": "b", "pool": "default", **counts, **nothing}
        assert (first["key"], first["attempts"], first["prompt_tokens"]) == ("a", 2, 30)
        assert (first["cost_usd"], first["unpriced"]) == (0.0015, 1)

    @pytest.mark.parametrize(
        ("by", "groups"),
        [
            ("account", ["acme"]),
            ("model", ["gpt-4o", "o3"]),
            ("provider", ["openai"]),
            ("pool", ["default"]),
            ("day", ["2026-10-31", "2026-11-01", "2026-11-02"]),
            ("outcome", ["ok", "rate_limit"]),
            ("tag:tenant", [None, "t1", "t2"]),
        ],
    )
    def test_by_what(self, cli: Cli, by: str, groups: list[str | None]) -> None:
        assert [row[by] for row in cli.json("usage", "--by", by)] == groups

    @pytest.mark.parametrize("by", BY)
    def test_programs_get_the_same_numbers(self, cli: Cli, by: str) -> None:
        assert Ledger(cli.ledger).summary(by) == cli.json("usage", "--by", by)
        assert Ledger(cli.ledger).summary(by, since=datetime(2026, 11, 1)) == cli.json(
            "usage", "--by", by, "--since", "2026-11-01"
        )

    @pytest.mark.parametrize(
        ("bounds", "attempts"),
        [
            (["--since", "2026-11-01"], 2),
            (["--until", "2026-11-01"], 1),
            (["--since", "2026-11-01", "--until", "2026-11-02T12:00"], 1),
            (["--since", "2026-11-02T12:00"], 1),
            (["--since", "999999w"], 3),
        ],
    )
    def test_between_two_moments(self, cli: Cli, bounds: list[str], attempts: int) -> None:
        assert sum(row["attempts"] for row in cli.json("usage", *bounds)) == attempts

    def test_so_long_ago(self, cli: Cli) -> None:
        record(cli, *(attempt(at=time.time() - hours * 3600, key="c") for hours in (0.4, 11, 13, 7 * 24 + 1)))
        counts = [sum(row["attempts"] for row in cli.json("usage", "--since", ago)) for ago in ("30m", "12h", "7d")]
        assert counts == [1, 2, 3]

    def test_what_makes_no_sense(self, cli: Cli) -> None:
        assert "cannot sum up by 'colour': use one of key, account" in cli.refuses("usage", "--by", "colour")
        assert "'yesterday' is no time: write it as 30m, 12h, 7d" in cli.refuses("usage", "--since", "yesterday")
        assert "is no time" in cli.refuses("usage", "--until", "0001-01-01")
        assert "different outputs: choose one" in cli.refuses("usage", "--json", "--csv")
        assert "there is no folder" in cli.refuses("usage", "--html", "nowhere/usage.html")
        for since, until in (("1h", "2h"), ("2026-11-02", "2026-11-02")):
            said = cli.refuses("usage", "--since", since, "--until", until)
            assert "there is no time between --since and --until: give --until a later one" in said


@pytest.mark.usefixtures("month")
class TestTheTable:
    def test_sums_of_what_is_known(self, cli: Cli) -> None:
        lines = cli.run("usage", "--by", "model").stdout.splitlines()
        assert lines[0].split()[:4] == ["model", "attempts", "succeeded", "failed"]
        assert lines[2].split() == ["gpt-4o", "2", "2", "0", "30", "0", "3", "0.0015", "1"]
        assert lines[3].split() == ["o3", "1", "0", "1"]
        assert lines[5].split() == ["total", "3", "2", "1", "30", "0", "3", "0.0015", "1"]

    def test_numbers_stand_below_each_other(self, cli: Cli) -> None:
        record(cli, *(attempt(key="b", usage=Usage(prompt=123_456), cost_microusd=7_000_000) for _ in range(9)))
        lines = [line for line in cli.run("usage").stdout.splitlines() if "─" not in line]
        ends = {
            line.rindex(number) + len(number)
            for line, number in zip(lines[1:], ("30", "1,111,104", "1,111,134"), strict=True)
        }
        assert ends == {lines[0].index("prompt tokens") + len("prompt tokens")}
        assert "63.0015" in lines[-1]

    def test_a_narrow_terminal_cuts_no_number(self, cli: Cli) -> None:
        usage = Usage(prompt=1_234_567_890, cached=234_567_890, completion=345_678_901)
        record(cli, attempt(key="a-key-with-quite-a-long-name", usage=usage, cost_microusd=12_345_678))
        screen, terminal = os.openpty()
        with start("usage", stdout=terminal, COLUMNS="80", TERM="xterm") as process:
            os.close(terminal)
            shown = b""
            with suppress(OSError):  # as the end of a terminal is told
                while read := os.read(screen, 4096):
                    shown += read
            process.wait()
        os.close(screen)
        lines = re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).splitlines()
        assert max(map(len, lines)) <= 80
        assert re.search(r"^a-key.* 1,234,567,890 +345,678,901 +12\.3457", "\n".join(lines), re.MULTILINE)
        assert "succeeded" not in shown.decode()

    def test_an_unknown_cost_is_no_cost_of_0(self, cli: Cli) -> None:
        day = cli.run("usage", "--by", "day", "--until", "2026-11-01").stdout.splitlines()
        assert day[2].split()[-2:] == ["unknown", "1"]
        assert len(day) == 3, "one line needs no total"

    def test_a_small_cost_does_not_look_like_none(self, cli: Cli) -> None:
        record(
            cli, attempt(key="tiny", usage=TOKENS, cost_microusd=1), attempt(key="free", usage=TOKENS, cost_microusd=0)
        )
        lines = {line.split()[0]: line.split() for line in cli.run("usage").stdout.splitlines()}
        assert lines["tiny"][-1] == "<0.0001"
        assert lines["free"][-1] == "0.0000"

    def test_a_total_of_costs_is_exact(self, cli: Cli) -> None:
        record(cli, *(attempt(model=f"m{number}", usage=TOKENS, cost_microusd=100_100) for number in range(1000)))
        assert cli.run("usage", "--by", "model").stdout.splitlines()[-1].split()[-2] == "100.1015"


def test_comma_separated_values(cli: Cli) -> None:
    record(
        cli,
        attempt(model="a,b", usage=TOKENS, cost_microusd=12),
        attempt(model='=HYPERLINK("x")\n', usage=TOKENS),
        attempt(model=None),
    )
    rows = list(csv.DictReader(cli.run("usage", "--by", "model", "--csv").stdout.splitlines()))
    assert list(rows[0]) == list(cli.json("usage", "--by", "model")[0])
    assert {row["model"]: (row["cost_usd"], row["unpriced"]) for row in rows} == {
        "a,b": ("0.000012", "0"),
        '\'=HYPERLINK("x")?': ("", "1"),
        "": ("", "0"),
    }


def test_usage_of_nothing(cli: Cli) -> None:
    assert cli.json("usage") == []
    assert cli.run("usage", "--csv").stdout == ""
    assert f"No such attempts are on record in {cli.ledger}" in cli.run("usage").stderr
    assert not cli.ledger.exists()


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_a_client_adds_up_what_the_command_does(
    cli: Cli, sim: ProviderSimulator, tmp_path: Path, sync: bool
) -> None:
    pool = make_pool(sim, cli.ledger, TurnedClock())
    for model in ("gpt-4o", "no-such-model", "gpt-4o-mini"):
        await call(pool, sync=sync, stream=False, model=model)
    client = pool.client_sync() if sync else pool.client()
    sums = {by: await anyio.to_thread.run_sync(client.ledger.summary, by) for by in BY}
    assert sum(row["attempts"] for row in sums["key"]) >= 3
    assert sums == {by: cli.json("usage", "--by", by) for by in BY}
    pool.ledger.close()
