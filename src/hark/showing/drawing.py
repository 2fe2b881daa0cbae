"""What all figures share: palette, soft logarithmic axes, names beside points, SVG for a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from hark.files import digest

# Blue and orange of Okabe & Ito, darkened for text: told apart by colour-blind readers and in grey print.
INK, MUTED, FAINT, RULE = "#1d2433", "#5b6475", "#c3c9d3", "#e6e9ee"
BLUE, ORANGE, GREEN = "#0067a5", "#c4510a", "#007a5e"
STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
_DISTANCES = (9, 20, 34, 50, 70)
_DIRECTIONS = ((1, 0), (-1, 0), (0.75, 0.75), (0.75, -0.75), (-0.75, 0.75), (-0.75, -0.75), (0, 1), (0, -1))
_NEAR = 12  # a name this near to its point needs no line to it
_RADIUS = 6
_NAME_SIZE = 10


def colour_of(group: str) -> str:
    """The colour in which a group is drawn everywhere."""
    return {"ours": BLUE, "reference": ORANGE}.get(group, GREEN)


def svg(draw: Callable[[Figure], None], name: str, title: str, *, size: tuple[int, int]) -> Markup:
    """Draw a figure as SVG to stand in a page, without its own document, its ids its own.

    Args:
        draw: adds axes to an empty figure.
        name: no other figure of the page has it.
        title: what the figure shows, for those who cannot see it.
        size: width and height in the drawing's units, in which letters are 10 high.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), dpi=72)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    body = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    body = body[body.index(">", body.index("<svg")) + 1 :].strip()
    prefix = f"f{digest(name)[:8]}"
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{prefix}-', body)
    opening = f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(title)}">'
    return Markup(opening + body)


def log_costs(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis of costs from `low` to `high`, ticked at 1, 2 and 5."""
    axes.set_xscale("log")
    ticks = [digit * 10**decade for decade in range(9) for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low < tick < high]
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(low, high)


def soft_log(axes: Axes, values: Sequence[float]) -> None:
    """Give y a logarithmic scale that can show zero: linear below the lowest decade that matters."""
    positive = [value for value in values if value > 0]
    if not positive:
        return
    high = max(positive)
    floor = 10.0 ** np.floor(np.log10(max(min(positive), high / 1e4)))
    bottom, top = (0.0 if min(values) < floor else 0.85 * min(positive)), 1.35 * high
    axes.set_yscale("symlog", linthresh=floor, linscale=0.25)
    digits = (1, 2, 5) if high / floor < 300 else (1,)
    ticks = [digit * 10.0**decade for decade in range(-9, 9) for digit in digits]
    shown = [0.0, *(tick for tick in ticks if tick >= floor)]
    axes.set_yticks([tick for tick in shown if bottom <= tick <= top])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom, top)


def short(value: float, _: object = None) -> str:
    """A large number in few letters: 20 k, 1.5 M."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


@dataclass(frozen=True)
class Point:
    """A point in data coordinates, the spread of its y, and what to write beside it."""

    x: float
    y: float
    spread: float
    name: str
    colour: str


@dataclass(frozen=True)
class _Place:
    """Where a name could stand, in pixels."""

    box: Bbox
    anchor: tuple[float, float]
    side: str
    distance: float


def name_points(axes: Axes, points: Sequence[Point], front: Any, *, rule: tuple[float, str]) -> None:
    """Write each point's name, and that of a horizontal rule, where it covers the least.

    Args:
        axes: scales and limits set, for the places are found in its pixels.
        points: what to name.
        front: a polyline in steps to keep clear of, float (corners, 2).
        rule: height and name of the horizontal rule.
    """
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    frame = axes.get_window_extent()
    taken = [box for point in points for box in _own_boxes(axes, point)]
    taken += _step_boxes(axes.transData.transform(front))
    rule_y = float(axes.transData.transform((points[0].x, rule[0]))[1])
    taken.append(Bbox.from_bounds(frame.x0, rule_y - 2, frame.width, 4))

    def write(name: str, colour: str, places: Callable[[float, float], Iterator[_Place]]) -> _Place:
        text = axes.text(0, 0, name, color=colour, fontsize=_NAME_SIZE, va="center")
        size = text.get_window_extent(renderer)
        best = min(places(size.width, size.height), key=lambda place: _badness(place, taken, frame))
        text.set(position=axes.transData.inverted().transform(best.anchor), horizontalalignment=best.side)
        taken.append(best.box)
        return best

    write(rule[1], INK, lambda width, height: _along(frame, rule_y + 9, width, height))
    for point in points:
        x, y = axes.transData.transform((point.x, point.y))
        place = write(point.name, point.colour, lambda *size, at=(x, y): _around(at, size))
        if place.distance > _NEAR:
            end = axes.transData.inverted().transform(place.anchor)
            axes.plot(*zip((point.x, point.y), end, strict=True), color=point.colour, linewidth=0.6, zorder=1)


def _own_boxes(axes: Axes, point: Point) -> Iterator[Bbox]:
    (x, low), (_, y), (_, high) = axes.transData.transform(
        [(point.x, point.y - point.spread), (point.x, point.y), (point.x, point.y + point.spread)]
    )
    yield Bbox.from_extents(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
    yield Bbox.from_extents(x - 4, low, x + 4, high)


def _step_boxes(corners: Any) -> Iterator[Bbox]:
    for (x, y), (next_x, next_y) in pairwise(corners):
        yield Bbox.from_extents(x, y - 2, next_x, y + 2)
        yield Bbox.from_extents(next_x - 2, next_y, next_x + 2, y)


def _around(at: tuple[float, float], size: tuple[float, float]) -> Iterator[_Place]:
    (x, y), (width, height) = at, size
    for distance in _DISTANCES:
        for right, up in _DIRECTIONS:
            anchor = (x + right * distance, y + up * distance)
            side = "left" if right > 0 else "right" if right < 0 else "center"
            yield _Place(_text_box(anchor, side, width, height), anchor, side, distance)


def _along(frame: Bbox, y: float, width: float, height: float) -> Iterator[_Place]:
    for x in np.linspace(frame.x0 + 4, frame.x1 - width - 4, 24):
        yield _Place(_text_box((x, y), "left", width, height), (x, y), "left", 0.0)


def _text_box(anchor: tuple[float, float], side: str, width: float, height: float) -> Bbox:
    left = anchor[0] - {"left": 0.0, "center": 0.5, "right": 1.0}[side] * width
    return Bbox.from_bounds(left - 1, anchor[1] - height / 2 - 1, width + 2, height + 2)


def _badness(place: _Place, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Pixels of the name that would cover something or leave the frame; distance breaks ties."""
    box = place.box
    covered = sum(_overlap(box, other) for other in taken)
    outside = box.width * box.height - _overlap(box, frame)
    return covered + 3 * outside + 1.2 * place.distance


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, float(width)) * max(0.0, float(height))
