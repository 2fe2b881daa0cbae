"""The operating point that a model ships with: fewest misses at a stated rate of false alarms.

Every threshold of a fine grid is tried on what has been heard, from above, until the alarms become too many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from hark.errors import ModelError
from hark.judging.detection import Detector, OperatingPoint, Word, match
from hark.judging.listening import Scores, posterior
from hark.models.card import Listened
from hark.runtime import Runner, Sound, detector_for

THRESHOLDS: tuple[float, ...] = tuple(posterior(np.arange(12, -3, -0.1)).astype(np.float32).tolist())
"""Steps of 0.1 of the logit, the highest first, as a file can hold them."""
SMOOTHINGS = (1, 2, 3, 4)
"""Steps that are averaged; each one more is a step more of delay."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What a model has made of one stream, and where the keyword truly is in it."""

    sound: str
    """What was heard, in a word."""
    runner: Runner
    posteriors: Scores
    """Of the keyword, `(steps,)`."""
    hours: float
    words: tuple[Word, ...] = ()

    def at(self, point: OperatingPoint) -> Listened:
        """What becomes of it at an operating point."""
        detector: Detector = detector_for(self.runner, point)
        found, _ = detector.step(self.posteriors, detector.initial_state())
        outcome = match(found, self.words)
        return Listened(
            sound=self.sound,
            hours=self.hours,
            alarms=outcome.alarms,
            words=len(self.words),
            misses=outcome.misses,
        )


def hear(runner: Runner, sound: str, chunks: Iterable[Sound], words: Sequence[Word] = ()) -> Heard:
    """Let a model hear a stream, its state carried from one chunk `(samples,)` to the next."""
    stream, samples, posteriors = runner.stream(), 0, [np.zeros(0)]
    for chunk in chunks:
        samples += len(chunk)
        posteriors.append(stream.step(chunk)[:, -1].astype(np.float64))
    return Heard(sound, runner, np.concatenate(posteriors), samples / runner.sample_rate / 3600, tuple(words))


def choose_point(
    heard: Sequence[Heard], *, alarms_per_hour: float, refractory_s: float
) -> tuple[OperatingPoint, tuple[Listened, ...]]:
    """The operating point with the fewest misses whose alarms do not exceed a rate.

    Args:
        heard: streams, perhaps of several models; alarms and hours are summed over them.
        alarms_per_hour: at most so many on average. That is what was counted: an interval says what it proves.
        refractory_s: as long as the keyword can be, for it cannot be said again before it has ended.

    Returns:
        The point; and what became of each kind of sound, streams of the same kind summed.

    Raises:
        ModelError: there are more alarms even at the highest threshold.
    """
    allowed = alarms_per_hour * sum(each.hours for each in heard)
    best: tuple[int, OperatingPoint, tuple[Listened, ...]] | None = None
    for steps in SMOOTHINGS:
        for threshold in THRESHOLDS:
            point = OperatingPoint(threshold, steps, refractory_s)
            outcomes = summed(each.at(point) for each in heard)
            if sum(outcome.alarms for outcome in outcomes) > allowed:
                break
            misses = sum(outcome.misses for outcome in outcomes)
            if best is None or misses < best[0]:
                best = misses, point, outcomes
    if best is None:
        raise ModelError(
            f"more than {alarms_per_hour:g} alarms per hour at any threshold up to {THRESHOLDS[0]:.6f}, expected "
            "a model that can do with fewer; allow more alarms, or train it longer"
        )
    return best[1:]


def summed(outcomes: Iterable[Listened]) -> tuple[Listened, ...]:
    """One outcome for each kind of sound, in the order in which they come first."""
    kinds: dict[str, Listened] = {}
    for one in outcomes:
        before = kinds.get(one.sound, Listened(sound=one.sound, hours=0.0, alarms=0))
        kinds[one.sound] = Listened(
            sound=one.sound,
            hours=before.hours + one.hours,
            alarms=before.alarms + one.alarms,
            words=before.words + one.words,
            misses=before.misses + one.misses,
        )
    return tuple(kinds.values())
