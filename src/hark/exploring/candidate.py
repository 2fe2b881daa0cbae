"""A candidate: one way to a small spotter, from its front end to the rate at which it learns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

from hark.files import digest
from hark.learning.distillation import DistillationConfig
from hark.learning.training import TrainingConfig
from hark.network.crnn import CrnnConfig
from hark.network.spotter import SpotterConfig
from hark.packed.front_end_settings import LogMelConfig
from hark.recipes.kinds import AnyStage, DistillStage, QuantizeAwareStage


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A student that learns from teachers in floats, then goes on in the engine's integers."""

    front_end: LogMelConfig = field(default_factory=LogMelConfig)
    network: CrnnConfig
    bits: int = 8
    """Of a weight."""
    training: TrainingConfig
    fine_tuning: TrainingConfig
    """In integers."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)

    @cached_property
    def digest(self) -> str:
        """Tells it from all others."""
        return digest(dataclasses.asdict(self))[:8]

    @cached_property
    def name(self) -> str:
        """Readable, unique, and fit for a folder."""
        units = "-".join(map(str, self.network.hidden))
        return f"gru{units}-c{self.network.channels}-int{self.bits}-{self.digest}"

    @property
    def in_words(self) -> str:
        """What it is, for a table."""
        network, front_end = self.network, self.front_end
        (high, long), (up, on) = network.kernel, network.stride
        return (
            f"{front_end.n_mels} bands every {front_end.hop_length} samples, "
            f"{network.channels} × ({high}, {long}) every ({up}, {on}), "
            f"gru {' + '.join(map(str, network.hidden))}, int{self.bits}"
        )

    def spotter(self, keyword: str) -> SpotterConfig:
        """The untrained student."""
        return SpotterConfig(keyword=keyword, features=self.front_end, network=self.network)

    def stages(
        self, name: str, teachers: tuple[str, ...], *, seed: int = 0, setting: str | None = None
    ) -> dict[str, AnyStage]:
        """The stages that make it; the last, called `name`, gives the model that ships.

        Args:
            name: of the last stage, and of the others with something added.
            teachers: the stages or runs that it learns from.
            seed: of both trainings, added to theirs.
            setting: the row in a report, for one that is judged on the test part.
        """
        training, fine_tuning = (
            dataclasses.replace(each, seed=each.seed + seed) for each in (self.training, self.fine_tuning)
        )
        return {
            f"{name}-float": DistillStage(
                network=self.network,
                front_end=self.front_end,
                teachers=teachers,
                training=training,
                distillation=self.distillation,
            ),
            name: QuantizeAwareStage(
                model=f"{name}-float",
                bits=self.bits,
                teachers=teachers,
                training=fine_tuning,
                distillation=self.distillation,
                setting=setting,
            ),
        }
