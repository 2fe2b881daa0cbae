"""Where candidates are made: runs of a fold, named by the candidate, that whoever comes second waits for."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from hark.errors import ModelError, RunBusy
from hark.exploring.candidate import Candidate
from hark.judging.metrics import at_reference_prior, one_minus_auc
from hark.learning.dataset import Source, Task, load_task
from hark.learning.devices import ANY_MACHINE, Machine
from hark.proof.evaluation import score_clips
from hark.recipes.kinds import AnyStage
from hark.recipes.recipe import Recipe
from hark.recipes.stages import Bench, run_recipe
from hark.record.command import Command
from hark.record.runs import PACKED_FILE
from hark.runtime import Model
from hark.sound.augmentation import generator

GLANCE_S = 1.0
TIMED_S, TIMINGS = 20, 9


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A corpus, the teachers that are made of it once for all, and a folder of runs for each fold."""

    source: Source
    out: Path
    teachers: Recipe
    machine: Machine = ANY_MACHINE
    threads: int = 1
    command: Command | None = None
    _taught: dict[int, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def folds(self) -> range:
        """Those that there are: a corpus that is cut by a rule of its own is cut once."""
        return range(1 if self.source.split in ("official", "manifest") else self.source.folds)

    @property
    def base(self) -> str:
        """The teacher that all are measured against: the first."""
        return next(iter(self.teachers.stages))

    def fold_folder(self, fold: int) -> Path:
        """Where the runs of a fold lie."""
        return self.out / f"fold-{fold}"

    def teach(self, fold: int) -> float:
        """Make the teachers of a fold, if need be; gives what the base reaches on its validation part."""
        if fold not in self._taught:
            self._make(self.teachers.stages, self.teachers.name, fold)
            self._taught[fold] = validation_quality(self._model(fold, self.base), self.task(fold))
        return self._taught[fold]

    def try_out(self, candidate: Candidate, fold: int) -> tuple[Model, float]:
        """The packed model of a candidate, made if need be, and its quality on the validation part of a fold.

        Raises:
            ModelError: it cannot be put into integers, or has learned nothing that is a number.
        """
        self.teach(fold)
        self._make(candidate.stages(candidate.name, tuple(self.teachers.stages)), candidate.name, fold)
        model = self._model(fold, candidate.name)
        return model, validation_quality(model, self.task(fold))

    def confirm(self, candidate: Candidate, fold: int, *, seed: int) -> bool:
        """Make a candidate anew with other seeds, judged on the test part; False if another process is at it."""
        name = f"{candidate.name}-confirmed"
        stages = candidate.stages(name, tuple(self.teachers.stages), seed=seed, setting=candidate.name)
        self.teach(fold)
        try:
            run_recipe(Recipe(name, candidate.in_words, stages), self.bench(fold))
        except RunBusy:
            return False
        return True

    def task(self, fold: int) -> Task:
        """A fold's clips, those of the last one kept."""
        return _task(self.source, fold)

    def bench(self, fold: int) -> Bench:
        """Where a fold's stages work."""
        return Bench(
            self.task(fold),
            self.fold_folder(fold),
            machine=self.machine,
            threads=self.threads,
            command=self.command,
        )

    def _make(self, stages: Mapping[str, AnyStage], name: str, fold: int) -> None:
        """Make what is not there; what another process is making is waited for."""
        while True:
            try:
                run_recipe(Recipe(name, "", dict(stages)), self.bench(fold))
                return
            except RunBusy:
                time.sleep(GLANCE_S)

    def _model(self, fold: int, stage: str) -> Model:
        return Model(self.fold_folder(fold) / stage / PACKED_FILE)


def validation_quality(model: Model, task: Task) -> float:
    """0.02587 · (1 − AUC) of a packed model in the engine on the validation part, each clip from a fresh state.

    Raises:
        ModelError: its scores are not finite.
    """
    scores = score_clips(model, task.validation)
    if not np.isfinite(scores).all():
        raise ModelError("a model whose scores are not finite, expected numbers; train it at a lower rate")
    return at_reference_prior(one_minus_auc(scores, task.validation.targets))


def engine_us(model: Model) -> float:
    """Microseconds that the engine takes for a second of sound, on one core: the best of some timings."""
    sound = generator(0, 0, 0).standard_normal(TIMED_S * model.sample_rate).astype(np.float32) * np.float32(0.1)
    best = float("inf")
    for _ in range(TIMINGS):
        stream = model.stream()
        begun = time.perf_counter()
        stream.step_logits(sound)
        best = min(best, time.perf_counter() - begun)
    return 1e6 * best / TIMED_S


@lru_cache(maxsize=1)
def _task(source: Source, fold: int) -> Task:
    return load_task(source, fold=fold)
