"""Training: it learns, it can be killed anywhere without a trace, and nothing it must not see counts."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hark.errors import ConfigError, DeviceError, Interrupted, NoValidCheckpoint
from hark.judging.metrics import one_minus_auc
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Dataset, Task, clip_scores
from hark.learning.devices import Machine
from hark.learning.trainee import Trainee
from hark.learning.training import (
    Objective,
    TrainingConfig,
    cross_entropy,
    learning_rate,
    listen,
    make_optimizer,
    set_pace,
    train,
)
from hark.network.crnn import Trace
from hark.network.features import LogMelConfig
from hark.network.spotter import Spotter
from hark.network.streaming import State, flatten
from hark.record.runs import Run
from hark.storage.model_files import to_bytes

NewRun = Callable[[str], Run]
NewSpotter = Callable[[], Spotter]

# Three steps an epoch; a checkpoint after each step, so that a death costs one step at most.
SHORT = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.02, averaging=0.9, validations=2, save_every_s=0)
STEPS = 12
CPU = Machine(device="cpu")


class Killed(BaseException):
    """A death in the middle of a step: nothing in hark catches it."""


def dying(at: int) -> Objective:
    """The cross-entropy, and death at the call of that number."""
    calls = count(1)

    def objective(trace: Trace, batch: Batch) -> Tensor:
        if next(calls) == at:
            raise Killed
        return cross_entropy(trace, batch)

    return objective


def area(model: Spotter, data: Dataset) -> float:
    """1 − AUC on some clips."""
    return one_minus_auc(clip_scores(model, data), data.targets)


def saved_steps(run: Run) -> list[int]:
    """The steps after which the run was saved, in all attempts."""
    return [event["step"] for event in run.event_log.history() if event["kind"] == "saved"]


@pytest.fixture(scope="module")
def undisturbed(
    tiny_task: Task, tiny_spotter: NewSpotter, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, Run]:
    """The model of the short training that nothing interrupted, and its run."""
    run = Run.create(tmp_path_factory.mktemp("runs"), "undisturbed", about={"kind": "train"})
    return to_bytes(train(tiny_spotter(), tiny_task, SHORT, run=run, machine=CPU)), run


def test_a_network_learns_what_it_is_trained_on(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    """Rising tones are told from the rest on voices that were never heard, after ten epochs."""
    before = area(tiny_spotter(), tiny_task.testing)
    config = replace(SHORT, epochs=10, save_every_s=60)
    trained = train(tiny_spotter(), tiny_task, config, run=new_run("a"), machine=CPU)
    after = area(trained, tiny_task.testing)
    assert before > 0.3
    assert after < 0.03


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_saves_and_is_gone_on_from(
    number: signal.Signals,
    tiny_task: Task,
    tiny_spotter: NewSpotter,
    new_run: NewRun,
    undisturbed: tuple[bytes, Run],
) -> None:
    """However long the interval between saves is."""
    run = new_run("asked to stop")
    rarely = replace(SHORT, save_every_s=3600)

    def objective(trace: Trace, batch: Batch) -> Tensor:
        os.kill(os.getpid(), number)
        return cross_entropy(trace, batch)

    with pytest.raises(Interrupted, match=f"saved at step 1 of {STEPS}") as stopped:
        train(tiny_spotter(), tiny_task, rarely, run=run, objective=objective, machine=CPU)
    assert stopped.value.exit_code == 128 + number
    assert saved_steps(run) == [1]
    assert to_bytes(train(tiny_spotter(), tiny_task, rarely, run=run, machine=CPU)) == undisturbed[0]


@pytest.mark.parametrize("deaths", [(1,), (3,), (5,), (STEPS,), (2, 2, 4)])
def test_a_training_killed_at_any_step_ends_as_if_it_never_was(
    tiny_task: Task,
    tiny_spotter: NewSpotter,
    new_run: NewRun,
    undisturbed: tuple[bytes, Run],
    deaths: tuple[int, ...],
) -> None:
    """Within an epoch, at its end, at the last step, and thrice; dropout and the past are drawn alike."""
    run = new_run("killed")
    for death in deaths:
        with pytest.raises(Killed):
            train(tiny_spotter(), tiny_task, SHORT, run=run, objective=dying(death), machine=CPU)
    survivor = train(tiny_spotter(), tiny_task, SHORT, run=run, machine=CPU)
    assert to_bytes(survivor) == undisturbed[0]
    assert saved_steps(run) == list(range(1, STEPS + 1)), "no step was made twice"


def test_optimizer_and_weights_of_the_last_checkpoint_are_those_of_the_undisturbed_run(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, undisturbed: tuple[bytes, Run]
) -> None:
    run = new_run("killed")
    with pytest.raises(Killed):
        train(tiny_spotter(), tiny_task, SHORT, run=run, objective=dying(8), machine=CPU)
    train(tiny_spotter(), tiny_task, SHORT, run=run, machine=CPU)
    resumed, straight = run.checkpoints.latest(), undisturbed[1].checkpoints.latest()
    assert resumed and straight
    assert {"model.safetensors", "average.safetensors", "optimizer.safetensors"} == set(straight.files)
    assert resumed.files == straight.files


def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, undisturbed: tuple[bytes, Run]
) -> None:
    run = new_run("damaged")
    with pytest.raises(Killed):
        train(tiny_spotter(), tiny_task, SHORT, run=run, objective=dying(7), machine=CPU)
    newest = run.path("checkpoints") / "step-00000006" / "average.safetensors"
    content = newest.read_bytes()
    newest.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert to_bytes(train(tiny_spotter(), tiny_task, SHORT, run=run, machine=CPU)) == undisturbed[0]
    assert [event["checkpoint"] for event in run.events() if event["kind"] == "fallback"] == [
        "step-00000006.1.corrupt"
    ]


def test_a_training_whose_checkpoints_are_gone_is_not_begun_anew_in_silence(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    run = new_run("gone")
    with pytest.raises(Killed):
        train(tiny_spotter(), tiny_task, SHORT, run=run, objective=dying(3), machine=CPU)
    shutil.rmtree(run.path("checkpoints"))
    with pytest.raises(NoValidCheckpoint, match="its checkpoints are gone"):
        train(tiny_spotter(), tiny_task, SHORT, run=run, machine=CPU)


def test_a_finished_training_is_not_repeated(
    tiny_task: Task, tiny_spotter: NewSpotter, undisturbed: tuple[bytes, Run]
) -> None:
    content, run = undisturbed
    again = train(tiny_spotter(), tiny_task, SHORT, run=run, objective=dying(1), machine=CPU)
    assert to_bytes(again) == content


def test_the_seed_decides(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, undisturbed: tuple[bytes, Run]
) -> None:
    same, other = (
        to_bytes(train(tiny_spotter(), tiny_task, replace(SHORT, seed=seed), run=new_run(str(seed)), machine=CPU))
        for seed in (0, 1)
    )
    assert same == undisturbed[0] != other


def test_what_judges_never_changes_what_is_learned(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, undisturbed: tuple[bytes, Run]
) -> None:
    """Other sound and wrong labels in the validation and test part: the same model to the last bit."""
    lies = replace(
        tiny_task.validation,
        pcm=np.roll(tiny_task.validation.pcm, 4000, axis=1),
        targets=~tiny_task.validation.targets,
    )
    other = replace(tiny_task, validation=lies, testing=lies, judging_noises=(), judging_speech=())
    assert to_bytes(train(tiny_spotter(), other, SHORT, run=new_run("a"), machine=CPU)) == undisturbed[0]


class Unread:
    """A stderr whose reader has gone."""

    def write(self, text: str) -> int:
        """Nobody takes it."""
        raise BrokenPipeError

    flush = isatty = lambda self: False


def test_a_training_outlives_whoever_watched_it(
    tiny_task: Task,
    tiny_spotter: NewSpotter,
    new_run: NewRun,
    undisturbed: tuple[bytes, Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", Unread())
    assert to_bytes(train(tiny_spotter(), tiny_task, SHORT, run=new_run("a"), machine=CPU)) == undisturbed[0]


def test_events_tell_of_loss_rate_validation_and_saves(undisturbed: tuple[bytes, Run]) -> None:
    events = undisturbed[1].events()
    (trained,) = [event for event in events if event["kind"] == "train"]
    assert trained["step"] == STEPS
    assert 0 < trained["loss"] < 2
    assert trained["rate"] > 0
    assert trained["learning_rate"] == learning_rate(SHORT, STEPS - 1, STEPS)
    validations = [event for event in events if event["kind"] == "validation"]
    assert [event["step"] for event in validations] == [6, STEPS]
    assert all(0 <= event["one_minus_auc"] <= 1 and event["loss"] > 0 for event in validations)


def test_progress_is_told_on_stderr_and_nothing_on_stdout(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny_spotter(), tiny_task, replace(SHORT, epochs=1), run=new_run("talking"), machine=CPU)
    told = capsys.readouterr()
    assert told.out == ""
    first, last = told.err.splitlines()
    assert first.endswith("talking: training on cpu")
    assert "talking: step 3/3  loss " in last


def test_the_affine_is_estimated_from_the_training_part(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    """Each mel band of the training part comes out with mean 0 and deviation 1."""
    config = replace(SHORT, epochs=1)
    model = train(tiny_spotter(), tiny_task, config, run=new_run("a"), machine=CPU)
    with torch.no_grad():
        bands = model.normalize(model.features(tiny_task.training.waveforms(slice(None))))
    torch.testing.assert_close(bands.mean(dim=(0, 2)), torch.zeros(40), atol=1e-3, rtol=0)
    torch.testing.assert_close(bands.std(dim=(0, 2)), torch.ones(40), atol=1e-3, rtol=0)


def test_the_affine_is_kept_where_asked_for(tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun) -> None:
    config = replace(SHORT, epochs=1, normalization="keep")
    model = train(tiny_spotter(), tiny_task, config, run=new_run("a"), machine=CPU)
    assert torch.equal(model.normalize.scale, torch.ones(40))
    assert torch.equal(model.normalize.shift, torch.zeros(40))


def test_listening_with_a_past_is_streaming(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    """Without masks and dropout, the logits of the clip are the last ones of past and clip as one stream."""
    variation = Variation(policy="none", mask_bins=0, mask_frames=0, lived_in_share=1.0)
    model = tiny_spotter().eval()
    for number in range(4):
        batch = Batches(tiny_task, variation, LogMelConfig(), 4, number).make(number)
        assert batch.past_frames
        trace = listen(model, batch)
        stream = model(batch.waveforms)
        torch.testing.assert_close(trace.logits, stream[..., -trace.logits.shape[-1] :], atol=1e-5, rtol=0)


def test_no_gradient_flows_through_the_past(
    tiny_task: Task, tiny_spotter: NewSpotter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network learns to hear the clip from whatever state it finds, not to prepare the state."""
    model, found = tiny_spotter(), list[Tensor]()
    trace = model.network.trace

    def noting(x: Tensor, state: State, **told: int) -> Trace:
        found.extend(flatten(state).values())
        return trace(x, state, **told)

    batch = Batches(tiny_task, Variation(policy="none", lived_in_share=1.0), LogMelConfig(), 4, 0).make(0)
    monkeypatch.setattr(model.network, "trace", noting)
    cross_entropy(listen(model, batch), batch).backward()
    state = found[-len(flatten(model.network.initial_state())) :]
    assert any(tensor.any() for tensor in state), "the state is lived-in"
    assert not any(tensor.requires_grad for tensor in state)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_randomness_of_a_step_is_a_function_of_seed_and_step(tiny_spotter: NewSpotter) -> None:
    optimizer = make_optimizer(tiny_spotter(), SHORT)

    def drawn(seed: int, step: int) -> Tensor:
        set_pace(optimizer, 0.25, seed, step)
        return torch.rand(8)

    assert torch.equal(drawn(0, 5), drawn(0, 5))
    assert len({drawn(seed, step).numpy().tobytes() for seed in (0, 1) for step in range(9)}) == 18
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}


def test_masks_hide_what_they_cover(tiny_task: Task, tiny_spotter: NewSpotter) -> None:
    """Behind a mask over all of the clip, every clip sounds the same."""
    variation = Variation(policy="none", lived_in_share=0.0)
    batch = Batches(tiny_task, variation, LogMelConfig(), 8, 0).make(0)
    batch.masks.fill_(True)
    logits = listen(tiny_spotter().eval(), batch).logits
    torch.testing.assert_close(logits, logits[:1].expand_as(logits))


@given(
    averaging=st.sampled_from([0.0, 0.5, 0.9, 0.998]), weights=st.lists(st.floats(-2, 2), min_size=1, max_size=30)
)
def test_the_average_follows_the_weights_by_its_law(
    tiny_spotter: NewSpotter, averaging: float, weights: list[float]
) -> None:
    """It becomes d·a + (1 − d)·w, d rising as n / (n + 10) up to the decay; with none it is the weights."""
    model = tiny_spotter()
    trainee = Trainee(model, make_optimizer(model, SHORT), averaging=averaging)
    expected = next(trainee.average.parameters()).double().clone()
    for step, weight in enumerate(weights, start=1):
        for parameter in model.parameters():
            parameter.data.fill_(weight)
        trainee.advance()
        decay = min(averaging, step / (step + 10))
        expected = decay * expected + (1 - decay) * weight
    average = next(trainee.average.parameters())
    torch.testing.assert_close(average.double(), expected, atol=1e-5, rtol=0)
    if averaging == 0:
        assert torch.equal(average, next(model.parameters()))


SCHEDULES = st.sampled_from(["constant", "cosine", "one-cycle"])


@given(schedule=SCHEDULES, total=st.integers(1, 5000), peak=st.floats(1e-6, 0.5))
def test_a_learning_rate_never_leaves_its_range_and_never_jumps(schedule: str, total: int, peak: float) -> None:
    config = TrainingConfig(schedule=schedule, learning_rate=peak)  # type: ignore[arg-type]
    rates = np.array([learning_rate(config, step, total) for step in range(total + 1)])
    assert rates.min() > 0
    assert rates.max() <= peak * (1 + 1e-12)
    # The steepest place is the middle of the rise: 0.96 · π/2 within a fifth of the steps.
    assert np.abs(np.diff(rates)).max() <= peak * 8 / total


@given(total=st.integers(1, 1000).map(lambda fifths: 5 * fifths), peak=st.floats(1e-6, 0.5))
def test_one_cycle_rises_for_a_fifth_to_its_peak_then_falls_to_a_thousandth(total: int, peak: float) -> None:
    config = TrainingConfig(schedule="one-cycle", learning_rate=peak)
    rates = np.array([learning_rate(config, step, total) for step in range(total + 1)]) / peak
    top = total // 5
    assert rates[[0, top, total]] == pytest.approx([0.04, 1.0, 0.001])
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()


def test_cosine_falls_from_its_first_step_and_constant_never_does() -> None:
    cosine, constant = (
        TrainingConfig(schedule=name, learning_rate=0.1)  # type: ignore[arg-type]
        for name in ("cosine", "constant")
    )
    assert [learning_rate(cosine, step, 4) for step in (0, 2, 4)] == pytest.approx([0.1, 0.05005, 0.0001])
    assert {learning_rate(constant, step, 4) for step in range(5)} == {0.1}


def test_adamw_decays_matrices_and_nothing_else(tiny_spotter: NewSpotter) -> None:
    """A step without gradient shrinks weights by rate · decay, and leaves biases alone."""
    model = tiny_spotter()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, TrainingConfig(optimizer="adamw", learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])
    assert len({parameter.ndim > 1 for parameter in model.parameters()}) == 2


def test_adam_has_the_decay_of_the_reference_in_the_gradient_of_all(tiny_spotter: NewSpotter) -> None:
    optimizer = make_optimizer(tiny_spotter(), TrainingConfig(optimizer="adam", weight_decay=1e-5))
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.Adam
    assert group["weight_decay"] == 1e-5
    assert len(group["params"]) == len(list(tiny_spotter().parameters()))


@pytest.mark.parametrize("wish", ["cuda", "mps"])
def test_a_gpu_that_is_not_there_is_an_error_before_anything_is_done(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=f"--device {wish}: found only the CPU; use --device auto or cpu"):
        train(tiny_spotter(), tiny_task, SHORT, run=new_run("a"), machine=Machine(device=wish))
    assert new_run("a").events() == []


def test_a_configuration_names_all_its_faults_at_once() -> None:
    nan = float("nan")
    faults = {
        "epochs": 0,
        "batch_size": -1,
        "learning_rate": nan,
        "weight_decay": 1.0,
        "clip_norm": nan,
        "averaging": 1.0,
        "validations": 0,
        "save_every_s": -1.0,
        "seed": -1,
    }
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(**faults)  # type: ignore[arg-type]
    for name, value in faults.items():
        assert f"{name} is {value}, expected " in str(caught.value)
    assert "\n" not in str(caught.value)
