"""Judging: clips from a fresh state, and endless streams whose state is carried.

The two protocols answer different questions. *Reset* is how papers count; *carried* is what a microphone lives
with. Both are always given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hark.errors import ModelError, VerificationError
from hark.judging.detection import OperatingPoint, Word, match
from hark.judging.listening import (
    Scores,
    detections,
    heard_by,
    keyword_scores,
    posterior,
    stream_scores,
    told_alarms,
)
from hark.judging.metrics import (
    accuracy,
    at_reference_prior,
    au_fa_fr,
    bootstrap_by_speaker,
    frr_at_far,
    one_minus_auc,
    threshold_at_far,
)
from hark.learning.dataset import Dataset, Task
from hark.runtime import Runner
from hark.sound import audio
from hark.sound.augmentation import generator

Waveform = npt.NDArray[np.float32]

FALSE_ACCEPT_RATES = (0.001, 0.01)
THRESHOLD_FAR = 0.005
"""Where the carried protocol's threshold lies: at this rate of false accepts among validation clips."""
TOLERANCE = 1e-5
"""Largest difference of posteriors between stream and offline in float32."""


def judge_clips(scores: Scores, data: Dataset) -> dict[str, Any]:
    """The headline figures of clip scores `(clips,)`, state reset for each clip."""
    labels = data.targets
    speakers = np.array([clip.speaker for clip in data.clips])
    interval = bootstrap_by_speaker(one_minus_auc, scores, labels, speakers, seed=0)
    area = one_minus_auc(scores, labels)
    return {
        "one_minus_auc": area,
        "interval": list(interval),
        "at_reference_prior": at_reference_prior(area),
        "au_fa_fr": au_fa_fr(scores, labels),
        "prior": float(labels.mean()),
        "accuracy": accuracy(scores, labels),
        "frr_at_far": {str(rate): frr_at_far(scores, labels, rate) for rate in FALSE_ACCEPT_RATES},
        "clips": len(labels),
        "positives": int(labels.sum()),
        "speakers": len(set(speakers)),
    }


def score_clips(runner: Runner, data: Dataset) -> Scores:
    """The keyword's score at the end of each clip, from a fresh state: `(clips,)`.

    Raises:
        ModelError: clips end before the first step.
    """
    data = data.at_rate(runner.sample_rate)
    if data.pcm.shape[1] < runner.first_step_samples:
        raise ModelError("the model gives nothing before the end of a clip; choose one that needs less sound")
    stream = runner.stream()
    ends = []
    for pcm in data.pcm:
        stream.reset()
        ends.append(stream.step_logits(pcm)[-1])
    return keyword_scores(np.array(ends))


@dataclass(frozen=True)
class Piece:
    """A piece of a stream: its sound, and whether it is the keyword."""

    waveform: Waveform
    is_keyword: bool


def judging_stream(task: Task, *, seed: int = 0) -> list[Piece]:
    """All judging clips and the judging half of the speech in random order, a quiet background between them.

    No keyword follows another directly: within a detector's refractory time two would count as one. Clips that
    are cut out of a sentence are left out, for it is heard whole.
    """
    rng = generator(seed, 0, 0)
    data = task.testing
    heard_whole = np.array([clip.path in task.judging_speech for clip in data.clips])
    rows = np.flatnonzero(~data.targets & ~heard_whole).tolist()
    others = [Piece(data.waveforms([row])[0].numpy(), False) for row in rows]
    others += [Piece(audio.read(path), False) for path in task.judging_speech]
    places = iter(rng.permutation(len(others)).tolist())
    keyword_after = {next(places): row for row in np.flatnonzero(data.targets)[: len(others)]}
    stream: list[Piece] = []
    for place in rng.permutation(len(others)).tolist():
        stream += [others[place], Piece(_background(task, rng), False)]
        if place in keyword_after:
            keyword = data.waveforms([keyword_after[place]])[0].numpy()
            stream += [Piece(keyword, True), Piece(_background(task, rng), False)]
    return stream


def _background(task: Task, rng: np.random.Generator, *, rms: float = 0.003) -> Waveform:
    """0.2 to 0.6 s of a judging noise at -50 dB of full scale; digital silence where there is none."""
    samples = int(rng.integers(audio.SAMPLE_RATE // 5, 3 * audio.SAMPLE_RATE // 5))
    if not task.judging_noises:
        return np.zeros(samples, np.float32)
    noise = task.judging_noises[int(rng.integers(len(task.judging_noises)))]
    start = int(rng.integers(max(1, len(noise) - samples)))
    piece = audio.from_pcm16(noise[start : start + samples])
    return piece * np.float32(rms / max(1e-6, float(np.sqrt(np.mean(piece**2)))))


def words_in(pieces: Sequence[Piece]) -> tuple[list[Word], float]:
    """Where the keyword is in a stream of pieces, and how many hours that is."""
    ends = np.cumsum([len(piece.waveform) for piece in pieces])
    words = [
        Word((end - len(piece.waveform)) / audio.SAMPLE_RATE, end / audio.SAMPLE_RATE)
        for piece, end in zip(pieces, ends.tolist(), strict=True)
        if piece.is_keyword
    ]
    return words, float(ends[-1]) / audio.SAMPLE_RATE / 3600


def judge_stream(runner: Runner, task: Task, *, validation: Scores, testing: Scores) -> dict[str, Any]:
    """The carried protocol: one endless stream against the same clips heard one by one, at one threshold.

    Args:
        runner: what to judge.
        task: gives the stream.
        validation: reset scores of the validation part, which set the threshold.
        testing: reset scores of the testing part.

    Returns:
        `stream.json`: misses of both protocols, alarms per hour with their interval.
    """
    threshold = threshold_at_far(validation, task.validation.targets, THRESHOLD_FAR)
    point = OperatingPoint(float(posterior(np.array(threshold))))
    pieces = judging_stream(task)
    words, hours = words_in(pieces)
    found = detections(runner, heard_by(runner, (piece.waveform for piece in pieces)), point)
    outcome = match(found, words)
    return {
        "hours": hours,
        "threshold": point.threshold,
        "words": len(words),
        "misses_reset": int((testing[task.testing.targets] < threshold).sum()),
        "misses_carried": outcome.misses,
        **told_alarms(outcome.alarms, hours),
    }


def check_stream(
    runner: Runner, clips: Sequence[Waveform], *, labels: Sequence[str], chunk_frames: Sequence[int]
) -> dict[str, Any]:
    """Feed `clips` as one stream in chunks of so many frames of 10 ms, and compare with the offline output.

    The keyword is expected in the middle, as in the report's own figure.

    Returns:
        `check_stream.json`: the posterior over time, the borders of the middle clip, and for each chunk length
        the largest difference of posteriors to the offline output.

    Raises:
        VerificationError: a difference is above 1e-5, or steps are missing.
    """
    stream = np.concatenate(clips)
    offline = posterior(next(stream_scores(runner, [stream])))
    rows = []
    for frames in chunk_frames:
        size = frames * runner.sample_rate // 100
        chunks = (stream[start : start + size] for start in range(0, len(stream), size))
        streamed = posterior(np.concatenate(list(stream_scores(runner, chunks))))
        if streamed.shape != offline.shape:
            raise VerificationError(
                f"chunks of {frames} frames gave {streamed.size} steps, offline {offline.size}; "
                "the model does not stream"
            )
        difference = float(np.abs(streamed - offline).max(initial=0.0))
        if not difference <= TOLERANCE:  # NaN is no agreement either
            raise VerificationError(
                f"chunks of {frames} frames differ by {difference:.2e} from offline, expected {TOLERANCE:.0e}"
            )
        rows.append({"chunk_frames": frames, "largest_difference": difference})
    rate, middle = runner.sample_rate, len(clips) // 2
    borders = np.cumsum([0, *(len(clip) for clip in clips)]) / rate
    times = (runner.first_step_samples + runner.step_samples * np.arange(offline.size)) / rate
    return {
        "chunks": rows,
        "times_s": times.tolist(),
        "posteriors": offline.tolist(),
        "word": [float(borders[middle]), float(borders[middle + 1])],
        "borders_s": borders.tolist(),
        "labels": list(labels),
    }


def nine_clips(data: Dataset, *, sample_rate: int, seed: int = 0) -> tuple[list[Waveform], list[str]]:
    """Nine clips with the keyword in the middle at a model's rate, and their labels."""
    rng = generator(seed, 0, 1)
    others = rng.choice(np.flatnonzero(~data.targets), 8)
    rows = [*others[:4].tolist(), int(rng.choice(np.flatnonzero(data.targets))), *others[4:].tolist()]
    nine = data.part(rows).at_rate(sample_rate)
    return list(nine.waveforms(slice(None)).numpy()), [clip.label for clip in nine.clips]
