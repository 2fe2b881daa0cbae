"""Validation: the figures are those of the clips, at even distances, once each, and never in a signal's way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hark.judging.metrics import one_minus_auc
from hark.learning import validation as validation_module
from hark.learning.dataset import Task, clip_scores
from hark.learning.trainee import Trainee
from hark.learning.training import TrainingConfig, make_optimizer
from hark.learning.validation import Validation, validate
from hark.network.spotter import Spotter
from hark.record.interruption import Interruption
from hark.record.progress import Progress
from hark.record.runs import Run

NewRun = Callable[[str], Run]
NewSpotter = Callable[[], Spotter]
TOTAL = 11


@pytest.fixture
def trainee(tiny_spotter: NewSpotter) -> Trainee:
    model = tiny_spotter()
    return Trainee(model, make_optimizer(model, TrainingConfig()), averaging=0.9)


@pytest.fixture
def begin(trainee: Trainee, tiny_task: Task, new_run: NewRun) -> Callable[[Interruption], Validation]:
    """Gives the validation of a run's training as each start of it begins with."""

    def begin(interruption: Interruption) -> Validation:
        progress = Progress(new_run("a"), total=TOTAL, done=0, clips_per_step=16, device="cpu")
        return Validation(trainee, tiny_task.validation, progress, interruption, times=3)

    return begin


def scored_steps(run: Run) -> list[int]:
    return [event["step"] for event in run.events() if event["kind"] == "validation"]


def test_it_gives_the_area_and_the_loss_of_its_clips(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    model, data = tiny_spotter(), tiny_task.validation
    scores = clip_scores(model, data)
    probabilities = 1 / (1 + np.exp(-scores))
    expected = -np.log(np.where(data.targets, probabilities, 1 - probabilities)).mean()
    assert validate(model, data) == {
        "one_minus_auc": one_minus_auc(scores, data.targets),
        "loss": pytest.approx(expected),
    }


def test_many_clips_are_scored_as_few_are(
    tiny_task: Task, tiny_spotter: NewSpotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However they are cut into parts."""
    whole = validate(tiny_spotter(), tiny_task.testing)
    monkeypatch.setattr(validation_module, "PART_CLIPS", 7)
    assert validate(tiny_spotter(), tiny_task.testing) == pytest.approx(whole)


def test_steps_at_even_distances_and_the_last_one_are_scored_once(
    begin: Callable[[Interruption], Validation], trainee: Trainee
) -> None:
    """Also where a resumed training comes by the step of its checkpoint again."""
    validation = begin(Interruption())
    scored = {}
    for trainee.step in (0, 1, 2, 3, 3, 4, 5, 6):
        if (score := validation.after_step()) is not None:
            scored[trainee.step] = score
    resumed = begin(Interruption())
    for trainee.step in (6, 7, 8, 9, 10, 11):
        resumed.after_step()
    assert sorted(scored) == [3, 6]
    assert scored_steps(validation.progress.run) == [3, 6, 9, 11]
    told = [e["one_minus_auc"] for e in validation.progress.run.events() if e["kind"] == "validation"]
    assert told[:2] == list(scored.values())


def test_what_a_signal_cuts_short_is_done_first_when_the_training_goes_on(
    begin: Callable[[Interruption], Validation], trainee: Trainee
) -> None:
    interrupted = Interruption()
    interrupted.number = 15
    trainee.step = 3
    cut_short = begin(interrupted)
    assert cut_short.after_step() is None
    assert scored_steps(cut_short.progress.run) == []
    assert begin(Interruption()).after_step() is not None
    assert scored_steps(cut_short.progress.run) == [3]


def test_it_gives_up_between_two_parts(
    tiny_task: Task, tiny_spotter: NewSpotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validation_module, "PART_CLIPS", 2)
    asked = iter([False, False, True])
    assert validate(tiny_spotter(), tiny_task.validation, given_up=lambda: next(asked)) is None
    assert list(asked) == []
