"""What grids of conditions have shown: a setting's errors as heat maps, and its losses against its base's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure

from hark.proof.robustness import GridScores, LossDifference, compare_losses
from hark.showing.drawing import BLUE, INK, MUTED, svg
from hark.showing.results import Setting
from hark.showing.study import Study
from hark.showing.wording import significant
from hark.sound.conditions import Condition, Table, noise_table, room_table

BEST, GUESSING = 1e-4, 0.5
"""Where the colours begin and end, for every model the same: what is better is drawn as the best."""
_COLOURS = LinearSegmentedColormap.from_list("errors", ["#ffffff", "#8fbcdc", BLUE, "#00304f"])
_DARK = 0.45  # of a colour's luminance: white letters stand out on what is darker, ink on what is lighter
_ROW, _TOP, _BOTTOM = 30, 44, 6


def heat_maps_of(study: Study) -> dict[Setting, Markup]:
    """The heat maps of every setting that has a grid."""
    title = "1 − AUC of {} in noise, at other levels and in rooms, in 10⁻³; the cells have the numbers"
    return {
        setting: heat_maps(
            errors, name=f"robustness {setting.group} {setting.name}", title=title.format(setting.name)
        )
        for setting in study.settings
        if (errors := mean_errors(setting))
    }


def mean_errors(setting: Setting) -> dict[Condition, float]:
    """1 − AUC in each condition, mean over the runs that know it; empty without a grid."""
    found: dict[Condition, list[float]] = {}
    for result in setting.results:
        for cell in result.robustness.cells if result.robustness else ():
            found.setdefault(cell.condition, []).append(cell.one_minus_auc)
    return {condition: float(np.mean(values)) for condition, values in found.items()}


def heat_maps(errors: Mapping[Condition, float], *, name: str, title: str) -> Markup:
    """Two tables beside each other, noises by ratios and rooms by gains: 1 − AUC in 10⁻³ in each cell.

    Args:
        errors: 1 − AUC of every condition of a grid.
        name: no other figure of the page has it.
        title: what the drawing says, for those who cannot see it.
    """
    noises = noise_table(dict.fromkeys(c.noise for c in errors if c.noise is not None))
    rooms = room_table()
    height = _ROW * max(len(noises), len(rooms)) + _TOP + _BOTTOM

    def draw(figure: Figure) -> None:
        for table, left, width, heading in (
            (noises, 0.15, 0.4, "noise, by ratio of word to noise"),
            (rooms, 0.67, 0.32, "room, by gain"),
        ):
            rows = _ROW * len(table) / height
            axes = figure.add_axes((left, 1 - _TOP / height - rows, width, rows))
            _draw_table(axes, table, errors)
            axes.set_title(heading, loc="left", fontsize=10, color=MUTED, pad=22)

    return svg(draw, name, title, size=(960, height))


def losses_against_base(study: Study) -> dict[Setting, tuple[LossDifference, ...]]:
    """What each setting loses against what its group's base does, over the folds of which both have a grid."""
    return {
        setting: compare_losses(pairs)
        for setting in study.settings
        if (base := study.base_of(setting.group)) is not None and base is not setting
        if (pairs := _pairs(setting, base))
    }


def _pairs(setting: Setting, base: Setting) -> list[tuple[GridScores, GridScores]]:
    """Both grids of each fold and seed where they are of the same clips and conditions."""
    theirs = {(result.fold, result.seed): result.grid_scores for result in base.results}
    pairs = ((result.grid_scores, theirs.get((result.fold, result.seed))) for result in setting.results)
    return [(mine, other) for mine, other in pairs if mine and other and mine.is_comparable(other)]


def _draw_table(axes: Axes, table: Table, errors: Mapping[Condition, float]) -> None:
    columns = list(next(iter(table.values()), {}))
    values = np.array([[errors[condition] for condition in row.values()] for row in table.values()])
    norm = LogNorm(BEST, GUESSING, clip=True)
    axes.pcolormesh(values.clip(BEST), norm=norm, cmap=_COLOURS, edgecolors="white", linewidth=2)
    for (row, column), value in np.ndenumerate(values):
        red, green, blue, _ = _COLOURS(norm(max(value, BEST)))
        is_dark = 0.299 * red + 0.587 * green + 0.114 * blue < _DARK
        place, ink = (column + 0.5, row + 0.5), "white" if is_dark else INK
        axes.text(*place, significant(1e3 * value), color=ink, ha="center", va="center", fontsize=10.5)
    axes.set_xticks(np.arange(len(columns)) + 0.5, [name.replace("-", "−") for name in columns])
    axes.set_yticks(np.arange(len(table)) + 0.5, [name.replace("_", " ") for name in table])
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
