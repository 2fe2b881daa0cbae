"""Distillation: a small network learns from what large ones make of the same sound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from hark.errors import ConfigError
from hark.learning.batching import Batch
from hark.learning.training import check_fields, cross_entropy
from hark.network.attention import WindowAttention
from hark.network.crnn import Crnn, Trace
from hark.network.spotter import Spotter, two_logits


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """How much the teachers count.

    loss = α · soft + (1 − α) · CE + attention · KL(teacher's attention ‖ student's)
    """

    alpha: float = 0.9
    temperature: float = 2.0
    attention: float = 0.0
    loss: Literal["kl", "reference"] = "kl"
    """`kl` is Hinton et al. 2015; `reference` is the report's negative dot product, kept for comparison."""

    def __post_init__(self) -> None:
        expectations = {
            "alpha": (0 <= self.alpha <= 1, "0 to 1"),
            "temperature": (0 < self.temperature < math.inf, "a number above 0"),
            "attention": (0 <= self.attention < math.inf, "0 or more"),
        }
        check_fields("distillation", self, expectations)


class Distillation:
    """The objective of a student: the ensemble of `teachers` averages its probabilities."""

    def __init__(self, teachers: Sequence[Spotter], student: Spotter, config: DistillationConfig) -> None:
        for teacher in teachers:
            if teacher.config.features != student.config.features:
                raise ConfigError(
                    f"a teacher hears {teacher.config.features}, the student {student.config.features}: "
                    "expected the same front end"
                )
        if not teachers:
            raise ConfigError("distillation without a teacher: name at least one")
        if config.attention:
            for who, model in (("student", student), *(("teacher", teacher) for teacher in teachers)):
                _require_weights(who, model.network)
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.student = student.network
        self.config = config

    def __call__(self, trace: Trace, batch: Batch) -> Tensor:
        """The loss of a batch."""
        config = self.config
        heard = [self._hear(teacher, batch) for teacher in self.teachers]
        logits = torch.stack([two_logits(teacher.logits[..., -1]) for teacher in heard])
        soft = SOFT_LOSSES[config.loss](two_logits(trace.logits[..., -1]), logits, config.temperature)
        loss = config.alpha * soft + (1 - config.alpha) * cross_entropy(trace, batch)
        if config.attention:
            loss = loss + config.attention * self._attention_loss(trace, heard, batch)
        return loss

    @torch.no_grad()
    def _hear(self, teacher: Spotter, batch: Batch) -> Trace:
        """A teacher hears the clip alone, from a fresh state: its best judgement."""
        teacher.to(batch.waveforms.device)
        clip = teacher.normalize(batch.log_mels(teacher.features))[..., batch.past_frames :]
        clip = clip.masked_fill(batch.masks, 0.0)
        return teacher.network.trace(clip, teacher.network.initial_state(len(clip)), decisions=1)

    def _attention_loss(self, trace: Trace, heard: Sequence[Trace], batch: Batch) -> Tensor:
        """KL between where teachers and student look at the end of the clip, steps aligned by their time."""
        frames = batch.masks.shape[-1]
        places = last_cells(self.student, batch.past_frames + frames, offset=batch.past_frames)
        target = torch.stack(
            [
                _last_weights(theirs) @ alignment(last_cells(teacher.network, frames), places).to(trace.logits)
                for theirs, teacher in zip(heard, self.teachers, strict=True)
            ]
        ).mean(0)
        ours = _last_weights(trace).clamp(min=1e-8).log()
        return functional.kl_div(ours, target, reduction="batchmean")


def _require_weights(who: str, network: Crnn) -> None:
    if not isinstance(network.attention, WindowAttention):
        raise ConfigError(
            f"the {who}'s attention is {network.config.attention!r}, which weighs no steps to be compared: "
            "expected distillation.attention to be 0"
        )


def _last_weights(trace: Trace) -> Tensor:
    """Where a network looked that weighs its steps, at the end of each clip: `(batch, window)`."""
    return cast("Tensor", trace.attention)[:, -1]


def kl_loss(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """T² · KL(mean of the teachers' softened probabilities ‖ student's) (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        student: logits (batch, classes).
        teachers: logits (teachers, batch, classes).
        temperature: T, softens both sides; T² keeps the gradient's size.
    """
    target = torch.softmax(teachers / temperature, dim=-1).mean(0)
    ours = torch.log_softmax(student / temperature, dim=-1)
    return temperature**2 * functional.kl_div(ours, target, reduction="batchmean")


def reference_loss(student: Tensor, teachers: Tensor, temperature: float) -> Tensor:
    """The report's loss: minus the dot product of probabilities, only the teacher softened."""
    target = torch.softmax(teachers / temperature, dim=-1).mean(0)
    return -(target * torch.softmax(student, dim=-1)).sum(-1).mean()


SOFT_LOSSES = {"kl": kl_loss, "reference": reference_loss}


def last_cells(network: Crnn, frames: int, *, offset: int = 0) -> list[tuple[float, float]]:
    """The time [first, last), in frames, that each slot of the attention window stands for after `frames` frames.

    That is one hop in the middle of what the step sees: receptive fields overlap, cells tile the clip.
    Slots that were not yet filled lie before the first frame. Frames count from `offset`.
    """
    size, hop = network.config.seen_frames, network.config.step_frames
    steps = (frames - size) // hop + 1
    starts = [step * hop + (size - hop) / 2 - offset for step in range(steps - network.config.window, steps)]
    return [(start, start + hop) for start in starts]


def alignment(theirs: Sequence[tuple[float, float]], ours: Sequence[tuple[float, float]]) -> Tensor:
    """How the weight of each of their steps is shared among ours, by the time that their cells share.

    Returns:
        `(theirs, ours)`; rows sum to 1. A step that overlaps none of ours gives its weight to the nearest.
    """
    first, last = torch.tensor(theirs, dtype=torch.float32).T[:, :, None]
    from_, to = torch.tensor(ours, dtype=torch.float32).T[:, None, :]
    overlap = (torch.minimum(last, to) - torch.maximum(first, from_)).clamp(min=0)
    nearest = functional.one_hot((first + last - from_ - to).abs().argmin(dim=1), len(ours)).float()
    lonely = overlap.sum(dim=1, keepdim=True) == 0
    shares = torch.where(lonely, nearest, overlap)
    return shares / shares.sum(dim=1, keepdim=True)
