"""When a training saves: often enough, seldom enough, and what it does while it cannot."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import DiskFull, RunError, UnsavedWork
from hark.learning import saving
from hark.learning.saving import EPOCH_SHARE, Saver
from hark.learning.trainee import Trainee
from hark.learning.training import TrainingConfig, make_optimizer
from hark.network.spotter import Spotter
from hark.record.progress import Progress
from hark.record.runs import Run
from hark.record.store import read_checkpoint

NewRun = Callable[[str], Run]
STEPS_PER_EPOCH = 4
TOTAL = 1000


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        """The time in seconds."""
        return self.now_s


class Notebook:
    """A trainee that notes when it was saved; a save takes time, and fails while there is an error."""

    def __init__(self, clock: Clock, *, takes_s: float) -> None:
        self.clock = clock
        self.takes_s = takes_s
        self.step = 0
        self.saved: list[tuple[int, float | None]] = []
        self.error: RunError | None = None

    def save(self, run: Run, *, score: float | None) -> None:
        """Note it, or fail."""
        self.clock.now_s += self.takes_s
        if self.error:
            raise self.error
        self.saved.append((self.step, score))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(saving.time, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def progress(new_run: NewRun) -> Progress:
    return Progress(new_run("a"), total=TOTAL, done=0, clips_per_step=16, device="cpu")


def saver_of(notebook: Notebook, progress: Progress, *, every_s: float = 60.0) -> Saver:
    return Saver(notebook, progress, every_s=every_s, steps_per_epoch=STEPS_PER_EPOCH)  # type: ignore[arg-type]


def walk(saver: Saver, notebook: Notebook, steps: int, *, step_s: float) -> Iterator[int]:
    """Make steps of a length each."""
    for _ in range(steps):
        notebook.clock.now_s += step_s
        notebook.step += 1
        saver.step_done()
        yield notebook.step


@given(
    step_s=st.floats(0.001, 40.0),
    takes_s=st.floats(0.0, 5.0),
    every_s=st.floats(1.0, 100.0),
)
def test_a_death_costs_an_epoch_or_the_interval_and_epochs_cost_half_a_percent(
    step_s: float, takes_s: float, every_s: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever a step and a save take; the first epoch's end is saved to see what a save takes."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(saving.time, "monotonic", clock.monotonic)
        run = Run.create(tmp_path_factory.mktemp("runs"), "a", about={})
        progress = Progress(run, total=TOTAL, done=0, clips_per_step=16, device="cpu")
        notebook = Notebook(clock, takes_s=takes_s)
        saver = saver_of(notebook, progress, every_s=every_s)
        saved_at, saved_step = clock.now_s, 0
        for step in walk(saver, notebook, 200, step_s=step_s):
            if notebook.saved and notebook.saved[-1][0] == step:
                worked_s = clock.now_s - saved_at - takes_s
                by_interval = worked_s >= every_s - 1e-6
                assert by_interval or step % STEPS_PER_EPOCH == 0
                assert by_interval or saved_step == 0 or takes_s <= EPOCH_SHARE * worked_s + 1e-6
                saved_at, saved_step = clock.now_s, step
            else:
                lost_s = clock.now_s - saved_at
                assert lost_s < every_s
                cheap = takes_s <= EPOCH_SHARE * (lost_s - STEPS_PER_EPOCH * step_s)
                assert step - saved_step < STEPS_PER_EPOCH or not cheap


def test_epochs_of_three_seconds_are_all_saved_where_a_save_takes_15_ms(clock: Clock, progress: Progress) -> None:
    notebook = Notebook(clock, takes_s=0.015)
    saver = saver_of(notebook, progress)
    assert list(walk(saver, notebook, 12, step_s=0.76)) == list(range(1, 13))
    assert notebook.saved == [(4, None), (8, None), (12, None)]


def test_the_best_so_far_a_wish_and_the_last_step_are_saved_at_once(clock: Clock, progress: Progress) -> None:
    notebook = Notebook(clock, takes_s=1.0)
    saver = saver_of(notebook, progress)
    for notebook.step, score in ((1, math.nan), (2, 0.25), (3, 0.25), (5, 0.5), (6, 0.125), (7, None)):
        saver.step_done(score=score)
    notebook.step = 9
    saver.step_done(wanted=True)
    notebook.step = TOTAL
    saver.step_done(score=0.75)
    assert notebook.saved == [(2, 0.25), (6, 0.125), (9, None), (TOTAL, 0.75)]


def test_what_is_saved_already_is_not_saved_again(clock: Clock, progress: Progress) -> None:
    """As when a training goes on from its last step, or ends where it has just been saved."""
    notebook = Notebook(clock, takes_s=1.0)
    notebook.step = TOTAL
    saver = saver_of(notebook, progress, every_s=0.0)
    saver.step_done()
    saver.finish()
    assert notebook.saved == []


def test_the_end_saves_what_is_not(clock: Clock, progress: Progress) -> None:
    notebook = Notebook(clock, takes_s=1.0)
    saver = saver_of(notebook, progress)
    notebook.step = 3
    saver.finish()
    assert notebook.saved == [(3, None)]


@pytest.mark.fault("F4")
def test_while_the_disk_is_full_saving_is_tried_again_and_told_once_an_interval(
    clock: Clock, progress: Progress, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(clock, takes_s=0.001)
    saver = saver_of(notebook, progress, every_s=60.0)
    notebook.error = DiskFull("a: No space left on device; free some space")
    for _ in walk(saver, notebook, 300, step_s=1.0):
        pass
    assert notebook.saved == []
    told = [event["message"] for event in progress.run.events() if event["kind"] == "warning"]
    assert len(told) == 5, "each epoch of 4 s is tried, each minute told"
    assert told[0] == "step 4 could not be saved, training goes on (a: No space left on device; free some space)"
    assert capsys.readouterr().err.count("warning: step ") == 5
    notebook.error = None
    for _ in walk(saver, notebook, 4, step_s=1.0):
        pass
    assert notebook.saved == [(304, None)]
    saver.finish()


@pytest.mark.fault("F4")
def test_the_end_of_a_training_that_cannot_be_saved_is_exit_code_5(clock: Clock, progress: Progress) -> None:
    notebook = Notebook(clock, takes_s=0.001)
    saver = saver_of(notebook, progress)
    notebook.error = DiskFull("a: No space left on device; free some space and run the same command again")
    notebook.step = TOTAL
    saver.step_done()
    expected = (
        "step 1000 of 1000 could not be saved: a: No space left on device; free some space and run the same "
        "command again, which goes on from step 0"
    )
    with pytest.raises(UnsavedWork, match=expected) as unsaved:
        saver.finish()
    assert unsaved.value.exit_code == 5


@pytest.mark.fault("F5")
def test_any_other_error_ends_the_training_at_once(clock: Clock, progress: Progress) -> None:
    notebook = Notebook(clock, takes_s=0.001)
    saver = saver_of(notebook, progress)
    notebook.error = RunError("a: Input/output error")
    notebook.step = STEPS_PER_EPOCH
    with pytest.raises(RunError, match="Input/output error"):
        saver.step_done()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_real_save_that_finds_the_disk_full_is_waited_out(
    tiny_spotter: Callable[[], Spotter], progress: Progress, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """And the checkpoint that is saved when there is space has the score of its validation."""

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    model = tiny_spotter()
    trainee = Trainee(model, make_optimizer(model, TrainingConfig()), averaging=0.9)
    saver = Saver(trainee, progress, every_s=0.0, steps_per_epoch=1)
    trainee.advance()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        saver.step_done(score=0.5)
        with pytest.raises(UnsavedWork):
            saver.finish()
    store = progress.run.checkpoints
    assert store.steps() == []
    trainee.advance()
    saver.step_done(score=0.25)
    saver.finish()
    best = store.best()
    assert best is not None
    assert (store.steps(), read_checkpoint(best).score) == ([2], 0.25)
