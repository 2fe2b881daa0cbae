from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from contract import spotter
from hark.network.crnn import PUBLISHED, STAGE_2, CrnnConfig
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_cost import Cost, cost_of_packed
from hark.packed.packed_layers import Affine, Convolution, FloatMatrix, Gru, Linear, MeanPooling
from hark.packed.packed_model import PackedModel
from hark.proof.cost import cost_of
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.shrinking.pruning import PruningConfig, prune
from packed_models import random_model

COUNTED = ("steps_per_clip", "steps_per_second", "frames_per_second", "first_decision_ms", "latency_ms")


def counted(model: PackedModel) -> Cost:
    return cost_of_packed(model, state_bytes=0)


@pytest.mark.parametrize("network", PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_packed_model_costs_what_its_spotter_costs(network: CrnnConfig, share: float) -> None:
    model = prune(spotter(network), PruningConfig(gru=share, conv=share, attention=share))
    expected, found = cost_of(model), counted(pack(model))
    assert [getattr(found, name) for name in COUNTED] == [getattr(expected, name) for name in COUNTED]
    for convention in ("thop", "macs"):
        assert found.per_clip(convention) == expected.per_clip(convention)  # type: ignore[arg-type]
        assert found.per_second(convention) == expected.per_second(convention)  # type: ignore[arg-type]
    assert found.frontend_per_second == pytest.approx(expected.frontend_per_second, rel=1e-3)


def test_integers_change_bytes_and_nothing_else() -> None:
    model = spotter(STAGE_2)
    integers = counted(pack(quantize_to_integers(model, calibrate(model, torch.zeros(1, 16_000)))))
    floats = counted(pack(model))
    assert [replace(line, bytes=0) for line in integers.layers] == [
        replace(line, bytes=0) for line in floats.layers
    ]
    assert integers.weight_bytes < 0.3 * floats.weight_bytes


@pytest.mark.parametrize("arithmetic", ["float32", "integer"])
@pytest.mark.parametrize("seed", range(4))
def test_weights_are_the_file_but_for_what_describes_them(arithmetic: str, seed: int) -> None:
    """A few bytes for each layer's kind and shape, and the header."""
    model = random_model(arithmetic, ["convolution", "gru", "attention", "linear"], seed=seed)  # type: ignore[arg-type]
    rest = len(packing.to_bytes(replace(model, metadata={}))) - counted(model).weight_bytes
    assert 30 < rest < 120


def test_a_layer_that_works_several_times_in_a_step_is_counted_as_often() -> None:
    """Two steps of a GRU of 3 units behind 4 inputs make one of the pooling behind it, two logits at its end."""

    def zeros(*shape: int) -> FloatMatrix:
        return FloatMatrix(np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))

    gru = Gru(
        FloatMatrix(np.zeros((9, 4), np.float32)),
        FloatMatrix(np.zeros((9, 3), np.float32)),
        np.zeros(12, np.float32),
    )
    model = PackedModel(
        arithmetic="float32",
        front_end=LogMelConfig(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=8),
        layers=(
            Affine(np.zeros(1, np.float32), np.zeros(1, np.float32)),
            Convolution(zeros(2, 1 * 4 * 3), (4, 3), (4, 2)),
            gru,
            MeanPooling((1, 2), (1, 2)),
            Linear(zeros(2, 3)),
        ),
        labels=("", "word"),
    ).check()
    cost = counted(model)
    lines = {line.name: (line.rhythm, line.thop, line.macs, line.parameters) for line in cost.layers[1:]}
    assert lines == {
        "0.affine": ("frame", 0, 8, 0),
        "1.convolution": ("step", 2 * 2 * (24 + 2), 2 * 2 * 24, 26),
        "2.gru": ("step", 2 * (9 * 7 + 9 * 3 + 4 * 3), 2 * 9 * 7, 9 * 7 + 12),
        "3.meanpooling": ("step", 0, 0, 0),
        "4.linear": ("decision", 6, 6, 8),
    }
    assert (cost.steps_per_second, cost.latency_ms, cost.first_decision_ms) == (25, 40, 50)
    assert cost.steps_per_clip == (100 - 5) // 4 + 1
