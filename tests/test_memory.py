"""Memory: parts of a batch teach what the whole would have taught, and only what cannot be helped is an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import NoReturn

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from hark.errors import OutOfMemory
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Task
from hark.learning.devices import Machine
from hark.learning.distillation import Distillation, DistillationConfig
from hark.learning.memory import Gradients, is_out_of_memory, shortage
from hark.learning.trainee import Trainee
from hark.learning.training import Lesson, Objective, TrainingConfig, cross_entropy, make_optimizer, train
from hark.network.crnn import Trace
from hark.network.features import LogMelConfig
from hark.network.spotter import Spotter
from hark.record.progress import Progress
from hark.record.runs import Run
from hark.storage.model_files import to_bytes

NewRun = Callable[[str], Run]
NewSpotter = Callable[[], Spotter]

CLIPS = 7
SHORT = TrainingConfig(epochs=4, batch_size=16, learning_rate=0.02, averaging=0.9, validations=2, save_every_s=0)
CPU = Machine(device="cpu")


def fits(clips: int, objective: Objective) -> Objective:
    """An objective on a machine whose memory holds so many clips."""

    def limited(trace: Trace, batch: Batch) -> Tensor:
        if len(batch) > clips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB. GPU 0 has …")
        return objective(trace, batch)

    return limited


def objectives(model: Spotter, teacher: Spotter) -> dict[str, Objective]:
    """All kinds of losses there are."""
    softly = DistillationConfig(alpha=0.6, attention=0.5)
    return {
        "labels": cross_entropy,
        "distillation": Distillation([teacher], model, softly),
        "the reference's": Distillation([teacher, teacher], model, replace(softly, loss="reference")),
    }


def gradients(model: Spotter, objective: Objective, batch: Batch, run: Run) -> list[Tensor]:
    """Loss and gradients of a batch."""
    fabric = Fabric(accelerator="cpu", devices=1)
    trainee = Trainee(model, make_optimizer(model, SHORT), averaging=0.9)
    lesson = Lesson(model, objective).train()
    progress = Progress(run, total=9, done=0, clips_per_step=CLIPS, device="cpu")
    torch.manual_seed(5)
    loss = Gradients(fabric, lesson, trainee, progress).compute(batch)
    return [loss, *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("kind", ["labels", "distillation", "the reference's"])
@pytest.mark.parametrize("past", [False, True], ids=["fresh", "lived-in"])
def test_the_gradients_of_the_parts_are_those_of_the_whole(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, kind: str, past: bool
) -> None:
    """With dropout and masks; in float64, to 12 digits. The last part has fewer clips than the others."""
    batches = Batches(
        tiny_task, Variation(lived_in_share=float(past), lived_in_max_s=0.5), LogMelConfig(), CLIPS, 0
    )
    batch = batches.make(0)
    batch.waveforms = batch.waveforms.double()
    found = []
    for clips in (CLIPS, 4, 2, 1):
        model = tiny_spotter().double()
        objective = fits(clips, objectives(model, tiny_spotter().double())[kind])
        found.append(gradients(model, objective, batch, new_run(str(clips))))
    whole = found[0]
    assert len(whole) > 5
    for parts in found[1:]:
        for one, other in zip(parts, whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_nothing_counts_of_what_was_tried_in_vain(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    """Memory runs out in the second part, when the first has left its gradients."""
    batch = Batches(tiny_task, Variation(), LogMelConfig(), CLIPS, 0).make(0)
    batch.waveforms = batch.waveforms.double()
    calls = count(1)

    def short(trace: Trace, batch: Batch) -> Tensor:
        if next(calls) == 2:
            raise MemoryError
        return cross_entropy(trace, batch)

    run = new_run("a")
    run.log("micro_batch", step=0, clips=4)
    found = gradients(tiny_spotter().double(), short, batch, run)
    expected = gradients(tiny_spotter().double(), cross_entropy, batch, new_run("b"))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The loss of every step of the trainings to come."""
    collected: list[float] = []
    advance = Progress.advance

    def collect(self: Progress, step: int, *, loss: float, learning_rate: float) -> None:
        collected.append(loss)
        advance(self, step, loss=loss, learning_rate=learning_rate)

    monkeypatch.setattr(Progress, "advance", collect)
    return collected


def test_a_training_in_parts_has_the_loss_curve_of_the_whole(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun, losses: list[float]
) -> None:
    """To 1e-6; memory runs out twice in the first step, and what was found there is kept to."""
    train(tiny_spotter(), tiny_task, SHORT, run=new_run("whole"), machine=CPU)
    run = new_run("parts")
    train(tiny_spotter(), tiny_task, SHORT, run=run, objective=fits(4, cross_entropy), machine=CPU)
    whole, parts = losses[:12], losses[12:]
    assert parts == pytest.approx(whole, abs=1e-6)
    halvings = [(event["step"], event["clips"]) for event in run.events() if event["kind"] == "micro_batch"]
    assert halvings == [(0, 8), (0, 4)]
    warnings = [event["message"] for event in run.events() if event["kind"] == "warning"]
    assert len(warnings) == 2
    assert warnings[0].startswith("out of memory: at least ")
    assert "MiB are needed, 3,072 MiB of it at once, and this process may use " in warnings[0]
    assert warnings[1].endswith("from here on 4 clips at a time, for the same result")


def test_a_resumed_training_goes_on_in_the_parts_it_had_come_to(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    """Memory runs out once, in the fourth step. Killed in the seventh, the model is the same to the last bit."""

    class Killed(BaseException):
        pass

    def short(*, dies: bool) -> Objective:
        """Parts of 8 clips from the fourth step on; the seventh and later ones are whole if that is forgotten."""
        seen = count(1)

        def objective(trace: Trace, batch: Batch) -> Tensor:
            call = next(seen)
            if call == 4:
                raise MemoryError
            if dies and call == 9:
                raise Killed
            return cross_entropy(trace, batch)

        return objective

    undisturbed, run = new_run("undisturbed"), new_run("killed")
    expected = train(tiny_spotter(), tiny_task, SHORT, run=undisturbed, objective=short(dies=False), machine=CPU)
    with pytest.raises(Killed):
        train(tiny_spotter(), tiny_task, SHORT, run=run, objective=short(dies=True), machine=CPU)
    resumed = train(tiny_spotter(), tiny_task, SHORT, run=run, machine=CPU)
    assert to_bytes(resumed) == to_bytes(expected)
    whole = train(tiny_spotter(), tiny_task, SHORT, run=new_run("whole"), machine=CPU)
    assert to_bytes(whole) != to_bytes(expected), "the last bits do tell"


def test_less_than_a_clip_is_not_tried(tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun) -> None:
    run = new_run("a")
    with pytest.raises(
        OutOfMemory, match=r"a batch of one clip does not fit: out of memory: at least .* needed"
    ) as caught:
        train(tiny_spotter(), tiny_task, SHORT, run=run, objective=fits(0, cross_entropy), machine=CPU)
    assert caught.value.exit_code == 6
    assert [event["clips"] for event in run.events() if event["kind"] == "micro_batch"] == [8, 4, 2, 1]


def test_an_error_that_has_to_do_with_something_else_is_not_tried_again(
    tiny_task: Task, tiny_spotter: NewSpotter, new_run: NewRun
) -> None:
    calls = count(1)

    def wrong(trace: Trace, batch: Batch) -> NoReturn:
        raise RuntimeError(f"call {next(calls)}: shapes do not match")

    with pytest.raises(RuntimeError, match="call 1: shapes do not match"):
        train(tiny_spotter(), tiny_task, SHORT, run=new_run("a"), objective=wrong, machine=CPU)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: …"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GiB, …)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution forward propagation"), False),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_means_that_memory_has_run_out(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("asked", "mib"),
    [
        ("you tried to allocate 52428800 bytes.", 50),
        ("Tried to allocate 1.50 GiB (GPU 0; …)", 1536),
        ("Unable to allocate 79.0 MiB for an array with shape (40, 517920)", 79),
    ],
)
def test_what_was_asked_for_is_told_with_what_there_is(asked: str, mib: int) -> None:
    told = shortage(MemoryError(asked))
    needed, at_once, allowed = (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) MiB", told))
    assert at_once == mib
    assert mib < needed < mib + 20_000
    assert allowed > 100


def test_without_a_number_what_is_used_is_told() -> None:
    assert re.fullmatch(
        r"out of memory: at least [\d,]+ MiB are needed, and .* [\d,]+ MiB", shortage(MemoryError())
    )
