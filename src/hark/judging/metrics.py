"""How good is a keyword spotter: ranking, error curves, operating points, and how far to trust each number.

A clip is accepted when its score reaches the threshold. Two things can go wrong:

    false alarm   (false accept)   a clip without the keyword is accepted
    false reject  (miss)           a clip with the keyword is not

Scores are ranked as they are: give logits in float64, for probabilities saturate and tie where the model
still tells clips apart. Tied scores cannot be told apart by any threshold and count half.

Everywhere: `scores` is float (clips,), finite; `labels` is bool (clips,), True where the keyword is spoken;
`speakers` holds one name for each clip. What does not fit raises `UsageError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hark.errors import UsageError

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
Clips = NDArray[np.int64]
Metric = Callable[[Floats, Labels], float]

REFERENCE_PRIOR_FACTOR = 0.02587  # π(1 − π) for the share π of positive clips in the reference report's data
CONFIDENCE = 0.95  # how often an interval is to hold the truth


class Interval(NamedTuple):
    """A confidence interval, both ends included."""

    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of the differences a − b, its confidence interval, and the differences themselves."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ErrorCurve:
    """Both error rates at every threshold that makes a difference.

    All are float64 (points,). The first threshold is the lowest score and accepts everything, the last lies
    just above the highest score and accepts nothing.
    """

    thresholds: Floats  # strictly rising
    false_accept_rate: Floats  # share of the clips without the keyword, falls from 1 to 0
    false_reject_rate: Floats  # share of the clips with the keyword, rises from 0 to 1


def one_minus_auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The chance that a random negative clip outranks a random positive one; 0 is perfect, ½ is guessing."""
    positives, negatives = _by_class(*_checked(scores, labels))
    not_above = np.searchsorted(negatives, positives, side="right")
    below = np.searchsorted(negatives, positives, side="left")
    above, tied = len(negatives) - not_above, not_above - below
    return float(np.sum(above + tied / 2) / (len(positives) * len(negatives)))


def au_fa_fr(scores: ArrayLike, labels: ArrayLike) -> float:
    """The reference report's metric: the area under false alarms against false rejects.

    Both are divided by the number of *all* clips, so the area depends on the share π of positive clips:
    it equals (1 − AUC)·π(1 − π). Compare it only between data with the same π; see `at_reference_prior`.
    """
    scores, labels = _checked(scores, labels)
    curve = error_curve(scores, labels)
    positive_share = labels.mean()
    false_alarms = curve.false_accept_rate * (1 - positive_share)
    false_rejects = curve.false_reject_rate * positive_share
    return float(np.trapezoid(false_rejects[::-1], false_alarms[::-1]))


def at_reference_prior(one_minus_auc: float) -> float:
    """What `au_fa_fr` would be on data with the reference report's share of positive clips."""
    return REFERENCE_PRIOR_FACTOR * one_minus_auc


def error_curve(scores: ArrayLike, labels: ArrayLike) -> ErrorCurve:
    """Both error rates over all thresholds: one point for each distinct score, and one above them all."""
    scores, labels = _checked(scores, labels)
    positives, negatives = _by_class(scores, labels)
    thresholds = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
    return ErrorCurve(
        thresholds=thresholds,
        false_accept_rate=(len(negatives) - np.searchsorted(negatives, thresholds)) / len(negatives),
        false_reject_rate=np.searchsorted(positives, thresholds) / len(positives),
    )


def thin(curve: ErrorCurve, points: int) -> ErrorCurve:
    """The same curve in at most `points` (≥ 2) points, for plotting; both ends stay.

    Points inside a horizontal or vertical run go first: without them the drawing is the same on any axes.
    """
    if points < 2:
        raise UsageError(f"a curve of {points} points, expected at least 2; ask for more points")
    x, y = curve.false_accept_rate, curve.false_reject_rate
    inside_a_run = (x[:-2] == x[2:]) | (y[:-2] == y[2:])
    corners = np.flatnonzero(np.concatenate(([True], ~inside_a_run, [True])))
    if len(corners) > points:
        corners = corners[np.linspace(0, len(corners) - 1, points).round().astype(np.int64)]
    return ErrorCurve(curve.thresholds[corners], x[corners], y[corners])


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> float:
    """The rate at which false accepts and false rejects are equally frequent, between points interpolated."""
    curve = error_curve(scores, labels)
    excess_of_rejects = curve.false_reject_rate - curve.false_accept_rate
    return float(np.interp(0.0, excess_of_rejects, curve.false_accept_rate))


def frr_at_far(scores: ArrayLike, labels: ArrayLike, far: float) -> float:
    """The lowest false reject rate with a false accept rate of at most `far` (0 to 1)."""
    curve = error_curve(scores, labels)
    return float(curve.false_reject_rate[_first_point_within(curve, far)])


def threshold_at_far(scores: ArrayLike, labels: ArrayLike, far: float) -> float:
    """The lowest threshold of the curve with a false accept rate of at most `far` (0 to 1)."""
    curve = error_curve(scores, labels)
    return float(curve.thresholds[_first_point_within(curve, far)])


def accuracy(scores: ArrayLike, labels: ArrayLike, threshold: float = 0.0) -> float:
    """The share of clips decided rightly; the default threshold suits log-odds."""
    scores, labels = _checked(scores, labels)
    return float(np.mean((scores >= threshold) == labels))


def det_points(curve: ErrorCurve) -> tuple[Floats, Floats]:
    """The detection error trade-off (Martin et al. 1997): both rates as standard normal deviates.

    Gives false accepts and false rejects, float64 (points,) each. A rate of 0 or 1 lies at infinity on this
    scale, so points with one are left out; two perfectly separated classes leave none.
    """
    from scipy.special import ndtri

    rates = np.stack([curve.false_accept_rate, curve.false_reject_rate])
    false_accepts, false_rejects = ndtri(rates[:, ((rates > 0) & (rates < 1)).all(axis=0)])
    return false_accepts, false_rejects


def bootstrap_by_speaker(
    metric: Metric,
    scores: ArrayLike,
    labels: ArrayLike,
    speakers: ArrayLike,
    *,
    seed: int,
    resamples: int = 1000,
) -> Interval:
    """The 95 % interval of a metric over other speakers than those who happened to be recorded.

    Whole speakers are drawn with replacement, since the clips of one speaker succeed and fail together:
    drawing clips would promise more than the data can hold (cluster bootstrap, percentile interval).
    """
    scores, labels = _checked(scores, labels)
    draws = islice(_draws_of_speakers(labels, speakers, seed), resamples)
    return _central_interval([metric(scores[clips], labels[clips]) for clips in draws])


def paired_bootstrap_by_speaker(
    metric: Metric,
    scores_of_both: tuple[ArrayLike, ArrayLike],
    labels: ArrayLike,
    speakers: ArrayLike,
    *,
    seed: int,
    resamples: int = 1000,
) -> Interval:
    """The 95 % interval of metric(first) − metric(second) for two models on the same clips.

    Both see the same draws, so what makes a draw hard for both cancels out.
    """
    first, truth = _checked(scores_of_both[0], labels)
    second, truth = _checked(scores_of_both[1], labels)
    draws = islice(_draws_of_speakers(truth, speakers, seed), resamples)
    return _central_interval(
        [metric(first[clips], truth[clips]) - metric(second[clips], truth[clips]) for clips in draws]
    )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over folds or seeds; one value alone has no spread (NaN)."""
    if len(values) == 0:
        raise UsageError("no values to average, expected at least one; finish a run first")
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(spread)


def mean_interval(values: Sequence[float], level: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean of a few values, such as those of folds; two or more."""
    from scipy.special import stdtrit

    if len(values) < 2:
        raise UsageError(f"{len(values)} values, expected two or more for an interval; judge on more folds")
    mean, spread = mean_and_spread(values)
    margin = float(stdtrit(len(values) - 1, (1 + level) / 2) * spread / np.sqrt(len(values)))
    return Interval(mean - margin, mean + margin)


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = CONFIDENCE) -> PairedDifference:
    """Mean of a − b over folds, with Student's t interval; it shows a difference when 0 lies outside."""
    if len(a) != len(b) or len(a) < 2:
        raise UsageError(f"{len(a)} and {len(b)} values, expected two or more pairs; judge both on more folds")
    differences = np.subtract(a, b, dtype=np.float64).tolist()
    mean, _ = mean_and_spread(differences)
    return PairedDifference(mean, *mean_interval(differences, level), tuple(differences))


def alarm_rate_interval(alarms: int, hours: float, level: float = CONFIDENCE) -> Interval:
    """The exact interval of a rate per hour, from alarms counted over some hours (Garwood 1936)."""
    from scipy.special import gammaincinv

    if alarms < 0 or not 0 < hours < np.inf:
        raise UsageError(f"{alarms} alarms in {hours} h, expected a count and some hours; judge on more sound")
    tail = (1 - level) / 2
    low = gammaincinv(alarms, tail) if alarms else 0.0
    high = gammaincinv(alarms + 1, 1 - tail)
    return Interval(float(low / hours), float(high / hours))


def alarm_statement(alarms: int, hours: float) -> str:
    """What a count of false alarms proves, in words.

    Without an alarm only a bound is known: a higher rate than 3 / hours would have shown itself with 95 %.
    """
    low, high = alarm_rate_interval(alarms, hours)
    if alarms == 0:
        return f"no alarm in {hours:.3g} h proves only < {3 / hours:.1f} per hour"
    counted = f"{alarms} alarm{'s' if alarms > 1 else ''} in {hours:.3g} h"
    return f"{counted}: {alarms / hours:.1f} per hour (95 % interval {low:.1f}–{high:.1f})"


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, Labels]:
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.bool_)
    if scores.ndim != 1 or scores.shape != labels.shape or scores.size == 0:
        found = f"scores {scores.shape}, labels {labels.shape}"
        raise UsageError(f"{found}, expected the same (clips,) for both; give one of each per clip")
    if not np.isfinite(scores).all():
        found = f"{np.sum(~np.isfinite(scores))} of {scores.size} scores are NaN or infinite"
        raise UsageError(f"{found}, expected finite logits; look for the clips that break the model")
    return scores, labels


def _require_both_classes(labels: Labels) -> None:
    if labels.all() or not labels.any():
        found = f"{labels.sum()} positive and {(~labels).sum()} negative clips"
        raise UsageError(f"{found}, expected some of both; judge on clips with and without the keyword")


def _by_class(scores: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """The scores of the positive and of the negative clips, sorted."""
    _require_both_classes(labels)
    return np.sort(scores[labels]), np.sort(scores[~labels])


def _first_point_within(curve: ErrorCurve, far: float) -> int:
    if not 0 <= far <= 1:
        raise UsageError(f"a false accept rate of {far}, expected 0 to 1; 1 % is written 0.01")
    return int(np.argmax(curve.false_accept_rate <= far))


def _draws_of_speakers(labels: Labels, speakers: ArrayLike, seed: int) -> Iterator[Clips]:
    """Endless draws of as many speakers as there are, with replacement: the indices of all their clips.

    A draw without a positive or without a negative clip has no error rate and is drawn again.
    """
    names, speaker_of_clip = np.unique(np.asarray(speakers), return_inverse=True)
    _require_both_classes(labels)
    if speaker_of_clip.shape != labels.shape or len(names) < 2:
        found = f"{len(names)} speakers of {speaker_of_clip.size} clips for {labels.size} scores"
        raise UsageError(f"{found}, expected one for each clip, two or more in all; show folds instead")
    rng = np.random.default_rng(seed)
    while True:
        times_drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        clips = np.repeat(np.arange(len(labels)), times_drawn[speaker_of_clip])
        if labels[clips].any() and not labels[clips].all():
            yield clips


def _central_interval(values: Sequence[float]) -> Interval:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))
