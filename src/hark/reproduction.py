"""The whole report of the reference in one call: a recipe over all folds, several at a time."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from hark.dataset import Source, load_task
from hark.recipes import Recipe
from hark.stages import Bench, run_recipe, training_threads
from hark.training import choose_device


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe, the data it runs on, and where its runs go."""

    recipe: Recipe
    source: Source
    out: Path
    device: str = "auto"
    trackers: tuple[str, ...] = ()

    def fold_folder(self, fold: int) -> Path:
        """Where the runs of one fold lie."""
        return self.out / self.recipe.name / f"fold-{fold}"


def run_fold(plan: Plan, fold: int, *, jobs: int = 1) -> None:
    """Run the recipe on one fold, one of `jobs` at a time; finished stages are kept."""
    choose_device(plan.device)  # if it is not there, say so before everything is decoded
    task = load_task(plan.source, fold=fold)
    bench = Bench(task, plan.fold_folder(fold), plan.device, plan.trackers, training_threads(jobs))
    run_recipe(plan.recipe, bench)


def reproduce(plan: Plan, *, folds: Sequence[int], jobs: int) -> None:
    """Run the recipe on `folds`, `jobs` of them at a time, each in a process of its own.

    The cores are shared out evenly. The first error stops what has not begun and is raised here.
    """
    if jobs == 1:
        for fold in folds:
            run_fold(plan, fold)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run_fold, plan, fold, jobs=jobs) for fold in folds]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
