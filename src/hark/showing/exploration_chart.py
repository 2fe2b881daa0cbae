"""A search as a figure: every trial a point, those that were stopped faint, the front a line."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hark.exploring.front import Found, Tried
from hark.showing.drawing import BLUE, FAINT, INK, MUTED, log_costs, soft_log, svg
from hark.showing.reference_report import BAR
from hark.showing.study import pareto_front

AXES: Mapping[str, str] = {
    "macs": "MACs per clip (thop 0.0.31 convention)",
    "bytes": "bytes of the .hark file",
    "macs_per_second": "multiplications per second of stream, front end included",
    "engine_us": "engine, µs per second of sound, front end included",
}


def trial_clouds(found: Found) -> dict[str, Markup]:
    """A figure for each cost by its name; none before the first trial has an outcome."""
    tried = [each for each in (*found.others, *found.tried) if each.by_fold]
    return {cost: _cloud(found, tried, cost, axis) for cost, axis in AXES.items()} if tried else {}


def cost_of(tried: Tried, cost: str) -> float:
    """A cost by its name."""
    return tried.engine_us if cost == "engine_us" else float(getattr(tried.price, cost))


def _cloud(found: Found, tried: list[Tried], cost: str, axis: str) -> Markup:
    done = [each for each in tried if each.state == "done"]
    stopped = [each for each in tried if each.state != "done"]
    line = np.array(pareto_front((cost_of(each, cost), 1e5 * each.quality) for each in done))

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.1, 0.14, 0.88, 0.84))
        for trials, colour, size in ((stopped, FAINT, 4), (done, BLUE, 6)):
            points = [(cost_of(each, cost), 1e5 * each.quality) for each in trials]
            axes.plot(*(np.array(points).T if points else ([], [])), "o", color=colour, markersize=size)
        if len(line):
            axes.step(*line.T, where="post", color=BLUE, linewidth=1.5)
        if found.base_by_fold:
            axes.axhline(1e5 * found.base, color=MUTED, linewidth=1)
            axes.text(1, 1e5 * found.base, "base ", color=MUTED, transform=axes.get_yaxis_transform(), ha="right")
        axes.axhline(BAR, color=INK, linewidth=1, linestyle=(0, (5, 4)))
        _scales(axes, [cost_of(each, cost) for each in tried], [1e5 * each.quality for each in tried] + [BAR])
        axes.set_xlabel(axis)
        axes.set_ylabel("validation, 0.02587 · (1 − AUC), 10⁻⁵")

    title = f"Every trial of the search: quality on the validation parts against {axis}"
    return svg(draw, f"search {cost}", title, size=(470, 340))


def _scales(axes: Axes, costs: list[float], qualities: list[float]) -> None:
    log_costs(axes, min(costs) / 1.2, max(costs) * 1.2)
    soft_log(axes, qualities)
