from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import seeded, small_sound, small_spotter, spotter
from hark.errors import ModelError
from hark.judging.detection import OperatingPoint
from hark.network.crnn import BASE, STAGE_2, CrnnConfig
from hark.network.spotter import Spotter
from hark.packed import packing
from hark.packed.network_reference import NetworkReference
from hark.packed.packed_layers import Gru
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers
from hark.shrinking.quantization import quantize

POINT = OperatingPoint(0.6, 2, 1.0)


NETWORKS = st.builds(
    CrnnConfig,
    pooling=st.sampled_from([(1, 1), (2, 2), (3, 1), (1, 3)]),
    channels=st.just(2),
    kernel=st.sampled_from([(5, 8), (3, 6)]),
    stride=st.sampled_from([(2, 3), (3, 6)]),
    convolution=st.sampled_from(["full", "separable"]),
    rank=st.sampled_from([None, 3]),
    cell=st.sampled_from(["gru", "minimal", "fast"]),
    hidden=st.sampled_from([(7,), (5, 4)]),
    dropout=st.just(0.0),
    attention=st.sampled_from(["additive", "query", "mean", "last"]),
    classes=st.sampled_from([1, 2]),
)


def loud_spotter(
    network: CrnnConfig, *, seed: int, gain: float, normalization_bands: Literal["each", "one"] = "each"
) -> Spotter:
    """Random weights so large that gates and tables are used from end to end."""
    model = spotter(network, seed=seed, normalization_bands=normalization_bands)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(gain)
    return model


def noise() -> Tensor:
    return seeded(lambda: 0.3 * torch.randn(2, 16_000))


def log_mels(model: Spotter, seconds: int) -> Tensor:
    rising = torch.linspace(0, 3, 16_000 * seconds)
    with torch.no_grad():
        return model.features(seeded(lambda: 0.1 * torch.randn(2, 16_000 * seconds) * rising))


def reference_of(model: Spotter) -> NetworkReference:
    return NetworkReference(packing.from_bytes(packing.to_bytes(pack(model))))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    bits=st.sampled_from([8, 6, 4, 2]),
    seed=st.integers(0, 999),
    gain=st.sampled_from([0.5, 1.0, 3.0]),
    hidden=st.sampled_from([(16,), (7, 5), (3, 3, 2)]),
    kernel=st.sampled_from([((5, 20), (2, 6)), ((8, 16), (6, 12)), ((1, 4), (1, 4))]),
)
def test_torch_and_the_reference_agree_to_the_last_bit_on_integers(
    bits: int, seed: int, gain: float, hidden: tuple[int, ...], kernel: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    """Two implementations, one in float64 and one in whole numbers: what was trained is what is shipped."""
    shape = CrnnConfig(
        channels=2, kernel=kernel[0], stride=kernel[1], hidden=hidden, attention_units=3, dropout=0.0
    )
    model = loud_spotter(shape, seed=seed, gain=gain)
    features = log_mels(model, 2)
    integers = quantize_to_integers(model, calibrate(model, noise()), bits=bits)
    with torch.no_grad():
        trained = integers.network(integers.normalize(features))
    assert np.array_equal(trained.numpy(), reference_of(integers)(features.numpy()))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    network=NETWORKS,
    bits=st.sampled_from([8, 4]),
    scales=st.sampled_from(["row", "matrix"]),
    bands=st.sampled_from(["each", "one"]),
    seed=st.integers(0, 999),
    gain=st.sampled_from([1.0, 2.0]),
)
def test_networks_of_any_parts_agree_to_the_last_bit(
    network: CrnnConfig, bits: int, scales: str, bands: str, seed: int, gain: float
) -> None:
    model = loud_spotter(network, seed=seed, gain=gain, normalization_bands=bands)
    features = log_mels(model, 2)
    integers = quantize_to_integers(model, calibrate(model, noise()), bits=bits, scales=scales)
    with torch.no_grad():
        trained = integers.network(integers.normalize(features))
    assert trained.shape[-1]
    assert np.array_equal(trained.numpy(), reference_of(integers)(features.numpy()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(network=NETWORKS, bands=st.sampled_from(["each", "one"]), seed=st.integers(0, 999))
def test_float_networks_of_any_parts_agree_with_torch_to_1e_5(network: CrnnConfig, bands: str, seed: int) -> None:
    model = spotter(network, seed=seed, normalization_bands=bands)
    features = log_mels(model, 2)
    with torch.no_grad():
        trained = model.network(model.normalize(features)).numpy()
    assert np.abs(reference_of(model)(features.numpy()) - trained).max() < 1e-5


def test_one_scale_for_a_matrix_takes_one_multiplier_and_less_of_a_file() -> None:
    model = spotter(STAGE_2)
    files = {}
    for scales in ("row", "matrix"):
        packed = pack(quantize_to_integers(model, calibrate(model, noise()), scales=scales))
        files[scales] = len(packing.to_bytes(packed))
        gru = packed.layers[2]
        assert isinstance(gru, Gru)
        assert len(gru.from_input.multipliers) == (48 if scales == "row" else 1)
    rows = 2 + 48 + 48 + 16 + 1 + 2
    assert files["row"] - files["matrix"] == 2 * (rows - 6)


def test_training_on_keeps_them_equal() -> None:
    model = quantize_to_integers(spotter(STAGE_2), calibrate(spotter(STAGE_2), noise())).train()
    features = log_mels(model, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model.network(model.normalize(features))[:, 1].square().sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        trained = model.network(model.normalize(features))
    assert np.array_equal(trained.numpy(), reference_of(model)(features.numpy()))


@pytest.mark.parametrize("network", [STAGE_2, BASE], ids=["stage-2", "base"])
def test_a_float_model_agrees_with_torch_to_1e_5(network: CrnnConfig) -> None:
    model = spotter(network)
    features = log_mels(model, 2)
    with torch.no_grad():
        trained = model.network(model.normalize(features)).numpy()
    assert np.abs(reference_of(model)(features.numpy()) - trained).max() < 1e-5


def test_the_stage_2_network_in_int8_is_a_file_of_at_most_3700_bytes() -> None:
    model = spotter(STAGE_2)
    packed = pack(quantize_to_integers(model, calibrate(model, noise())), operating_point=POINT)
    assert len(packing.to_bytes(packed)) <= 3_700


def test_the_base_network_in_float32_is_within_a_hundredth_of_its_raw_weights() -> None:
    file = packing.to_bytes(pack(spotter(BASE), operating_point=POINT))
    assert len(file) == pytest.approx(4 * 70_443, rel=0.01)


def test_what_is_shipped_with_the_network() -> None:
    model = small_spotter()
    packed = packing.from_bytes(packing.to_bytes(pack(model, operating_point=POINT, metadata={"licence": "MIT"})))
    assert packed.labels == ("", "happy")
    assert packed.front_end.n_mels == model.config.features.n_mels
    assert packed.operating_point == replace(POINT, threshold=float(np.float32(0.6)))
    assert packed.metadata == {"licence": "MIT"}
    hop = model.config.features.hop_length
    assert packed.step_frames * hop == model.step_samples
    assert packed.first_step_frames * hop == model.first_step_samples


def test_what_was_heard_is_forgotten_to_the_last_bit() -> None:
    """Silence, a constant, full-scale noise, music that clips; then, after some sound, as if nothing had been."""
    model = spotter(STAGE_2)
    reference = reference_of(quantize_to_integers(model, calibrate(model, noise())))
    time = torch.arange(320_000)
    hiss = seeded(lambda: torch.rand(1, 96_000) * 2 - 1)
    clipped = (9 * torch.sin(0.2 * time[None, :96_000])).clamp(-1, 1)
    state = reference.initial_state(1)
    with torch.no_grad():
        for heard in (torch.zeros(1, 96_000), torch.ones(1, 96_000), hiss, clipped):
            _, state = reference.step(model.features(heard).numpy(), state)
        swelling = seeded(lambda: 0.1 * torch.randn(1, 320_000)) * (1 + torch.sin(time / 3_000))
        sound = model.features(swelling).numpy()
    carried, fresh = reference.step(sound, state)[0], reference(sound)
    steps = fresh.shape[-1]  # carried has some more, whose windows hold both
    assert not np.array_equal(carried[..., -steps:][..., :10], fresh[..., :10])
    assert np.array_equal(carried[..., -100:], fresh[..., -100:])


def test_weights_alone_in_integers_are_not_packed() -> None:
    with pytest.raises(ModelError, match="only the weights are quantised, which no engine computes with"):
        pack(quantize(small_spotter()))


def test_small_sound_is_heard_by_both() -> None:
    model = small_spotter()
    with torch.no_grad():
        features = model.features(small_sound().float())
        trained = model.network(model.normalize(features)).numpy()
    assert np.abs(reference_of(model)(features.numpy()) - trained).max() < 1e-5
