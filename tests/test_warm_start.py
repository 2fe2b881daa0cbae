"""Weights to begin with: exactly those that were asked for, and a refusal in words where they do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as to_safetensors

from hark.errors import HarkError, ModelError, NoValidCheckpoint, RunError
from hark.learning.dataset import Task
from hark.learning.trainee import AVERAGE, Trainee
from hark.learning.training import TrainingConfig, make_optimizer
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.recipes.recipe import parse_recipe
from hark.recipes.stages import Bench, run_recipe
from hark.record.runs import Run
from hark.shrinking.quantization import quantize
from hark.storage.model_files import load, to_bytes
from hark.storage.warm_start import is_run, with_weights

NewSpotter = Callable[[], Spotter]
NewRun = Callable[[str], Run]


@pytest.fixture
def untaught(tiny_network: CrnnConfig) -> Spotter:
    """A spotter of another keyword, and with other weights than all runs here."""
    torch.manual_seed(1)
    return Spotter(SpotterConfig(keyword="hum", network=tiny_network))


@pytest.fixture
def stopped(tiny_spotter: NewSpotter, new_run: NewRun) -> Run:
    """A run that stopped: its third checkpoint of four was the best, and has threes for weights."""
    run, model = new_run("stopped"), tiny_spotter()
    trainee = Trainee(model, make_optimizer(model, TrainingConfig()), averaging=0)
    for step, score in enumerate((0.5, 0.4, 0.1, 0.2), start=1):
        for parameter in model.parameters():
            parameter.data.fill_(step)
        trainee.advance()
        trainee.save(run, score=score)
    return run


def fill(model: Spotter) -> float:
    """The number that all weights are."""
    (number,) = {float(value) for parameter in model.parameters() for value in parameter.detach().flatten()}
    return number


def test_a_finished_run_and_its_file_give_the_model_s_weights(mini_runs: Path, untaught: Spotter) -> None:
    file = mini_runs / "base" / "model.safetensors"
    before = to_bytes(untaught)
    for source in (file, file.parent):
        begun = with_weights(untaught, source)
        assert begun.config.keyword == "hum"
        for name, tensor in load(file).state_dict().items():
            assert torch.equal(begun.state_dict()[name], tensor)
    assert to_bytes(untaught) == before, "the model that was given is not changed"


def test_a_stopped_run_gives_its_best_checkpoint_and_any_other_by_name(stopped: Run, untaught: Spotter) -> None:
    assert fill(with_weights(untaught, stopped.folder)) == 3
    assert fill(with_weights(untaught, stopped.checkpoints.folders()[-1])) == 4


def test_a_run_that_was_never_validated_gives_its_newest_checkpoint(
    tiny_spotter: NewSpotter, new_run: NewRun, untaught: Spotter
) -> None:
    run, model = new_run("a"), tiny_spotter()
    trainee = Trainee(model, make_optimizer(model, TrainingConfig()), averaging=0)
    for step in (1, 2):
        for parameter in model.parameters():
            parameter.data.fill_(step)
        trainee.advance()
        trainee.save(run)
    assert fill(with_weights(untaught, run.folder)) == 2


@pytest.mark.fault("F8")
def test_weights_of_another_shape_are_refused_with_the_tensors_that_differ(
    mini_runs: Path, tiny_network: CrnnConfig
) -> None:
    wider = Spotter(SpotterConfig(keyword="beep", network=replace(tiny_network, hidden=(6, 7))))
    with pytest.raises(ModelError) as refused:
        with_weights(wider, mini_runs / "base")
    message = str(refused.value)
    assert message.startswith(f"{mini_runs / 'base'}: of another network (network.")
    assert " is 18×6 there, 21×7 here" in message
    assert message.endswith("choose --network as it was there")
    assert "\n" not in message


def test_integers_nothing_and_damage_are_refused(
    stopped: Run, mini_runs: Path, untaught: Spotter, new_run: NewRun, tmp_path: Path
) -> None:
    best = stopped.checkpoints.best()
    assert best is not None
    (best / "average.safetensors").write_bytes(b"x")
    integers = tmp_path / "int8.safetensors"
    integers.write_bytes(to_bytes(quantize(load(mini_runs / "base" / "model.safetensors"), bits=8)))
    cases: dict[Path, tuple[type[HarkError], str]] = {
        stopped.folder: (NoValidCheckpoint, "average.safetensors has 1 bytes"),
        integers: (ModelError, "its weights are integers, expected floats"),
        new_run("empty").folder: (RunError, "has neither model.safetensors nor a checkpoint yet"),
        tmp_path: (RunError, "it is not a run"),
        tmp_path / "none": (ModelError, "none"),
    }
    for source, (kind, reason) in cases.items():
        with pytest.raises(kind, match=reason):
            with_weights(untaught, source)


def test_a_checkpoint_that_somebody_has_copied_is_no_run(stopped: Run, tmp_path: Path) -> None:
    copied = shutil.copytree(stopped.checkpoints.folders()[0], tmp_path / "elsewhere" / "step-00000001")
    assert is_run(stopped.folder)
    assert is_run(tmp_path / "none"), "and missing"
    assert not is_run(copied)
    assert not is_run(copied / "average.safetensors")


@pytest.mark.fault("F8")
def test_a_stage_begins_with_the_weights_of_another_and_says_which(
    tiny_task: Task,
    tiny_network: CrnnConfig,
    mini_runs: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """With a rate so small that next to nothing is learned, they are found again in the model."""
    training = {"epochs": 1, "batch_size": 64, "learning_rate": 1e-9, "averaging": 0.0, "validations": 1}
    stage = {"kind": "train", "network": asdict(tiny_network), "training": training | {"normalization": "keep"}}
    stages = {
        "first": stage | {"weights_from": str(mini_runs / "base")},
        "second": stage | {"weights_from": "first"},
        "third": stage | {"weights_from": str(Run.open(mini_runs / "base").checkpoints.folders()[-1])},
    }
    recipe = parse_recipe({"stages": stages}, name="fine-tuning")
    first, second, third = run_recipe(recipe, Bench(tiny_task, tmp_path))
    source = load(mini_runs / "base" / "model.safetensors").state_dict()
    found = [load(run.path("model.safetensors")).state_dict() for run in (first, second, third)]
    furthest = max(float((model[name] - tensor).abs().max()) for model in found for name, tensor in source.items())
    record_property("outcome", f"`--weights-only-from` begins a new run with another's weights, to {furthest:.0e}")
    assert furthest < 1e-6
    assert [run.about["parents"] for run in (first, second, third)] == [["base"], ["first"], []]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {AVERAGE: b"\xff" * 64},
        {AVERAGE: to_safetensors({"w": torch.tensor([float("nan")])})},
        {AVERAGE: to_safetensors({"w": torch.zeros(1, dtype=torch.float8_e4m3fn)})},
    ],
    ids=["none", "no safetensors", "no numbers", "of a kind that is no weight"],
)
def test_a_checkpoint_without_weights_is_refused(
    files: dict[str, bytes], untaught: Spotter, new_run: NewRun
) -> None:
    folder = new_run("a").checkpoints.save(1, files, info={})
    with pytest.raises(RunError, match=r"step-00000001: a checkpoint without usable weights \(.*\); choose"):
        with_weights(untaught, folder)
