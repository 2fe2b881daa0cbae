"""A workshop that makes candidates in an instant: searches are tested with it, not trainings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from hark.errors import HarkError
from hark.exploring import trials
from hark.exploring.budget import Budget
from hark.exploring.candidate import Candidate
from hark.exploring.searching import Search, search
from hark.exploring.space import Space, Whole
from hark.exploring.workshop import Workshop
from hark.learning.dataset import Source
from hark.network.crnn import CrnnConfig
from hark.network.spotter import Spotter, SpotterConfig
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.recipes.recipe import Recipe
from hark.runtime import Model
from hark.shipping.model_packing import pack

SPACE = Space(
    front_ends=(LogMelConfig(hop_length=320, n_fft=512, n_mels=20),),
    normalization_bands=("each",),
    pooling_frames=(1,),
    pooling_bands=(1,),
    channels=Whole(1, 1),
    convolution=("full",),
    rank=(0,),
    cell=("gru",),
    layers=(1,),
    pruned_share=(0.0,),
    attention=("last",),
    classes=(1,),
    bits=(8,),
)
"""Small enough to be priced in an instant."""


@dataclass(frozen=True, kw_only=True)
class FakeWorkshop(Workshop):
    """Says how well a candidate hears by its number of units: the more, the better."""

    pause_s: float = 0.0
    """What making takes."""
    digest: str = "the same data"
    faults: tuple[HarkError, ...] = ()
    """What the first candidates raise."""
    made: list[tuple[str, int]] = field(default_factory=list, compare=False)

    def teach(self, fold: int) -> float:
        return 1e-5 * (1 + fold)

    def try_out(self, candidate: Candidate, fold: int) -> tuple[Model, float]:
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"begun-{candidate.name}-{fold}").touch()
        self.made.append((candidate.name, fold))
        if len(self.made) <= len(self.faults):
            raise self.faults[len(self.made) - 1]
        time.sleep(self.pause_s)
        return _model(), 1e-4 / sum(candidate.network.hidden) + 1e-6 * fold

    def task(self, fold: int) -> Any:
        return SimpleNamespace(digest=self.digest)


def a_search(out: Path, *, count: int = 4, **workshop: Any) -> Search:
    """A search of two folds in `out`."""
    source = Source(root=out, keyword="beep", cache=out, folds=2)
    return Search(
        workshop=FakeWorkshop(source=source, out=out, teachers=Recipe("none", "", {}), **workshop),
        space=SPACE,
        budget=Budget(macs=20_000, bytes=2_000),
        trials=count,
        storage=f"sqlite:///{out / 'study.db'}",
    )


def search_with_a_quick_heart(wanted: Search) -> None:
    """As `search`; who is dead for three seconds is known to be dead."""
    trials.HEARTBEAT_S, trials.GRACE_S = 1, 3
    search(wanted)


@cache
def _model() -> Model:
    torch.manual_seed(0)
    network = CrnnConfig(channels=1, kernel=(20, 20), stride=(20, 20), hidden=(2,), dropout=0.0)
    return Model(packing.to_bytes(pack(Spotter(SpotterConfig(keyword="beep", network=network)))))
