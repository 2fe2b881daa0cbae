"""Distillation: a small network learns from what large ones make of the same sound."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from hark.errors import ConfigError
from hark.learning.batching import Batch, Taught, hear, hop_in_recordings
from hark.learning.training import check_fields, cross_entropy
from hark.network.attention import WindowAttention
from hark.network.crnn import Crnn, Trace
from hark.network.spotter import Spotter, two_logits
from hark.sound.audio import SAMPLE_RATE


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
    """The objective of a student: the ensemble of `teachers` averages its probabilities.

    Each hears the same recordings through its own front end, which may have another rate.

    Args:
        teachers: at least one.
        student: who learns.
        config: how much the teachers count.
        clip_s: the length of all clips.
    """

    def __init__(
        self, teachers: Sequence[Spotter], student: Spotter, config: DistillationConfig, *, clip_s: float = 1.0
    ) -> None:
        if not teachers:
            raise ConfigError("distillation without a teacher: name at least one")
        if config.attention:
            for who, model in (("student", student), *(("teacher", teacher) for teacher in teachers)):
                _require_weights(who, model.network)
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.student = student.network
        self.front_end = student.features
        self.config = config
        self.clip_s = clip_s

    @cached_property
    def signature(self) -> str:
        """Names the teachers, to the last weight."""
        sha = hashlib.sha256()
        for teacher in self.teachers:
            sha.update(repr(teacher.config).encode())
            for weights in teacher.state_dict().values():
                sha.update(weights.cpu().numpy().tobytes())
        return sha.hexdigest()

    def __call__(self, trace: Trace, batch: Batch) -> Tensor:
        """The loss of a batch."""
        config = self.config
        taught = batch.taught or self.teach(batch)
        ours, theirs = two_logits(trace.logits[..., -1]), taught.logits.transpose(0, 1)
        soft = SOFT_LOSSES[config.loss](ours, theirs, config.temperature)
        loss = config.alpha * soft + (1 - config.alpha) * cross_entropy(trace, batch)
        if config.attention:
            loss = loss + config.attention * self._attention_loss(trace, taught, batch)
        return loss

    @torch.no_grad()
    def teach(self, batch: Batch) -> Taught:
        """What the teachers make of each clip alone, from a fresh state: their best judgement."""
        heard = [self._hear(teacher, batch) for teacher in self.teachers]
        logits = torch.stack([two_logits(trace.logits[..., -1]) for trace in heard], dim=1)
        return Taught(logits, tuple(_last_weights(trace) for trace in heard if trace.attention is not None))

    def _hear(self, teacher: Spotter, batch: Batch) -> Trace:
        teacher.to(batch.waveforms.device)
        if teacher.config.features == self.front_end.config:
            clip = teacher.normalize(batch.log_mels(teacher.features))[..., batch.past_frames :]
            clip = clip.masked_fill(batch.masks, 0.0)
        else:  # the student's masks mean nothing there
            past_samples = batch.past_frames * hop_in_recordings(self.front_end.config)
            clip = teacher.normalize(hear(teacher.features, batch.waveforms[:, past_samples:]))
        return teacher.network.trace(clip, teacher.network.initial_state(len(clip)), decisions=1)

    def _attention_loss(self, trace: Trace, taught: Taught, batch: Batch) -> Tensor:
        """KL between where teachers and student look at the end of the clip, steps aligned by their time."""
        places = self._places(batch.past_frames, batch.masks.shape[-1])
        target = torch.stack(
            [
                theirs @ alignment(self._cells(teacher), places).to(theirs)
                for theirs, teacher in zip(taught.attention, self.teachers, strict=True)
            ]
        ).mean(0)
        ours = _last_weights(trace).clamp(min=1e-8).log()
        return functional.kl_div(ours, target, reduction="batchmean")

    def _places(self, past_frames: int, frames: int) -> list[tuple[float, float]]:
        """Of the student after a clip of so many of its frames, in samples of recordings from the clip's start."""
        hop = hop_in_recordings(self.front_end.config)
        return last_cells(self.student, past_frames + frames, hop=hop, offset=past_frames)

    def _cells(self, teacher: Spotter) -> list[tuple[float, float]]:
        """The same of a teacher, who hears the clip alone, through frames of its own."""
        hop = hop_in_recordings(teacher.config.features)
        return last_cells(teacher.network, round(self.clip_s * SAMPLE_RATE) // hop, hop=hop)


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


def last_cells(network: Crnn, frames: int, *, hop: int = 1, offset: int = 0) -> list[tuple[float, float]]:
    """The time [first, last) that each slot of the attention window stands for after `frames` frames.

    That is one stride in the middle of what the step sees: receptive fields overlap, cells tile the clip.
    Slots that were not yet filled lie before the first frame. A frame takes `hop`; frame `offset` is at 0.
    """
    size, stride = network.config.seen_frames, network.config.step_frames
    steps = (frames - size) // stride + 1
    starts = [step * stride + (size - stride) / 2 - offset for step in range(steps - network.config.window, steps)]
    return [(start * hop, (start + stride) * hop) for start in starts]


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
