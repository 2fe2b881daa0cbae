"""What five folds say of a recipe whose model on the whole corpus nothing is left to judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hark.errors import UsageError
from hark.judging.metrics import mean_and_spread, mean_interval
from hark.models.card import Quality
from hark.record.environment import differences
from hark.record.runs import PACKED_FILE, Run, find_runs
from hark.showing.results import Result, Setting, read

_OF_A_FOLD = ("teachers", "model", "weights_from")
"""Keys of a stage that name other runs, which each fold has of its own."""
_OF_ALL = ("keyword", "digest")
"""What the task of each fold has in common with that of all clips."""


@dataclass(frozen=True, eq=False)
class Folds:
    """The runs of one stage on all folds of a task, judged."""

    models: Mapping[int, Path]
    """A `.hark` file for each, of the first run where there are several seeds."""
    setting: Setting

    @property
    def quality(self) -> Quality:
        """The figures of `evaluation.json`, over folds."""
        areas = tuple(self.setting.by_fold("one_minus_auc").values())
        mean, sd = mean_and_spread(areas)
        low, high = mean_interval(areas)
        split = str(self.setting.results[0].task["split"])
        return Quality(
            split=split, one_minus_auc=areas, runs=len(self.setting.results), mean=mean, sd=sd, low=low, high=high
        )


def folds_of(whole: Run, folder: Path) -> Folds:
    """The runs in and below `folder` of the stage that has made a run on the whole corpus, one for each fold.

    Raises:
        UsageError: there is none, a fold is missing, or one was made otherwise or from other data.
    """
    setting = whole.about["setting"]
    found = {run: read(run) for run in find_runs([folder]) if run.about.get("setting") == setting}
    judged = {run: result for run, result in found.items() if result.evaluation}
    if not judged:
        raise UsageError(f"{folder}: no judged run of {setting!r}, expected one for each fold of its task")
    for run, result in judged.items():
        _require_same(whole, run, result)
    results = tuple(judged.values())
    count = results[0].task["folds"]
    if missing := sorted(set(range(count)) - {result.fold for result in results}):
        raise UsageError(
            f"{folder}: no run of {setting!r} on fold {', '.join(map(str, missing))} of {count}, expected all; "
            "hark reproduce runs them"
        )
    models: dict[int, Path] = {}
    for run, result in judged.items():
        models.setdefault(result.fold, run.path(PACKED_FILE))
    return Folds(dict(sorted(models.items())), Setting(str(setting), results[0].group, 0, results))


def _require_same(whole: Run, run: Run, result: Result) -> None:
    """The run of a fold must be what the whole one is, but for the fold and the seed."""
    there, here = result.task, whole.read_json("task.json")
    of_task = {name: there.get(name) for name in _OF_ALL}, {name: here.get(name) for name in _OF_ALL}
    told = differences(_recipe_of(run.config), _recipe_of(whole.config)) + differences(*of_task)
    if told:
        found = f"made otherwise than {whole.folder}: {'; '.join(told)}"
        raise UsageError(f"{run.folder}: {found}; give the runs of the same recipe")


def _recipe_of(config: dict[str, Any]) -> dict[str, Any]:
    """A stage's configuration without what is a fold's or a seed's own."""
    kept = {key: value for key, value in config.items() if key not in _OF_A_FOLD}
    if isinstance(training := kept.get("training"), dict):
        kept["training"] = {key: value for key, value in training.items() if key != "seed"}
    return kept
