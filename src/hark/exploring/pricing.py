"""The exact price of a candidate before it has learned anything: an untrained one is packed and counted."""

from __future__ import annotations

from functools import lru_cache

import torch

from hark.exploring.budget import Price
from hark.exploring.candidate import Candidate
from hark.judging.detection import OperatingPoint
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.packed.packed_cost import cost_of_packed
from hark.runtime import Model
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers


@lru_cache(maxsize=4096)
def price_of(candidate: Candidate, keyword: str) -> Price:
    """What the file of a trained candidate will cost to the last byte: neither depends on the weights' values.

    Raises:
        ConfigError: there is no such network.
        ModelError: it cannot be packed.
    """
    with torch.random.fork_rng(devices=[]):
        untrained = Spotter(candidate.spotter(keyword))
    silence = torch.zeros(1, untrained.config.features.sample_rate)
    quantized = quantize_to_integers(untrained, calibrate(untrained, silence), bits=candidate.bits)
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
