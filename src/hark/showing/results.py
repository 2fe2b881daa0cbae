"""What one run has left behind, read once and typed; and a setting: the same stage on every fold."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from hark.configuration import build, known
from hark.errors import RunError
from hark.judging.metrics import ErrorCurve, error_curve, mean_and_spread
from hark.proof.checks import Verification
from hark.proof.robustness import GRID_FILE, GRID_SCORES_FILE, GridScores, Robustness
from hark.record.events import Event
from hark.record.portrait import series
from hark.record.runs import ABOUT, ENVIRONMENT, MODEL_FILE, Run
from hark.record.standing import Standing, standings
from hark.showing.run_files import Json, read_believable

T = TypeVar("T")

NOTES = ("warning", "fallback", "damaged")
LARGEST_SCORES_BYTES = 64 << 20
_DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, NotImplementedError, RuntimeError)
"""What reading an archive of arrays raises where it is damaged."""
_LAST = 1 << 30  # the place in the tables of a run that no recipe has ordered


@dataclass(frozen=True)
class Layer:
    """One line of the cost table."""

    name: str
    macs_per_clip: float  # thop convention
    macs_per_second: float  # multiplications in a stream with a decision at each step
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Costs:
    """What `cost.json` says, front end included where a second of stream is meant."""

    FIGURES: ClassVar = ("macs_per_clip", "macs_per_second", "parameters", "file_bytes", "file")

    macs_per_clip: int  # thop convention
    macs_per_second: float  # multiplications
    parameters: int
    file_bytes: int
    file: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True, eq=False)
class Result:
    """One run; None or empty where it has not come so far or never will."""

    name: str
    home: str
    """The folder it lies in, beside the runs it was made from."""
    setting: str | None
    """Its row in the tables; None for what was only a step on the way."""
    group: str
    order: int
    kind: str
    fold: int
    seed: int
    parents: tuple[str, ...]
    tracker_url: str | None
    created: str
    state: str
    environment: Json
    task: Json
    evaluation: Json | None
    costs: Costs | None
    curve: ErrorCurve | None
    stream: Json | None
    check_stream: Json | None
    pruning_damage: Json | None
    verification: Verification | None
    robustness: Robustness | None
    grid_scores: GridScores | None
    losses: tuple[tuple[int, float], ...]
    """(step, training loss)"""
    validations: tuple[tuple[int, float], ...]
    """(step, 1 − AUC on the validation part)"""
    notes: tuple[Event, ...]
    """Whatever should be known before the result is believed."""
    trackers: tuple[Standing, ...]
    """What each tracker has of the run by now; so what was said of one before is not among the notes."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One row of the table: the same recipe stage on every fold."""

    name: str
    group: str
    order: int
    results: tuple[Result, ...]

    @property
    def kind(self) -> str:
        """How it was made: train, distill, quantize, prune or import."""
        return self.results[0].kind

    @cached_property
    def costs(self) -> Costs | None:
        """The costs of the largest file among the folds, which differ in a few bytes at most."""
        known = [result.costs for result in self.results if result.costs is not None]
        return max(known, key=lambda costs: costs.file_bytes, default=None)

    def by_fold(self, figure: str) -> dict[int, float]:
        """A figure of `evaluation.json` for each fold, seeds averaged."""
        values: dict[int, list[float]] = {}
        for result in self.results:
            if result.evaluation is not None:
                values.setdefault(result.fold, []).append(float(result.evaluation[figure]))
        return {fold: math.fsum(many) / len(many) for fold, many in sorted(values.items())}

    @cached_property
    def metric(self) -> tuple[float, float] | None:
        """Mean and spread over folds of 0.02587·(1 − AUC), in 1e-5."""
        values = [1e5 * value for value in self.by_fold("at_reference_prior").values()]
        return mean_and_spread(values) if values else None

    @cached_property
    def one_minus_auc(self) -> tuple[float, float] | None:
        """Mean and spread over folds."""
        values = list(self.by_fold("one_minus_auc").values())
        return mean_and_spread(values) if values else None


def read(run: Run) -> Result:
    """Read a run.

    Raises:
        RunError: one of its files is damaged; the message names it.
    """
    about, events, trackers = read_believable(run, ABOUT) or {}, run.events(), standings(run)
    cost, robustness = read_believable(run, "cost.json"), _believed(run, GRID_FILE, Robustness)
    order = about.get("order")
    return Result(
        name=about["name"],
        home=str(run.folder.resolve().parent),
        setting=about.get("setting"),
        group=about.get("group") or "ours",
        order=_LAST if order is None else order,
        kind=about.get("kind") or "",
        fold=about.get("fold") or 0,
        seed=about.get("seed") or 0,
        parents=tuple(about.get("parents") or ()),
        tracker_url=run.about["tracker_url"],
        created=about.get("created") or "",
        state=str(run.status),
        environment=read_believable(run, ENVIRONMENT) or {},
        task=read_believable(run, "task.json") or {},
        evaluation=read_believable(run, "evaluation.json"),
        costs=None if cost is None else _costs(cost),
        curve=_curve(run),
        stream=read_believable(run, "stream.json"),
        check_stream=read_believable(run, "check_stream.json"),
        pruning_damage=read_believable(run, "pruning_damage.json"),
        verification=_believed(run, "verification.json", Verification),
        robustness=robustness,
        grid_scores=None if robustness is None else _grid_scores(run, robustness),
        losses=tuple(series(events, "train", "loss")),
        validations=tuple(series(events, "validation", "one_minus_auc")),
        notes=tuple(
            event
            for event in events
            if event["kind"] in NOTES and event.get("tracker") not in {found.tracker for found in trackers}
        ),
        trackers=tuple(trackers),
    )


def _believed(run: Run, name: str, kind: type[T]) -> T | None:
    values = read_believable(run, name)
    return None if values is None else build(kind, known(kind, values), where=name)


def _costs(cost: Mapping[str, Any]) -> Costs:
    return Costs(
        macs_per_clip=int(cost["macs_per_clip_thop"]),
        macs_per_second=cost["macs_per_second"] + cost["frontend_macs_per_second"],
        parameters=int(cost["parameters"]),
        file_bytes=int(cost["file_bytes"]),
        file=str(cost.get("file", MODEL_FILE)),
        layers=_layers(cost),
    )


def _layers(cost: Mapping[str, Any]) -> tuple[Layer, ...]:
    """Each layer's share of the totals: `cost.json` has what a layer costs each time it works."""
    layers = cost["layers"]

    def each_time(rhythm: str, convention: str) -> float:
        return sum(float(layer[convention]) for layer in layers if layer["rhythm"] == rhythm)

    steps_per_second = 1000 / cost["latency_ms"]
    steps_per_clip = cost["macs_per_clip_thop"] - each_time("decision", "thop")
    steps_per_clip /= each_time("step", "thop") or 1
    frames_per_second = cost["frontend_macs_per_second"] / (each_time("frame", "macs") or 1)
    per_clip = {"frame": 0.0, "step": steps_per_clip, "decision": 1.0}
    per_second = {"frame": frames_per_second, "step": steps_per_second, "decision": steps_per_second}
    return tuple(
        Layer(
            name=layer["name"],
            macs_per_clip=layer["thop"] * per_clip[layer["rhythm"]],
            macs_per_second=layer["macs"] * per_second[layer["rhythm"]],
            parameters=layer["parameters"],
            bytes=layer["bytes"],
        )
        for layer in layers
    )


def _curve(run: Run) -> ErrorCurve | None:
    path = run.path("scores.npz")
    if not path.exists():
        return None
    with _arrays(path) as stored:
        return error_curve(*_checked(stored["scores"], stored["labels"]))


def _grid_scores(run: Run, robustness: Robustness) -> GridScores:
    conditions = tuple(cell.condition for cell in robustness.cells)
    with _arrays(run.path(GRID_SCORES_FILE)) as stored:
        scores, labels, speakers = (stored[name] for name in ("scores", "labels", "speakers"))
        if scores.ndim != 2 or len(scores) != len(conditions) or speakers.shape != labels.shape:
            raise ValueError(f"scores {scores.shape}, speakers {speakers.shape}")
        for row in scores:
            _checked(row, labels)
        return GridScores(conditions, scores, labels, speakers)


@contextmanager
def _arrays(path: Path) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The arrays of a file that may come from anywhere.

    Raises:
        RunError: it is not there or damaged, or what is done with them fails.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            unpacked_bytes = sum(entry.file_size for entry in packed.infolist())
        if unpacked_bytes > LARGEST_SCORES_BYTES:
            raise ValueError(f"unpacks to {unpacked_bytes:,} bytes, expected at most {LARGEST_SCORES_BYTES:,}")
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(f"{path}: expected scores and labels of clips ({error}); evaluate again") from error


def _checked(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if scores.ndim != 1 or scores.shape != labels.shape or scores.dtype.kind != "f" or labels.dtype.kind != "b":
        raise ValueError(f"scores {scores.dtype} {scores.shape}, labels {labels.dtype} {labels.shape}")
    if not (np.isfinite(scores).all() and 0 < labels.sum() < len(labels)):
        raise ValueError("not finite, or not of both kinds of clips")
    return scores, labels
