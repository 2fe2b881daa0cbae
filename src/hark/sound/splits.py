"""Who trains and who judges. Every split is a pure function of names: no order, no random state, no machine.

All keep a speaker on one side, except `random_parts`, which is there to repeat the reference's protocol.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from hark.errors import AudioError, CorpusError, UsageError
from hark.sound import audio
from hark.sound.corpus import Clip, speaker_of

PartName = Literal["training", "validation", "testing"]

VALIDATION_TENTHS = 10
BACKGROUND_TRAINING_SHARE = 0.8

# From the README of Speech Commands; part of its rule, whatever one may think of it.
_MOST_FILES_PER_WORD = 2**27 - 1


SplitRule = Literal["speakers", "official", "random", "manifest", "whole"]
"""How a corpus is cut into parts; see `parts_by`."""


class Parts(NamedTuple):
    """A split; `parts._asdict()` is what `find_leaks` takes."""

    training: list[Clip]
    validation: list[Clip]
    testing: list[Clip]


def official_part(file_name: str, *, validation_percent: float = 10, testing_percent: float = 10) -> PartName:
    """The part that Google Speech Commands puts a file in: a hash of its speaker, as in the corpus's README.

    The file's suffix plays no role, so a corpus converted to FLAC is split the same.
    """
    rank = _hashed(speaker_of(file_name)) % (_MOST_FILES_PER_WORD + 1)
    percent = rank * (100.0 / _MOST_FILES_PER_WORD)
    if percent < validation_percent:
        return "validation"
    return "testing" if percent < validation_percent + testing_percent else "training"


def official_parts(clips: Iterable[Clip]) -> Parts:
    """The split of Speech Commands' own lists, about 80/10/10 by speaker."""
    parts = Parts([], [], [])
    for clip in clips:
        getattr(parts, official_part(clip.path.name)).append(clip)
    return parts


def random_parts(clips: Sequence[Clip], *, seed: int, test_share: float = 0.2) -> Parts:
    """The reference's protocol: random by clip, nothing for validation.

    It leaks: a speaker's other takes are in training, so it measures more than a stranger will get.
    """

    def rank(clip: Clip) -> int:
        return _hashed(f"{seed}/{clip.label}/{clip.path.name}/{clip.start_s}")

    testing = set(heapq.nsmallest(round(len(clips) * test_share), clips, key=rank))
    return Parts(
        training=[clip for clip in clips if clip not in testing],
        validation=[],
        testing=[clip for clip in clips if clip in testing],
    )


def fold_of(speaker: str, folds: int = 5) -> int:
    """The fold that a speaker belongs to, 0 to `folds` − 1."""
    return _hashed(speaker) % folds


def fold_parts(clips: Iterable[Clip], *, fold: int, folds: int = 5) -> Parts:
    """Fold `fold` tests; a speaker-hashed tenth of the other folds validates; the rest trains.

    Raises:
        UsageError: There is no such fold.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise UsageError(f"fold {fold} of {folds}, expected one of 0 to {max(folds, 2) - 1}")
    parts = Parts([], [], [])
    for clip in clips:
        if fold_of(clip.speaker, folds) == fold:
            parts.testing.append(clip)
        elif _validates(clip.speaker):
            parts.validation.append(clip)
        else:
            parts.training.append(clip)
    return parts


def parts_by(rule: SplitRule, clips: Sequence[Clip], *, fold: int, folds: int = 5) -> Parts:
    """The parts of a corpus by a named rule.

    Args:
        rule: `speakers` is `fold_parts`; `official` the hash rule of Speech Commands; `random` the reference's,
            a tenth of what trains kept for validation, `fold` its seed; `manifest` what each clip says of itself;
            `whole` is `whole_parts`, which judges nothing.
        clips: the corpus.
        fold: the fold that tests; 0 where a rule gives but one split.
        folds: how many there are.

    Raises:
        UsageError: There is no such fold.
        CorpusError: A clip's own split is not the name of a part.
    """
    if rule in ("official", "manifest", "whole") and fold:
        raise UsageError(f"fold {fold} of the {rule} split, expected 0: it has but one")
    match rule:
        case "speakers":
            return fold_parts(clips, fold=fold, folds=folds)
        case "official":
            return official_parts(clips)
        case "random":
            outer = random_parts(clips, seed=fold)
            inner = random_parts(outer.training, seed=fold, test_share=0.1)
            return Parts(inner.training, inner.testing, outer.testing)
        case "manifest":
            return _own_parts(clips)
        case "whole":
            return whole_parts(clips)


def whole_parts(clips: Sequence[Clip]) -> Parts:
    """Every clip trains, for a model that ships; a speaker-hashed tenth of the same clips is only watched.

    What is measured on that tenth says nothing of quality, for it was trained on.
    """
    watched = [clip for clip in clips if _validates(clip.speaker)]
    return Parts(training=list(clips), validation=watched, testing=watched)


def with_sentences(parts: Parts, sentences: Iterable[Clip]) -> Parts:
    """A split and clips cut out of sentences: the half that trains with a tenth to validate, the half that judges.

    Args:
        parts: a split of words.
        sentences: clips whose `split` is the half that their recording belongs to, and whose speaker names it.
    """
    extended = Parts(*map(list, parts))
    for clip in sentences:
        if clip.split == "judging":
            extended.testing.append(clip)
        else:
            (extended.validation if _validates(clip.speaker) else extended.training).append(clip)
    return extended


def names_speakers(clips: Iterable[Clip]) -> bool:
    """Whether file names tell who speaks: where none is found twice, a split by speaker is one by file."""
    clips = list(clips)
    return len({clip.speaker for clip in clips}) < len(clips)


def _own_parts(clips: Iterable[Clip]) -> Parts:
    parts = Parts([], [], [])
    for clip in clips:
        if clip.split not in Parts._fields:
            raise CorpusError(f"{clip.path}: split is {clip.split!r}, expected one of {', '.join(Parts._fields)}")
        getattr(parts, clip.split).append(clip)
    return parts


def background_parts(path: str | Path, total_samples: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The `(start, stop)` samples of a noise recording that train, and those that judge.

    Raises:
        CorpusError: Too short to be cut in two.
    """
    cut = int(total_samples * BACKGROUND_TRAINING_SHARE)
    if not 0 < cut < total_samples:
        raise CorpusError(f"{path}: {total_samples} samples of noise, too few to train and to judge with")
    return (0, cut), (cut, total_samples)


def speech_part(file_name: str) -> Literal["training", "judging"]:
    """The half of a collection without speakers that a recording belongs to, whatever its suffix."""
    return "training" if _hashed(Path(file_name).stem) % 2 == 0 else "judging"


def find_leaks(parts: Mapping[str, Sequence[Clip]]) -> list[str]:
    """What the parts of a split share and must not: speakers, and recordings with the same sound.

    Args:
        parts: Clips by the name of their part.

    Returns:
        One line per speaker or recording found in several parts; none if the split is clean.
    """
    return _shared_speakers(parts) + _shared_sounds(parts)


def _shared_speakers(parts: Mapping[str, Sequence[Clip]]) -> list[str]:
    """One line per speaker in several parts."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for part, clips in parts.items():
        for clip in clips:
            counts[clip.speaker][part] += 1
    return [
        f"speaker {speaker} is in " + " and ".join(f"{part} ({n} ×)" for part, n in found.items())
        for speaker, found in sorted(counts.items())
        if len(found) > 1
    ]


def _shared_sounds(parts: Mapping[str, Sequence[Clip]]) -> list[str]:
    """One line per sound in several parts, with one clip from each."""
    found: defaultdict[bytes, dict[str, Clip]] = defaultdict(dict)
    for part, clips in parts.items():
        for clip in clips:
            found[_sound_hash(clip)].setdefault(part, clip)
    return [
        "same sound: " + " and ".join(f"{clip.path} ({part})" for part, clip in owners.items())
        for owners in found.values()
        if len(owners) > 1
    ]


def _sound_hash(clip: Clip) -> bytes:
    """A hash of the decoded samples, so that a copy in another format is found too."""
    try:
        sound = audio.read(clip.path, start_s=clip.start_s, duration_s=clip.duration_s)
    except AudioError:
        # Nobody trains on what cannot be read; its path keeps it apart from all others.
        return str(clip.path).encode()
    return hashlib.sha1(audio.to_pcm16(sound).tobytes()).digest()


def _validates(speaker: str) -> bool:
    """A tenth of the speakers; the salt makes it independent of the fold."""
    return _hashed(f"validation/{speaker}") % VALIDATION_TENTHS == 0


def _hashed(name: str) -> int:
    return int(hashlib.sha1(name.encode()).hexdigest(), 16)
