"""A spotter: front end, normalisation and network in one; sound in, logits out. What is trained and shipped."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from hark.errors import ConfigError
from hark.network.crnn import Crnn, CrnnConfig
from hark.network.features import LogMel, LogMelConfig
from hark.network.layers import Affine
from hark.network.streaming import Chain

CLASSES = (1, 2)
"""The keyword alone; or everything else, and the keyword."""
MOST_VALUES_PER_SECOND = 1 << 20
"""4 MiB; the base network takes 0.05 of it."""


@dataclass(frozen=True, kw_only=True)
class SpotterConfig:
    """Front end, network and what its outputs mean. The keyword is the last label."""

    keyword: str
    features: LogMelConfig = field(default_factory=LogMelConfig)
    network: CrnnConfig = field(default_factory=CrnnConfig)
    normalization_bands: Literal["each", "one"] = "each"
    """A scale and a shift for each mel band, or one of both for all bands."""

    def __post_init__(self) -> None:
        if self.network.n_mels != self.features.n_mels:
            raise ConfigError(
                f"a network for {self.network.n_mels} mel bands behind a front end of "
                f"{self.features.n_mels}: set both n_mels to the same number"
            )
        if self.network.classes not in CLASSES:
            raise ConfigError(
                f"a network of {self.network.classes} classes, expected 2, else and keyword, or 1, the keyword"
            )
        if not self.values_per_second <= MOST_VALUES_PER_SECOND:
            raise ConfigError(
                f"{self.values_per_second:,.0f} numbers for a second of sound, expected at most "
                f"{MOST_VALUES_PER_SECOND:,}: take longer hops and strides, or a smaller attention_window"
            )

    @property
    def clip_s(self) -> float:
        """The length of a clip in training, in seconds; at least what the first output needs."""
        return max(self.network.frames_per_clip, self.network.first_step_frames) / self.features.frame_rate

    @property
    def values_per_second(self) -> float:
        """Numbers that a second of sound becomes on its way: what a stream takes, and a file may claim."""
        step_rate = self.features.frame_rate / self.network.step_frames
        return self.features.frame_rate * self.features.n_fft + step_rate * self.network.values_per_step

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the logits; the empty one stands for everything else."""
        return ("", self.keyword) if self.network.classes > 1 else (self.keyword,)

    @property
    def affine_channels(self) -> int:
        """Scales of the normalisation."""
        return self.features.n_mels if self.normalization_bands == "each" else 1


class Spotter(Chain):
    """Waveform `(batch, samples)` to logits `(batch, classes, steps)`, the last of which is the keyword's."""

    features: LogMel
    normalize: Affine
    network: Crnn

    def __init__(self, config: SpotterConfig) -> None:
        super().__init__(
            features=LogMel(config.features),
            normalize=Affine(config.affine_channels),
            network=Crnn(config.network),
        )
        self.config = config

    @property
    def sample_rate(self) -> int:
        """Hz of the sound that it takes."""
        return self.config.features.sample_rate

    @property
    def step_samples(self) -> int:
        """Samples of sound between two outputs."""
        return self.config.features.hop_length * self.config.network.step_frames

    @property
    def first_step_samples(self) -> int:
        """Samples of sound before the first output."""
        return self.config.features.hop_length * self.config.network.first_step_frames


def two_logits(logits: Tensor) -> Tensor:
    """Logits `(batch, 2, …)` of `(batch, classes, …)`: beside a single one, everything else has 0.

    The softmax of both is then the sigmoid of the one, so that what judges two classes judges one.
    """
    return logits if logits.shape[1] > 1 else torch.cat((torch.zeros_like(logits), logits), dim=1)


def keyword_score(logits: Tensor) -> Tensor:
    """How much the keyword is preferred: the difference of the logits in float64, `(batch, …)`.

    Ranks exactly as the posterior does, without saturating at 0 and 1.
    """
    everything_else, keyword = two_logits(logits).double().unbind(1)
    return keyword - everything_else


def with_network(model: Spotter, network: Crnn) -> Spotter:
    """The same front end, normalisation and keyword around another network."""
    built = Spotter(replace(model.config, network=network.config))
    built.to(model.normalize.scale).train(model.training)
    built.normalize.load_state_dict(model.normalize.state_dict())
    built.network = network
    return built


@torch.no_grad()
def estimate_normalization(model: Spotter, waveforms: Tensor) -> None:
    """Set the affine from the log-mels of `waveforms (clips, samples)`: mean 0, deviation 1, by band or of all."""
    features = model.features(waveforms).double()
    if model.config.normalization_bands == "one":
        features = features.flatten(1)[:, None]
    mean = features.mean(dim=(0, 2))
    deviation = features.std(dim=(0, 2)).clamp(min=1e-3)
    model.normalize.normalize(mean.float(), deviation.float())
