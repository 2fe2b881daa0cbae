from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from contract import CHEAPER, small_spotter, spotter
from hark.network.crnn import PUBLISHED, STAGE_2, CrnnConfig
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_cost import Cost, cost_of_packed
from hark.packed.packed_layers import (
    Affine,
    Convolution,
    DepthwiseConvolution,
    FastGrnn,
    FloatMatrix,
    Gru,
    Layer,
    Linear,
    MeanPooling,
    MinimalGru,
    QueryAttention,
)
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


@pytest.mark.parametrize("name", CHEAPER)
def test_cheaper_networks_cost_the_same_packed_and_not(name: str) -> None:
    model = small_spotter(CHEAPER[name])
    expected, found = cost_of(model), counted(pack(model))
    assert [getattr(found, name) for name in COUNTED] == [getattr(expected, name) for name in COUNTED]
    for convention in ("thop", "macs"):
        assert found.per_clip(convention) == expected.per_clip(convention)  # type: ignore[arg-type]
        assert found.per_second(convention) == expected.per_second(convention)  # type: ignore[arg-type]


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


def zeros(rows: int, inputs: int, *, bias: bool = True) -> FloatMatrix:
    return FloatMatrix(np.zeros((rows, inputs), np.float32), np.zeros(rows, np.float32) if bias else None)


def cell(kind: type[Gru] | type[MinimalGru] | type[FastGrnn], units: int, inputs: int) -> Layer:
    rows = kind.gates * units
    bias = np.zeros(rows + units, np.float32)
    return kind(zeros(rows, inputs, bias=False), zeros(rows, units, bias=False), bias)


def of_layers(*layers: Layer) -> PackedModel:
    """A model with an affine before the layers, two labels, 100 frames a second of 8 bands."""
    return PackedModel(
        arithmetic="float32",
        front_end=LogMelConfig(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=8),
        layers=(Affine(np.zeros(1, np.float32), np.zeros(1, np.float32)), *layers),
        labels=("", "word"),
    ).check()


def lines_of(cost: Cost) -> dict[str, tuple[str, int, int, int]]:
    return {line.name: (line.rhythm, line.thop, line.macs, line.parameters) for line in cost.layers[1:]}


def test_the_smaller_cells_and_a_separable_convolution_by_hand() -> None:
    """A minimal GRU of 3 units behind 4 inputs, a FastGRNN of 5 behind it, attention by a query over 6 steps."""
    cost = counted(
        of_layers(
            Convolution(zeros(2, 4), (4, 1), (4, 1)),
            DepthwiseConvolution(zeros(2, 3), (1, 3), (1, 2)),
            cell(MinimalGru, 3, 4),
            cell(FastGrnn, 5, 3),
            QueryAttention(zeros(1, 5, bias=False), 6),
            Linear(zeros(2, 5)),
        )
    )
    assert lines_of(cost) == {
        "0.affine": ("frame", 0, 8, 0),
        "1.convolution": ("step", 2 * 2 * 2 * (4 + 1), 2 * 2 * 2 * 4, 10),
        "2.depthwiseconvolution": ("step", 2 * 2 * (3 + 1), 2 * 2 * 3, 8),
        "3.minimalgru": ("step", 2 * ((4 + 3) * 3 + 3 * 3) + 4 * 3, 2 * (4 + 3) * 3, 2 * 7 * 3 + 9),
        "4.fastgrnn": ("step", (3 + 5) * 5 + 3 * 5 + 5 + 3 * 5, (3 + 5) * 5, 8 * 5 + 10),
        "5.attention": ("decision", 0, 6 * 5, 0),
        "5.attention.score": ("step", 5, 5, 5),
        "6.linear": ("decision", 10, 10, 12),
    }


def test_pooling_over_the_steps_of_a_cell_leaves_their_number() -> None:
    """The mean over six steps looks back as attention over six does: a clip has 49 steps all the same."""
    layers = (Convolution(zeros(2, 1 * 4 * 3), (4, 3), (4, 2)), cell(FastGrnn, 3, 4))
    pooled = counted(of_layers(*layers, MeanPooling((1, 6), (1, 1)), Linear(zeros(2, 3))))
    without = counted(of_layers(*layers, Linear(zeros(2, 3))))
    assert pooled.steps_per_clip == without.steps_per_clip == 49
    assert pooled.per_clip("thop") == without.per_clip("thop")
    assert pooled.first_decision_ms == without.first_decision_ms + 5 * 20


def test_a_layer_that_works_several_times_in_a_step_is_counted_as_often() -> None:
    """Two steps of a GRU of 3 units behind 4 inputs make one of the pooling behind it, two logits at its end."""
    cost = counted(
        of_layers(
            Convolution(zeros(2, 1 * 4 * 3), (4, 3), (4, 2)),
            cell(Gru, 3, 4),
            MeanPooling((1, 2), (1, 2)),
            Linear(zeros(2, 3)),
        )
    )
    assert lines_of(cost) == {
        "0.affine": ("frame", 0, 8, 0),
        "1.convolution": ("step", 2 * 2 * (24 + 2), 2 * 2 * 24, 26),
        "2.gru": ("step", 2 * (9 * 7 + 9 * 3 + 4 * 3), 2 * 9 * 7, 9 * 7 + 12),
        "3.meanpooling": ("step", 0, 0, 0),
        "4.linear": ("decision", 6, 6, 8),
    }
    assert (cost.steps_per_second, cost.latency_ms, cost.first_decision_ms) == (25, 40, 50)
    assert cost.steps_per_clip == (100 - 5) // 4 + 1
