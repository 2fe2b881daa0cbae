"""The price of a candidate before training is that of its file after it, whatever the space holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optuna.samplers import RandomSampler
from optuna.study import create_study

from hark.errors import ConfigError
from hark.exploring.budget import Budget
from hark.exploring.candidate import Candidate
from hark.exploring.pricing import counts_too_many, price_of
from hark.exploring.space import Space, Value
from hark.judging.detection import OperatingPoint
from hark.network.spotter import Spotter, estimate_normalization
from hark.packed import packing
from hark.packed.packed_cost import cost_of_packed
from hark.proof.cost import cost_of
from hark.runtime import Model
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.shrinking.pruning import prune

DRAWS = 30


def drawn(space: Space, seed: int) -> dict[str, Value]:
    """One value of each part, at random."""
    study = create_study(sampler=RandomSampler(seed=seed))
    return study.ask(space.distributions()).params


def candidates(space: Space, count: int) -> list[Candidate]:
    """The first so many of the space that there are networks of."""
    found: list[Candidate] = []
    for seed in range(4 * count):
        try:
            found.append(space.candidate(drawn(space, seed)))
        except ConfigError:
            continue
    return found[:count]


CANDIDATES = candidates(Space(), DRAWS)


def grown(candidate: Candidate) -> Spotter:
    """A candidate whose weights and normalisation are anything."""
    torch.manual_seed(7)
    model = Spotter(candidate.spotter("beep", clip_s=1.0))
    estimate_normalization(model, 0.1 * torch.randn(2, 16_000))
    if candidate.pruned_share:
        model = prune(model, candidate.pruning)
    return quantize_to_integers(
        model, calibrate(model, torch.randn(2, 16_000)), bits=candidate.bits, scales=candidate.scales
    )


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_whatever_is_drawn_packs_runs_in_the_engine_and_costs_what_was_said(candidate: Candidate) -> None:
    price = price_of(candidate, "beep")
    packed = pack(grown(candidate), operating_point=OperatingPoint(0.123, refractory_s=1.0))
    file = packing.to_bytes(packed)
    model, cost = Model(file), cost_of_packed(packed, state_bytes=0)
    assert price.bytes == len(file)
    assert price.macs == cost.per_clip("thop")
    assert price.macs_per_second == round(cost.per_second("macs") + cost.frontend_per_second)
    assert price.ram == model.device_memory.total
    second = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    logits = model.stream().step_logits(second)
    assert len(logits) and np.isfinite(logits).all()


def test_the_draws_cover_every_kind_of_layer() -> None:
    for part in ("cell", "convolution", "attention", "classes", "rank", "pooling"):
        assert len({getattr(each.network, part) for each in CANDIDATES}) > 1, part
    assert {each.pruned_share > 0 for each in CANDIDATES} == {True, False}


@pytest.mark.parametrize("candidate", CANDIDATES[:10], ids=lambda each: each.name)
def test_macs_counted_before_packing_are_those_of_the_file(candidate: Candidate) -> None:
    macs = price_of(candidate, "beep").macs
    assert not counts_too_many(candidate, "beep", Budget(macs=macs))
    assert counts_too_many(candidate, "beep", Budget(macs=macs - 1))
    assert not counts_too_many(candidate, "beep", Budget(bytes=1))


def test_pricing_leaves_the_random_state_as_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    price_of.cache_clear()
    price_of(CANDIDATES[0], "beep")
    assert torch.equal(torch.rand(2), expected)


def test_a_longer_keyword_costs_its_letters() -> None:
    assert price_of(CANDIDATES[0], "beeper").bytes == price_of(CANDIDATES[0], "beep").bytes + 2
    assert cost_of(Spotter(CANDIDATES[0].spotter("beep", clip_s=1.0))).parameters
