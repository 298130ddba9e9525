"""The page of `usage --html`: the same figures as `usage`, in one file that asks nothing of anyone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from keyrouter_openai.core.model import Attempt, Fault, Usage
from tests.ledger.support import attempt

from .support import Cli, record

NOON = datetime(2026, 11, 1, 12).timestamp()
DAY_S = 86_400
NASTY = '<img src="https://evil.example/x" onerror=alert(1)>&"\x1b[31m'


class Page(HTMLParser):
    """A page as a reader takes it in: its tables, its bars with their tips, and whatever would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tables: dict[str, list[list[str]]] = {}
        self.tips: list[str] = []
        self.heights: list[float] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self._heading = self._cell = self._tip = None
        self._open: list[str] = []
        self._headings: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open.append(tag)
        if tag == "h2":
            self._headings.append("")
        elif tag == "table":
            self.tables[self._headings[-1]] = []
        elif tag == "tr":
            self.tables[self._headings[-1]].append([])
        elif tag in ("th", "td"):
            self.tables[self._headings[-1]][-1].append("")
        elif tag == "title" and "rect" in self._open:
            self.tips.append("")
        elif tag == "rect" and dict(attrs).get("x"):
            self.heights.append(float(dict(attrs)["height"] or 0))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "h2" in self._open:
            self._headings[-1] += data
        elif "td" in self._open or "th" in self._open:
            self.tables[self._headings[-1]][-1][-1] += data
        elif "title" in self._open and "rect" in self._open:
            self.tips[-1] += data

    def column(self, heading: str, name: str) -> dict[str, str]:
        """The values of one column of a table by the names of its rows."""
        head, *rows = self.tables[heading]
        return {row[0]: row[head.index(name)] for row in rows}


def page(cli: Cli, tmp_path: Path, *arguments: str) -> Page:
    file = tmp_path / "usage.html"
    result = cli.run("usage", "--html", str(file), *arguments)
    assert (result.stdout, result.stderr) == ("", f"Written: {file}\n")
    return Page(file.read_text(encoding="utf-8"))


def spent(day: int, microusd: int | None, **changes: object) -> Attempt:
    usage = Usage(prompt=1000, completion=50, cached=200)
    return attempt(at=NOON + day * DAY_S, usage=usage, cost_microusd=microusd, **changes)


def some() -> Sequence[Attempt]:
    return [
        spent(0, 1_000_000, model="gpt-4o", key="a", tags={"tenant": "acme"}),
        spent(0, 500_000, model="o3", key="b"),
        spent(2, 250_000, model="gpt-4o", key="b", tags={"tenant": "acme"}),
        spent(2, None, model="mystery", key="b"),
        attempt(at=NOON + 2 * DAY_S, model="gpt-4o", key="b", outcome=Fault.RATE_LIMIT),
    ]


def test_what_was_spent_on_what_and_where_is_trouble(cli: Cli, tmp_path: Path) -> None:
    record(cli, *some())
    shown = page(cli, tmp_path)
    assert shown.column("Dollars spent by day and model", "total") == {
        "2026-11-03": "0.2500 + 1 unpriced",
        "2026-11-02": "",
        "2026-11-01": "1.5000",
        "total": "1.7500 + 1 unpriced",
    }
    assert shown.column("Dollars spent by day and model", "gpt-4o")["total"] == "1.2500"
    assert shown.column("Dollars spent by day and model", "mystery")["2026-11-03"] == "unknown"
    assert shown.column("Dollars spent by day and key", "b")["2026-11-01"] == "0.5000"
    assert shown.column("Failed attempts by day and outcome", "rate_limit")["2026-11-03"] == "1"
    assert shown.column("By key", "failed") == {"a": "0", "b": "1 (25.0%)", "total": "1 (20.0%)"}
    assert shown.column("By tenant", "part") == {"acme": "71.4%", "(none)": "28.6%", "total": ""}
    assert "2026-11-01, gpt-4o: $1.00" in shown.tips


@pytest.mark.parametrize("by", ["model", "key", "account", "tag:tenant"])
def test_the_figures_are_those_of_usage(cli: Cli, tmp_path: Path, by: str) -> None:
    record(cli, *some())
    since = ("--since", "2026-11-02")
    shown, rows = page(cli, tmp_path, "--by", by, *since), cli.json("usage", "--by", by, *since)
    heading = f"By {by.removeprefix('tag:')}"
    attempts = {row[by] or "(none)": f"{row['attempts']:,}" for row in rows}
    assert shown.column(heading, "attempts") == attempts | {"total": str(sum(row["attempts"] for row in rows))}
    tokens = {row[by] or "(none)": f"{row['prompt_tokens']:,}" for row in rows}
    assert shown.column(heading, "prompt tokens") == tokens | {
        "total": f"{sum(row['prompt_tokens'] for row in rows):,}"
    }


def test_bars_are_as_high_as_their_numbers(cli: Cli, tmp_path: Path) -> None:
    record(cli, spent(0, 1_000_000), spent(1, 250_000))
    high, low, *_ = page(cli, tmp_path).heights
    assert high == pytest.approx(4 * low, rel=0.01)


def test_a_page_loads_and_runs_nothing(cli: Cli, tmp_path: Path) -> None:
    record(cli, *some())
    shown = page(cli, tmp_path)
    assert not shown.tags & {"script", "link", "img", "iframe", "object", "image", "use"}
    assert not shown.attributes & {"src", "href", "onerror", "onload", "style"}
    assert "url(" not in shown.text and "@import" not in shown.text and "http:" not in shown.text
    assert "default-src 'none'" in shown.text


def test_names_are_text_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    record(cli, spent(0, 1, model=NASTY, key=NASTY, account=NASTY, provider=NASTY, pool=NASTY, tags={NASTY: NASTY}))
    shown = page(cli, tmp_path, "--by", f"tag:{NASTY}")
    assert "img" not in shown.tags
    assert "\x1b" not in shown.text
    assert NASTY.replace("\x1b", "?") in shown.column("By model", "attempts")


def test_for_eyes_paper_and_screen_readers(cli: Cli, tmp_path: Path) -> None:
    record(cli, *some())
    shown = page(cli, tmp_path)
    assert "prefers-color-scheme: dark" in shown.text
    assert "@media print" in shown.text
    labels = re.findall(
        r'<svg class="chart"[^>]* role="img" aria-label="([^"]+): the table below has the numbers">', shown.text
    )
    assert labels == list(shown.tables)[:3], "each chart is named as its table"


def test_many_models_and_many_months_stay_readable(cli: Cli, tmp_path: Path) -> None:
    start = datetime(2025, 1, 31, 12)
    times = [(start + timedelta(days=10 * number)).timestamp() for number in range(60)]
    usage = Usage(prompt=10, completion=1)
    record(cli, *(attempt(at=at, model=f"m{n:02}", usage=usage, cost_microusd=1000 + n) for n, at in enumerate(times)))
    shown = page(cli, tmp_path)
    by_month = shown.column("Dollars spent by month and model", "total")
    assert list(by_month)[:3] == ["2026-09", "2026-08", "2026-07"]
    assert list(by_month)[-3:] == ["2025-02", "2025-01", "total"]
    head, *_ = shown.tables["Dollars spent by month and model"]
    assert head == ["month", "total", *(f"m{number}" for number in range(59, 51, -1)), "52 others"]
    assert list(shown.column("By model", "attempts").values())[-2:] == ["51", "60"]


def test_a_model_of_unknown_price_is_not_lost_among_the_others(cli: Cli, tmp_path: Path) -> None:
    record(cli, *[spent(0, None, model="mystery")] * 2, *(spent(0, 10, model=f"m{number:02}") for number in range(30)))
    shown = page(cli, tmp_path)
    assert shown.column("By model", "spent, US dollars")["mystery"] == "unknown"
    assert shown.column("Dollars spent by day and model", "mystery")["total"] == "unknown"


def test_without_prices_tokens_are_shown(cli: Cli, tmp_path: Path) -> None:
    record(cli, spent(0, None, model="a"), spent(1, None, model="b"))
    shown = page(cli, tmp_path)
    assert shown.column("Tokens used by day and model", "total")["total"] == "2,100"
    assert shown.column("By model", "spent, US dollars")["a"] == "unknown"
    assert "<dt>Spent</dt><dd>unknown" in shown.text


def test_nothing_on_record(cli: Cli, tmp_path: Path) -> None:
    assert "No such attempts are on record." in page(cli, tmp_path).text
    assert not cli.ledger.exists()


def test_the_page_on_standard_output(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(cli, *some())
    result = cli.run("usage", "--html", "-")
    assert (result.stdout.startswith("<!doctype html>\n"), result.stderr) == (True, "")
    assert Page(result.stdout).tables == page(cli, tmp_path).tables
    assert not (tmp_path / "-").exists()
