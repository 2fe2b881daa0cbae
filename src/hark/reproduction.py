"""The whole report of the reference in one call: a recipe over all folds, several at a time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from hark.dataset import Source, load_task
from hark.recipes import Recipe
from hark.stages import Bench, run_recipe


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


def run_fold(plan: Plan, fold: int, *, threads: int | None = None) -> None:
    """Run the recipe on one fold; finished stages are kept."""
    if threads:
        torch.set_num_threads(threads)
    task = load_task(plan.source, fold=fold)
    bench = Bench(task, plan.fold_folder(fold), plan.device, plan.trackers)
    run_recipe(plan.recipe, bench)


def reproduce(plan: Plan, *, folds: Sequence[int], jobs: int) -> None:
    """Run the recipe on `folds`, `jobs` of them at a time, each in a process of its own.

    The cores are shared out evenly. The first error stops what has not begun and is raised here.
    """
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if jobs == 1:
        for fold in folds:
            run_fold(plan, fold, threads=threads)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run_fold, plan, fold, threads=threads) for fold in folds]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
