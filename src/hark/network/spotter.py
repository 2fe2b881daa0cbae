"""A spotter: front end, normalisation and network in one; sound in, logits out. What is trained and shipped."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from hark.errors import ConfigError
from hark.network.crnn import Crnn, CrnnConfig
from hark.network.features import LogMel, LogMelConfig
from hark.network.layers import Affine
from hark.network.streaming import Chain

CLASSES = 2
"""Everything else, and the keyword."""
MOST_VALUES_PER_SECOND = 1 << 20
"""4 MiB; the base network takes 0.05 of it."""


@dataclass(frozen=True, kw_only=True)
class SpotterConfig:
    """Front end, network and what its outputs mean. The keyword is the last label."""

    keyword: str
    features: LogMelConfig = field(default_factory=LogMelConfig)
    network: CrnnConfig = field(default_factory=CrnnConfig)

    def __post_init__(self) -> None:
        if self.network.n_mels != self.features.n_mels:
            raise ConfigError(
                f"a network for {self.network.n_mels} mel bands behind a front end of "
                f"{self.features.n_mels}: set both n_mels to the same number"
            )
        if self.network.classes != CLASSES:
            raise ConfigError(f"a network of {self.network.classes} classes, expected {CLASSES}: else and keyword")
        if not self.values_per_second <= MOST_VALUES_PER_SECOND:
            raise ConfigError(
                f"{self.values_per_second:,.0f} numbers for a second of sound, expected at most "
                f"{MOST_VALUES_PER_SECOND:,}: take longer hops and strides, or a smaller attention_window"
            )

    @property
    def values_per_second(self) -> float:
        """Numbers that a second of sound becomes on its way: what a stream takes, and a file may claim."""
        step_rate = self.features.frame_rate / self.network.stride[1]
        return self.features.frame_rate * self.features.n_fft + step_rate * self.network.values_per_step


class Spotter(Chain):
    """Waveform `(batch, samples)` to logits `(batch, 2, steps)`: class 0 is everything else, 1 the keyword."""

    features: LogMel
    normalize: Affine
    network: Crnn

    def __init__(self, config: SpotterConfig) -> None:
        super().__init__(
            features=LogMel(config.features),
            normalize=Affine(config.features.n_mels),
            network=Crnn(config.network),
        )
        self.config = config

    @property
    def step_samples(self) -> int:
        """Samples of sound between two outputs."""
        return self.config.features.hop_length * self.network.conv.window.hop

    @property
    def first_step_samples(self) -> int:
        """Samples of sound before the first output."""
        return self.config.features.hop_length * self.network.conv.window.size


def keyword_score(logits: Tensor) -> Tensor:
    """How much the keyword is preferred: the difference of the logits in float64, `(batch, steps)`.

    Ranks exactly as the posterior does, without saturating at 0 and 1.
    """
    return logits[:, 1].double() - logits[:, 0].double()


def with_network(model: Spotter, network: Crnn) -> Spotter:
    """The same front end, normalisation and keyword around another network."""
    built = Spotter(replace(model.config, network=network.config))
    built.to(model.normalize.scale).train(model.training)
    built.normalize.load_state_dict(model.normalize.state_dict())
    built.network = network
    return built


@torch.no_grad()
def estimate_normalization(model: Spotter, waveforms: Tensor) -> None:
    """Set the affine from the log-mels of `waveforms (clips, samples)`: mean 0, deviation 1 in each band."""
    features = model.features(waveforms).double()
    mean = features.mean(dim=(0, 2))
    deviation = features.std(dim=(0, 2)).clamp(min=1e-3)
    model.normalize.normalize(mean.float(), deviation.float())
