"""From posteriors to detections, and from detections to hits, misses and alarms.

    posteriors → smoothed score → crossing of the threshold → refractory time → detection

The detector has the one shape of hark, `step(input, state) -> (output, state)`: any chunking of a stream
gives the same detections to the last bit, in constant memory, and one detector serves any number of streams.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from heapq import heappop, heappush

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hark.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OperatingPoint:
    """When a model's posteriors become a detection; chosen on data, then shipped with the model."""

    threshold: float  # on the scale of the posteriors; a score that reaches it counts
    smoothing_steps: int = 1  # the score is the mean of that many last posteriors
    refractory_s: float = 1.0  # after a detection, for that long there is no other

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise UsageError(f"threshold {self.threshold}, expected a finite number; choose one on a DET curve")
        if self.smoothing_steps < 1:
            raise UsageError(f"smoothing over {self.smoothing_steps} steps, expected 1 or more; 1 is none")
        if not 0 <= self.refractory_s < math.inf:
            raise UsageError(f"refractory time of {self.refractory_s} s, expected 0 or more; 0 is none")


@dataclass(frozen=True)
class Detection:
    """The keyword was heard."""

    time_s: float  # since the stream began, when the score reached the threshold
    score: float  # the smoothed score at that moment
    sample: int  # the same time, exactly


@dataclass(frozen=True)
class DetectorState:
    """All that a detector remembers of a stream."""

    recent: tuple[float, ...]  # the last smoothing_steps − 1 posteriors, oldest first, 0 before the stream
    steps: int = 0  # seen so far
    above: bool = False  # whether the last score had reached the threshold
    ready_at_sample: int = 0  # the refractory time is over
    replaced_steps: int = 0  # posteriors that were NaN or infinite and were taken for 0


@dataclass(frozen=True)
class Detector:
    """Turns the posteriors of a stream into detections.

    A detection falls on the step whose score reaches the threshold from below, unless the refractory time of
    the one before still runs. A score that stays up is one detection, however long it stays.
    """

    operating_point: OperatingPoint
    _: KW_ONLY
    hop_samples: int  # of sound from one step to the next
    first_step_samples: int  # of sound consumed when the first step comes out
    sample_rate: int

    def __post_init__(self) -> None:
        if min(self.hop_samples, self.first_step_samples, self.sample_rate) < 1:
            found = f"steps of {self.hop_samples} after {self.first_step_samples} samples"
            raise UsageError(f"{found}, {self.sample_rate} Hz, expected all positive; take the model's own")

    def initial_state(self) -> DetectorState:
        """The state before the first step of a stream."""
        return DetectorState(recent=(0.0,) * (self.operating_point.smoothing_steps - 1))

    def step(self, posteriors: ArrayLike, state: DetectorState) -> tuple[list[Detection], DetectorState]:
        """Takes the next posteriors (steps,), any number of them, and gives the detections in them.

        Times are counted in samples, as integers: a float32 that grows by 0.01 s is seconds wrong in an hour.
        """
        posteriors = np.asarray(posteriors, dtype=np.float64)
        if posteriors.ndim != 1:
            raise UsageError(f"posteriors {posteriors.shape}, expected (steps,); give one stream, one class")
        finite = np.isfinite(posteriors)
        with_past = np.append(state.recent, np.where(finite, posteriors, 0.0))
        scores = self._smoothed(with_past, state.steps)
        above = np.append(state.above, scores >= self.operating_point.threshold)

        detections: list[Detection] = []
        ready_at_sample = state.ready_at_sample
        for step in np.flatnonzero(above[1:] & ~above[:-1]).tolist():
            sample = self.first_step_samples + (state.steps + step) * self.hop_samples
            if sample >= ready_at_sample:
                detections.append(Detection(sample / self.sample_rate, float(scores[step]), sample))
                ready_at_sample = sample + round(self.operating_point.refractory_s * self.sample_rate)
        return detections, DetectorState(
            recent=tuple(with_past[len(posteriors) :].tolist()),
            steps=state.steps + len(posteriors),
            above=bool(above[-1]),
            ready_at_sample=ready_at_sample,
            replaced_steps=state.replaced_steps + int(np.sum(~finite)),
        )

    def _smoothed(self, with_past: Floats, steps_before: int) -> Floats:
        """The mean of the last posteriors, or of as many as there were since the stream began.

        Each sum runs from the oldest to the newest, one term after the other, whatever the chunk: a running
        sum would drift, and `np.mean` may add in an order that depends on the shape.
        """
        window = self.operating_point.smoothing_steps
        steps = len(with_past) - (window - 1)
        total = np.zeros(steps)
        for slot in range(window):
            total += with_past[slot : slot + steps]
        filled = np.minimum(steps_before + 1 + np.arange(steps), window)
        return np.asarray(total / filled)


@dataclass(frozen=True)
class Word:
    """Where the keyword was truly spoken, in seconds since the stream began."""

    onset_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not self.onset_s <= self.end_s:
            found = f"a word from {self.onset_s} s to {self.end_s} s"
            raise UsageError(f"{found}, expected an end after its onset; correct the annotation")


@dataclass(frozen=True)
class StreamOutcome:
    """What became of the words of a stream, and of the detections in it."""

    misses: int  # words without a detection
    hit_detections: tuple[Detection, ...]  # one for each word that was found
    alarm_detections: tuple[Detection, ...]  # all others

    @property
    def hits(self) -> int:
        """Words with a detection."""
        return len(self.hit_detections)

    @property
    def alarms(self) -> int:
        """Detections without a word, or beyond the first of a word."""
        return len(self.alarm_detections)

    def alarms_per_hour(self, hours: float) -> float:
        """False alarms in each of the `hours` of sound that were listened to."""
        if not hours > 0:
            raise UsageError(f"{hours} hours of sound, expected more than none; judge on a longer stream")
        return self.alarms / hours


def match(detections: Iterable[Detection], words: Iterable[Word], *, tolerance_s: float = 0.5) -> StreamOutcome:
    """Pairs detections with words: a hit falls between a word's onset and `tolerance_s` after its end.

    One detection per word, all else is an alarm. Where words overlap, a detection goes to the one whose time
    runs out first, which leaves the most for the detections to come: no pairing has more hits.
    """
    if not tolerance_s >= 0:
        raise UsageError(f"a tolerance of {tolerance_s} s, expected 0 or more; 0.5 is usual")
    to_come = deque(sorted(words, key=lambda word: word.onset_s))
    word_count = len(to_come)
    deadlines: list[float] = []  # of the words that have begun and still wait for a detection, as a heap
    hits: list[Detection] = []
    alarms: list[Detection] = []
    for detection in sorted(detections, key=lambda detection: detection.time_s):
        while to_come and to_come[0].onset_s <= detection.time_s:
            heappush(deadlines, to_come.popleft().end_s + tolerance_s)
        while deadlines and deadlines[0] < detection.time_s:
            heappop(deadlines)
        if deadlines:
            heappop(deadlines)
            hits.append(detection)
        else:
            alarms.append(detection)
    return StreamOutcome(word_count - len(hits), tuple(hits), tuple(alarms))
