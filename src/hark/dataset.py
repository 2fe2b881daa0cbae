"""Decoded clips in memory: what training draws from and what judging scores.

Clips are decoded once into one array of PCM16 beside the runs, mapped by every process that trains on it:
no decoding in the loop, so no data workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark import audio
from hark.augmentation import cut_or_pad
from hark.corpus import Clip, background_files, digest
from hark.corpus import load as load_corpus
from hark.errors import CorpusError
from hark.files import write_atomically
from hark.inspection import Inspection, inspect_clips
from hark.layers import Affine
from hark.models.spotter import keyword_score
from hark.splits import background_parts, fold_parts, speech_part

Pcm: TypeAlias = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Dataset:
    """Clips of equal length with their targets."""

    clips: tuple[Clip, ...]
    pcm: Pcm
    """(clips, samples)"""
    targets: npt.NDArray[np.bool_]
    """(clips,): is it the keyword?"""

    def __len__(self) -> int:
        return len(self.clips)

    def waveforms(self, rows: slice | Sequence[int]) -> Tensor:
        """Float32 waveforms `(rows, samples)` in ±1."""
        return torch.from_numpy(audio.from_pcm16(self.pcm[rows]))


@dataclass(frozen=True)
class Task:
    """One keyword, one fold: the parts, and the other sounds that belong to training and to judging."""

    keyword: str
    fold: int
    digest: str
    training: Dataset
    validation: Dataset
    testing: Dataset
    noises: tuple[Pcm, ...]
    """Background to mix in while training."""
    other_sounds: tuple[Pcm, ...]
    """Background and speech without the keyword to live in before a clip, while training."""
    judging_noises: tuple[Pcm, ...]
    judging_speech: tuple[Path, ...]


def load_task(root: Path, *, keyword: str, fold: int, folds: int, cache: Path, speech: Path | None = None) -> Task:
    """The fold `fold` of the corpus below `root`, cut by speaker.

    Args:
        root: a folder per word, and perhaps `_background_noise_`; or a manifest.
        keyword: the word to spot.
        fold: the fold that tests; a tenth of the others' speakers validates, the rest trains.
        folds: how many folds there are.
        cache: a folder for decoded sound.
        speech: a folder of sentences without the keyword; half trains, half judges.

    Raises:
        CorpusError: the keyword is not among the words.
        TooManyBadClips: more than 1 % of the clips cannot be used.
    """
    clips = _usable(load_corpus(root))
    words = sorted({clip.label for clip in clips})
    if keyword not in words:
        raise CorpusError(f"{root}: no word {keyword!r}; expected one of: {', '.join(words)}")
    parts = fold_parts(clips, fold=fold, folds=folds)
    whole = digest(clips)
    pcm = _decoded(clips, cache / f"{whole[:16]}.npy")
    row = {clip.path: index for index, clip in enumerate(clips)}

    def dataset(part: Sequence[Clip]) -> Dataset:
        rows = [row[clip.path] for clip in part]
        return Dataset(tuple(part), pcm[rows], np.array([clip.label == keyword for clip in part]))

    noises = [_halves(path) for path in background_files(root)]
    sentences = sorted(speech.rglob("*.flac")) + sorted(speech.rglob("*.wav")) if speech else []
    training_speech = [_read(path) for path in sentences if speech_part(path.name) == "training"]
    return Task(
        keyword=keyword,
        fold=fold,
        digest=whole,
        training=dataset(parts.training),
        validation=dataset(parts.validation),
        testing=dataset(parts.testing),
        noises=tuple(first for first, _ in noises),
        other_sounds=(*(first for first, _ in noises), *training_speech),
        judging_noises=tuple(second for _, second in noises),
        judging_speech=tuple(path for path in sentences if speech_part(path.name) == "judging"),
    )


class ClipJudge(Protocol):
    """What gives logits `(clips, classes, steps)` for waveforms `(clips, samples)`."""

    normalize: Affine

    def __call__(self, waveforms: Tensor, /) -> Tensor:
        """Logits of clips."""

    def eval(self) -> Self:
        """Dropout off."""


@torch.inference_mode()
def clip_scores(model: ClipJudge, data: Dataset, *, batch_size: int = 256) -> npt.NDArray[np.float64]:
    """The keyword's score at the end of each clip, from a fresh state: `(clips,)`."""
    model.eval()
    device = model.normalize.scale.device
    scores = [
        keyword_score(model(data.waveforms(slice(start, start + batch_size)).to(device))[..., -1])
        for start in range(0, len(data), batch_size)
    ]
    return np.asarray(torch.cat(scores).cpu().numpy(), dtype=np.float64)


def _usable(clips: Sequence[Clip]) -> list[Clip]:
    inspection: Inspection = inspect_clips(clips)
    inspection.require(max_bad_share=0.01)
    return list(inspection.good)


def _decoded(clips: Sequence[Clip], path: Path, *, seconds: float = 1.0) -> Pcm:
    """All clips, cut or padded to equal length; from `path` where it is already decoded."""
    samples = math.ceil(seconds * 16_000)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [audio.to_pcm16(cut_or_pad(audio.read(clip.path), samples)) for clip in clips]
        write_atomically(path, _npy(np.stack(rows)))
    pcm: Pcm = np.load(path, mmap_mode="r", allow_pickle=False)
    return pcm


def _npy(array: Pcm) -> bytes:
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _read(path: Path) -> Pcm:
    return audio.to_pcm16(audio.read(path))


def _halves(path: Path) -> tuple[Pcm, Pcm]:
    pcm = _read(path)
    training, judging = background_parts(path, len(pcm))
    return pcm[slice(*training)], pcm[slice(*judging)]
