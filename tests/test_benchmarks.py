"""The benchmarks in virtual time run, and what they measure by is right."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest

import cheaper
import drift
import goodput
import outage
import ownership
import traces
from contestants import CONTESTANTS, Scenario, made_up_calls, optimum, run
from keyrouter_openai.testing import SimAccount
from keyrouter_openai.testing.virtual import BLOCK, VirtualCall

BENCHMARKS = Path(__file__).parent / "benchmarks"


def printed(
    main: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["benchmark", "--short", *arguments])
    main()
    return capsys.readouterr().out


@pytest.mark.parametrize("script", [path for path in sorted(BENCHMARKS.glob("*.py")) if "argparse" in path.read_text()])
def test_each_starts_as_the_readme_says(script: Path, tmp_path: Path) -> None:
    """With the package installed, and no more of the checkout on the import path than the script's own folder."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_goodput(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "goodput.svg"
    shown = printed(goodput.main, monkeypatch, capsys, "--loads", "0.7,1.3", "--picture", str(file))
    picture = ElementTree.parse(file)
    labels = {element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")}
    for name in ("optimum", *CONTESTANTS):
        assert name in shown
        assert name in labels


def test_drift(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(drift.main, monkeypatch, capsys, "--case", "second app")
    assert shown.count("second app") == len(CONTESTANTS)


def test_outage(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(outage.main, monkeypatch, capsys)
    assert shown.count("500") >= len(CONTESTANTS)


def test_ownership(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, known, unknown = printed(ownership.main, monkeypatch, capsys).splitlines()
    assert [int(number) for number in known.split()[-7:]] == [50, 50, 0, 0, 0, 0, 0]
    calls, ok, missing, failed, looked_up, _, twice = (int(number) for number in unknown.split()[-7:])
    assert (calls, ok, missing, failed, twice) == (50, 50, 0, 0, 0)
    assert looked_up


def test_traces(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, more in (
        ("azure2023_A", {}),
        ("mooncake_conv_A", {"prefix_hashes": "0 1 2 3 4 5"}),
        ("claude_code_A", {"session_id": "s", "reusable_prefix_tokens": "2048"}),
        ("servegen_A", {"client_id": traces.FLOODS}),
    ):
        write_trace(tmp_path / f"{name}.csv.gz", more)
    shown = printed(traces.main, monkeypatch, capsys, "--data", str(tmp_path))
    for name in ("azure2023_A", "mooncake_conv_A", "claude_code_A", "servegen_A"):
        assert name in shown


def test_cheaper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_trace(tmp_path / "claude_code_A.csv.gz", {"session_id": "s", "reusable_prefix_tokens": "2048"})
    shown = printed(cheaper.main, monkeypatch, capsys, "--data", str(tmp_path))
    lines = [line.split() for line in shown.splitlines() if ", affinity" in line]
    assert len(lines) == 4 * len(cheaper.CASES)
    assert shown.count("best possible") == len(cheaper.CASES)
    assert all(float(of_best) >= 1.0 for *_, of_best, _, _, _, _ in lines)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("providers", cheaper.CASES.values())
def test_the_cheapest_way_through_a_session(seed: int, providers: Sequence[cheaper.Provider]) -> None:
    rng = Random(seed)
    calls = [VirtualCall(rng.uniform(0, 1500), rng.randint(3000, 9000), 100) for _ in range(8)]
    calls.sort(key=lambda call: call.at)
    for place, call in enumerate(calls):
        kept = calls[place - 1].prefixes[: rng.randint(0, 12)] if place else (0,)
        call.prefixes = (*kept, *(100 * place + n for n in range(1, call.prompt_tokens // BLOCK - len(kept) + 1)))
    costs = [cheaper.costs_of(each, calls) for each in providers]
    ways = product((0, 1), repeat=len(calls))
    assert cheaper.cheapest(costs) == pytest.approx(min(costs_on(way, costs) for way in ways))


def costs_on(way: Sequence[int], costs: Sequence[cheaper.Costs]) -> float:
    """What a session costs whose calls go to these providers, one after another."""
    last, total = [0, 0], 0.0
    for place, provider in enumerate(way):
        total += costs[provider][place][last[provider]]
        last[provider] = place + 1
    return total


def write_trace(path: Path, more: dict[str, str]) -> None:
    """A trace of two calls a second, of two tenants where it has any, in sessions of ten calls where it has any."""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["arrival_s", "prompt_tokens", "completion_tokens", *more])
        writer.writeheader()
        for place in range(1500):
            row = {"arrival_s": place / 2, "prompt_tokens": 3100, "completion_tokens": 20, **more}
            if "client_id" in more and place % 2:
                row["client_id"] = "another"
            if "session_id" in more:
                row["session_id"] = f"s{place // 10}"
            writer.writerow(row)


def test_the_optimum_is_what_the_buckets_hold_and_refill_in_time() -> None:
    account = SimAccount("a", rpm=60)
    at_once = [VirtualCall(0.0, 1, 1) for _ in range(200)]
    assert sum(optimum(at_once, [account]).granted) == pytest.approx(60 + 20.1)
    spread = [VirtualCall(float(second), 1, 1) for second in range(100)]
    assert optimum(spread, [account]).share == pytest.approx(1.0)


def test_the_limit_that_binds_makes_the_optimum() -> None:
    calls = [VirtualCall(0.0, 100, 1) for _ in range(50)]
    bound = optimum(calls, [SimAccount("a", rpm=60, tpm=600), SimAccount("b", rpm=60, tpm=600)])
    assert sum(bound.asked) == 5000
    assert sum(bound.granted) == pytest.approx(1200 * (1 + 20.1 / 60))


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_nobody_beats_the_optimum(name: str, seed: int) -> None:
    accounts = [SimAccount("a", keys=2, rpm=300, tpm=100_000), SimAccount("b", rpm=150, tpm=50_000)]
    make_calls = partial(made_up_calls, 6.0 + Random(seed).random(), 90.0, seed)
    score = run(Scenario(accounts, make_calls, seed), CONTESTANTS[name])
    assert score.share_of(optimum(score.calls, accounts)) <= 1.0
