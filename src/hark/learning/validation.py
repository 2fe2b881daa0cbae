"""What is watched on the validation part while a network learns; it changes nothing of what is learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from hark.judging.metrics import one_minus_auc
from hark.learning.dataset import Dataset, clip_scores
from hark.learning.trainee import Trainee
from hark.network.spotter import Spotter
from hark.record.interruption import Interruption
from hark.record.progress import Progress

PART_CLIPS = 256


class Validation:
    """The validation part, scored by the average of the weights at even distances and after the last step.

    A signal cuts the scoring short, for on many clips it can take longer than one may wait; what was cut short
    is done first when the training goes on.

    Args:
        trainee: whose average is scored.
        data: the validation part, at any rate.
        progress: of its training.
        interruption: says when to give up.
        times: how often in the whole training.
    """

    def __init__(
        self, trainee: Trainee, data: Dataset, progress: Progress, interruption: Interruption, *, times: int
    ) -> None:
        self.trainee = trainee
        self.data = data.at_rate(trainee.average.sample_rate)
        self.progress = progress
        self.interruption = interruption
        self._every = max(1, progress.total // times)
        self._last = max((e["step"] or 0 for e in progress.run.events() if e["kind"] == "validation"), default=0)

    def after_step(self) -> float | None:
        """Score the part if that belongs to the trainee's step: 1 − AUC; None otherwise or if a signal came."""
        step = self.trainee.step
        if step == self._last or (step % self._every and step != self.progress.total):
            return None
        values = validate(self.trainee.average, self.data, given_up=lambda: self.interruption.wanted)
        if values is None:
            return None
        self.progress.validated(step, values)
        self._last = step
        return values["one_minus_auc"]


def validate(
    model: Spotter, data: Dataset, *, given_up: Callable[[], bool] = lambda: False
) -> dict[str, float] | None:
    """1 − AUC and mean loss on some clips; None if it was given up before all were scored."""
    parts = []
    for start in range(0, len(data), PART_CLIPS):
        if given_up():
            return None
        parts.append(clip_scores(model, data.part(slice(start, start + PART_CLIPS))))
    scores = np.concatenate(parts)
    margins = torch.from_numpy(scores) * torch.from_numpy(data.targets * 2.0 - 1.0)
    return {
        "one_minus_auc": one_minus_auc(scores, data.targets),
        "loss": float(functional.softplus(-margins).mean()),
    }
