"""The demo as its users run it: what it prints, what it refuses, and what it leaves behind."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .support import Cli, is_clean, start

TRACE = b"arrival_s,model,prompt_tokens,completion_tokens\n" + b"".join(
    b"%.2f,m,%d,%d\n" % (place / 5, 20 + place % 90, 1 + place % 20) for place in range(300)
)


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """Where the demo puts what it needs while it runs."""
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """300 calls in a minute, five a second."""
    (tmp_path / "calm.csv.gz").write_bytes(gzip.compress(TRACE))
    return tmp_path / "calm.csv.gz"


def run(*arguments: str, temporary: Path) -> tuple[str, str]:
    """What a demo that goes well prints on standard output and standard error."""
    with start("demo", *arguments, TMPDIR=str(temporary)) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert is_clean(out + err)
    assert list(temporary.iterdir()) == []
    return out, err


def test_what_the_demo_measures(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever runs it may have an organisation, a proxy and a ledger of their own: none of them is used.
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("KEYROUTER_DB", str(tmp_path / "my.db"))
    out, err = run("--seconds", "3", "--json", temporary=temporary)
    told: dict[str, Any] = json.loads(out)
    assert not (tmp_path / "my.db").exists()

    assert set(told) == {"load", "accounts", "sides", "keys", "findings"}
    one, robin, routed = told["sides"]
    assert [side["side"] for side in (one, robin, routed)] == ["one key", "round robin", "RoutedOpenAI"]
    for side in (one, robin, routed):
        assert side["calls"] == told["load"]["calls"] == side["succeeded"] + sum(side["failed"].values())
        assert "another call's answer" not in side["failed"]
        assert side["sent"] - side["wasted"] >= side["succeeded"] > 0
        assert 0 < side["p50_s"] <= side["p99_s"] <= side["longest_s"]
    assert routed["succeeded"] >= max(one["succeeded"], robin["succeeded"])
    assert robin["failed"]["401 invalid_api_key"] > 0
    assert robin["failed"]["429 insufficient_quota"] > 0
    assert one["sent_to_revoked"] == one["sent_to_dry"] == 0
    assert min(side[sent] for side in (robin, routed) for sent in ("sent_to_revoked", "sent_to_dry")) > 0

    keys = {key["key"]: key for key in told["keys"]}
    assert set(keys) == {"large-1", "large-2", "medium-1", "small-1", "prepaid-1", "leaver-1"}
    assert keys["large-1"]["account"] == keys["large-2"]["account"]
    assert (keys["leaver-1"]["state"], keys["prepaid-1"]["state"]) == ("invalid", "exhausted")
    assert set(keys["leaver-1"]["refused"]) >= {"key_refused"}
    assert set(keys["prepaid-1"]["refused"]) >= {"exhausted"}
    assert sum(key["calls"] for key in keys.values()) == routed["sent"]

    assert f"Of {routed['calls']} calls, RoutedOpenAI answered {routed['succeeded']}," in told["findings"][0]
    assert "RoutedOpenAI: key leaver-1 is invalid" in err
    assert "RoutedOpenAI: key prepaid-1 is exhausted" in err


def test_a_trace_is_replayed_and_shown_side_by_side(temporary: Path, trace: Path) -> None:
    out, _ = run("--trace", str(trace), "--window", "10,25", "--speed", "5", temporary=temporary)
    assert "75 calls in 3 s: calm.csv.gz from 10 s to 25 s.\nTime runs 5 times as fast" in out
    assert "a minute of its limits lasts 12 s" in out
    table = {line[:26].strip(): line[26:].split() for line in out.splitlines()}
    assert table["calls"] == ["75"] * 3
    assert all(int(answered) <= 75 for answered in table["answered"])
    assert {"requests sent", "of them wasted", "p50 until answered", "p99 until answered", "longest wait"} <= set(table)
    assert "leaver-1" in out
    assert "prepaid-1" in out
    assert max(map(len, out.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--window", "1,2"], "--window and --speed are about a recorded trace: give --trace FILE as well"),
        (["--speed", "2"], "--window and --speed are about a recorded trace: give --trace FILE as well"),
        (["--trace", "none.csv.gz"], "none.csv.gz: cannot be read: No such file or directory"),
        (["--trace", __file__], f"{__file__}: is not a gzip file, or not a whole one"),
        (["--trace", "TRACE", "--window", "1"], "--window '1' is not two numbers of seconds: write it as 645,705"),
        (["--trace", "TRACE", "--window", "1,b"], "--window '1,b' is not two numbers of seconds: write it as 645,705"),
        (["--trace", "TRACE", "--window", "9,1"], "the window 9,1 is not within 0,60, the earlier second first"),
        (["--trace", "TRACE", "--window", "0,99"], "the window 0,99 is not within 0,60, the earlier second first"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, trace: Path, arguments: list[str], problem: str) -> None:
    assert (
        cli.refuses("demo", *(str(trace) if each == "TRACE" else each for each in arguments)) == f"Error: {problem}\n"
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_early_it_leaves_nothing_behind(temporary: Path, number: signal.Signals, code: int) -> None:
    with start("demo", "--seconds", "60", stdout=subprocess.DEVNULL, TMPDIR=str(temporary)) as process:
        assert process.stderr is not None
        while not list(temporary.glob("*/ledger.db")):  # its first calls are on record
            assert process.poll() is None
        process.send_signal(number)
        err = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "Traceback" not in err
    assert list(temporary.iterdir()) == []
