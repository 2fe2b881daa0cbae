"""The training loop: what a network hears, what it is to learn, and one readable loop.

The loop writes only to its run directory; trackers and progress look on from outside and cannot hurt it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from hark.errors import ConfigError
from hark.learning.batching import Batch, Batches, Variation
from hark.learning.dataset import Dataset, Task
from hark.learning.devices import ANY_MACHINE, Machine, choose_device
from hark.learning.lessons import LessonBook, Teachers
from hark.learning.loading import Loader
from hark.learning.memory import Gradients
from hark.learning.saving import Saver
from hark.learning.trainee import Trainee
from hark.learning.validation import Validation
from hark.network.crnn import Trace
from hark.network.spotter import Spotter, estimate_normalization, two_logits
from hark.notices import say
from hark.record.interruption import Interruption
from hark.record.progress import Progress
from hark.record.runs import Run
from hark.sound.augmentation import generator

NORMALIZATION_CLIPS = 2000


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train. The defaults are what worked best on the reference task (docs/experiments.md)."""

    epochs: int = 100
    batch_size: int = 128
    optimizer: Literal["adam", "adamw"] = "adamw"
    schedule: Literal["constant", "cosine", "one-cycle"] = "one-cycle"
    learning_rate: float = 4e-3
    """The highest of the schedule."""
    weight_decay: float = 0.01
    clip_norm: float = 5.0
    averaging: float = 0.998
    """Decay per step of the exponential moving average of the weights, which is the result; 0 is off."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    normalization: Literal["keep", "training"] = "training"
    """Leave the log-mel affine as it is, or estimate it from the training part."""
    variation: Variation = field(default_factory=Variation)
    lessons: int = 0
    """Epochs that are made once, with what the teachers say, and heard again and again; 0: all are made afresh."""
    validations: int = 20
    save_every_s: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        expectations = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate < 1, "a number between 0 and 1"),
            "weight_decay": (0 <= self.weight_decay < 1, "0 up to 1"),
            "clip_norm": (self.clip_norm > 0, "a number above 0"),
            "averaging": (0 <= self.averaging < 1, "0 (off) up to 1"),
            "lessons": (0 <= self.lessons <= 1000, "0 (off) to 1000"),
            "validations": (self.validations >= 1, "at least 1"),
            "save_every_s": (self.save_every_s >= 0, "0 or more seconds"),
            "seed": (0 <= self.seed < 2**63, "0 up to 2^63"),
        }
        check_fields("training", self, expectations)


def check_fields(what: str, config: object, expectations: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse a configuration, all its faults at once.

    Args:
        what: names the configuration in the message.
        config: has the fields.
        expectations: for each field whether it is valid, and what is expected of it.

    Raises:
        ConfigError: some field is not valid.
    """
    faults = [
        f"{name} is {getattr(config, name)}, expected {expected}"
        for name, (valid, expected) in expectations.items()
        if not valid
    ]
    if faults:
        raise ConfigError(f"{what}: {'; '.join(faults)}")


Objective: TypeAlias = Callable[[Trace, Batch], Tensor]
"""A loss from what the network made of a batch."""


def teachers_of(objective: Objective) -> Teachers | None:
    """Those whose answers an objective needs, if any."""
    return objective if isinstance(objective, Teachers) else None


def cross_entropy(trace: Trace, batch: Batch) -> Tensor:
    """Cross-entropy of the logits at the end of each clip."""
    return functional.cross_entropy(two_logits(trace.logits[..., -1]), batch.targets)


def listen(model: Spotter, batch: Batch) -> Trace:
    """What the network makes of each clip at its end, its state lived-in by the sound before.

    No gradient flows through the past: the network learns to hear the clip from whatever state it finds.
    """
    features = model.normalize(batch.log_mels(model.features))
    past, clip = features[..., : batch.past_frames], features[..., batch.past_frames :]
    with torch.no_grad():
        heard = model.network.trace(past, model.network.initial_state(len(features)), decisions=0)
    return model.network.trace(clip.masked_fill(batch.masks, 0.0), heard.state, decisions=1)


class Lesson(nn.Module):
    """A spotter and what it is to learn as one module, whose `forward` Fabric can wrap on any device."""

    def __init__(self, model: Spotter, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        return self.objective(listen(self.model, batch), batch)


def train(
    model: Spotter,
    task: Task,
    config: TrainingConfig,
    *,
    run: Run,
    objective: Objective = cross_entropy,
    machine: Machine = ANY_MACHINE,
) -> Spotter:
    """Train `model` on the task's training part.

    Goes on from the newest valid checkpoint of `run` where there is one. The validation part is only watched:
    the result is the average of the weights after the last step.

    Raises:
        NoValidCheckpoint: the run has checkpoints, but none is intact.
        DeviceError: the device asked for is not there.
        DataStalled: no batch came for a long time.
        OutOfMemory: a single clip at a time does not fit.
        UnsavedWork: the disk is full, and training at its end.
        Interrupted: SIGINT or SIGTERM came; the step was finished and saved first.
    """
    fabric = Fabric(accelerator=choose_device(machine.device), devices=1, precision=config.precision)
    if config.normalization == "training":
        normalize(model, task.training, seed=config.seed)
    trainee = Trainee(model, make_optimizer(model, config), averaging=config.averaging)
    lesson = fabric.setup_module(Lesson(trainee.model, objective))
    optimizer = fabric.setup_optimizers(trainee.optimizer)
    trainee.average.to(fabric.device)  # the model itself has just been moved by Fabric
    trainee.restore(run)

    data = Batches(task, config.variation, model.config.features, config.batch_size, config.seed)
    total = config.epochs * data.per_epoch
    shown = Progress(
        run, total=total, done=trainee.step, clips_per_step=config.batch_size, device=str(fabric.device)
    )
    with (
        shown as progress,
        Loader(data, machine, run=run, warn=progress.warn) as loader,
        Interruption() as interruption,
    ):
        gradients = Gradients(fabric, lesson, trainee, progress)
        saver = Saver(trainee, progress, every_s=config.save_every_s, steps_per_epoch=data.per_epoch)
        validation = Validation(trainee, task.validation, progress, interruption, times=config.validations)
        if machine.device == "auto" and fabric.device.type == "cpu":
            say(f"{progress.name}: there is no GPU; after the first steps it is told how long the CPU will take")
        if not task.noises:
            progress.warn("the corpus has no background recordings: none is mixed in")
        saver.step_done(score=validation.after_step())
        hear = loader.stream
        if config.lessons:
            book = LessonBook.of(data, config.lessons, teachers=teachers_of(objective), shelf=run.folder.parent)
            book.write(loader, trainee.model.features, given_up=lambda: interruption.wanted)
            hear = book.stream
        for batch in hear(trainee.step, total, given_up=lambda: interruption.wanted):
            set_pace(optimizer, learning_rate(config, trainee.step, total), config.seed, trainee.step)
            lesson.train()
            loss = gradients.compute(batch)
            fabric.clip_gradients(lesson, optimizer, max_norm=config.clip_norm)
            optimizer.step()
            trainee.advance()

            progress.advance(trainee.step, loss=loss.item(), learning_rate=optimizer.param_groups[0]["lr"])
            saver.step_done(score=validation.after_step(), wanted=interruption.take_wish_to_save())
            if interruption.wanted:
                break
        saver.finish()
        if interruption.wanted:
            interruption.stop(done=f"{run.folder} is saved at step {trainee.step} of {total}")
    return trainee.average.cpu().eval()


def learning_rate(config: TrainingConfig, step: int, total: int) -> float:
    """The rate of one step, a function of its number: nothing to save, nothing to restore.

    One-cycle (Smith & Topin 2018, arXiv 1708.07120): up for the first fifth of the steps, then down along a
    cosine to a thousandth; "cosine" goes down only.
    """
    rise = {"constant": 0.0, "cosine": 0.0, "one-cycle": 0.2}[config.schedule]
    done = step / total
    if config.schedule == "constant":
        return config.learning_rate
    if done < rise:
        return config.learning_rate * (0.04 + 0.96 * _half_cosine(1 - done / rise))
    return config.learning_rate * (0.001 + 0.999 * _half_cosine((done - rise) / (1 - rise)))


def _half_cosine(x: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return (1 + math.cos(math.pi * x)) / 2


def set_pace(optimizer: torch.optim.Optimizer, rate: float, seed: int, step: int) -> None:
    """Set what a step depends on besides its batch: the learning rate, and the randomness of dropout."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    torch.manual_seed(int(generator(seed, 0, 1 << 43 | step).integers(2**62)))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2014) with L2, or AdamW (Loshchilov & Hutter 2017) with decay of matrices only."""
    if config.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, config.learning_rate)


def normalize(model: Spotter, data: Dataset, *, seed: int) -> None:
    """Estimate the log-mel affine from clips of the training part."""
    count = min(NORMALIZATION_CLIPS, len(data))
    rows = generator(seed, 0, 1 << 44).choice(len(data), count, replace=False)
    heard = data.part(sorted(rows.tolist())).at_rate(model.sample_rate)
    estimate_normalization(model, heard.waveforms(slice(None)))
