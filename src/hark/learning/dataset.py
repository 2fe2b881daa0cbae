"""Decoded clips in memory: what training draws from and what judging scores.

Clips and their surroundings are decoded once into files beside the runs and taken from there into memory: no
decoding in the loop, and nothing that happens to those files can reach a training under way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark.errors import CorpusError, ModelError, UsageError
from hark.network.layers import Affine
from hark.network.spotter import keyword_score
from hark.sound import audio
from hark.sound.corpus import BACKGROUND_FOLDER, Clip, background_files, digest, speech_files
from hark.sound.corpus import load as load_corpus
from hark.sound.inspection import MAX_BAD_SHARE, Inspection
from hark.sound.preparation import Form, Prepared, prepare
from hark.sound.splits import SplitRule, background_parts, parts_by, speech_part

Pcm: TypeAlias = npt.NDArray[np.int16]

WORDS = Form(samples=audio.SAMPLE_RATE)
SURROUNDINGS = Form(longest_s=audio.LONGEST_READ_S)


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
    """Names the words, noises and sentences that it is made of."""
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
    words = _prepared(load_corpus(source.root), source.root, source.cache, WORDS)
    noises = _prepared(_noises(source.root), source.root / BACKGROUND_FOLDER, source.cache, SURROUNDINGS)
    speech = _prepared(_sentences(source.speech), source.speech or Path(), source.cache, SURROUNDINGS)
    inspected = Inspection.of_all(part.inspection for part in (words, noises, speech))
    inspected.require(source.max_bad_share)
    clips = words.inspection.good
    labels = sorted({clip.label for clip in clips})
    if source.keyword not in labels:
        raise CorpusError(f"{source.root}: no word {source.keyword!r}; expected one of: {', '.join(labels)}")
    sound = dict(words)

    def dataset(name: str, part: Sequence[Clip]) -> Dataset:
        targets = np.array([clip.label == source.keyword for clip in part], dtype=bool)
        if targets.all() or not targets.any():
            raise CorpusError(
                f"{source.root}: the {name} part of fold {fold} has {targets.sum()} clips of {source.keyword!r} "
                f"among {len(part)}, expected some of both; record more speakers or change --folds"
            )
        return Dataset(tuple(part), np.stack([sound[clip] for clip in part]), targets)

    parts = parts_by(source.split, clips, fold=fold, folds=source.folds)
    return Task(
        keyword=source.keyword,
        split=source.split,
        fold=fold,
        folds=source.folds,
        digest=_digest_of(words, noises, speech),
        quarantined=tuple(f"{clip.path}: {verdict.reason}" for clip, verdict in inspected.bad),
        training=dataset("training", parts.training),
        validation=dataset("validation", parts.validation),
        testing=dataset("testing", parts.testing),
        **_surroundings(noises, speech),
    )


def _prepared(clips: Sequence[Clip], source: Path, cache: Path, form: Form) -> Prepared:
    """Clips judged and decoded, or taken from the file in the cache that is named after their source."""
    name = f"{source.name}-{hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:8]}"
    return prepare(clips, cache / f"{name}.clips", form)


def _digest_of(words: Prepared, *surroundings: Prepared) -> str:
    """That of the words alone where nothing surrounds them. Each may be moved by itself, and it stays the same."""
    digests = [digest(part.inspection.good) if part.inspection.good else "" for part in (words, *surroundings)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if any(digests[1:]) else digests[0]


def _noises(root: Path) -> list[Clip]:
    return [Clip(path, label="", speaker="") for path in background_files(root)]


def _sentences(folder: Path | None) -> list[Clip]:
    """The recordings of speech, each labelled with the part that it belongs to."""
    files = speech_files(folder) if folder else []
    return [Clip(path, label=speech_part(path.name), speaker="") for path in files]


def _surroundings(noises: Prepared, speech: Prepared) -> dict[str, Any]:
    """Noises and speech, each cut into a part that trains and one that judges."""
    halves = [_halves(clip.path, sound) for clip, sound in noises]
    heard = [sound.copy() for clip, sound in speech if clip.label == "training"]
    return {
        "noises": tuple(training for training, _ in halves),
        "other_sounds": (*(training for training, _ in halves), *heard),
        "judging_noises": tuple(judging for _, judging in halves),
        "judging_speech": tuple(clip.path for clip, _ in speech if clip.label == "judging"),
    }


def _halves(path: Path, pcm: Pcm) -> tuple[Pcm, Pcm]:
    training, judging = background_parts(path, len(pcm))
    return pcm[slice(*training)].copy(), pcm[slice(*judging)].copy()


class ClipJudge(Protocol):
    """What gives logits `(clips, classes, steps)` for waveforms `(clips, samples)`."""

    normalize: Affine

    def __call__(self, waveforms: Tensor, /) -> Tensor:
        """Logits of clips."""

    def eval(self) -> Self:
        """Dropout off."""


@torch.inference_mode()
def clip_scores(model: ClipJudge, data: Dataset, *, batch_size: int = 256) -> npt.NDArray[np.float64]:
    """The keyword's score at the end of each clip, from a fresh state: `(clips,)`.

    Raises:
        ModelError: clips end before the model's first output.
    """
    model.eval()
    device = model.normalize.scale.device
    scores = []
    for start in range(0, len(data), batch_size):
        logits = model(data.waveforms(slice(start, start + batch_size)).to(device))
        if not logits.shape[-1]:
            raise ModelError("the model gives nothing before the end of a clip; choose one that needs less sound")
        scores.append(keyword_score(logits[..., -1]))
    return np.asarray(torch.cat(scores).cpu().numpy(), dtype=np.float64)
