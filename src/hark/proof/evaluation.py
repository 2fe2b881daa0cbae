"""Judging: clips from a fresh state, and endless streams whose state is carried.

The two protocols answer different questions. *Reset* is how papers count; *carried* is what a microphone lives
with. Both are always given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hark.errors import VerificationError
from hark.judging.detection import Detection, Detector, OperatingPoint, Word, match
from hark.judging.metrics import (
    accuracy,
    alarm_rate_interval,
    alarm_statement,
    at_reference_prior,
    au_fa_fr,
    bootstrap_by_speaker,
    frr_at_far,
    one_minus_auc,
    threshold_at_far,
)
from hark.learning.dataset import Dataset, Task
from hark.network.spotter import Spotter, keyword_score
from hark.sound import audio
from hark.sound.augmentation import generator
from hark.sound.corpus import Clip

Waveform = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]

FALSE_ACCEPT_RATES = (0.001, 0.01)
THRESHOLD_FAR = 0.005
"""Where the carried protocol's threshold lies: at this rate of false accepts among validation clips."""
TOLERANCE = 1e-5
"""Largest difference of posteriors between stream and offline in float32."""
LOUDEST = np.float32(1e6)
"""Samples beyond are no sound, and the power of some would overflow float32; full scale is 1."""
BLOCK_S = 10


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


def posterior(scores: Scores) -> Scores:
    """The keyword's probability: the softmax over two logits of difference `scores`."""
    return np.exp(-np.logaddexp(0.0, -scores))


@torch.inference_mode()
def stream_scores(model: Spotter, chunks: Iterable[Waveform]) -> Iterator[Scores]:
    """The keyword's scores of each chunk `(samples,)` of one stream, in constant memory; some may be empty.

    NaN and infinite samples are taken as silence: one of them in a recurrent state would stay there for ever.
    """
    state = model.initial_state()
    for chunk in chunks:
        clean = np.nan_to_num(chunk, nan=0.0, posinf=0.0, neginf=0.0).clip(-LOUDEST, LOUDEST)
        logits, state = model.step(torch.from_numpy(clean)[None], state)
        yield keyword_score(logits)[0].numpy()


def detector_for(model: Spotter, point: OperatingPoint) -> Detector:
    """The detector behind a model, its clock that of the model's steps."""
    return Detector(
        point,
        hop_samples=model.step_samples,
        first_step_samples=model.first_step_samples,
        sample_rate=model.config.features.sample_rate,
    )


def detections_in(model: Spotter, path: Path, point: OperatingPoint) -> Iterator[Detection]:
    """The detections in a recording of any length, as they fall."""
    detector = detector_for(model, point)
    state = detector.initial_state()
    rate = model.config.features.sample_rate
    blocks = audio.blocks(path, sample_rate=rate, block_samples=BLOCK_S * rate)
    for scores in stream_scores(model, blocks):
        found, state = detector.step(posterior(scores), state)
        yield from found


def judge_recordings(model: Spotter, truth: Iterable[Clip], point: OperatingPoint) -> dict[str, Any]:
    """Detections in recordings of any length against where the keyword truly is; state carried within each.

    Args:
        model: what to judge.
        truth: a line for each word, `start_s` and `duration_s` in its recording; lines of another label only
            name recordings without the keyword.
        point: when a posterior is a detection.

    Returns:
        words, misses, alarms, hours, alarms per hour with their interval and in words.
    """
    words: dict[Path, list[Word]] = {}
    for clip in truth:
        spoken = words.setdefault(clip.path, [])
        if clip.label == model.config.keyword:
            duration_s = audio.info(clip.path).duration_s if clip.duration_s is None else clip.duration_s
            spoken.append(Word(clip.start_s, clip.start_s + duration_s))
    outcomes = [match(detections_in(model, path, point), spoken) for path, spoken in words.items()]
    hours = sum(audio.info(path).duration_s for path in words) / 3600
    alarms = sum(outcome.alarms for outcome in outcomes)
    return {
        "words": sum(map(len, words.values())),
        "misses": sum(outcome.misses for outcome in outcomes),
        "hours": hours,
        **_alarms(alarms, hours),
    }


def _alarms(alarms: int, hours: float) -> dict[str, Any]:
    return {
        "alarms": alarms,
        "alarms_per_hour": alarms / hours,
        "interval": list(alarm_rate_interval(alarms, hours)),
        "statement": alarm_statement(alarms, hours),
    }


@dataclass(frozen=True)
class Piece:
    """A piece of a stream: its sound, and whether it is the keyword."""

    waveform: Waveform
    is_keyword: bool


def judging_stream(task: Task, *, seed: int = 0) -> list[Piece]:
    """All judging clips and the judging half of the speech in random order, a quiet background between them.

    No keyword follows another directly: within a detector's refractory time two would count as one.
    """
    rng = generator(seed, 0, 0)
    data = task.testing
    others = [Piece(data.waveforms([row])[0].numpy(), False) for row in np.flatnonzero(~data.targets).tolist()]
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


def judge_stream(model: Spotter, task: Task, *, validation: Scores, testing: Scores) -> dict[str, Any]:
    """The carried protocol: one endless stream against the same clips heard one by one, at one threshold.

    Args:
        model: what to judge.
        task: gives the stream.
        validation: reset scores of the validation part, which set the threshold.
        testing: reset scores of the testing part.

    Returns:
        `stream.json`: misses of both protocols, alarms per hour with their interval.
    """
    threshold = threshold_at_far(validation, task.validation.targets, THRESHOLD_FAR)
    point = OperatingPoint(float(posterior(np.array(threshold))))
    pieces = judging_stream(task)
    ends = np.cumsum([len(piece.waveform) for piece in pieces])
    words = [
        Word((end - len(piece.waveform)) / audio.SAMPLE_RATE, end / audio.SAMPLE_RATE)
        for piece, end in zip(pieces, ends.tolist(), strict=True)
        if piece.is_keyword
    ]
    detector = detector_for(model, point)
    state = detector.initial_state()
    detections = []
    for scores in stream_scores(model, (piece.waveform for piece in pieces)):
        found, state = detector.step(posterior(scores), state)
        detections += found
    outcome = match(detections, words)
    hours = float(ends[-1]) / audio.SAMPLE_RATE / 3600
    return {
        "hours": hours,
        "threshold": point.threshold,
        "words": len(words),
        "misses_reset": int((testing[task.testing.targets] < threshold).sum()),
        "misses_carried": outcome.misses,
        **_alarms(outcome.alarms, hours),
    }


@torch.inference_mode()
def check_stream(
    model: Spotter, clips: Sequence[Waveform], *, labels: Sequence[str], chunk_frames: Sequence[int]
) -> dict[str, Any]:
    """Feed `clips` as one stream in chunks of so many frames, and compare with the offline output.

    The keyword is expected in the middle, as in the report's own figure.

    Returns:
        `check_stream.json`: the posterior over time, the borders of the middle clip, and for each chunk length
        the largest difference of posteriors to the offline output.

    Raises:
        VerificationError: a difference is above 1e-5, or steps are missing.
    """
    stream = np.concatenate(clips)
    offline = posterior(keyword_score(model(torch.from_numpy(stream)[None]))[0].numpy())
    rows = []
    for frames in chunk_frames:
        size = frames * model.config.features.hop_length
        chunks = (stream[start : start + size] for start in range(0, len(stream), size))
        streamed = posterior(np.concatenate(list(stream_scores(model, chunks))))
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
    rate, middle = model.config.features.sample_rate, len(clips) // 2
    borders = np.cumsum([0, *(len(clip) for clip in clips)]) / rate
    times = (model.first_step_samples + model.step_samples * np.arange(offline.size)) / rate
    return {
        "chunks": rows,
        "times_s": times.tolist(),
        "posteriors": offline.tolist(),
        "word": [float(borders[middle]), float(borders[middle + 1])],
        "borders_s": borders.tolist(),
        "labels": list(labels),
    }


def nine_clips(data: Dataset, *, seed: int = 0) -> tuple[list[Waveform], list[str]]:
    """Nine clips with the keyword in the middle, and their labels."""
    rng = generator(seed, 0, 1)
    others = rng.choice(np.flatnonzero(~data.targets), 8)
    rows = [*others[:4].tolist(), int(rng.choice(np.flatnonzero(data.targets))), *others[4:].tolist()]
    return [data.waveforms([row])[0].numpy() for row in rows], [data.clips[row].label for row in rows]
