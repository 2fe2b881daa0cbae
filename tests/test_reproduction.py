"""A recipe over folds: in processes of their own, with the same result as in one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread

import pytest

from hark.errors import RunError, UsageError
from hark.learning.dataset import Source
from hark.learning.devices import Machine
from hark.network.crnn import CrnnConfig
from hark.recipes import side_by_side
from hark.recipes.recipe import parse_recipe
from hark.recipes.reproduction import Plan, reproduce, run_fold
from hark.recipes.side_by_side import Deed
from hark.record.runs import Run


@pytest.fixture
def plan(tiny_source: Source, tiny_network: CrnnConfig, tmp_path: Path) -> Plan:
    """One short training that nobody judges."""
    stage = {"kind": "train", "network": asdict(tiny_network)}
    values = {"training": {"epochs": 1, "batch_size": 16, "validations": 1}, "stages": {"base": stage}}
    return Plan(
        recipe=parse_recipe(values, name="one"),
        source=tiny_source,
        out=tmp_path / "runs",
        machine=Machine(device="cpu"),
    )


def test_folds_in_processes_of_their_own_give_what_one_process_gives(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the error of one fold is raised here, when the others are done."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # one thread for each, as in these tests
    with pytest.raises(UsageError, match="fold 9: expected 0 to 1"):
        reproduce(plan, folds=(0, 1, 9), jobs=2)
    here = replace(plan, out=tmp_path / "here")
    models = set()
    for fold in (0, 1):
        run_fold(here, fold)
        runs = [Run.open(each.fold_folder(fold) / "base") for each in (plan, here)]
        assert all(run.is_finished and run.about["fold"] == fold for run in runs)
        first, second = (run.path("model.safetensors").read_bytes() for run in runs)
        assert first == second
        models.add(first)
    assert len(models) == 2


def test_folds_one_by_one_stop_at_the_first_error(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(UsageError, match="fold 7: expected 0 to 1"):
        reproduce(plan, folds=(0, 7, 1), jobs=1)
    assert Run.open(plan.fold_folder(0) / "base").is_finished
    assert not plan.fold_folder(1).exists()


def test_runs_lie_by_recipe_and_fold(plan: Plan) -> None:
    assert plan.fold_folder(3) == plan.out / "one" / "fold-3"


@pytest.fixture
def fold_does(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], None]], None]:
    """Sets what the process of a fold does instead of running a recipe."""
    context = multiprocessing.get_context("fork")  # nothing has to be loaded again

    def fold_does(deed: Callable[[int], None]) -> None:
        def begin(fold: Deed) -> tuple[Connection, BaseProcess]:
            answer, theirs = context.Pipe(duplex=False)
            process = context.Process(target=deed, args=(fold.arguments[1],))
            process.start()
            theirs.close()
            return answer, process

        monkeypatch.setattr(side_by_side, "_begin", begin)

    return fold_does


@pytest.fixture
def both_at_work(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Set once two folds are waited for: a signal that comes before may find only one to pass it on to."""
    both, wait = Event(), side_by_side.wait

    def waiting(answers: list[Connection], timeout: float | None) -> list[Connection]:
        if len(answers) == 2:
            both.set()
        return wait(answers, timeout)

    monkeypatch.setattr(side_by_side, "wait", waiting)
    return both


def test_what_ends_the_call_is_passed_on_and_waits_for_the_folds_to_save(
    plan: Plan, fold_does: Callable[[Callable[[int], None]], None], both_at_work: Event, tmp_path: Path
) -> None:
    def save_when_asked(fold: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        (tmp_path / f"begun-{fold}").touch()
        if signal.sigtimedwait([signal.SIGTERM], 60) is None:
            return
        time.sleep(0.1)
        (tmp_path / f"saved-{fold}").touch()

    def interrupt() -> None:
        both_at_work.wait()
        while len([*tmp_path.glob("begun-*")]) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    fold_does(save_when_asked)
    Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, folds=(0, 1, 2), jobs=2)
    assert {path.name for path in tmp_path.glob("*-?")} == {"begun-0", "begun-1", "saved-0", "saved-1"}


def test_a_wish_to_save_is_passed_on_to_every_fold_at_work(
    plan: Plan, fold_does: Callable[[Callable[[int], None]], None], both_at_work: Event, tmp_path: Path
) -> None:
    def wait_for_the_wish(fold: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        (tmp_path / f"begun-{fold}").touch()
        if signal.sigtimedwait([signal.SIGUSR1], 60) is not None:
            (tmp_path / f"saved-{fold}").touch()

    def wish() -> None:
        both_at_work.wait()
        while len([*tmp_path.glob("begun-*")]) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGUSR1)

    fold_does(wait_for_the_wish)
    Thread(target=wish).start()
    with pytest.raises(RunError, match="exit code 0 and no word"):  # nor did they answer
        reproduce(plan, folds=(0, 1), jobs=2)
    assert {path.name for path in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


def test_a_wish_to_save_that_comes_while_a_fold_starts_does_not_end_it(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself the signal would, before the new process has said what it means there."""
    start = SpawnProcess.start

    def start_and_wish(process: SpawnProcess) -> None:
        start(process)
        assert process.pid
        os.kill(process.pid, signal.SIGUSR1)

    monkeypatch.setattr(SpawnProcess, "start", start_and_wish)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    reproduce(plan, folds=(0, 1), jobs=2)
    assert all(Run.open(plan.fold_folder(fold) / "base").is_finished for fold in (0, 1))


def test_the_death_of_a_fold_s_process_is_an_error_that_names_it(
    plan: Plan, fold_does: Callable[[Callable[[int], None]], None]
) -> None:
    fold_does(lambda fold: os._exit(3))
    with pytest.raises(RunError, match="fold 1: its process ended with exit code 3 and no word"):
        reproduce(plan, folds=(1,), jobs=2)
