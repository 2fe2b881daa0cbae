"""When a training saves, and what it does when it cannot."""

from __future__ import annotations

import math
import time

from hark.errors import DiskFull, UnsavedWork
from hark.learning.trainee import Trainee
from hark.record.progress import Progress

EPOCH_SHARE = 0.005
"""The share of the time that saving at the end of epochs may take."""


class Saver:
    """Saves a training so that its death costs little, and saving next to nothing.

    It saves `every_s` seconds after the last time, after the last step, when it is asked to, and after a
    validation that is better than all before: so the best is kept. The end of an epoch saves too where that
    takes at most half a percent of the time since the last: a save takes some 20 ms, so epochs of 4 s or more
    are all saved. A death costs one epoch, or 4 s where epochs are shorter, and never more than `every_s`.

    A full disk is waited out: training goes on, one warning in `every_s` tells so, and every time that saving
    is due it is tried again. Any other error ends the training there and then.

    Args:
        trainee: what is saved.
        progress: of its training, whose run this process holds.
        every_s: seconds between saves at the most.
        steps_per_epoch: steps.
    """

    def __init__(self, trainee: Trainee, progress: Progress, *, every_s: float, steps_per_epoch: int) -> None:
        self.trainee = trainee
        self.progress = progress
        self.every_s = every_s
        self.steps_per_epoch = steps_per_epoch
        self._tried_step = trainee.step
        self._tried_at = time.monotonic()
        self._took_s = 0.0
        self._best = math.inf
        self._failure: DiskFull | None = None
        self._warned_at = -math.inf

    def step_done(self, *, score: float | None = None, wanted: bool = False) -> None:
        """Save if it is time to.

        Args:
            score: of the validation after the step that is done, lower is better; None where there was none.
            wanted: someone has asked for it.

        Raises:
            RunError: it could not be saved, and not because the disk is full.
        """
        is_better = score is not None and score < self._best
        if wanted or is_better or self._is_due():
            self._save(score)

    def finish(self) -> None:
        """Return when the step that is done is saved.

        Raises:
            UnsavedWork: the disk is full.
            RunError: it could not be saved for another reason.
        """
        if self.trainee.step != self._tried_step:
            self._save(None)
        if self._failure is not None:
            saved = max(self.progress.run.checkpoints.steps(), default=0)
            raise UnsavedWork(
                f"step {self.trainee.step} of {self.progress.total} could not be saved: {self._failure}, "
                f"which goes on from step {saved}"
            ) from self._failure

    def _is_due(self) -> bool:
        step, since_s = self.trainee.step, time.monotonic() - self._tried_at
        epoch_ends = step % self.steps_per_epoch == 0 and self._took_s <= EPOCH_SHARE * since_s
        due = epoch_ends or step == self.progress.total or since_s >= self.every_s
        return due and step != self._tried_step

    def _save(self, score: float | None) -> None:
        begun = time.monotonic()
        try:
            self.trainee.save(self.progress.run, score=score)
            self._failure = None
            self._best = self._best if score is None else min(self._best, score)
        except DiskFull as error:
            self._failure = error
            self._warn_now_and_then(f"step {self.trainee.step} could not be saved, training goes on ({error})")
        self._tried_step = self.trainee.step
        self._tried_at = time.monotonic()
        self._took_s = self._tried_at - begun

    def _warn_now_and_then(self, message: str) -> None:
        now = time.monotonic()
        if now - self._warned_at >= self.every_s:
            self._warned_at = now
            self.progress.warn(message)
