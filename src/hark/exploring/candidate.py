"""A candidate: one way to a small spotter, from its front end to the rate at which it learns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from hark.files import digest
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.network.crnn import CrnnConfig
from hark.network.spotter import SpotterConfig
from hark.packed.front_end_settings import LogMelConfig
from hark.recipes.kinds import AnyStage, DistillStage, PruneStage, QuantizeAwareStage, TrainStage
from hark.shrinking.pruning import PruningConfig


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A student that learns from teachers in floats, may lose units, then goes on in the engine's integers."""

    front_end: LogMelConfig = field(default_factory=LogMelConfig)
    normalization_bands: Literal["each", "one"] = "each"
    network: CrnnConfig
    """Before any unit is removed."""
    pruned_share: float = 0.0
    """Of the recurrent units, removed after the training in floats and before the one in integers."""
    bits: int = 8
    """Of a weight."""
    scales: Literal["row", "matrix"] = "row"
    training: TrainingConfig
    fine_tuning: TrainingConfig
    """Of what is left after pruning, and in integers."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    @cached_property
    def digest(self) -> str:
        """Tells it from all others."""
        return digest(dataclasses.asdict(self))[:8]

    @cached_property
    def name(self) -> str:
        """Readable, unique, and fit for a folder."""
        network = self.network
        units = "-".join(map(str, network.hidden))
        return f"{network.cell}{units}-c{network.channels}-int{self.bits}-{self.digest}"

    @property
    def in_words(self) -> str:
        """What it is, for a table."""
        network, front_end = self.network, self.front_end
        width_ms, hop_ms = (1000 * n / front_end.sample_rate for n in (front_end.n_fft, front_end.hop_length))
        bands = f"{front_end.n_mels} bands of {width_ms:g} ms every {hop_ms:g} at {front_end.sample_rate} Hz"
        kernel, stride = (f"({high}, {long})" for high, long in (network.kernel, network.stride))
        parts = [
            bands if self.normalization_bands == "each" else f"{bands} with one scale",
            *([f"mean of {network.pooling}"] if network.pooling != (1, 1) else []),
            f"{network.channels} × {kernel} every {stride}{', separable' * (network.convolution == 'separable')}",
            *([f"rank {network.rank}"] if network.rank else []),
            f"{network.cell} {' + '.join(map(str, network.hidden))}",
            *([f"less {100 * self.pruned_share:.0f} %"] if self.pruned_share else []),
            network.attention,
            f"{network.classes} logit{'s' * (network.classes > 1)}",
            f"int{self.bits}{', a scale per matrix' * (self.scales == 'matrix')}",
        ]
        return "; ".join(parts)

    @property
    def pruning(self) -> PruningConfig:
        """What is removed."""
        has_units = self.network.attention == "additive"
        return PruningConfig(gru=self.pruned_share, attention=self.pruned_share if has_units else 0.0)

    def spotter(self, keyword: str, *, clip_s: float) -> SpotterConfig:
        """The untrained student, for a corpus of clips of this length."""
        stage = TrainStage(network=self.network, front_end=self.front_end)
        return SpotterConfig(
            keyword=keyword,
            features=self.front_end,
            network=stage.network_config(clip_s=clip_s),
            normalization_bands=self.normalization_bands,
        )

    def stages(
        self, name: str, teachers: tuple[str, ...], *, seed: int = 0, setting: str | None = None
    ) -> dict[str, AnyStage]:
        """The stages that make it; the last, called `name`, gives the model that ships.

        Args:
            name: of the last stage, and of the others with something added.
            teachers: the stages or runs that it learns from.
            seed: of all trainings, added to theirs.
            setting: the row in a report, for one that is judged on the test part.
        """
        training, fine_tuning = (
            dataclasses.replace(each, seed=each.seed + seed) for each in (self.training, self.fine_tuning)
        )
        stages: dict[str, AnyStage] = {
            f"{name}-float": DistillStage(
                network=self.network,
                front_end=self.front_end,
                normalization_bands=self.normalization_bands,
                teachers=teachers,
                training=training,
                distillation=self.distillation,
            )
        }
        if self.pruned_share:
            stages[f"{name}-pruned"] = PruneStage(
                model=f"{name}-float",
                teachers=teachers,
                pruning=self.pruning,
                training=fine_tuning,
                distillation=self.distillation,
            )
        stages[name] = QuantizeAwareStage(
            model=next(reversed(stages)),
            bits=self.bits,
            scales=self.scales,
            teachers=teachers,
            training=fine_tuning,
            distillation=self.distillation,
            setting=setting,
        )
        return stages
