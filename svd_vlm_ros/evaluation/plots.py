# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG: no library, no network, readable without colour and when dark.

A chart is drawn for a width in pixels, so that text keeps its size: the page holds a wide and a
narrow one and shows the one that fits. Lines differ by marker, by dashes and by colour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Colours that most eyes tell apart, on white and on black (after Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#808080")
DODGE = 1.3  # pixels from one line's points to the next one's
DASHES = ("", "7 3", "2 3")
# Paths around 0, 0; even ones are filled.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",  # disc
    "M-4 -4h8v8h-8z",  # square
    "M0 -5l5 9h-10z",  # triangle
    "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",  # diamond
    "M0 5l5 -9h-10z",  # triangle on its tip
    "M-4.5 -4.5l9 9m0 -9l-9 9",  # cross
    "M-5.5 0h11m-5.5 -5.5v11",  # plus
)


@dataclass(frozen=True)
class Line:
    """A line of a chart: a name, and points (x, y, half interval of y) in the order of the line."""

    name: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Chart:
    """What a chart shows.

    Attributes:
        title: for readers who can't see it.
        x_label, y_label: the axes, with units.
        lines: the place of a line in this list decides how it is drawn, see `style`.
        ticks: values of x that are written; x is logarithmic.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    ticks: tuple[float, ...]


def style(index: int) -> tuple[str, str, str, bool]:
    """How line number `index` looks: colour, dashes, marker, and whether that is filled.

    Neighbours differ in all of them; of 42 lines no two are alike without colour.
    """
    marker, turn = index % len(MARKERS), index // len(MARKERS)
    return (
        COLOURS[index % len(COLOURS)],
        DASHES[(turn // 2 + marker) % len(DASHES)],
        MARKERS[marker],
        turn % 2 == 0,
    )


def swatch(index: int) -> str:
    """A piece of line with its marker, for a legend."""
    return (
        f'<svg class="swatch" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
        f"{_stroke(index, 'M1 7H33')}{_marker(index, 17, 7)}</svg>"
    )


def chart_svg(chart: Chart, width: int, height: int) -> str:
    """A chart as an SVG element of `width` x `height` pixels."""
    if not any(line.points for line in chart.lines):
        return ""
    left, right, top, bottom = 46, 14, 12, 46
    box = _Box(chart, left, top, width - right, height - bottom)
    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(chart.title, quote=True)}">',
        *_axes(chart, box, width, height),
    ]
    for index, line in enumerate(chart.lines):
        if line.points:
            parts += _line(index, line, box)
    return "".join([*parts, "</svg>"])


class _Box:
    """From values to pixels of the chart."""

    def __init__(self, chart: Chart, left: float, top: float, right: float, bottom: float) -> None:
        xs = [x for line in chart.lines for x, _, _ in line.points]
        ys = [y + way * e for line in chart.lines for _, y, e in line.points for way in (-1, 1)]
        self.left, self.top, self.right, self.bottom = left, top, right, bottom
        self._x0, self._x1 = math.log(min(xs)), math.log(max(xs))
        self.y_step = _step(max(ys) - min(ys))
        self.low = max(0.0, math.floor(min(ys) / self.y_step) * self.y_step)
        self.high = min(100.0, math.ceil(max(ys) / self.y_step) * self.y_step)
        if self.high <= self.low:
            self.low, self.high = self.high - self.y_step, self.high

    def x(self, value: float) -> float:
        span = self._x1 - self._x0
        share = (math.log(value) - self._x0) / span if span > 0 else 0.5
        return self.left + 12 + share * (self.right - self.left - 24)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.bottom - share * (self.bottom - self.top)

    def y_ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.y_step)
        return [self.low + at * self.y_step for at in range(count + 1)]


def _step(span: float) -> float:
    return next((step for step in (1.0, 2.0, 5.0, 10.0, 20.0) if span / step <= 7), 25.0)


def _axes(chart: Chart, box: _Box, width: int, height: int) -> list[str]:
    parts = []
    for value in box.y_ticks():
        y = box.y(value)
        parts.append(f'<path class="grid" d="M{box.left} {y:.1f}H{box.right}"/>')
        parts.append(f'<text x="{box.left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    last = -math.inf
    for value in chart.ticks:
        x = box.x(value)
        parts.append(f'<path class="tick" d="M{x:.1f} {box.bottom}v5"/>')
        text = f"{value:.3g}"
        if x - last >= 9 * len(text):
            y = box.bottom + 18
            parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>')
            last = x
    parts.append(f'<path class="axis" d="M{box.left} {box.top}V{box.bottom}H{box.right}"/>')
    middle = (box.left + box.right) / 2
    parts.append(
        f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    y = (box.top + box.bottom) / 2
    parts.append(
        f'<text transform="translate(12 {y}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_label)}</text>"
    )
    return parts


def _line(index: int, line: Line, box: _Box) -> list[str]:
    aside = (index % 9 - 4) * DODGE  # so that intervals at one x don't hide each other
    spots = [(box.x(x) + aside, box.y(y)) for x, y, _ in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
    parts = [f'<g class="line l{index}"><title>{escape(line.name)}</title>', _stroke(index, path)]
    for (x, y), (_, value, error) in zip(spots, line.points, strict=True):
        if error:
            low, high = box.y(max(box.low, value - error)), box.y(min(box.high, value + error))
            colour = style(index)[0]
            parts.append(
                f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" class="error"/>'
            )
        parts.append(_marker(index, x, y))
    return [*parts, "</g>"]


def _stroke(index: int, path: str) -> str:
    colour, dashes, _, _ = style(index)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}/>'


def _marker(index: int, x: float, y: float) -> str:
    colour, _, marker, filled = style(index)
    closed = marker.endswith("z")
    fill = (colour if filled else "var(--paper)") if closed else "none"
    width = 1.6 if filled or closed else 3.2
    return (
        f'<path d="{marker}" transform="translate({x:.1f} {y:.1f})" fill="{fill}" '
        f'stroke="{colour}" stroke-width="{width}"/>'
    )


def ticks_of(lines: Sequence[Line]) -> tuple[float, ...]:
    """The values of x that occur."""
    return tuple(sorted({x for line in lines for x, _, _ in line.points}))


def round_ticks(lines: Sequence[Line]) -> tuple[float, ...]:
    """Round values of x (such as 0.2, 0.3, 0.4) inside of what occurs."""
    xs = [x for line in lines for x, _, _ in line.points]
    if not xs:
        return ()
    low, high = math.floor(math.log10(min(xs))), math.ceil(math.log10(max(xs)))
    candidates = [m * 10.0**e for e in range(low, high + 1) for m in (1, 1.5, 2, 3, 4, 5, 7)]
    inside = tuple(value for value in candidates if min(xs) <= value <= max(xs))
    return inside if len(inside) > 1 else (min(xs), max(xs))
