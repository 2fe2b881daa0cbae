"""The operating point that a model ships with: fewest mistakes among words at a stated rate of alarms in life.

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
    words: Sequence[Heard], life: Sequence[Heard], *, alarms_per_hour: float, refractory_s: float
) -> OperatingPoint:
    """The point with the fewest mistakes among words whose alarms in sound without the keyword keep to a rate.

    Words one by one are harder than life: more alarms in an hour of them than in many of a household. So they
    say how to weigh misses against alarms, and life says where the threshold must at least lie.

    Args:
        words: streams of words, the keyword among them.
        life: streams without it: speech, noise.
        alarms_per_hour: at most so many in `life`, on average over all of it, here and at every higher threshold.
            That is what was counted: an interval says what it proves.
        refractory_s: of the point.

    Raises:
        ModelError: there are more alarms even at the highest threshold.
    """
    allowed = alarms_per_hour * sum(each.hours for each in life)
    mistakes: dict[OperatingPoint, int] = {}
    for steps in SMOOTHINGS:
        for threshold in THRESHOLDS:
            point = OperatingPoint(threshold, steps, refractory_s)
            if sum(each.at(point).alarms for each in life) > allowed:
                break
            mistakes[point] = sum(found.misses + found.alarms for found in (each.at(point) for each in words))
    if not mistakes:
        raise ModelError(
            f"more than {alarms_per_hour:g} alarms per hour at any threshold up to {THRESHOLDS[0]:.6f}, expected "
            "a model that can do with fewer; allow more alarms, or train it on speech too (--cut-speech)"
        )
    return min(mistakes, key=mistakes.__getitem__)


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
