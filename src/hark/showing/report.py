"""Runs → one HTML page with tables and figures that needs nothing else, on a screen or on paper.

What has no data is left out, heading and all; what is there comes from the runs (`hark.showing.study`) and,
labelled as such, from the reference's printed figures (`hark.showing.reference_report`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hark.errors import UsageError
from hark.exploring.front import Found
from hark.files import write_atomically
from hark.record.runs import find_runs
from hark.showing import confirmation, exploration_words, reference_report, wording
from hark.showing.confirmation import confirmations
from hark.showing.exploration_words import caution, progress_in_words, rows
from hark.showing.proofs import proofs_of
from hark.showing.reference_report import BAR, PRINTED, Printed
from hark.showing.results import Result, Setting
from hark.showing.study import Study, collect
from hark.showing.wording import headline

__all__ = ["collect", "headline", "render", "write_report"]

GROUP_TITLES = {"ours": "ours", "reference": "the reference’s recipe, run by us"}


def write_report(paths: Sequence[Path], out: Path) -> Study:
    """Write the report of all runs in and below some folders, whole or not at all.

    Raises:
        UsageError: there are no runs, or what draws the page is not installed.
        RunError: a run is damaged, or the page cannot be written.
    """
    study = collect(find_runs(paths))
    write_atomically(out, render(study).encode())
    return study


def render(study: Study, *, found: Found | None = None) -> str:
    """The page of a study, and of the search that its runs have come from, as far as that is."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined

        from hark.showing.exploration_chart import trial_clouds

        figures = _figures(study)
        clouds = trial_clouds(found) if found else {}
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is missing, a report needs it: pip install "hark-kws[train]"') from None
    environment = Environment(
        loader=PackageLoader("hark.showing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= wording.FILTERS
    return environment.get_template("report.html.j2").render(
        study=study,
        figures=figures,
        headline=headline(study),
        rows=_rows(study),
        side_by_side=_side_by_side(study),
        layer_tables=_layer_tables(study),
        origin=_origin(study),
        noted=_noted(study),
        proofs=proofs_of(study.settings),
        left_out=_left_out(study),
        chunk_frames=sorted({frames for row in study.chunk_differences.values() for frames in row}),
        titles=GROUP_TITLES,
        search=_search(found, study) if found else None,
        clouds=clouds,
        printed=PRINTED,
        printed_title=reference_report.TITLE,
        printed_source=reference_report.SOURCE,
        bar=BAR,
        frame_ms=wording.FRAME_MS,
    )


def _figures(study: Study) -> dict[str, Any]:
    """Every figure that there is data for."""
    from hark.showing import charts, robustness_chart

    figures: dict[str, Any] = {}
    if study.judged:
        title = "Metric against {}, a point with error bars for each setting; the table above has the numbers"
        for cost, axis in _COST_AXES.items():
            figures[cost] = charts.trade_off(study, cost, title=title.format(axis), axis=axis)
    if curves := charts.curves(study.settings, _telling(study)):
        figures["curves"] = curves
        figures["fa_fr"] = charts.error_curves(curves, title="False rejects against false accepts")
        figures["det"] = charts.det_curves(curves, title="Detection error trade-off on normal-deviate axes")
    if study.differences:
        title = "Paired differences over folds with 95 % intervals; the table below has the numbers"
        figures["differences"] = charts.differences(study.differences, title=title)
    figures["training"] = {
        setting: charts.training(setting, title=f"Training curves of {setting.name}")
        for setting in study.settings
        if any(result.losses or result.validations for result in setting.results)
    }
    figures["streams"] = {
        setting: charts.posterior_over_time(
            result.check_stream or {},
            title=f"Posterior of {setting.name} ({setting.group}) over nine clips",
            group=setting.group,
        )
        for setting, result in _streams_to_show(study)
    }
    figures["robustness"] = robustness_chart.heat_maps_of(study)
    figures["losses"] = robustness_chart.losses_against_base(study)
    figures["damage"] = {
        damage: charts.damage(damage, title=f"Pruning damage of {damage.name}; the table has the numbers")
        for damage in study.damage
    }
    return figures


_COST_AXES = {
    "macs_per_clip": "MACs per one-second clip (thop convention)",
    "file_bytes": "bytes of the loadable file",
}


def _telling(study: Study) -> list[Setting]:
    """Whose curves stand out: of each group the smallest, the base and the smallest in floating point."""
    found: list[Setting | None] = [study.smallest]
    for group in study.groups:
        settings = [s for s in study.settings if s.group == group and s.costs is not None]
        floating = [s for s in settings if s.kind in ("train", "distill")]
        found += [min(settings, key=_bytes, default=None)] if study.smallest not in settings else []
        found += [study.base_of(group), min(floating, key=_bytes, default=None)]
    return list(dict.fromkeys(setting for setting in found if setting is not None))


def _bytes(setting: Setting) -> int:
    return setting.costs.file_bytes if setting.costs else 0


def _streams_to_show(study: Study) -> Iterator[tuple[Setting, Result]]:
    """The first checked run of the smallest model and of its base; of any setting where those have none."""
    checked = {
        setting: next((result for result in setting.results if result.check_stream), None)
        for setting in dict.fromkeys([*_smallest_and_base(study), *study.settings])
    }
    found = [(setting, result) for setting, result in checked.items() if result is not None]
    wanted = [pair for pair in found if pair[0] in _smallest_and_base(study)]
    yield from wanted or found[:1]


def _search(found: Found, study: Study) -> dict[str, Any]:
    """What a search says of itself."""
    return {
        "progress": progress_in_words(found),
        "caution": caution(found),
        "columns": exploration_words.COLUMNS,
        "confirmed": confirmations(study, found),
        "confirmed_columns": confirmation.COLUMNS,
        "rows": rows(found.front),
        "names": [tried.name for tried in found.front],
        "chosen": found.chosen,
    }


def _smallest_and_base(study: Study) -> list[Setting]:
    smallest = study.smallest
    group = smallest.group if smallest else next(iter(study.groups), "ours")
    found = (study.base_of(group), smallest)
    return list(dict.fromkeys(setting for setting in found if setting is not None))


def _rows(study: Study) -> dict[str, list[dict[str, Any]]]:
    """The table by group: setting, factors, and its runs under one name."""
    return {
        group: [
            {"setting": setting, "factors": study.factors(setting), "runs": _runs_in_short(setting)}
            for setting in study.settings
            if setting.group == group
        ]
        for group in study.groups
    }


def _runs_in_short(setting: Setting) -> tuple[str, list[tuple[str, Result]]]:
    """What the runs' names have in common, and the rest of each: (base-fold-, [(0, run), (1, run), …])."""
    names = [result.name for result in setting.results]
    if len(set(names)) == 1:
        tail = [("" if len(names) == 1 else str(r.fold), r) for r in setting.results]
        return names[0] + (" " if len(names) > 1 else ""), tail
    stems = [name.rstrip("0123456789") for name in names]
    common = stems[0] if len(set(stems)) == 1 else ""
    return common, [(result.name.removeprefix(common), result) for result in setting.results]


def _side_by_side(study: Study) -> list[tuple[str, Setting | None, Setting | None, Printed | None]]:
    """Settings of which at least two of ours, the reference's recipe and the printed figures tell."""
    groups = {
        group: {s.name: s for s in study.settings if s.group == group and s.metric} for group in GROUP_TITLES
    }
    printed = {row.name: row for row in PRINTED}
    names = dict.fromkeys([*groups["ours"], *groups["reference"]])
    table = [(n, groups["ours"].get(n), groups["reference"].get(n), printed.get(n)) for n in names]
    return [row for row in table if sum(cell is not None for cell in row[1:]) > 1]


def _layer_tables(study: Study) -> list[Setting]:
    return [setting for setting in _smallest_and_base(study) if setting.costs and setting.costs.layers]


def _origin(study: Study) -> dict[str, list[str]]:
    """What the runs share, and where they do not, every value that occurs."""
    environments = [result.environment for result in study.results]
    packages = [env.get("packages") or {} for env in environments]
    names = dict.fromkeys(name for one in packages for name in one)
    facts: dict[str, list[Any]] = {
        "keyword": [result.task.get("keyword") for result in study.results],
        "data digest": [env.get("data_digest") for env in environments],
        "folds": [", ".join(map(str, study.folds))],
        "seeds": [result.seed for result in study.results],
        "commit": [env.get("commit") for env in environments],
        "python": [env.get("python") for env in environments],
        **{name: [one.get(name) for one in packages] for name in names},
        "machine": [env.get("machine") for env in environments],
        "threads": [env.get("threads") for env in environments],
    }
    distinct = {
        name: list(dict.fromkeys(str(v) for v in values if v is not None)) for name, values in facts.items()
    }
    return {name: values for name, values in distinct.items() if values}


def _noted(study: Study) -> list[tuple[Result, str, str, int]]:
    """Each warning or fall-back of a run, and each tracker's loss: the kind, what was said, how many times."""
    usual = ("kind", "step", "time_s", "wall")
    said = Counter(
        (result, event["kind"], "; ".join(str(value) for name, value in event.items() if name not in usual))
        for result in study.results
        for event in result.notes
    )
    lost = [(result, "tracker", str(has), 1) for result in study.results for has in result.trackers if has.lost]
    return [(*note, number) for note, number in said.items()] + lost


def _left_out(study: Study) -> dict[str, int]:
    """Each recording that could not be used, with its reason, and how many runs went without it."""
    return dict(Counter(line for result in study.results for line in result.task.get("quarantined") or ()))
