"""What a training must remember: all of it is in a checkpoint, which holds for one configuration only."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import save as to_safetensors

from hark.errors import RunError
from hark.learning.trainee import AVERAGE, MODEL, MOMENTS, Trainee
from hark.learning.training import TrainingConfig, make_optimizer
from hark.network.spotter import Spotter
from hark.network.weights import read_weights
from hark.record.runs import Run
from hark.record.store import read_checkpoint

NewRun = Callable[[str], Run]


@pytest.fixture
def new_trainee(tiny_spotter: Callable[[], Spotter]) -> Callable[[], Trainee]:
    """Gives a trainee that has learned nothing."""

    def new_trainee() -> Trainee:
        model = tiny_spotter()
        return Trainee(model, make_optimizer(model, TrainingConfig()), averaging=0.9)

    return new_trainee


def learn(trainee: Trainee, steps: int) -> None:
    """Make steps down some slope."""
    for _ in range(steps):
        trainee.optimizer.zero_grad()
        torch.stack([(p**2).sum() for p in trainee.model.parameters()]).sum().backward()
        trainee.optimizer.step()
        trainee.advance()


def test_who_goes_on_from_a_checkpoint_learns_what_the_one_who_saved_it_learns(
    new_trainee: Callable[[], Trainee], new_run: NewRun
) -> None:
    """Weights, average, moments and the number of the step: without any of them the next steps would differ."""
    run, first, second = new_run("a"), new_trainee(), new_trainee()
    learn(first, 3)
    first.save(run)
    second.restore(run)
    for trainee in (first, second):
        learn(trainee, 3)
    assert first.step == second.step == 6
    for mine, theirs in ((first.model, second.model), (first.average, second.average)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_a_checkpoint_has_the_score_of_its_validation(new_trainee: Callable[[], Trainee], new_run: NewRun) -> None:
    run, trainee = new_run("a"), new_trainee()
    for score in (0.5, 0.25, 0.75, None, None, None):
        learn(trainee, 1)
        trainee.save(run, score=score)
    best = run.checkpoints.best()
    assert best is not None
    assert read_checkpoint(best).step == 2
    assert run.checkpoints.steps() == [2, 4, 5, 6]


@pytest.mark.fault("F8")
def test_a_checkpoint_of_another_configuration_is_refused(
    new_trainee: Callable[[], Trainee], new_run: NewRun
) -> None:
    run, trainee = new_run("a"), new_trainee()
    trainee.save(run)
    run.write_json("config.json", {"network": "wider"})
    with pytest.raises(RunError, match="its checkpoint of step 0 was saved under another configuration"):
        new_trainee().restore(run)


Content = dict[str, torch.Tensor]
NO_WEIGHTS: list[Callable[[Content], bytes | None]] = [
    lambda saved: None,
    lambda saved: b"",
    lambda saved: b"\xff" * 64,
    lambda saved: to_safetensors({"x.y": torch.zeros(3)}),
    lambda saved: to_safetensors({**saved, "7777.step": torch.zeros(())}),
    lambda saved: to_safetensors(dict([*saved.items()][1:])),
    lambda saved: to_safetensors({name: torch.zeros(3, 4, 5) for name in saved}),
    lambda saved: to_safetensors({name: torch.full_like(tensor, math.nan) for name, tensor in saved.items()}),
    lambda saved: to_safetensors({name: tensor.to(torch.float8_e4m3fn) for name, tensor in saved.items()}),
]


@pytest.mark.parametrize("file", [MODEL, AVERAGE, MOMENTS])
@pytest.mark.parametrize("spoil", NO_WEIGHTS)
def test_a_checkpoint_that_is_intact_and_yet_holds_something_else_is_refused(
    file: str, spoil: Callable[[Content], bytes | None], new_trainee: Callable[[], Trainee], new_run: NewRun
) -> None:
    """Its manifest vouches for the bytes, not for who wrote them; and no error waits for the next step."""
    run, trainee = new_run("a"), new_trainee()
    learn(trainee, 1)
    trainee.save(run)
    saved = run.checkpoints.latest()
    assert saved is not None
    content = spoil(read_weights(saved.files[file]))
    files = {name: kept for name, kept in {**saved.files, file: content}.items() if kept is not None}
    run.checkpoints.save(2, files, info=saved.info)
    with pytest.raises(RunError, match="its checkpoint of step 2 does not fit the model"):
        new_trainee().restore(run)


def test_what_a_checkpoint_follows_from_is_on_the_disk_before_it(
    new_trainee: Callable[[], Trainee], new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss the log tells of all that was measured up to the step of the newest checkpoint."""
    run, synced = new_run("a"), list[int]()
    run.log("validation", step=0, one_minus_auc=0.5)
    fsync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor))
    )
    new_trainee().save(run)
    assert synced[0] == run.path("events.jsonl").stat().st_ino


@pytest.mark.fault("F5")
@pytest.mark.fault("F23")
def test_nothing_is_saved_into_a_folder_that_has_taken_the_place_of_ours(
    new_trainee: Callable[[], Trainee], new_run: NewRun
) -> None:
    run = new_run("a")
    with run.locked():
        run.folder.rename(run.folder.with_name("elsewhere"))
        other = new_run("a")
        with pytest.raises(RunError, match="moved, removed or replaced while a process was at work in it"):
            new_trainee().save(run)
    assert other.checkpoints.steps() == []
