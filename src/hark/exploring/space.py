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
from typing import Any, Literal, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hark.configuration import build, in_one_line, unknown_key
from hark.errors import ConfigError
from hark.exploring.candidate import Candidate
from hark.files import digest, read_small
from hark.learning.batching import Variation
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.network.crnn import CrnnConfig
from hark.packed.front_end_settings import LogMelConfig

WEIGHING = ("additive", "query")
"""The kinds of attention that can learn where teachers look."""


@dataclass(frozen=True)
class Whole:
    """Whole numbers from `low` to `high`, drawn evenly on a logarithmic scale."""

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
        LogMelConfig(n_mels=20),
        LogMelConfig(hop_length=320, n_fft=512, n_mels=20),
        LogMelConfig(hop_length=320, n_fft=512, n_mels=16),
        LogMelConfig(hop_length=320, n_fft=512, n_mels=12),
        LogMelConfig(sample_rate=8_000, hop_length=240, n_fft=256, n_mels=16),
    )
    """Each costs half a minute and up to a gigabyte per fold, for its lessons."""
    normalization_bands: tuple[Literal["each", "one"], ...] = ("each", "one")
    """A scale and a shift for each band, or one of both for all: 80 to 160 bytes less."""

    pooling_frames: tuple[int, ...] = (1, 2, 4)
    """Mean of so many frames before the convolution: as a longer hop, for a sum instead of a transform."""
    pooling_bands: tuple[int, ...] = (1, 2)
    channels: Whole = Whole(1, 8)
    """Of the convolution (Arik et al. 2017, arXiv 1703.05390)."""
    kernel_ms: Whole = Whole(80, 320)
    stride_ms: Whole = Whole(60, 200)
    """A step fewer is a whole recurrent step fewer."""
    kernel_bands: tuple[float, ...] = (0.2, 0.4, 1.0)
    """As a share of the bands; with all of them the convolution is a matrix, which was best by far where tried."""
    stride_bands: Real = Real(0.05, 0.5)
    convolution: tuple[Literal["full", "separable"], ...] = ("full", "separable")
    """Separable: over frequency, then over time in each channel (Jaderberg et al. 2014, arXiv 1405.3866)."""

    rank: tuple[int, ...] = (0, 4, 8)
    """Of the first cell's input weights; 0 is full (Kusupati et al. 2018, arXiv 1901.02358)."""
    cell: tuple[Literal["gru", "minimal", "fast"], ...] = ("gru", "minimal", "fast")
    """Cho et al. 2014, arXiv 1406.1078; Zhou et al. 2016, arXiv 1603.09420; FastGRNN, arXiv 1901.02358."""
    layers: tuple[int, ...] = (1, 2)
    hidden: Whole = Whole(4, 24)
    """Units of each recurrent layer."""
    pruned_share: tuple[float, ...] = (0.0, 0.3)
    """Of the units, trained with and then removed (Li et al. 2017, arXiv 1608.08710)."""
    attention: tuple[Literal["additive", "query", "mean", "last"], ...] = ("additive", "query", "mean", "last")
    """Shan et al. 2018, arXiv 1803.10916; a query vector; the mean of the steps; the last state alone."""
    classes: tuple[int, ...] = (2, 1)
    """Logits: a single one's sigmoid is the posterior."""

    bits: tuple[int, ...] = (8, 4)
    """Of a weight, which learns where it may lie (Jacob et al. 2018, arXiv 1712.05877)."""
    scales: tuple[Literal["row", "matrix"], ...] = ("row", "matrix")
    """A scale for each row, or one for a matrix: two bytes less for each row but one."""

    epochs: tuple[int, ...] = (100,)
    learning_rate: Real = Real(3e-3, 1.5e-2)
    fine_tuning_epochs: tuple[int, ...] = (30,)
    """After pruning, and in integers."""
    fine_tuning_rate: Real = Real(5e-4, 4e-3)
    averaging: tuple[float, ...] = (0.99, 0.998)
    """Of the weights over the steps (Polyak & Juditsky 1992)."""
    masked_share: tuple[float, ...] = (0.0, 0.1)
    """The largest masks, of bands and of a clip's time (Park et al. 2019, arXiv 1904.08779)."""
    lived_in_share: tuple[float, ...] = (0.3,)
    lessons: int = 12
    """Epochs that are made once for all candidates behind the same front end; 0: each makes its own."""
    alpha: Real = Real(0.25, 0.9)
    """The teachers' part of the loss (Hinton et al. 2015, arXiv 1503.02531)."""
    temperature: Real = Real(1.0, 4.0)
    attention_weight: tuple[float, ...] = (0.0, 0.1)
    """Of the divergence from where the teachers look (Zagoruyko & Komodakis 2017, arXiv 1612.03928)."""

    begin_with: tuple[dict[str, Any], ...] = 4 * (
        {
            "normalization_bands": "one",
            "pooling_frames": 1,
            "pooling_bands": 1,
            "kernel_ms": 120,
            "kernel_bands": 1.0,
            "convolution": "full",
            "rank": 0,
            "cell": "minimal",
            "layers": 1,
            "attention": "query",
            "classes": 2,
            "bits": 4,
            "scales": "matrix",
            "masked_share": 0.0,
        },
    )
    """What the first trials are to be like, by values of parts; the others are drawn. Here: what was best by hand
    (docs/experiments.md)."""

    def __post_init__(self) -> None:
        parts = dict(self._parts())
        faults = [
            f"{name} is an empty list, expected at least one value" for name, part in parts.items() if part == ()
        ]
        for number, start in enumerate(self.begin_with):
            faults += [
                unknown_key(name, [*parts], where=f"begin_with.{number}") for name in start.keys() - parts.keys()
            ]
        if faults:
            raise ConfigError(in_one_line(faults))

    @property
    def digest(self) -> str:
        """Tells it from all others."""
        return digest(repr(self))[:8]

    def distributions(self) -> dict[str, BaseDistribution]:
        """What Optuna draws from: all parts of which there is more than one value."""
        found = {name: _distribution(part) for name, part in self._parts()}
        return {name: distribution for name, distribution in found.items() if not distribution.single()}

    def starts(self) -> list[dict[str, Value]]:
        """Those of `begin_with` that are in the space, by the parts of which it has more than one value."""
        drawn, parts = self.distributions(), dict(self._parts())
        return [
            {name: value for name, value in start.items() if name in drawn}
            for start in self.begin_with
            if all(_has(parts[name], value) for name, value in start.items())
        ]

    def candidate(self, values: Values) -> Candidate:
        """The candidate of some values, one for each of `distributions()`.

        Raises:
            ConfigError: there is no such network.
        """
        one: dict[str, Any] = {name: _only(part) for name, part in self._parts()} | dict(values)
        front_end = next(each for each in self.front_ends if _named(each) == one["front_ends"])
        network = _network(one, front_end)
        training, fine_tuning = (
            _training(one, front_end, lessons=self.lessons, epochs=one[epochs], rate=one[rate])
            for epochs, rate in (("epochs", "learning_rate"), ("fine_tuning_epochs", "fine_tuning_rate"))
        )
        return Candidate(
            front_end=front_end,
            normalization_bands=one["normalization_bands"],
            network=network,
            pruned_share=one["pruned_share"],
            bits=one["bits"],
            scales=one["scales"],
            training=training,
            fine_tuning=fine_tuning,
            distillation=DistillationConfig(
                alpha=_rounded(one["alpha"]),
                temperature=_rounded(one["temperature"]),
                attention=one["attention_weight"] if network.attention in WEIGHING else 0.0,
            ),
        )

    def _parts(self) -> list[tuple[str, Any]]:
        not_parts = ("lessons", "begin_with")
        return [(entry.name, getattr(self, entry.name)) for entry in fields(self) if entry.name not in not_parts]


def load_space(path: Path) -> Space:
    """The space in a TOML file; what it does not say is as by default.

    Raises:
        ConfigError: it cannot be read, or is not valid; the message names every fault.
    """
    try:
        values = tomllib.loads(read_small(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected TOML such as bits = [4]") from error
    return build(Space, values, where=path.stem)


def _network(one: Mapping[str, Any], front_end: LogMelConfig) -> CrnnConfig:
    """Lengths in frames and bands as the convolution gets them, pooled; no kernel is shorter than its stride."""
    pooling = one["pooling_bands"], one["pooling_frames"]
    frame_ms, bands = 1000 * pooling[1] / front_end.frame_rate, front_end.n_mels // pooling[0]
    high, up = (max(1, round(one[name] * bands)) for name in ("kernel_bands", "stride_bands"))
    long, on = (max(1, round(one[name] / frame_ms)) for name in ("kernel_ms", "stride_ms"))
    return CrnnConfig(
        n_mels=front_end.n_mels,
        pooling=pooling,
        channels=one["channels"],
        kernel=(max(high, up), max(long, on)),
        stride=(up, on),
        convolution=one["convolution"],
        rank=one["rank"] or None,
        cell=one["cell"],
        hidden=(one["hidden"],) * one["layers"],
        dropout=0.0,
        attention=one["attention"],
        classes=one["classes"],
        frames_per_clip=round(front_end.frame_rate),
    )


def _training(
    one: Mapping[str, Any], front_end: LogMelConfig, *, lessons: int, epochs: int, rate: float
) -> TrainingConfig:
    share = one["masked_share"]
    return TrainingConfig(
        epochs=epochs,
        learning_rate=_rounded(rate),
        averaging=one["averaging"],
        lessons=lessons,
        variation=Variation(
            mask_bins=round(share * front_end.n_mels),
            mask_frames=round(share * front_end.frame_rate),
            lived_in_share=one["lived_in_share"],
        ),
        validations=1,
    )


def _distribution(part: Any) -> BaseDistribution:
    match part:
        case Whole(low, high):
            return IntDistribution(low, high, log=True)
        case Real(low, high):
            return FloatDistribution(low, high, log=True)
        case _:
            return CategoricalDistribution([_named(each) for each in part])


def _has(part: Any, value: Any) -> bool:
    """Whether a value is one of a part's."""
    match part:
        case Whole(low, high):
            return isinstance(value, int) and low <= value <= high
        case Real(low, high):
            return isinstance(value, int | float) and low <= value <= high
        case _:
            return value in map(_named, part)


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
