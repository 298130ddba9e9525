"""Bars as inline SVG. Colours and light or dark are the style sheet's: the marks carry classes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

COLOURS = 9
"""How many series the style sheet has colours for, classes `s0` and up; the last is that of all others together."""

_WIDTH, _HEIGHT = 960, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 10, 26
_TICKS = 4
_LABELS = 12
"""As many labels fit below the bars."""
_WIDEST = 56


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of the bars: a value for each of them, all of 0 or more."""

    name: str
    values: Sequence[float]


def stacked_bars(
    title: str, labels: Sequence[tuple[str, str]], series: Sequence[Series], text: Callable[[float], str]
) -> str:
    """A bar for each label, made up of the series from below.

    Labels are for tips, and shorter for the axis; `text` writes a value of the axis and tips.
    """
    top, step = _scale(max(sum(one.values[at] for one in series) for at in range(len(labels))))
    height = _HEIGHT - _TOP - _BOTTOM
    slot = (_WIDTH - _LEFT - _RIGHT) / len(labels)
    width = min(slot * 0.8, _WIDEST)
    marks: list[str] = []
    for tick in range(round(top / step) + 1):
        y = _TOP + height * (1 - tick * step / top)
        marks.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        marks.append(f'<text class="y" x="{_LEFT - 8}" y="{y + 4:.1f}">{escape(text(tick * step))}</text>')
    every = ceil(len(labels) / _LABELS)
    for at, (label, short) in enumerate(labels):
        middle = _LEFT + slot * (at + 0.5)
        if at % every == 0:
            marks.append(f'<text class="x" x="{middle:.1f}" y="{_HEIGHT - 8}">{escape(short)}</text>')
        below = 0.0
        for place, one in enumerate(series):
            if not (value := one.values[at]):
                continue
            y = _TOP + height * (1 - (below + value) / top)
            marks.append(
                f'<rect class="s{place}" x="{middle - width / 2:.1f}" y="{y:.2f}" width="{width:.1f}" '
                f'height="{height * value / top:.2f}"><title>{escape(f"{label}, {one.name}: {text(value)}")}'
                "</title></rect>"
            )
            below += value
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: the table below has the numbers">{"".join(marks)}</svg>'
    )


def legend(names: Sequence[str]) -> str:
    """Which colour is whose."""
    items = (
        f'<li><svg class="swatch" viewBox="0 0 1 1" aria-hidden="true"><rect class="s{place}" width="1" height="1"/>'
        f"</svg>{escape(name)}</li>"
        for place, name in enumerate(names)
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def share_bar(share: float) -> str:
    """A bar for a part of a whole, from 0 to 1; the number stands beside it."""
    return (
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/><rect class="s0" width="{100 * share:.2f}" height="10"/></svg>'
    )


def _scale(largest: float) -> tuple[float, float]:
    """The top of the axis and its step: a round number that goes some `_TICKS` times into it."""
    rough = (largest or 1.0) / _TICKS
    power = 10.0 ** floor(log10(rough))
    step = power * next((round_ for round_ in (1, 2, 5) if round_ * power >= rough), 10)
    return step * (ceil(largest / step - 1e-9) or 1), step
