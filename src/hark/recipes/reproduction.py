"""The whole report of the reference in one call: a recipe over all folds, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread

from hark.errors import HarkError, ProcessLost
from hark.learning.dataset import Source, load_task
from hark.learning.devices import choose_device
from hark.recipes.recipe import Recipe
from hark.recipes.stages import Bench, run_recipe, training_threads
from hark.record.command import Command
from hark.record.interruption import leaving_on_sigterm, unattended


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe, the data it runs on, and where its runs go."""

    recipe: Recipe
    source: Source
    out: Path
    device: str = "auto"
    trackers: tuple[str, ...] = ()
    command: Command | None = None
    """What `hark resume` is to give again."""
    workers: int = 0
    """Processes that make batches; 0 is a thread."""

    def fold_folder(self, fold: int) -> Path:
        """Where the runs of one fold lie."""
        return self.out / self.recipe.name / f"fold-{fold}"


def run_fold(plan: Plan, fold: int, *, jobs: int = 1) -> None:
    """Run the recipe on one fold, one of `jobs` at a time; finished stages are kept."""
    choose_device(plan.device)  # if it is not there, say so before everything is decoded
    task = load_task(plan.source, fold=fold)
    bench = Bench(
        task,
        plan.fold_folder(fold),
        plan.device,
        plan.trackers,
        training_threads(jobs),
        plan.command,
        plan.workers,
    )
    run_recipe(plan.recipe, bench)


def reproduce(plan: Plan, *, folds: Sequence[int], jobs: int) -> None:
    """Run the recipe on `folds`, `jobs` of them at a time, each in a process of its own.

    The cores are shared out evenly. The first error stops what has not begun, and is raised here when the
    others are done. What ends this process ends the folds too: they finish the step in hand and save first.

    Raises:
        HarkError: what a fold has raised.
        ProcessLost: the process of a fold has died.
    """
    if jobs == 1:
        for fold in folds:
            run_fold(plan, fold)
        return
    waiting, at_work, errors = deque(folds), dict[Connection, tuple[int, SpawnProcess]](), list[HarkError]()
    with unattended():
        try:
            while at_work or (waiting and not errors):
                while waiting and not errors and len(at_work) < jobs:
                    fold = waiting.popleft()
                    answer, process = _begin(plan, fold, jobs)
                    at_work[answer] = fold, process
                ready = set(wait([*at_work]))
                for answer in [*at_work]:
                    if answer in ready:
                        errors += _end(answer, *at_work.pop(answer))
        except (KeyboardInterrupt, SystemExit):
            _stop([process for _, process in at_work.values()])
            raise
    if errors:
        raise errors[0]


def _begin(plan: Plan, fold: int, jobs: int) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    answer, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(plan, fold, jobs, theirs), name=f"fold {fold}")
    process.start()
    theirs.close()  # so that the death of the process ends what can be read
    return answer, process


def _work(plan: Plan, fold: int, jobs: int, answer: Connection) -> None:
    """What the process of a fold does."""
    os.setsid()  # Ctrl-C reaches the parent alone, which passes it on: twice would mean at once
    Thread(target=_follow_parent, daemon=True).start()
    with suppress(BrokenPipeError), leaving_on_sigterm():
        try:
            run_fold(plan, fold, jobs=jobs)
            answer.send(None)
        except HarkError as error:
            answer.send(error)


def _follow_parent() -> None:
    """Wait for the parent's death, and take it for a wish to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _end(answer: Connection, fold: int, process: SpawnProcess) -> list[HarkError]:
    """What went wrong in a fold that has come to its end, if anything."""
    with answer:
        try:
            error: HarkError | None = answer.recv()
        except EOFError:
            process.join()
            error = ProcessLost(
                f"fold {fold}: its process ended with exit code {process.exitcode} and no word; "
                "run the same command again"
            )
    process.join()
    return [error] if error else []


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Let each finish its step and save; at once if the wish is repeated."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        raise
