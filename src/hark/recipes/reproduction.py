"""The whole report of the reference in one call: a recipe over all folds, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
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
from hark.learning.devices import ANY_MACHINE, Machine, choose_device
from hark.learning.lessons import FOLDER as LESSONS
from hark.recipes.recipe import Recipe
from hark.recipes.stages import Bench, run_recipe, training_threads
from hark.record.command import Command
from hark.record.interruption import leaving_on_sigterm, unattended
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
        return
    waiting, at_work, errors = deque(folds), dict[Connection, tuple[int, SpawnProcess]](), list[HarkError]()
    with unattended(on_wish_to_save=lambda: _have_saved([process for _, process in at_work.values()])):
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
    # Held back until the new process knows what the signal means; it would end it before.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    theirs.close()  # so that the death of the process ends what can be read
    return answer, process


def _work(plan: Plan, fold: int, jobs: int, answer: Connection) -> None:
    """What the process of a fold does."""
    os.setsid()  # Ctrl-C reaches the parent alone, which passes it on: twice would mean at once
    Thread(target=_follow_parent, daemon=True).start()
    with suppress(BrokenPipeError), leaving_on_sigterm(), unattended():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
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


def _have_saved(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGUSR1)


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
