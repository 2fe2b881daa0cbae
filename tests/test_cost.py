from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import thop
import torch
from torch.utils.flop_counter import FlopCounterMode

from contract import small_spotter, spotter
from hark.network.crnn import BASE, PUBLISHED, STAGE_1, STAGE_2, CrnnConfig
from hark.network.reference import ReferenceCrnn
from hark.proof.cost import Cost, LayerCost, cost_of
from hark.shrinking.pruning import PruningConfig, prune
from hark.shrinking.quantization import quantize
from hark.storage.model_files import to_bytes

RHYTHMS = ("frame", "step", "decision")

published = pytest.mark.parametrize("network", PUBLISHED.values(), ids=PUBLISHED.keys())


def without_bytes(cost: Cost) -> Cost:
    return replace(cost, layers=tuple(replace(layer, bytes=0) for layer in cost.layers))


@pytest.mark.parametrize(("network", "macs"), [(BASE, 933_808), (STAGE_1, 538_024), (STAGE_2, 92_600)])
def test_macs_per_clip_are_those_that_the_report_printed(network: CrnnConfig, macs: int) -> None:
    assert cost_of(spotter(network)).per_clip("thop") == macs


@published
def test_thop_itself_counts_the_same_but_for_the_bias_that_its_later_version_drops(network: CrnnConfig) -> None:
    reference = ReferenceCrnn(spotter(network).network).eval()
    macs, _ = thop.profile(reference, inputs=(torch.zeros(1, 40, 100),), verbose=False)
    conv_bias = network.channels * 18 * network.window
    assert macs + conv_bias == cost_of(spotter(network)).per_clip("thop")


@published
def test_multiplications_are_those_that_torch_counts(network: CrnnConfig) -> None:
    """Offline, torch decides at every step: that is the clip's steps times what a stream does per step.

    A clip has one decision, at its end, and so lacks the other steps' weighted sums and classifications.
    """
    model = spotter(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.network(torch.zeros(1, 40, 100))
    counted = counter.get_total_flops() / 2
    cost = cost_of(model)
    per_step = cost.per_second("macs") / cost.steps_per_second
    assert counted == pytest.approx(cost.steps_per_clip * per_step, rel=1e-12)
    decision = sum(layer.macs for layer in cost.layers if layer.rhythm == "decision")
    assert counted - (cost.steps_per_clip - 1) * decision == cost.per_clip("macs")


def test_the_layers_of_stage_2_by_hand() -> None:
    """A convolution of 2 × 18 places and 100 weights, 36 inputs to 16 units, attention over 14 steps."""
    lines = {
        layer.name: (layer.rhythm, layer.thop, layer.macs, layer.parameters)
        for layer in cost_of(spotter(STAGE_2)).layers
    }
    del lines["features"]
    assert lines == {
        "normalize": ("frame", 0, 40, 0),
        "network.conv": ("step", 2 * 18 * 101, 2 * 18 * 100, 202),
        "network.gru.0": (
            "step",
            3 * ((36 + 16) * 16 + 3 * 16) + 4 * 16,
            3 * (36 + 16) * 16,
            3 * (36 + 16 + 2) * 16,
        ),
        "network.attention": ("decision", 0, 14 * 16, 0),
        "network.attention.project": ("step", 16 * 16, 16 * 16, 16 * 16 + 16),
        "network.attention.score": ("step", 16, 16, 16 + 1),
        "network.classifier": ("decision", 16 * 2, 16 * 2, 16 * 2 + 2),
    }


def test_the_layers_of_a_cheaper_network_by_hand() -> None:
    """Of 50 × 20 means, 2 channels over 8 of 20 bins every 3rd frame; 4 values of 26; 6 units; a query over 14."""
    network = CrnnConfig(
        pooling=(2, 2),
        channels=2,
        kernel=(8, 9),
        stride=(1, 3),
        convolution="separable",
        rank=4,
        cell="fast",
        hidden=(6,),
        attention="query",
        classes=1,
    )
    cost = cost_of(spotter(network))
    lines = {layer.name: (layer.rhythm, layer.thop, layer.macs, layer.parameters) for layer in cost.layers}
    del lines["features"]
    assert lines == {
        "normalize": ("frame", 0, 40, 0),
        "network.pool": ("step", 0, 0, 0),
        "network.conv": ("step", 3 * 2 * 13 * 9, 3 * 2 * 13 * 8, 18),
        "network.depthwise": ("step", 2 * 13 * 10, 2 * 13 * 9, 20),
        "network.reduce": ("step", 26 * 4, 26 * 4, 26 * 4 + 4),
        "network.gru.0": ("step", (4 + 6) * 6 + 3 * 6 + 6 + 3 * 6, (4 + 6) * 6, (4 + 6) * 6 + 12),
        "network.attention": ("decision", 0, 14 * 6, 0),
        "network.attention.query": ("step", 6, 6, 6),
        "network.classifier": ("decision", 6, 6, 7),
    }
    assert (cost.steps_per_clip, cost.steps_per_second) == (14, pytest.approx(100 / 6))


def test_a_convolution_over_frequency_works_for_every_frame_of_a_clip() -> None:
    """100 of them, for 11 steps of 8 frames and the 12 that the first window has more."""
    network = replace(BASE, convolution="separable")
    cost = cost_of(spotter(network))
    lines = {layer.name: layer for layer in cost.layers}
    steps = sum(layer.thop for layer in cost.layers if layer.rhythm == "step") - lines["network.conv"].thop
    decision = sum(layer.thop for layer in cost.layers if layer.rhythm == "decision")
    assert cost.per_clip("thop") == 100 * 8 * 18 * (5 + 1) + 11 * steps + decision
    assert cost.per_second("thop") == 12.5 * (8 * 8 * 18 * (5 + 1) + steps + decision)


def test_a_stream_decides_at_each_step() -> None:
    """The base network makes 12.5 a second; 933,808 · 12.5 / 11 would count a decision every 11 steps."""
    cost = cost_of(spotter(BASE))
    assert (cost.steps_per_clip, cost.steps_per_second, cost.frames_per_second) == (11, 12.5, 100)
    step = (933_808 - 128) // 11
    assert cost.per_second("thop") == 12.5 * (step + 128)
    assert cost.first_decision_ms == 200
    assert cost.latency_ms == 80


def test_the_front_end_is_counted_per_frame() -> None:
    """Window 400, FFT half of 2.5 · 400 · log2 400, power 2 · 201, the bank's 386 non-zeros; the affine 40."""
    cost = cost_of(spotter(STAGE_2))
    assert cost.frontend_per_second == 100 * (400 + 4322 + 402 + 386 + 40)


@published
def test_parameters_are_all_that_is_learned(network: CrnnConfig) -> None:
    model = spotter(network)
    assert cost_of(model).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_weight_bytes_are_parameters_and_affine_as_they_are_stored() -> None:
    assert cost_of(spotter(STAGE_2)).weight_bytes == (3_117 + 2 * 40) * 4


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_a_quantised_weight_of_any_width_is_a_byte_and_a_row_has_a_scale(bits: int) -> None:
    """Of stage 2; each row has a scale and a bias in float32, the affine has 80 more such numbers."""
    shapes = ((2, 100), (48, 36), (48, 16), (16, 16), (1, 16), (2, 16))
    packed = sum(rows * columns for rows, columns in shapes)
    floats = 80 + 2 * sum(rows for rows, _ in shapes)
    assert cost_of(quantize(spotter(STAGE_2), bits=bits)).weight_bytes == packed + 4 * floats


@published
def test_a_file_holds_the_weights_and_a_small_header(network: CrnnConfig) -> None:
    for model in (spotter(network), quantize(spotter(network))):
        header = len(to_bytes(model)) - cost_of(model).weight_bytes
        assert 500 < header < 3_000


@published
def test_quantising_changes_bytes_but_neither_operations_nor_parameters(network: CrnnConfig) -> None:
    model = spotter(network)
    before, after = cost_of(model), cost_of(quantize(model))
    assert after.weight_bytes < 0.4 * before.weight_bytes
    assert [replace(layer, bytes=0) for layer in after.layers] == [
        replace(layer, bytes=0) for layer in before.layers
    ]
    assert replace(after, layers=()) == replace(before, layers=())


@published
@pytest.mark.parametrize("group", ["conv", "gru", "attention"])
def test_pruning_leaves_fewer_operations_parameters_and_bytes(network: CrnnConfig, group: str) -> None:
    model = spotter(network)
    nothing = {"conv": 0.0, "gru": 0.0, "attention": 0.0}
    before, after = cost_of(model), cost_of(prune(model, PruningConfig(**nothing | {group: 0.5})))
    assert after.per_clip("thop") < before.per_clip("thop")
    assert after.per_clip("macs") < before.per_clip("macs")
    assert after.parameters < before.parameters
    assert after.weight_bytes < before.weight_bytes


def test_state_bytes_by_hand() -> None:
    """Samples 399, frames 40 · 19, hidden 16, attention 13 · (16 + 1) in float32, and two fill counts in int64."""
    assert cost_of(spotter(STAGE_2)).state_bytes == 4 * (399 + 40 * 19 + 16 + 13 * 17) + 2 * 8


def test_rhythms_by_hand() -> None:
    """Per clip 11 steps and one decision, per second 12.5 of each; the front end stands apart."""
    layers = [LayerCost(name=rhythm, rhythm=rhythm, thop=10, macs=1, parameters=3, bytes=5) for rhythm in RHYTHMS]
    cost = Cost(
        layers=tuple(layers),
        steps_per_clip=11,
        steps_per_second=12.5,
        frames_per_second=100,
        state_bytes=0,
        first_decision_ms=200,
        latency_ms=80,
    )
    assert (cost.per_clip("thop"), cost.per_clip("macs")) == (120, 12)
    assert (cost.per_second("thop"), cost.per_second("macs")) == (250, 25)
    assert cost.frontend_per_second == 100
    assert (cost.parameters, cost.weight_bytes) == (9, 15)


def test_plain_values_name_their_convention_and_list_the_layers() -> None:
    cost = cost_of(small_spotter())
    values = cost.as_dict()
    assert (
        values["macs_per_clip_thop"] == cost.per_clip("thop") != values["macs_per_clip"] == cost.per_clip("macs")
    )
    assert values["macs_per_second_thop"] == cost.per_second("thop")
    assert values["frontend_macs_per_second"] == cost.frontend_per_second
    assert values["layers"] == [asdict(layer) for layer in cost.layers]
