"""Line charts side by side as an SVG, readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 840, 400
TOP, BOTTOM, LEFT, GAP = 84, 48, 52, 64
LEGEND_COLUMNS, LEGEND_ROW = 5, 20
COLOURS = ("#8a8a8a", "#2f9e6e", "#2e8bc0", "#8e6bbf", "#c2557a", "#d9822b", "#b8860b", "#5b7f95", "#a0705a")
"""Of middling lightness: they stand out from white and from black. The first is for the reference, dashed."""
STYLE = ".t{fill:#7d7d7d}@media(prefers-color-scheme:dark){.t{fill:#c0c0c0}}"

Points = Sequence[tuple[float, float]]
"""x and y, in order of x."""


@dataclass(frozen=True)
class Chart:
    """One chart: lines by name. Both axes start at 0."""

    title: str
    x_title: str
    lines: Mapping[str, Points]


def draw(charts: Sequence[Chart], reference: str) -> str:
    """The charts, all with the same names. `reference` is a line that others are measured by."""
    names = [reference, *dict.fromkeys(name for chart in charts for name in chart.lines if name != reference)]
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    body = list(_legend(colours, reference))
    width = (WIDTH - LEFT - GAP * (len(charts) - 1) - 12) / len(charts)
    for place, chart in enumerate(charts):
        left = LEFT + place * (width + GAP)
        body += _axes(chart, left, width)
        for name in sorted(chart.lines, key=names.index, reverse=True):  # the first on top
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in _placed(chart, left, width, chart.lines[name]))
            paint = f'fill="none" stroke="{colours[name]}" stroke-width="2.5"{_dash(name == reference)}'
            body.append(f'<polyline points="{points}" {paint}/>')
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>", *body, "</svg>\n"])


def _legend(colours: Mapping[str, str], reference: str) -> Iterator[str]:
    step = (WIDTH - LEFT) / LEGEND_COLUMNS
    for place, (name, colour) in enumerate(colours.items()):
        row, column = divmod(place, LEGEND_COLUMNS)
        x, y = LEFT + column * step, 18 + row * LEGEND_ROW
        dash = _dash(name == reference)
        yield f'<path d="M{x:.1f} {y - 4}h26" stroke="{colour}" stroke-width="2.5"{dash}/>'
        yield _text(x + 34, y, name, "start")


def _axes(chart: Chart, left: float, width: float) -> Iterator[str]:
    most_x, most_y = _most(chart)
    yield _text(left + width / 2, TOP - 14, chart.title, "middle")
    yield _text(left + width / 2, HEIGHT - 10, chart.x_title, "middle")
    for tick in _ticks(most_x):
        ((x, _),) = _placed(chart, left, width, [(tick, 0.0)])
        yield _text(x, HEIGHT - BOTTOM + 18, f"{tick:g}", "middle")
    for tick in _ticks(most_y):
        ((x, y),) = _placed(chart, left, width, [(0.0, tick)])
        yield f'<path d="M{x:.1f} {y:.1f}h{width:.1f}" stroke="#808080" stroke-opacity=".3"/>'
        yield _text(x - 8, y + 4, f"{tick:,g}", "end")


def _placed(chart: Chart, left: float, width: float, points: Points) -> list[tuple[float, float]]:
    """Where points of a chart are in the picture."""
    most_x, most_y = _most(chart)
    height = HEIGHT - TOP - BOTTOM
    return [(left + x / most_x * width, HEIGHT - BOTTOM - y / most_y * height) for x, y in points]


def _most(chart: Chart) -> tuple[float, float]:
    points = [point for line in chart.lines.values() for point in line]
    return max(x for x, _ in points), max(1.05 * max(y for _, y in points), 1.0)


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 up to `most`, some five of them."""
    steps = (digit * 10.0**power for power in range(-1, 7) for digit in (1, 2, 5))
    step = next(step for step in steps if most / step <= 8)
    return [round(number * step, 6) for number in range(int(most / step + 1e-9) + 1)]


def _dash(dashed: bool) -> str:
    return ' stroke-dasharray="6 5"' if dashed else ""


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="t">{text}</text>'
