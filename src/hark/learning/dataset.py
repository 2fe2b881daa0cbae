"""Decoded clips in memory: what training draws from and what judging scores.

Clips and their surroundings are decoded once into files beside the runs and taken from there into memory: no
decoding in the loop, and nothing that happens to those files can reach a training under way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark.errors import CorpusError, ModelError, UsageError
from hark.network.layers import Affine
from hark.network.spotter import keyword_score
from hark.sound import audio
from hark.sound.corpus import BACKGROUND_FOLDER, Clip, background_files, digest, noise_files, speech_files
from hark.sound.corpus import load as load_corpus
from hark.sound.inspection import LONGEST_S, MAX_BAD_SHARE, SHORTEST_S, Inspection
from hark.sound.preparation import Form, Prepared, prepare
from hark.sound.resampling import resample
from hark.sound.splits import (
    Parts,
    SplitRule,
    background_parts,
    names_speakers,
    parts_by,
    speech_part,
    with_sentences,
)

Pcm: TypeAlias = npt.NDArray[np.int16]
Cut: TypeAlias = Literal["no", "training", "both"]

SURROUNDINGS = Form(longest_s=audio.LONGEST_READ_S)
SENTENCES = "_sentences_"
"""The label of clips that are cut out of speech; no word has it, for folders with such a name are none."""


@dataclass(frozen=True)
class Dataset:
    """Clips of equal length with their targets."""

    clips: tuple[Clip, ...]
    pcm: Pcm
    """(clips, samples)"""
    targets: npt.NDArray[np.bool_]
    """(clips,): is it the keyword?"""
    sample_rate: int = audio.SAMPLE_RATE
    """Hz"""

    def __len__(self) -> int:
        return len(self.clips)

    def part(self, rows: slice | Sequence[int]) -> Dataset:
        """Some of the clips."""
        numbers = np.arange(len(self))[rows]
        clips = tuple(self.clips[row] for row in numbers)
        return replace(self, clips=clips, pcm=self.pcm[numbers], targets=self.targets[numbers])

    def at_rate(self, sample_rate: int) -> Dataset:
        """The same clips as a model hears them that listens at another rate; they themselves if it is theirs."""
        if sample_rate == self.sample_rate:
            return self
        heard = (resample(audio.from_pcm16(clip), self.sample_rate, sample_rate) for clip in self.pcm)
        return replace(self, pcm=np.stack([audio.to_pcm16(clip) for clip in heard]), sample_rate=sample_rate)

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
    names_speakers: bool
    """Whether the corpus tells who speaks; where it does not, a split by speaker is one by file."""
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

    @property
    def clip_s(self) -> float:
        """The length of every clip, in seconds."""
        return float(self.training.pcm.shape[1] / audio.SAMPLE_RATE)

    @property
    def is_judged(self) -> bool:
        """Whether the testing part is kept from training; of one that is not, no figure is told."""
        return self.split != "whole"


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
    cut_speech: Cut = "no"
    """Which half of the sentences, or both, is cut into clips as well, which are not the keyword."""
    noise: Path | None = None
    """Recordings of background, instead of those that come with the corpus."""
    clip_s: float = 1.0
    """All clips are cut or padded at their end to this length."""
    max_bad_share: float = MAX_BAD_SHARE
    """Go on without damaged clips up to this share of them."""

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.clip_s <= LONGEST_S:
            raise UsageError(f"clips of {self.clip_s} s, expected {SHORTEST_S} to {LONGEST_S:.0f} s")
        if self.cut_speech != "no" and self.speech is None:
            raise UsageError("speech is to be cut into clips, and there is none; name its folder")

    @property
    def clip_samples(self) -> int:
        """The length of every clip."""
        return round(self.clip_s * audio.SAMPLE_RATE)

    @property
    def noise_files(self) -> list[Path]:
        """The recordings of background, sorted."""
        return background_files(self.root) if self.noise is None else noise_files(self.noise)


def load_task(source: Source, *, fold: int) -> Task:
    """The fold `fold` of a corpus.

    Raises:
        UsageError: there is no such fold.
        CorpusError: the keyword is not among the words, a part lacks it or everything else, or there is no speech.
        TooManyBadClips: more clips than allowed cannot be used.
    """
    if not 0 <= fold < source.folds:
        raise UsageError(f"fold {fold}: expected 0 to {source.folds - 1}")
    words = _prepared(load_corpus(source.root), source.root, source.cache, Form(samples=source.clip_samples))
    noise_folder = source.noise or source.root / BACKGROUND_FOLDER
    noises = _prepared(_recordings(source.noise_files), noise_folder, source.cache, SURROUNDINGS)
    speech = _prepared(_sentences(source.speech), source.speech or Path(), source.cache, SURROUNDINGS)
    inspected = Inspection.of_all(part.inspection for part in (words, noises, speech))
    inspected.require(source.max_bad_share)
    clips = words.inspection.good
    labels = sorted({clip.label for clip in clips})
    if source.keyword not in labels:
        raise CorpusError(f"{source.root}: no word {source.keyword!r}; expected one of: {', '.join(labels)}")
    sentences = dict(_cut(speech, source))
    parts = parts_by(source.split, clips, fold=fold, folds=source.folds)
    if source.cut_speech == "training":
        parts.training.extend(sentences)
    elif source.cut_speech == "both":
        parts = with_sentences(parts, sentences)
    return Task(
        keyword=source.keyword,
        split=source.split,
        fold=fold,
        folds=source.folds,
        digest=_digest_of(source, words, noises, speech),
        names_speakers=names_speakers(clips),
        quarantined=tuple(f"{clip.path}: {verdict.reason}" for clip, verdict in inspected.bad),
        **_datasets(parts, dict(words) | sentences, source, fold),
        **_surroundings(noises, speech),
    )


def _datasets(parts: Parts, sound: Mapping[Clip, Pcm], source: Source, fold: int) -> dict[str, Any]:
    """The parts with their sound and targets, by name."""
    datasets = {}
    for name, part in parts._asdict().items():
        targets = np.array([clip.label == source.keyword for clip in part], dtype=bool)
        if targets.all() or not targets.any():
            raise CorpusError(
                f"{source.root}: the {name} part of fold {fold} has {targets.sum()} clips of {source.keyword!r} "
                f"among {len(part)}, expected some of both; record more speakers or change --folds"
            )
        datasets[name] = Dataset(tuple(part), np.stack([sound[clip] for clip in part]), targets)
    return datasets


def _prepared(clips: Sequence[Clip], source: Path, cache: Path, form: Form) -> Prepared:
    """Clips judged and decoded, or taken from the file in the cache that is named after source and length."""
    length = f"-{form.samples}" if form.samples else ""
    name = f"{source.name}-{hashlib.sha256(str(source.absolute()).encode()).hexdigest()[:8]}{length}"
    return prepare(clips, cache / f"{name}.clips", form)


def _digest_of(source: Source, words: Prepared, *surroundings: Prepared) -> str:
    """That of the words alone where nothing surrounds them. Each may be moved by itself, and it stays the same."""
    digests = [digest(part.inspection.good) if part.inspection.good else "" for part in (words, *surroundings)]
    of_files = _joined(digests) if any(digests[1:]) else digests[0]
    as_usual = source.clip_s == 1 and source.cut_speech == "no"
    return of_files if as_usual else _joined([of_files, f"{source.clip_s}", source.cut_speech])


def _joined(digests: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _recordings(files: Sequence[Path]) -> list[Clip]:
    return [Clip(path, label="", speaker="") for path in files]


def _sentences(folder: Path | None) -> list[Clip]:
    """The recordings of speech, each labelled with the part that it belongs to."""
    files = speech_files(folder) if folder else []
    return [Clip(path, label=speech_part(path.name), speaker="") for path in files]


def _cut(speech: Prepared, source: Source) -> Iterator[tuple[Clip, Pcm]]:
    """Sentences as clips, one after the other; what is left at an end is too short for one."""
    halves = {"no": (), "training": ("training",), "both": ("training", "judging")}[source.cut_speech]
    samples, length_s = source.clip_samples, source.clip_samples / audio.SAMPLE_RATE
    for clip, sound in speech:
        for number in range(len(sound) // samples if clip.label in halves else 0):
            piece = Clip(clip.path, SENTENCES, clip.path.stem, number * length_s, length_s, split=clip.label)
            yield piece, sound[number * samples : (number + 1) * samples]


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

    @property
    def sample_rate(self) -> int:
        """Hz of the sound that it takes."""

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
    data = data.at_rate(model.sample_rate)
    device = model.normalize.scale.device
    scores = []
    for start in range(0, len(data), batch_size):
        logits = model(data.waveforms(slice(start, start + batch_size)).to(device))
        if not logits.shape[-1]:
            raise ModelError("the model gives nothing before the end of a clip; choose one that needs less sound")
        scores.append(keyword_score(logits[..., -1]))
    return np.asarray(torch.cat(scores).cpu().numpy(), dtype=np.float64)
