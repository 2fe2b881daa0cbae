"""What the JSON files of a run must hold before a report believes them; a damaged one is named with its faults.

They may say more: only what somebody reads is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hark.configuration import build, known
from hark.errors import ConfigError, RunError
from hark.proof.checks import Verification
from hark.proof.cost import Rhythm
from hark.proof.robustness import GRID_FILE, Robustness
from hark.record.runs import ABOUT, ENVIRONMENT, Run
from hark.sound.splits import SplitRule

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class About:
    """`run.json`."""

    name: str
    setting: str | None = None
    group: str | None = None
    order: int | None = None
    kind: str | None = None
    fold: int | None = None
    seed: int | None = None
    parents: tuple[str, ...] | None = None
    created: str | None = None


@dataclass(frozen=True, kw_only=True)
class Environment:
    """`environment.json`."""

    packages: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """`task.json`."""

    keyword: str
    clips: int
    positives: int
    speakers: int
    split: SplitRule = "speakers"
    names_speakers: bool = True
    clip_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """A layer of `cost.json`."""

    name: str
    rhythm: Rhythm
    thop: float
    macs: float
    parameters: int
    bytes: int
    lead_steps: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """`cost.json`."""

    macs_per_clip_thop: int
    macs_per_second: float
    frontend_macs_per_second: float
    parameters: int
    file_bytes: int
    latency_ms: float
    layers: tuple[LayerCosts, ...]
    file: str = ""

    def __post_init__(self) -> None:
        for name in ("macs_per_clip_thop", "parameters", "file_bytes", "latency_ms"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """`evaluation.json`."""

    one_minus_auc: float
    at_reference_prior: float


@dataclass(frozen=True, kw_only=True)
class Stream:
    """`stream.json`."""

    hours: float
    words: int
    misses_reset: int
    misses_carried: int
    alarms: int

    def __post_init__(self) -> None:
        if not 0 < self.hours < 1e9 or min(self.words, self.misses_reset, self.misses_carried, self.alarms) < 0:
            raise ConfigError(f"{self}: expected more than 0 hours, and no count below 0")


@dataclass(frozen=True, kw_only=True)
class ChunkDifference:
    """A row of `check_stream.json`."""

    chunk_frames: int
    largest_difference: float


@dataclass(frozen=True, kw_only=True)
class CheckStream:
    """`check_stream.json`."""

    chunks: tuple[ChunkDifference, ...]
    times_s: tuple[float, ...]
    posteriors: tuple[float, ...]
    borders_s: tuple[float, ...]
    word: tuple[float, float]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.times_s) != len(self.posteriors) or len(self.borders_s) != len(self.labels) + 1:
            raise ConfigError("expected a time for each posterior, and a border around each label")


@dataclass(frozen=True, kw_only=True)
class PruningDamage:
    """`pruning_damage.json`."""

    shares: tuple[float, ...]
    row_wise: tuple[float, ...]
    unit_wise: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.shares) == len(self.row_wise) == len(self.unit_wise) > 0:
            raise ConfigError("expected a figure of each kind for each share")


_KINDS: dict[str, type] = {
    ABOUT: About,
    ENVIRONMENT: Environment,
    "task.json": Task,
    "cost.json": Costs,
    "evaluation.json": Evaluation,
    "stream.json": Stream,
    "check_stream.json": CheckStream,
    "pruning_damage.json": PruningDamage,
    "verification.json": Verification,
    GRID_FILE: Robustness,
}


def read_believable(run: Run, name: str) -> Json | None:
    """A JSON file of a run, as it is; None where it is not there.

    Raises:
        RunError: it is damaged, or lacks something that it must hold.
    """
    path = run.path(name)
    if not path.exists():
        return None
    values = run.read_json(name)
    try:
        build(_KINDS[name], known(_KINDS[name], values), where=name)
    except ConfigError as error:
        raise RunError(f"{run.folder}: {error}; put a good copy back, or make the run again") from error
    return values
