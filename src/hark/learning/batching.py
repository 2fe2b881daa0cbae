"""Batches for training: drawn, varied, and each a function of its number alone.

Randomness is keyed by (seed, epoch, index), never by how far a generator has run: a training that is stopped
and resumed anywhere draws the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark.errors import ConfigError, CorpusError
from hark.learning.dataset import Task
from hark.network.features import LogMel, LogMelConfig
from hark.sound.audio import SAMPLE_RATE, from_pcm16
from hark.sound.augmentation import generator, lived_in_batch, spectrogram_mask
from hark.sound.policies import WaveAugmentation, reference_augmentation
from hark.sound.resampling import resample

# One family of random streams per purpose; clips use the numbers below 2^40.
_ORDER, _MASKS, _PAST = 1 << 40, 1 << 41, 1 << 42


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How each clip is varied every time it is heard."""

    policy: Literal["none", "reference", "full"] = "full"
    """No wave augmentation, the reference report's one of four, or the chain `wave`."""
    wave: WaveAugmentation = field(default_factory=WaveAugmentation)
    mask_bins: int = 10
    mask_frames: int = 25
    lived_in_share: float = 0.5
    """Share of the batches that hear 0 to `lived_in_max_s` of other sound before the clips."""
    lived_in_max_s: float = 3.0

    def __post_init__(self) -> None:
        if not 0 <= self.lived_in_share <= 1:
            raise ConfigError(f"lived_in_share is {self.lived_in_share}, expected a share from 0 to 1")
        if not 0 <= self.lived_in_max_s <= 60:
            raise ConfigError(f"lived_in_max_s is {self.lived_in_max_s}, expected 0 to 60 seconds")
        if min(self.mask_bins, self.mask_frames) < 0:
            raise ConfigError(f"masks of {self.mask_bins} bins, {self.mask_frames} frames: expected 0 or more")


class Taught(NamedTuple):
    """What the teachers make of the clips of a batch."""

    logits: Tensor
    """(batch, teachers, classes)"""
    attention: tuple[Tensor, ...]
    """Where each looks at the end of each clip: (batch, window), oldest step first."""


@dataclass
class Batch:
    """Clips as they are heard this time, with the sound that came before them."""

    waveforms: Tensor
    """(batch, past + clip samples), at the rate of recordings whatever the front end's"""
    targets: Tensor
    """(batch,) int64: 1 is the keyword"""
    masks: Tensor
    """(batch, n_mels, clip frames) bool: the places that are hidden"""
    past_frames: int
    """Frames of other sound before the clips."""
    heard: Tensor | None = None
    """(batch, n_mels, past + clip frames), the log-mels of the waveforms once they are known"""
    taught: Taught | None = None
    """Known in lessons, which were recorded with their teachers' answers."""

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    def from_arrays(cls, past_frames: int, *columns: npt.NDArray[Any]) -> Batch:
        """The batch that another process has given `as_arrays`."""
        waveforms, targets, masks = map(torch.from_numpy, columns)
        return cls(waveforms, targets, masks, past_frames)

    def as_arrays(self) -> tuple[Any, ...]:
        """How it goes to another process: as tensors it would need as much room in /dev/shm."""
        return self.past_frames, *(column.numpy() for column in (self.waveforms, self.targets, self.masks))

    def split(self, clips: int) -> list[Batch]:
        """The same clips in their order as batches of at most `clips`."""
        return [self._each(itemgetter(slice(at, at + clips))) for at in range(0, len(self), clips)]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self._each(lambda column: column.to(device))

    @torch.no_grad()
    def log_mels(self, front_end: LogMel) -> Tensor:
        """Log-mels `(batch, n_mels, past + clip frames)`, computed once for student and teachers."""
        if self.heard is None:
            self.heard = hear(front_end, self.waveforms)
        return self.heard

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with a change to all that has a row for each clip."""
        return Batch(
            change(self.waveforms),
            change(self.targets),
            change(self.masks),
            self.past_frames,
            None if self.heard is None else change(self.heard),
            self.taught and Taught(change(self.taught.logits), tuple(map(change, self.taught.attention))),
        )


def hop_in_recordings(front_end: LogMelConfig) -> int:
    """Samples of recordings from one frame of a front end to the next.

    Raises:
        ConfigError: its rate is no whole part of theirs.
    """
    times, rest = divmod(SAMPLE_RATE, front_end.sample_rate)
    if rest:
        raise ConfigError(
            f"front_end.sample_rate is {front_end.sample_rate}, expected {SAMPLE_RATE}, at which recordings are "
            f"decoded, or a whole part of it such as {SAMPLE_RATE // 2}"
        )
    return times * front_end.hop_length


def hear(front_end: LogMel, waveforms: Tensor) -> Tensor:
    """Log-mels `(batch, n_mels, frames)` of waveforms `(batch, samples)` at the rate of recordings."""
    if (rate := front_end.config.sample_rate) != SAMPLE_RATE:
        heard = resample(waveforms.cpu().numpy(), SAMPLE_RATE, rate)
        waveforms = torch.from_numpy(heard).to(waveforms.device)
    log_mels: Tensor = front_end(waveforms)
    return log_mels


@dataclass(frozen=True)
class Batches:
    """All batches of a training, by number. An epoch draws as many clips as there are, classes balanced."""

    task: Task
    variation: Variation
    front_end: LogMelConfig
    size: int
    seed: int
    quarantine: tuple[tuple[int, int], ...] = ()
    """Rows of the training part that are not heard, each from which batch on; others take their places."""

    @cached_property
    def hop(self) -> int:
        """Samples of the clips from one frame to the next."""
        return hop_in_recordings(self.front_end)

    @property
    def per_epoch(self) -> int:
        """Batches per epoch."""
        return math.ceil(len(self.task.training) / self.size)

    def make(self, number: int) -> Batch:
        """Batch `number` of the training."""
        epoch, index = divmod(number, self.per_epoch)
        rows = self.rows(number)
        clips = np.stack([self._vary(row, epoch, index * self.size + at) for at, row in enumerate(rows)])
        heard, past_frames = self._with_past(clips, generator(self.seed, epoch, _PAST + index))
        targets = torch.from_numpy(self.task.training.targets[rows].astype(np.int64))
        return Batch(
            torch.from_numpy(heard), targets, torch.from_numpy(self.masks(number, len(clips))), past_frames
        )

    def masks(self, number: int, clips: int) -> npt.NDArray[np.bool_]:
        """The places that are hidden from batch `number`: `(clips, n_mels, clip frames)`."""
        epoch, index = divmod(number, self.per_epoch)
        return spectrogram_mask(
            (clips, self.front_end.n_mels, self.task.training.pcm.shape[1] // self.hop),
            generator(self.seed, epoch, _MASKS + index),
            max_bins=self.variation.mask_bins,
            max_frames=self.variation.mask_frames,
        )

    def clip(self, number: int, at: int) -> npt.NDArray[np.float32]:
        """One clip of batch `number` as it is heard there, without its past."""
        epoch, index = divmod(number, self.per_epoch)
        return self._vary(self.rows(number)[at], epoch, index * self.size + at)

    def rows(self, number: int) -> npt.NDArray[np.int64]:
        """The rows of the training part that batch `number` hears.

        The place of a row in quarantine is taken by the next row of its class that is not.

        Raises:
            CorpusError: all clips of a class are in quarantine.
        """
        epoch, index = divmod(number, self.per_epoch)
        rows = self._order(epoch)[index * self.size : (index + 1) * self.size]
        spoiled = [row for row, since in self.quarantine if since <= number]
        targets = self.task.training.targets
        for target in (False, True) if spoiled else ():
            good = np.setdiff1d(np.flatnonzero(targets == target), spoiled)
            if not len(good):
                word = repr(self.task.keyword)
                raise CorpusError(f"all clips of {word} or all others are in quarantine; mend them or their disk")
            mine = targets[rows] == target
            rows[mine] = good[np.searchsorted(good, rows[mine]) % len(good)]
        return rows

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Rows drawn with replacement, each class as often as the other."""
        targets = self.task.training.targets
        share = np.where(targets, 0.5 / targets.sum(), 0.5 / (~targets).sum())
        return generator(self.seed, epoch, _ORDER).choice(len(targets), len(targets), p=share)

    @cached_property
    def _wave(self) -> WaveAugmentation:
        """The chain of augmentations, without noise where the corpus has none."""
        wave = self.variation.wave
        return wave if self.task.noises else replace(wave, noise_probability=0.0)

    def _vary(self, row: np.int64, epoch: int, place: int) -> npt.NDArray[np.float32]:
        clip = from_pcm16(self.task.training.pcm[row])
        rng = generator(self.seed, epoch, place)
        match self.variation.policy:
            case "full":
                return self._wave(clip, rng, self.task.noises)
            case "reference":
                return reference_augmentation(clip, rng, self.task.noises)
            case "none":
                return clip

    def _with_past(
        self, clips: npt.NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], int]:
        """The clips with other sound before them, a whole number of frames of it."""
        if not self.task.other_sounds or rng.random() >= self.variation.lived_in_share:
            return clips, 0
        heard = lived_in_batch(clips, self.task.other_sounds, rng, max_s=self.variation.lived_in_max_s)
        frames = (heard.shape[1] - clips.shape[1]) // self.hop
        return heard[:, heard.shape[1] - clips.shape[1] - frames * self.hop :], frames
