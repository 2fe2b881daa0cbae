"""The exact price of a candidate before it has learned anything: an untrained one is packed and counted."""

from __future__ import annotations

from functools import lru_cache

import torch

from hark.exploring.budget import Budget, Price
from hark.exploring.candidate import Candidate
from hark.judging.detection import OperatingPoint
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.packed.packed_cost import cost_of_packed
from hark.proof.cost import cost_of
from hark.runtime import Model
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.shrinking.pruning import prune


@lru_cache(maxsize=4096)
def price_of(candidate: Candidate, keyword: str, *, clip_s: float = 1.0) -> Price:
    """What the file of a trained candidate will cost, to the last byte: no weight's value changes it.

    Args:
        candidate: what is priced.
        keyword: whose letters are in the file.
        clip_s: length of the corpus's clips, which attention looks back over: it takes memory, and no MACs.

    Raises:
        ConfigError: there is no such network.
        ModelError: it cannot be packed.
    """
    with torch.random.fork_rng(devices=[]):
        model = _untrained(candidate, keyword, clip_s)
        calibration = calibrate(model, torch.zeros(1, model.config.features.sample_rate))
        quantized = quantize_to_integers(model, calibration, bits=candidate.bits, scales=candidate.scales)
    packed = pack(quantized, operating_point=OperatingPoint(0.5))
    file = packing.to_bytes(packed)
    cost = cost_of_packed(packed, state_bytes=0)
    return Price(
        macs=cost.per_clip("thop"),
        macs_per_second=round(cost.per_second("macs") + cost.frontend_per_second),
        bytes=len(file),
        ram=Model(file).device_memory.total,
        parameters=cost.parameters,
    )


def counts_too_many(candidate: Candidate, keyword: str, budget: Budget) -> bool:
    """Whether its MACs alone are beyond the budget, which takes a tenth of the time to know.

    Raises:
        ConfigError: there is no such network.
    """
    if budget.macs is None:
        return False
    with torch.random.fork_rng(devices=[]):
        return cost_of(_untrained(candidate, keyword, 1.0)).per_clip("thop") > budget.macs


def _untrained(candidate: Candidate, keyword: str, clip_s: float) -> Spotter:
    model = Spotter(candidate.spotter(keyword, clip_s=clip_s))
    return prune(model, candidate.pruning) if candidate.pruned_share else model
