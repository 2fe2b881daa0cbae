"""The whole report of the reference in one call: a recipe over all folds, several at a time."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hark.learning.dataset import Source, load_task
from hark.learning.devices import ANY_MACHINE, Machine, choose_device
from hark.learning.lessons import FOLDER as LESSONS
from hark.recipes.recipe import Recipe
from hark.recipes.side_by_side import Deed, do_all
from hark.recipes.stages import Bench, run_recipe, training_threads
from hark.record.command import Command
from hark.record.runs import Run


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe, the data it runs on, and where its runs go."""

    recipe: Recipe
    source: Source
    out: Path
    machine: Machine = ANY_MACHINE
    trackers: tuple[str, ...] = ()
    command: Command | None = None
    """What `hark resume` is to give again."""

    def fold_folder(self, fold: int) -> Path:
        """Where the runs of one fold lie, or those on the whole corpus."""
        return self.out / self.recipe.name / ("whole" if self.source.split == "whole" else f"fold-{fold}")


def run_fold(plan: Plan, fold: int, *, jobs: int = 1) -> list[Run]:
    """Run the recipe on one fold, one of `jobs` at a time; finished stages are kept."""
    return run_in(plan.fold_folder(fold), plan, fold, jobs=jobs)


def run_in(folder: Path, plan: Plan, fold: int, *, jobs: int = 1) -> list[Run]:
    """As `run_fold`, with the runs of its stages in `folder`."""
    choose_device(plan.machine.device)  # if it is not there, say so before everything is decoded
    task = load_task(plan.source, fold=fold)
    bench = Bench(
        task,
        folder,
        machine=plan.machine,
        trackers=plan.trackers,
        threads=training_threads(jobs),
        command=plan.command,
    )
    runs = run_recipe(plan.recipe, bench)
    shutil.rmtree(folder / LESSONS, ignore_errors=True)  # gigabytes that no stage needs any more
    return runs


def reproduce(plan: Plan, *, folds: Sequence[int], jobs: int) -> None:
    """Run the recipe on `folds`, `jobs` of them at a time, each in a process of its own.

    The cores are shared out evenly. The first error stops what has not begun, and is raised here when the
    others are done. What ends this process ends the folds too: they finish the step in hand and save first.
    SIGUSR1 has all of them save now.

    Raises:
        HarkError: what a fold has raised.
        ProcessLost: the process of a fold has died.
    """
    if jobs == 1:
        for fold in folds:
            run_fold(plan, fold)
    else:
        do_all([Deed(f"fold {fold}", _run_one_of, (plan, fold, jobs)) for fold in folds], jobs=jobs)


def _run_one_of(plan: Plan, fold: int, jobs: int) -> None:
    run_fold(plan, fold, jobs=jobs)
