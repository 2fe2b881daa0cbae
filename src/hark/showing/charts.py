"""A study's figures, drawn by matplotlib into SVG for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hark.judging.metrics import ErrorCurve
from hark.showing.drawing import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    Point,
    colour_of,
    log_costs,
    name_points,
    short,
    soft_log,
    svg,
)
from hark.showing.reference_report import BAR, PRINTED, SISTERS
from hark.showing.results import Setting
from hark.showing.study import Damage, Difference, Study, pareto_front

MARKERS = {"ours": "o", "reference": "s"}
RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_DASHES = ("", "6 3", "2 2.5")


@dataclass(frozen=True)
class Curve:
    """A setting's error rates, float (points,), and how its line is drawn."""

    setting: Setting
    false_accepts: Any
    false_rejects: Any
    dashes: str | None
    """As SVG writes them; None for a line among the others."""

    @property
    def colour(self) -> str:
        """The group's colour, or a faint one among the others."""
        return FAINT if self.dashes is None else colour_of(self.setting.group)

    @property
    def line(self) -> dict[str, Any]:
        """How matplotlib is to draw it."""
        dashes = tuple(map(float, self.dashes.split())) if self.dashes else ()
        style = (0, dashes) if dashes else "solid"
        above = self.dashes is not None
        return {
            "color": self.colour,
            "linewidth": 1.8 if above else 1.2,
            "linestyle": style,
            "zorder": 2 + above,
        }


def trade_off(study: Study, cost: str, *, title: str, axis: str) -> Markup:
    """Metric against a cost: every setting a point with its spread over folds, the front, the bar.

    Args:
        study: what to draw.
        cost: a field of `Costs`, and of the printed figures.
        title: what the drawing says, for those who cannot see it.
        axis: what the cost is called.
    """
    points = [_point(setting, cost) for setting in study.judged]
    printed = [
        Point(getattr(row, cost), row.metric, 0.0, f"{row.name} (printed)", MUTED)
        for row in (*PRINTED, *SISTERS)
        if getattr(row, cost) is not None
    ]
    front = np.array(pareto_front((point.x, point.y) for point in points))

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.06, 0.1, 0.93, 0.885))
        _cost_axes(axes, [*points, *printed])
        axes.set_xlabel(axis)
        axes.set_ylabel("0.02587 · (1 − AUC), 10⁻⁵")
        axes.axhline(BAR, color=INK, linewidth=1, linestyle=(0, (5, 4)))
        axes.step(*front.T, where="post", color=FAINT, linewidth=2.5, zorder=1)
        for setting, point in zip(study.judged, points, strict=True):
            marker = MARKERS.get(setting.group, "^")
            axes.errorbar(point.x, point.y, point.spread or None, color=point.colour, elinewidth=1, zorder=2)
            axes.plot(point.x, point.y, marker, color=point.colour, markersize=7, markeredgecolor="white")
        for point in printed:
            axes.plot(point.x, point.y, "D", color="white", markersize=6, markeredgecolor=MUTED)
        name_points(axes, [*points, *printed], front, rule=(BAR, f"the assignment’s bar, {BAR}"))

    return svg(draw, f"trade-off-{cost}", title, size=(960, 480))


def curves(settings: Sequence[Setting], telling: Sequence[Setting]) -> list[Curve]:
    """The mean curve of each setting with scores; of the telling ones each group's first in its colour."""
    drawn: dict[str, int] = {}
    found = []
    for setting in dict.fromkeys([*telling, *settings]):
        folds = [result.curve for result in setting.results if result.curve is not None]
        if folds:
            rank = drawn[setting.group] = drawn.get(setting.group, -1) + 1
            dashes = _DASHES[rank] if setting in telling and rank < len(_DASHES) else None
            found.append(Curve(setting, *mean_curve(folds), dashes))
    return found


def mean_curve(folds: Sequence[ErrorCurve]) -> tuple[Any, Any]:
    """False rejects at each rate of false accepts, averaged over folds: two arrays (points,)."""
    accepts = np.concatenate([[0.0], np.geomspace(5e-4, 1.0, 240)])
    rejects = [
        fold.false_reject_rate[np.argmax(fold.false_accept_rate[:, None] <= accepts, axis=0)] for fold in folds
    ]
    return accepts, np.mean(rejects, axis=0)


def error_curves(found: Sequence[Curve], *, title: str) -> Markup:
    """False rejects against false accepts on plain axes, up to 5 % of false accepts."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.1, 0.13, 0.88, 0.85))
        for curve in found:
            axes.plot(100 * curve.false_accepts, 100 * curve.false_rejects, **curve.line)
        highest = max(100 * float(np.interp(0.002, c.false_accepts, c.false_rejects)) for c in found)
        axes.set_xlim(0, 5)
        axes.set_ylim(0, max(2.0, 1.1 * highest))
        axes.set_xlabel("false accepts, % of clips without the keyword")
        axes.set_ylabel("false rejects, % of clips with it")

    return svg(draw, "fa-fr", title, size=(470, 370))


def det_curves(found: Sequence[Curve], *, title: str) -> Markup:
    """The detection error trade-off (Martin et al. 1997), both axes in normal deviates."""
    from scipy.special import ndtr, ndtri

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.1, 0.13, 0.88, 0.85))
        for curve in found:
            seen = (curve.false_rejects > 0) & (curve.false_rejects < 1)
            axes.plot(ndtri(curve.false_accepts[seen]), ndtri(curve.false_rejects[seen]), **curve.line)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ndtri(np.array(RATES)))
            axis.set_major_formatter(FuncFormatter(lambda deviate, _: f"{100 * ndtr(deviate):.3g}"))
        axes.set_xlim(*ndtri(np.array([0.0005, 0.2])))
        axes.set_ylim(*ndtri(np.array([0.00045, 0.4])))
        axes.set_xlabel("false accepts, %")
        axes.set_ylabel("false rejects, %")

    return svg(draw, "det", title, size=(470, 370))


def differences(found: Sequence[Difference], *, title: str) -> Markup:
    """Each paired difference as its folds, mean and 95 % interval around zero."""
    height = 30 * len(found) + 46

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.38, 44 / height, 0.61, 1 - 46 / height))
        for row, difference in enumerate(found):
            colour, paired = colour_of(difference.setting.group), difference.paired
            axes.plot([paired.low, paired.high], [row, row], color=colour, linewidth=2)
            axes.plot(paired.values, [row] * len(paired.values), "|", color=colour, markersize=9, alpha=0.55)
            axes.plot(paired.mean, row, "o", color=colour, markersize=8, markeredgecolor="white")
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(found)), [f"{d.setting.name}  −  {d.parent}" for d in found])
        axes.tick_params(axis="y", labelcolor=INK, labelsize=11)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("difference of the metric, 10⁻⁵; right of zero: worse than what it was made from")

    return svg(draw, "differences", title, size=(960, height))


def training(setting: Setting, *, title: str) -> Markup:
    """Loss and validation figure over steps, one line per run; what was not logged has no axes."""
    known = {"losses": "training loss", "validations": "validation, 1 − AUC"}
    shown = {field: name for field, name in known.items() if any(getattr(run, field) for run in setting.results)}

    def draw(figure: Figure) -> None:
        first = None
        for row, (field, name) in enumerate(shown.items()):
            bottom = 0.57 - 0.43 * row if len(shown) > 1 else 0.14
            first = axes = figure.add_axes((0.15, bottom, 0.83, 0.93 - bottom - 0.43 * row), sharex=first)
            for run in setting.results:
                if series := getattr(run, field):
                    axes.plot(*_thinned(series), color=colour_of(setting.group), linewidth=1.1, alpha=0.6)
            soft_log(axes, [value for run in setting.results for _, value in getattr(run, field)])
            axes.set_title(name, loc="left", fontsize=10, color=MUTED, pad=4)
            axes.tick_params(labelbottom=row == len(shown) - 1)
        axes.xaxis.set_major_formatter(FuncFormatter(short))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_xlabel("steps")

    return svg(draw, f"training {setting.group} {setting.name}", title, size=(300, 260))


def posterior_over_time(check: Mapping[str, Any], *, title: str, group: str = "ours") -> Markup:
    """The keyword's posterior over the clips of a `check_stream.json`, their borders, the keyword's shaded."""
    borders, (start, end) = check["borders_s"], check["word"]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.05, 0.19, 0.945, 0.68))
        axes.axvspan(start, end, color="#fbe6c8", linewidth=0)
        axes.vlines(borders, 0, 1.03, color=FAINT, linewidth=0.8)
        for word, (left, right) in zip(check["labels"], pairwise(borders), strict=True):
            weight = "bold" if left < (start + end) / 2 < right else "normal"
            axes.text((left + right) / 2, 1.07, word, ha="center", fontweight=weight, fontsize=10.5)
        axes.plot(check["times_s"], check["posteriors"], color=colour_of(group), linewidth=1.8)
        axes.set_ylim(0, 1.03)
        axes.set_xlim(borders[0], borders[-1])
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("seconds of stream")
        axes.set_ylabel("posterior")

    return svg(draw, title, title, size=(960, 220))


def damage(found: Damage, *, title: str) -> Markup:
    """1 − AUC after removing a share of rows, or of units, without any fine-tuning; folds thin, mean bold."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.12, 0.15, 0.74, 0.83))
        shares = 100 * np.array(found.shares)
        ways = (("by row", found.row_wise, ORANGE), ("by unit", found.unit_wise, BLUE))
        for name, folds, colour in ways:
            for fold in folds:
                axes.plot(shares, fold, color=colour, linewidth=0.8, alpha=0.35)
            mean = np.mean(folds, axis=0)
            axes.plot(shares, mean, "o-", color=colour, markersize=4.5)
            axes.text(shares[-1] + 0.02 * np.ptp(shares), mean[-1], name, color=colour, va="center")
        soft_log(axes, [value for _, folds, _ in ways for fold in folds for value in fold])
        axes.set_xlabel("share removed from the GRU, %")
        axes.set_ylabel("1 − AUC")

    return svg(draw, f"damage {found}", title, size=(470, 320))


def _point(setting: Setting, cost: str) -> Point:
    mean, spread = setting.metric or (np.nan, np.nan)
    colour = colour_of(setting.group)
    return Point(getattr(setting.costs, cost), mean, float(np.nan_to_num(spread)), setting.name, colour)


def _cost_axes(axes: Axes, points: Sequence[Point]) -> None:
    log_costs(axes, min(p.x for p in points) / 1.35, max(p.x for p in points) * 1.5)
    soft_log(axes, [BAR, *(value for p in points for value in (max(0.0, p.y - p.spread), p.y + p.spread))])


def _thinned(series: Sequence[tuple[int, float]], points: int = 120) -> tuple[Any, Any]:
    """At most about so many means over equally many neighbours: (steps, values)."""
    size = -(-len(series) // points)
    blocks = (np.array(series[start : start + size]) for start in range(0, len(series), size))
    steps, values = np.array([block.mean(axis=0) for block in blocks]).T
    return steps, values
