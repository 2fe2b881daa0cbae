"""What a model loses in noise, at other levels and in rooms: the same clips, heard under worse conditions.

The clean cell is the plain evaluation. Losses are measured from it, model by model.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hark.errors import ConfigError, UsageError
from hark.judging.listening import Scores, posterior
from hark.judging.metrics import CONFIDENCE, bootstrap_by_speaker, one_minus_auc
from hark.learning.dataset import Dataset, Task
from hark.proof.evaluation import score_clips
from hark.runtime import Runner
from hark.sound.audio import Pcm
from hark.sound.conditions import GAUSSIAN, Condition, Noises, grid_of, hear

RESAMPLES = 1000
GRID_FILE = "robustness.json"
GRID_SCORES_FILE = "robustness.npz"


@dataclass(frozen=True)
class Cell:
    """One condition and what came of it."""

    condition: Condition
    one_minus_auc: float
    interval: tuple[float, float]
    """95 %, by speaker."""
    misses: int | None
    """Keywords below the model's own threshold; None where it has none."""
    false_accepts: int | None
    """Other clips that reach it."""


@dataclass(frozen=True)
class Robustness:
    """`robustness.json`."""

    seed: int
    threshold: float | None
    """The model's own, of the posterior."""
    clips: int
    positives: int
    cells: tuple[Cell, ...]
    """The clean one first."""

    def __post_init__(self) -> None:
        if tuple(cell.condition for cell in self.cells) != grid_of(self.noises):
            raise ConfigError("expected a cell for each condition of the grid, in its order")

    @property
    def noises(self) -> tuple[str, ...]:
        """The names of the noises there are."""
        return tuple(dict.fromkeys(cell.condition.noise for cell in self.cells if cell.condition.noise))

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class GridScores:
    """The scores of all clips under all conditions, of which the first is the clean one."""

    conditions: tuple[Condition, ...]
    scores: Scores
    """(conditions, clips)"""
    labels: npt.NDArray[np.bool_]
    """(clips,)"""
    speakers: npt.NDArray[np.str_]
    """(clips,)"""

    def to_bytes(self) -> bytes:
        """`robustness.npz`: all but the conditions, which `robustness.json` has."""
        with io.BytesIO() as buffer:
            np.savez_compressed(buffer, scores=self.scores, labels=self.labels, speakers=self.speakers)
            return buffer.getvalue()

    def is_comparable(self, other: GridScores) -> bool:
        """Whether both are of the same clips under the same conditions."""
        return (
            self.conditions == other.conditions
            and np.array_equal(self.labels, other.labels)
            and np.array_equal(self.speakers, other.speakers)
        )

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """What 1 − AUC gains over the clean cell, `(conditions,)`; in its own place the mean of the others."""
        observed = _losses(self, np.ones((1, len(self.labels)), np.int64))
        return np.asarray(observed[0])

    @cached_property
    def resampled_losses(self) -> npt.NDArray[np.float64]:
        """`losses` over draws of whole speakers, `(draws, conditions)`; of the same clips, the same draws."""
        return _losses(self, _draws_of_speakers(self))


@dataclass(frozen=True)
class LossDifference:
    """The loss of a model less that of another, mean over folds, with its 95 % interval by speaker."""

    condition: Condition
    """The clean one stands for the mean over all others."""
    loss: float
    other: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Above 0: loses more than the other. What rounding leaves of nothing is 0."""
        return round(self.loss - self.other, 12)

    @property
    def verdict(self) -> str:
        """What the interval proves, in words."""
        if self.low > 0:
            return "loses more"
        return "loses less" if self.high < 0 else "no difference shown"


def judging_noises(task: Task, files: Sequence[Path]) -> dict[str, Pcm | None]:
    """A task's judging noises by the names of the recordings that they are of, and a Gaussian one."""
    unusable = tuple(line.partition(": ")[0] for line in task.quarantined)
    names = [path.stem for path in files if str(path) not in unusable]
    return {GAUSSIAN: None, **dict(zip(names, task.judging_noises, strict=True))}


def score_grid(runner: Runner, data: Dataset, noises: Noises, *, seed: int = 0) -> GridScores:
    """Score clips under every condition, each clip from a fresh state.

    Raises:
        ModelError: clips end before the first step.
    """
    conditions = grid_of(noises)
    heard = (hear(data.pcm, condition, noises, seed=seed) for condition in conditions)
    return GridScores(
        conditions,
        np.stack([score_clips(runner, replace(data, pcm=pcm)) for pcm in heard]),
        data.targets,
        np.array([clip.speaker for clip in data.clips]),
    )


def judge_grid(scored: GridScores, *, threshold: float | None, seed: int = 0) -> Robustness:
    """The figures of every cell.

    Args:
        scored: what was heard.
        threshold: the model's own, of the posterior; None where it has none.
        seed: what the conditions were made with.
    """
    labels, cells = scored.labels, []
    for condition, scores in zip(scored.conditions, scored.scores, strict=True):
        interval = bootstrap_by_speaker(
            one_minus_auc, scores, labels, scored.speakers, seed=0, resamples=RESAMPLES
        )
        accepted = None if threshold is None else posterior(scores) >= threshold
        misses = None if accepted is None else int((~accepted[labels]).sum())
        false_accepts = None if accepted is None else int(accepted[~labels].sum())
        cells.append(
            Cell(condition, one_minus_auc(scores, labels), (interval.low, interval.high), misses, false_accepts)
        )
    return Robustness(seed, threshold, len(labels), int(labels.sum()), tuple(cells))


def compare_losses(pairs: Sequence[tuple[GridScores, GridScores]]) -> tuple[LossDifference, ...]:
    """What models lose to the conditions, against what others lose on the same clips; a pair for each fold.

    A loss is measured from the model's own clean cell, so that a smaller model is not blamed twice. Both of a
    pair see the same draws of speakers: what makes a draw hard for both cancels out.

    Returns:
        A difference for each condition; the clean one stands for the mean over all others.

    Raises:
        UsageError: there are no pairs, or two of them are of other clips or conditions.
    """
    if not pairs or not all(first.is_comparable(second) for first, second in pairs):
        found = "grids of other clips or conditions" if pairs else "no grids"
        raise UsageError(f"{found}, expected pairs on the same clips; evaluate both on the same fold with --grid")
    if len({scored.conditions for scored, _ in pairs}) > 1:
        raise UsageError("folds with other conditions, expected the same for all; evaluate all with --grid again")
    loss, other = (np.mean([scored.losses for scored in side], axis=0) for side in zip(*pairs, strict=True))
    differences = [first.resampled_losses - second.resampled_losses for first, second in pairs]
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(np.mean(differences, axis=0), tails, axis=0)
    figures = np.stack([loss, other, low, high], axis=1).tolist()
    return tuple(LossDifference(c, *row) for c, row in zip(pairs[0][0].conditions, figures, strict=True))


def weighted_one_minus_auc(
    scores: Scores, labels: npt.NDArray[np.bool_], times_drawn: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """`one_minus_auc` with each clip counted as often as it was drawn: all draws from one sorting.

    Args:
        scores: `(clips,)`.
        labels: `(clips,)`.
        times_drawn: `(draws, clips)`; in each some clips of both kinds.

    Returns:
        1 − AUC of each draw, `(draws,)`.
    """
    order = np.argsort(scores[~labels])
    negatives, positives = scores[~labels][order], scores[labels]
    up_to = np.cumsum(np.insert(times_drawn[:, ~labels][:, order], 0, 0, axis=1), axis=1)
    below, not_above = (up_to[:, np.searchsorted(negatives, positives, side)] for side in ("left", "right"))
    drawn, others = times_drawn[:, labels], up_to[:, -1:]
    outranked = ((others - (below + not_above) / 2) * drawn).sum(axis=1)
    return np.asarray(outranked / (others[:, 0] * drawn.sum(axis=1)))


def _draws_of_speakers(scored: GridScores) -> npt.NDArray[np.int64]:
    """How often each clip is drawn, `(draws, clips)`: as many speakers as there are, with replacement.

    Draws without a keyword, or with nothing else, have no error rate and are drawn again.
    """
    names, speaker_of_clip = np.unique(scored.speakers, return_inverse=True)
    rng, kept = np.random.default_rng(0), np.empty((0, len(scored.labels)), np.int64)
    while len(kept) < RESAMPLES:
        times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)[
            :, speaker_of_clip
        ]
        both = times[:, scored.labels].any(axis=1) & times[:, ~scored.labels].any(axis=1)
        kept = np.concatenate([kept, times[both]])
    return kept[:RESAMPLES]


def _losses(scored: GridScores, times_drawn: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """What 1 − AUC gains over the clean cell, `(draws, conditions)`; in its place the mean of the others'."""
    areas = np.stack(
        [weighted_one_minus_auc(scores, scored.labels, times_drawn) for scores in scored.scores], axis=1
    )
    losses = areas[:, 1:] - areas[:, :1]
    return np.concatenate([losses.mean(axis=1, keepdims=True), losses], axis=1)
