"""The space that is searched, part by part with the paper of each; a TOML file changes any of it.

    hidden = { low = 4, high = 12 }
    bits = [4]
    front_ends = [{ hop_length = 320, n_fft = 512, n_mels = 20 }]

Only what streams, packs, is proved and runs in the engine is in it. Lengths of kernels and strides are in
milliseconds and in shares of the mel bands, so that they mean the same behind every front end.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hark.configuration import build
from hark.errors import ConfigError
from hark.exploring.candidate import Candidate
from hark.files import digest, read_small
from hark.learning.batching import Variation
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.network.crnn import CrnnConfig
from hark.packed.front_end_settings import LogMelConfig


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`, small ones as likely as the decades they fill."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ConfigError(f"from {self.low} to {self.high}, expected 1 <= low <= high")


@dataclass(frozen=True)
class Real:
    """Numbers from `low` to `high`, drawn evenly on a logarithmic scale."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ConfigError(f"from {self.low} to {self.high}, expected 0 < low <= high")


Value: TypeAlias = int | float | str
Values: TypeAlias = Mapping[str, Value]
"""One of each part: what Optuna keeps of a trial."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What candidates are made of. A list is chosen from; a range is drawn from on a logarithmic scale."""

    front_ends: tuple[LogMelConfig, ...] = (
        LogMelConfig(),
        LogMelConfig(n_mels=20),
        LogMelConfig(hop_length=320, n_fft=512),
        LogMelConfig(hop_length=320, n_fft=512, n_mels=20),
    )
    """Each costs half a minute and up to a gigabyte per fold, for its lessons."""

    channels: Whole = Whole(1, 8)
    """Of the convolution (Arik et al. 2017, arXiv 1703.05390)."""
    kernel_ms: Whole = Whole(80, 320)
    stride_ms: Whole = Whole(60, 200)
    """A long stride costs less than it harms: a step fewer is a whole recurrent step fewer."""
    kernel_bands: Real = Real(0.1, 1.0)
    """As a share of the bands; with all of them the convolution is a matrix."""
    stride_bands: Real = Real(0.05, 0.5)
    layers: tuple[int, ...] = (1, 2)
    hidden: Whole = Whole(4, 20)
    """Units of each recurrent layer."""

    bits: tuple[int, ...] = (8, 4)
    """Of a weight, which learns where it may lie (Jacob et al. 2018, arXiv 1712.05877)."""

    epochs: tuple[int, ...] = (100,)
    learning_rate: Real = Real(3e-3, 1.5e-2)
    fine_tuning_epochs: tuple[int, ...] = (30,)
    """In integers."""
    fine_tuning_rate: Real = Real(5e-4, 4e-3)
    averaging: tuple[float, ...] = (0.99, 0.998)
    """Of the weights over the steps (Polyak & Juditsky 1992)."""
    masked_share: tuple[float, ...] = (0.1, 0.25)
    """The largest masks, of bands and of a clip's time (Park et al. 2019, arXiv 1904.08779)."""
    lived_in_share: tuple[float, ...] = (0.3,)
    lessons: int = 12
    """Epochs that are made once for all candidates behind the same front end; 0: each makes its own."""
    alpha: Real = Real(0.25, 0.9)
    """The teachers' part of the loss (Hinton et al. 2015, arXiv 1503.02531)."""
    temperature: Real = Real(1.0, 4.0)
    attention_weight: tuple[float, ...] = (0.0, 0.1)
    """Of the divergence from where the teachers look (Zagoruyko & Komodakis 2017, arXiv 1612.03928)."""

    def __post_init__(self) -> None:
        empty = [name for name, part in self._parts() if part == ()]
        if empty:
            raise ConfigError(f"{', '.join(empty)}: an empty list, expected at least one value")

    @property
    def digest(self) -> str:
        """Tells it from all others."""
        return digest(repr(self))[:8]

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna draws from: all parts of which there is more than one value."""
        found = {name: _distribution(part) for name, part in self._parts()}
        return {name: distribution for name, distribution in found.items() if not distribution.single()}

    def candidate(self, values: Values) -> Candidate:
        """The candidate of some values, one for each of `distributions()`.

        Raises:
            ConfigError: there is no such network.
        """
        one: dict[str, Any] = {name: _only(part) for name, part in self._parts()} | dict(values)
        front_end = next(each for each in self.front_ends if _named(each) == one["front_ends"])
        attention = one["attention_weight"]
        variation = Variation(
            mask_bins=round(one["masked_share"] * front_end.n_mels),
            mask_frames=round(one["masked_share"] * front_end.frame_rate),
            lived_in_share=one["lived_in_share"],
        )
        rates = {"training": one["learning_rate"], "fine_tuning": one["fine_tuning_rate"]}
        epochs = {"training": one["epochs"], "fine_tuning": one["fine_tuning_epochs"]}
        trainings = {
            name: TrainingConfig(
                epochs=epochs[name],
                learning_rate=_rounded(rate),
                averaging=one["averaging"],
                lessons=self.lessons,
                variation=variation,
                validations=1,
            )
            for name, rate in rates.items()
        }
        return Candidate(
            front_end=front_end,
            network=_network(one, front_end),
            bits=one["bits"],
            distillation=DistillationConfig(
                alpha=_rounded(one["alpha"]), temperature=_rounded(one["temperature"]), attention=attention
            ),
            **trainings,
        )

    def _parts(self) -> list[tuple[str, Any]]:
        return [(entry.name, getattr(self, entry.name)) for entry in fields(self) if entry.name != "lessons"]


def load_space(path: Path) -> Space:
    """The space in a TOML file; what it does not say is as by default.

    Raises:
        ConfigError: it cannot be read, or is not valid; the message names every fault.
    """
    try:
        values = tomllib.loads(read_small(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a space ({error}); expected TOML such as bits = [4]"
        ) from error
    return build(Space, values, where=path.stem)


def _network(one: Mapping[str, Any], front_end: LogMelConfig) -> CrnnConfig:
    frame_ms = 1000 / front_end.frame_rate
    bands = front_end.n_mels

    def frames(ms: float) -> int:
        return max(1, round(ms / frame_ms))

    kernel = max(1, round(one["kernel_bands"] * bands)), frames(one["kernel_ms"])
    stride = max(1, round(one["stride_bands"] * bands)), frames(one["stride_ms"])
    return CrnnConfig(
        n_mels=bands,
        channels=one["channels"],
        kernel=kernel,
        stride=stride if kernel[0] < bands else (1, stride[1]),
        hidden=(one["hidden"],) * one["layers"],
        dropout=0.0,
        attention_window=(round(front_end.frame_rate) - kernel[1]) // stride[1] + 1,
    )


def _distribution(part: Any) -> BaseDistribution:
    match part:
        case Whole(low, high):
            return IntDistribution(low, high, log=True)
        case Real(low, high):
            return FloatDistribution(low, high, log=True)
        case _:
            return CategoricalDistribution([_named(each) for each in part])


def _named(value: Any) -> Value:
    """A value as Optuna can keep it: a front end by its numbers."""
    if isinstance(value, LogMelConfig):
        return f"{value.sample_rate} Hz, {value.n_fft} wide, every {value.hop_length}, {value.n_mels} bands"
    plain: Value = value
    return plain


def _only(part: Any) -> Value:
    """The value of a part that has but one."""
    return part.low if isinstance(part, Whole | Real) else _named(part[0])


def _rounded(value: float) -> float:
    """Three digits are enough to repeat it by."""
    return float(f"{value:.3g}")
