"""Running a recipe: each stage is one run directory, made from those before it, judged when it is done.

The same call again goes on where it stopped: finished stages are taken from disk, a training from its newest
checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hark.errors import DiskFull, RunError, UnsavedWork, UsageError
from hark.judging.metrics import one_minus_auc
from hark.learning.dataset import SENTENCES, Dataset, Task, clip_scores
from hark.learning.devices import ANY_MACHINE, Machine
from hark.learning.distillation import Distillation
from hark.learning.failures import failures_told
from hark.learning.training import Objective, cross_entropy, train
from hark.network.spotter import Spotter, SpotterConfig
from hark.notices import say
from hark.recipes.kinds import (
    AnyStage,
    DamageStage,
    DistillStage,
    PruneStage,
    QuantizeAwareStage,
    QuantizeStage,
    TrainStage,
)
from hark.recipes.publishing import Trained, publish, publish_dynamic
from hark.recipes.recipe import Recipe
from hark.record.command import Command
from hark.record.environment import environment
from hark.record.interruption import unattended
from hark.record.mirror import mirrors
from hark.record.runs import MODEL_FILE, Run
from hark.resources import usable_cores
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.shrinking.pruning import PruningConfig, calibration_loss, prune, zero_rows
from hark.shrinking.quantization import ClipSpotter, quantize, quantize_dynamically
from hark.storage.model_files import load
from hark.storage.warm_start import is_run, with_weights

CALIBRATION_CLIPS = 512


def training_threads(jobs: int = 1) -> int:
    """Threads for torch in each of `jobs` trainings: a core less than its share, for that one makes the batches.

    At batches of this size more threads wait for each other longer than they work.
    """
    return max(1, usable_cores() // jobs - 1)


@dataclass(frozen=True)
class Bench:
    """Where stages work: the task, the runs so far by stage name, and the machine."""

    task: Task
    folder: Path
    machine: Machine = ANY_MACHINE
    """What its trainings run on."""
    trackers: tuple[str, ...] = ()
    """Mirrors of the runs' events, each a process of its own."""
    threads: int = field(default_factory=training_threads)
    """Of torch."""
    command: Command | None = None
    """What `hark resume` is to give again."""

    def run(self, stage: str) -> Run:
        """The run of an earlier stage."""
        return Run.open(self.folder / stage)

    def model(self, stage: str) -> Spotter:
        """The model of an earlier stage.

        Raises:
            RunError: the stage gave a model that cannot be built upon.
        """
        path = self.run(stage).path(MODEL_FILE)
        if not path.exists():
            raise RunError(
                f"{path.parent}: holds no {MODEL_FILE}; a dynamically quantised model is an end, not a start"
            )
        model = load(path)
        if model.config.keyword != self.task.keyword:
            raise RunError(
                f"{path}: spots {model.config.keyword!r}, expected {self.task.keyword!r}; choose another run"
            )
        return model


def run_recipe(recipe: Recipe, bench: Bench) -> list[Run]:
    """Run every stage of `recipe` that is not finished; give the runs of all."""
    torch.set_num_threads(bench.threads)
    with unattended():
        return [_run_stage(recipe, name, order, bench) for order, name in enumerate(recipe.stages)]


def _run_stage(recipe: Recipe, name: str, order: int, bench: Bench) -> Run:
    stage = recipe.stages[name]
    training = getattr(stage, "training", None)
    about = {
        "setting": stage.setting,
        "kind": stage.kind,
        "group": stage.group,
        "fold": bench.task.fold,
        "folds": bench.task.folds,
        "split": bench.task.split,
        "keyword": bench.task.keyword,
        "seed": training.seed if training else None,
        "parents": [bench.run(parent).name for parent in stage.inputs() if is_run(bench.folder / parent)],
        "order": order,
        "data": bench.task.digest,
    }
    run = Run.open_or_create(bench.folder / name, about=about, config=dataclasses.asdict(stage))
    if run.is_finished:
        return run
    with run.at_work(), failures_told(run), mirrors(run, bench.trackers):
        if bench.command:
            bench.command.keep_in(run, stages=recipe.stages)
        run.write_json("environment.json", environment(data_digest=bench.task.digest) | {"threads": bench.threads})
        run.write_json("task.json", describe(bench.task))
        try:
            if isinstance(stage, DamageStage):
                run.write_json("pruning_damage.json", measure_damage(stage, bench))
            else:
                _publish(run, _perform(stage, run, bench), stage, bench)
            run.finish()
        except DiskFull as error:  # a training waits it out; what is left is to write what it came to
            raise UnsavedWork(str(error)) from error
    say(f"{run.folder.parent.name}/{run.folder.name}: done")
    return run


def _perform(stage: AnyStage, run: Run, bench: Bench) -> Trained:
    match stage:
        case TrainStage():
            model = _fresh(stage, bench)
            if stage.weights_from is not None:
                model = with_weights(model, bench.folder / stage.weights_from)
            return train(model, bench.task, stage.training, run=run, machine=bench.machine)
        case DistillStage():
            return _teach(_fresh(stage, bench), stage, run, bench)
        case PruneStage():
            return _prune(stage, run, bench)
        case QuantizeStage(method="dynamic"):
            return quantize_dynamically(bench.model(stage.model))
        case QuantizeStage(method="rows"):
            return quantize(bench.model(stage.model), bits=stage.bits)
        case QuantizeStage():
            return _in_integers(stage, bench)
        case QuantizeAwareStage():
            return _teach(_in_integers(stage, bench), stage, run, bench)
        case _:
            raise TypeError(f"{type(stage).__name__} gives no model")


def _publish(run: Run, model: Trained, stage: AnyStage, bench: Bench) -> None:
    judged_on = bench.task if stage.setting is not None and bench.task.is_judged else None
    if isinstance(model, ClipSpotter):
        publish_dynamic(run, model, bench.model(stage.inputs()[0]), judged_on=judged_on)
    else:
        publish(run, model, judged_on=judged_on)


def _fresh(stage: TrainStage | DistillStage, bench: Bench) -> Spotter:
    torch.manual_seed(stage.training.seed)
    return Spotter(
        SpotterConfig(
            keyword=bench.task.keyword,
            features=stage.front_end,
            network=stage.network_config(clip_s=bench.task.clip_s),
            normalization_bands=stage.normalization_bands,
        )
    )


def _teach(
    student: Spotter, stage: DistillStage | PruneStage | QuantizeAwareStage, run: Run, bench: Bench
) -> Spotter:
    objective: Objective = cross_entropy
    if stage.teachers:
        teachers = [bench.model(teacher) for teacher in stage.teachers]
        objective = Distillation(teachers, student, stage.distillation, clip_s=bench.task.clip_s)
    training = stage.training
    if isinstance(stage, QuantizeAwareStage):
        training = dataclasses.replace(training, normalization="keep")
    return train(student, bench.task, training, run=run, objective=objective, machine=bench.machine)


def _in_integers(stage: QuantizeStage | QuantizeAwareStage, bench: Bench) -> Spotter:
    model, data = bench.model(stage.model), bench.task.training
    heard = _calibration_clips(data).at_rate(model.sample_rate)
    calibration = calibrate(model, heard.waveforms(slice(None)))
    return quantize_to_integers(model, calibration, bits=stage.bits, scales=stage.scales)


def _calibration_clips(data: Dataset) -> Dataset:
    """Clips from all over a part, which is sorted by word."""
    return data.part(np.linspace(0, len(data) - 1, min(CALIBRATION_CLIPS, len(data))).astype(int).tolist())


def _prune(stage: PruneStage, run: Run, bench: Bench) -> Spotter:
    model = bench.model(stage.model)
    heard = _calibration_clips(bench.task.training).at_rate(model.sample_rate)
    targets = torch.from_numpy(heard.targets.astype(np.int64))
    loss = calibration_loss(heard.waveforms(slice(None)), targets)
    return _teach(prune(model, stage.pruning, loss=loss), stage, run, bench)


def measure_damage(stage: DamageStage, bench: Bench) -> dict[str, Any]:
    """What pruning without any fine-tuning does, by rows of stacked gates and by unit: 1 − AUC per share.

    Raises:
        UsageError: there is nothing to measure it on.
    """
    if not bench.task.is_judged:
        raise UsageError("damage is measured on clips kept from training, and here all train; leave the stage out")
    model = bench.model(stage.model)
    data = bench.task.testing.at_rate(model.sample_rate)
    row_wise, unit_wise = [], []
    for share in stage.shares:
        pruned = prune(model, PruningConfig(gru=share, attention=0.0))
        unit_wise.append(one_minus_auc(clip_scores(pruned, data), data.targets))
        crippled = ClipSpotter(model, zero_rows(model, share=share))
        row_wise.append(one_minus_auc(clip_scores(crippled, data), data.targets))
    return {"shares": list(stage.shares), "row_wise": row_wise, "unit_wise": unit_wise}


def describe(task: Task) -> dict[str, Any]:
    """`task.json`: what was spotted in what."""
    parts: Mapping[str, Any] = {
        "training": task.training,
        "validation": task.validation,
        "testing": task.testing,
    }
    clips = {clip for part in parts.values() for clip in part.clips}  # where all train, some come twice
    words = [clip for clip in clips if clip.label != SENTENCES]
    return {
        "keyword": task.keyword,
        "clips": len(clips),
        "positives": sum(clip.label == task.keyword for clip in words),
        "sentences": len(clips) - len(words),
        "speakers": len({clip.speaker for clip in words}),
        "names_speakers": task.names_speakers,
        "clip_s": task.clip_s,
        "split": task.split,
        "fold": task.fold,
        "folds": task.folds,
        "digest": task.digest,
        "quarantined": list(task.quarantined),
        **{name: len(part) for name, part in parts.items()},
    }
