"""What a runner makes of sound: scores, detections in recordings, and whether the keyword truly is there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hark.judging.detection import Detection, OperatingPoint, Word, match
from hark.judging.metrics import alarm_rate_interval, alarm_statement
from hark.runtime import Floats, Runner, Sound, detector_for
from hark.sound import audio
from hark.sound.corpus import Clip
from hark.sound.resampling import resample_stream

Scores: TypeAlias = NDArray[np.float64]

BLOCK_S = 10


def stream_scores(runner: Runner, chunks: Iterable[Sound]) -> Iterator[Scores]:
    """The keyword's scores of each chunk `(samples,)` of one stream, in constant memory; some may be empty."""
    stream = runner.stream()
    for chunk in chunks:
        yield keyword_scores(stream.step_logits(chunk))


def keyword_scores(logits: Floats) -> Scores:
    """How much the keyword is preferred to all else, by logits `(…, classes)` whose last is the keyword's.

    A difference of logits: it ranks exactly as the posterior does, without saturating at 0 and 1. Of a single
    logit, whose sigmoid is the posterior, it is that logit.
    """
    wide = logits.astype(np.float64)
    return wide[..., 1] - wide[..., 0] if wide.shape[-1] > 1 else wide[..., 0]


def posterior(scores: Scores) -> Scores:
    """The keyword's probability: the sigmoid of its scores, which is the softmax over two logits so far apart."""
    return np.exp(-np.logaddexp(0.0, -scores))


def heard_by(runner: Runner, chunks: Iterable[audio.Waveform]) -> Iterator[audio.Waveform]:
    """Chunks `(samples,)` of one stream at the rate of recordings, at that of a runner."""
    return resample_stream(chunks, audio.SAMPLE_RATE, runner.sample_rate)


def detections_in(runner: Runner, path: Path, point: OperatingPoint) -> Iterator[Detection]:
    """The detections in a recording of any length, as they fall."""
    rate = runner.sample_rate
    blocks = audio.blocks(path, sample_rate=rate, block_samples=BLOCK_S * rate)
    return detections(runner, blocks, point)


def detections(runner: Runner, chunks: Iterable[Sound], point: OperatingPoint) -> Iterator[Detection]:
    """The detections in one stream, as they fall: those that a device has, to the last bit of their scores."""
    detector = detector_for(runner, point)
    stream, state = runner.stream(), detector.initial_state()
    for chunk in chunks:
        found, state = detector.step(stream.step(chunk)[:, -1], state)
        yield from found


def judge_recordings(runner: Runner, truth: Iterable[Clip], point: OperatingPoint) -> dict[str, Any]:
    """Detections in recordings of any length against where the keyword truly is; state carried within each.

    Args:
        runner: what to judge.
        truth: a line for each word, `start_s` and `duration_s` in its recording; lines of another label only
            name recordings without the keyword.
        point: when a posterior is a detection.

    Returns:
        words, misses, alarms, hours, alarms per hour with their interval and in words.
    """
    words: dict[Path, list[Word]] = {}
    for clip in truth:
        spoken = words.setdefault(clip.path, [])
        if clip.label == runner.labels[-1]:
            duration_s = audio.info(clip.path).duration_s if clip.duration_s is None else clip.duration_s
            spoken.append(Word(clip.start_s, clip.start_s + duration_s))
    outcomes = [match(detections_in(runner, path, point), spoken) for path, spoken in words.items()]
    hours = sum(audio.info(path).duration_s for path in words) / 3600
    return {
        "words": sum(map(len, words.values())),
        "misses": sum(outcome.misses for outcome in outcomes),
        "hours": hours,
        **told_alarms(sum(outcome.alarms for outcome in outcomes), hours),
    }


def told_alarms(alarms: int, hours: float) -> dict[str, Any]:
    """Alarms in so many hours, per hour, with the interval of that rate, and in words."""
    return {
        "alarms": alarms,
        "alarms_per_hour": alarms / hours,
        "interval": list(alarm_rate_interval(alarms, hours)),
        "statement": alarm_statement(alarms, hours),
    }
