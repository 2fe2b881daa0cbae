"""The kinds of stages, each with its settings and the stages that it builds on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from hark.configuration import shown
from hark.errors import ConfigError
from hark.learning.batching import hop_in_recordings
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.network.crnn import PUBLISHED, CrnnConfig
from hark.packed.front_end_settings import LogMelConfig
from hark.shrinking.pruning import PruningConfig
from hark.shrinking.quantization import Scales


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all stages have: the row they fill in a report, if any."""

    setting: str | None = None
    """The row's name; without one the stage is only a step on the way."""
    group: Literal["ours", "reference"] = "ours"

    def inputs(self) -> tuple[str, ...]:
        """The stages whose models this one takes; an absolute path is a run from outside the recipe."""
        return ()


@dataclass(frozen=True, kw_only=True)
class NetworkStage(Stage):
    """What begins with a new network: its shape, and the front end through which it hears."""

    network: Literal["base", "stage-1", "stage-2"] | CrnnConfig
    front_end: LogMelConfig = field(default_factory=LogMelConfig)
    """The network counts in its frames: with a longer hop they cover more sound, and there are fewer.

    At a lower sample rate the same hop and window are half the work or less for each second of sound.
    """
    normalization_bands: Literal["each", "one"] = "each"
    """Whether each mel band has its own scale and shift, or all have the same."""

    def __post_init__(self) -> None:
        hop_in_recordings(self.front_end)  # refuses a rate at which none can be heard
        if (bands := self.network_config().n_mels) != self.front_end.n_mels:
            raise ConfigError(
                f"front_end.n_mels is {self.front_end.n_mels}, expected {bands} as network.n_mels; "
                "set both to the same number"
            )

    def network_config(self, *, clip_s: float = 1.0) -> CrnnConfig:
        """The network in full, its attention looking back over a clip of this length and front end."""
        network = PUBLISHED[self.network] if isinstance(self.network, str) else self.network
        return replace(
            network, frames_per_clip=round(clip_s * self.front_end.sample_rate) // self.front_end.hop_length
        )


@dataclass(frozen=True, kw_only=True)
class TrainStage(NetworkStage):
    """Train a network from scratch, or from weights that are there."""

    kind: Literal["train"] = "train"
    weights_from: str | None = None
    """An earlier stage; or the absolute path of a run, a checkpoint or a model file."""
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def inputs(self) -> tuple[str, ...]:
        """The one whose weights it begins with, if any."""
        return () if self.weights_from is None else (self.weights_from,)


@dataclass(frozen=True, kw_only=True)
class DistillStage(NetworkStage):
    """Train a network on what its teachers make of the same sound, each through a front end of its own."""

    kind: Literal["distill"] = "distill"
    teachers: tuple[str, ...]
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.teachers:
            raise ConfigError("no teachers, expected at least one")

    def inputs(self) -> tuple[str, ...]:
        """The teachers."""
        return self.teachers


@dataclass(frozen=True, kw_only=True)
class QuantizeStage(Stage):
    """Quantise a trained model: to the engine's integers, its weights alone, or as the reference did.

    `integers` is what the engine computes with, calibrated on training clips; `rows` puts weights on a grid and
    computes in float32; `dynamic` is torch's dynamic qint8, which cannot stream.
    """

    kind: Literal["quantize"] = "quantize"
    model: str
    method: Literal["integers", "rows", "dynamic"] = "integers"
    bits: int = 8
    scales: Scales = "row"
    """Of integers: a scale for each row of weights, or one for a whole matrix, which makes a smaller file."""

    def __post_init__(self) -> None:
        _check_bits(self.bits)
        if self.scales != "row" and self.method != "integers":
            raise ConfigError(f"scales is {self.scales!r}, expected 'row': only the method 'integers' has others")

    def inputs(self) -> tuple[str, ...]:
        """The model that is quantised."""
        return (self.model,)


@dataclass(frozen=True, kw_only=True)
class QuantizeAwareStage(Stage):
    """Quantise to the engine's integers and train on in them: on the labels, or on what teachers say.

    What the front end's affine makes of log-mels is kept, for its numbers are on their grid already.
    """

    kind: Literal["quantize-aware"] = "quantize-aware"
    model: str
    bits: int = 8
    scales: Scales = "row"
    """A scale for each row of weights, or one for a whole matrix, which makes a smaller file."""
    teachers: tuple[str, ...] = ()
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def __post_init__(self) -> None:
        _check_bits(self.bits)

    def inputs(self) -> tuple[str, ...]:
        """The model that is quantised, and the teachers."""
        return (self.model, *self.teachers)


@dataclass(frozen=True, kw_only=True)
class PruneStage(Stage):
    """Remove units, then fine-tune: on the labels, or on what teachers say."""

    kind: Literal["prune"] = "prune"
    model: str
    teachers: tuple[str, ...] = ()
    pruning: PruningConfig = field(default_factory=PruningConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    def inputs(self) -> tuple[str, ...]:
        """The model that is pruned, and the teachers."""
        return (self.model, *self.teachers)


@dataclass(frozen=True, kw_only=True)
class DamageStage(Stage):
    """Measure what pruning alone does to a model, row-wise as the reference did it and by unit."""

    kind: Literal["damage"] = "damage"
    model: str
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)

    def __post_init__(self) -> None:
        if not all(0 <= share < 1 for share in self.shares):
            raise ConfigError(f"shares are {shown(self.shares)}, expected each from 0 up to 1")

    def inputs(self) -> tuple[str, ...]:
        """The model that is damaged."""
        return (self.model,)


AnyStage: TypeAlias = TrainStage | DistillStage | QuantizeStage | QuantizeAwareStage | PruneStage | DamageStage
KINDS: dict[str, type[AnyStage]] = {
    "train": TrainStage,
    "distill": DistillStage,
    "quantize": QuantizeStage,
    "quantize-aware": QuantizeAwareStage,
    "prune": PruneStage,
    "damage": DamageStage,
}


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise ConfigError(f"bits is {shown(bits)}, expected 2 to 8")
