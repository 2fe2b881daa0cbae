"""Decoded clips in memory: what training draws from and what judging scores.

Clips are decoded once into one array of PCM16 beside the runs, mapped by every process that trains on it:
no decoding in the loop, so no data workers.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark import audio
from hark.augmentation import cut_or_pad
from hark.corpus import AUDIO_SUFFIXES, Clip, background_files, digest
from hark.corpus import load as load_corpus
from hark.errors import CorpusError, UsageError
from hark.files import write_atomically
from hark.inspection import MAX_BAD_SHARE, inspect_clips
from hark.layers import Affine
from hark.models.spotter import keyword_score
from hark.splits import SplitRule, background_parts, parts_by, speech_part

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
    split: SplitRule
    fold: int
    folds: int
    digest: str
    quarantined: tuple[str, ...]
    """Clips that cannot be used, and why."""
    training: Dataset
    validation: Dataset
    testing: Dataset
    noises: tuple[Pcm, ...]
    """Background to mix in while training."""
    other_sounds: tuple[Pcm, ...]
    """Background and speech without the keyword to live in before a clip, while training."""
    judging_noises: tuple[Pcm, ...]
    judging_speech: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a task comes from."""

    root: Path
    """A folder per word, and perhaps `_background_noise_`; or a manifest."""
    keyword: str
    cache: Path
    """A folder for decoded sound."""
    folds: int = 5
    """Of the rule `speakers`: one tests, a tenth of the others' speakers validates, the rest trains."""
    split: SplitRule = "speakers"
    """How the corpus is cut into parts."""
    speech: Path | None = None
    """Sentences without the keyword: half trains, half judges."""
    max_bad_share: float = MAX_BAD_SHARE
    """Go on without damaged clips up to this share of them."""


def load_task(source: Source, *, fold: int) -> Task:
    """The fold `fold` of a corpus.

    Raises:
        UsageError: there is no such fold.
        CorpusError: the keyword is not among the words, a part lacks it or everything else, or there is no speech.
        TooManyBadClips: more clips than allowed cannot be used.
    """
    if not 0 <= fold < source.folds:
        raise UsageError(f"fold {fold}: expected 0 to {source.folds - 1}")
    inspection = inspect_clips(load_corpus(source.root))
    inspection.require(source.max_bad_share)
    clips = inspection.good
    words = sorted({clip.label for clip in clips})
    if source.keyword not in words:
        raise CorpusError(f"{source.root}: no word {source.keyword!r}; expected one of: {', '.join(words)}")
    whole = digest(clips)
    pcm = _decoded(clips, source.cache / f"{whole[:16]}.npy")
    row = {clip: index for index, clip in enumerate(clips)}

    def dataset(name: str, part: Sequence[Clip]) -> Dataset:
        targets = np.array([clip.label == source.keyword for clip in part], dtype=bool)
        if targets.all() or not targets.any():
            raise CorpusError(
                f"{source.root}: the {name} part of fold {fold} has {targets.sum()} clips of {source.keyword!r} "
                f"among {len(part)}, expected some of both; record more speakers or change --folds"
            )
        return Dataset(tuple(part), pcm[[row[clip] for clip in part]], targets)

    parts = parts_by(source.split, clips, fold=fold, folds=source.folds)
    return Task(
        keyword=source.keyword,
        split=source.split,
        fold=fold,
        folds=source.folds,
        digest=whole,
        quarantined=tuple(f"{clip.path}: {verdict.reason}" for clip, verdict in inspection.bad),
        training=dataset("training", parts.training),
        validation=dataset("validation", parts.validation),
        testing=dataset("testing", parts.testing),
        **_surroundings(source),
    )


def _surroundings(source: Source) -> dict[str, Any]:
    """Noises and speech, each cut into a part that trains and one that judges."""
    noises = [_halves(path) for path in background_files(source.root)]
    sentences = _recordings(source.speech) if source.speech else []
    heard = [_read(path) for path in sentences if speech_part(path.name) == "training"]
    return {
        "noises": tuple(training for training, _ in noises),
        "other_sounds": (*(training for training, _ in noises), *heard),
        "judging_noises": tuple(judging for _, judging in noises),
        "judging_speech": tuple(path for path in sentences if speech_part(path.name) == "judging"),
    }


def _recordings(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not found:
        raise CorpusError(f"{folder}: no recordings in it; expected a folder of sentences without the keyword")
    return found


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


def _decoded(clips: Sequence[Clip], path: Path, *, seconds: float = 1.0) -> Pcm:
    """All clips, cut or padded to equal length; from `path` where it is already decoded."""
    samples = math.ceil(seconds * audio.SAMPLE_RATE)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [audio.to_pcm16(cut_or_pad(_waveform(clip), samples)) for clip in clips]
        write_atomically(path, _npy(np.stack(rows)))
    pcm: Pcm = np.load(path, mmap_mode="r", allow_pickle=False)
    return pcm


def _npy(array: Pcm) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _waveform(clip: Clip) -> audio.Waveform:
    return audio.read(clip.path, start_s=clip.start_s, duration_s=clip.duration_s)


def _read(path: Path) -> Pcm:
    return audio.to_pcm16(audio.read(path))


def _halves(path: Path) -> tuple[Pcm, Pcm]:
    pcm = _read(path)
    training, judging = background_parts(path, len(pcm))
    return pcm[slice(*training)], pcm[slice(*judging)]
