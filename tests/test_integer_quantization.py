from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import (
    CHEAPER,
    SMALL,
    SMALL_SAMPLES,
    check_streaming_contract,
    chunkings,
    seeded,
    small_sound,
    small_spotter,
    spotter,
)
from hark.errors import ConfigError, ModelError
from hark.network.crnn import STAGE_2
from hark.network.layers import Affine
from hark.network.spotter import Spotter, keyword_score
from hark.shrinking.integer_network import Calibration, IntegerCrnn
from hark.shrinking.integer_quantization import (
    AffineNumbers,
    affine_numbers,
    calibrate,
    extremes,
    multipliers_of,
    network_of,
    quantize_to_integers,
    quantizer_of,
)
from hark.shrinking.quantization import RowQuantizer, Scales, best_shared_scale, quantize, weight_bits
from hark.storage.model_files import load, to_bytes


def sound(samples: int = 16_000) -> Tensor:
    return seeded(lambda: 0.1 * torch.randn(3, samples))


def in_integers(model: Spotter, *, bits: int = 8) -> Spotter:
    return quantize_to_integers(model, calibrate(model, small_sound().float()), bits=bits)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_model_in_integers_keeps_the_contract(data: st.DataObject) -> None:
    model = in_integers(small_spotter())
    check_streaming_contract(model, small_sound(), data.draw(chunkings(SMALL_SAMPLES)))


def test_a_model_in_integers_streams_sample_by_sample_to_the_last_bit() -> None:
    model, waves = in_integers(small_spotter()), small_sound().float()
    features = model.normalize(model.features(waves))
    state, outputs = model.network.initial_state(len(waves)), []
    for frame in features.split(1, dim=-1):
        logits, state = model.network.step(frame, state)
        outputs.append(logits)
    assert torch.equal(torch.cat(outputs, dim=-1), model.network(features))


@pytest.mark.parametrize(("bits", "close"), [(8, 0.05), (4, 0.5)])
def test_integers_stay_close_to_the_float_model(bits: int, close: float) -> None:
    model = small_spotter()
    waves = small_sound().float()
    difference = (in_integers(model, bits=bits)(waves) - model(waves)).abs().max()
    assert 0 < difference < close


def test_nearly_all_of_the_difference_is_the_weights() -> None:
    model = spotter(STAGE_2)
    waves = sound()
    integers = quantize_to_integers(model, calibrate(model, waves))
    by_weights = (quantize(model)(waves) - model(waves)).square().mean()
    by_all = (integers(waves) - model(waves)).square().mean()
    assert by_all < 2 * by_weights


def test_the_float_model_stays_as_it_was() -> None:
    model = small_spotter()
    before = to_bytes(model)
    in_integers(model)
    assert to_bytes(model) == before


def test_log_mels_are_never_cut_off() -> None:
    """From silence to a full-scale tone or constant, they fit the grid with at most a bit to spare."""
    model = spotter(STAGE_2)
    bits = calibrate(model, sound()).feature_bits
    time = torch.arange(16_000) / 16_000
    extremes = torch.stack([torch.zeros(16_000), torch.ones(16_000), torch.sin(6.2832 * 1_000 * time)])
    peak = float(model.normalize(model.features(extremes)).abs().max()) * 2**bits
    assert 32_767 / 2.5 < peak <= 32_767


def largest_map(model: Spotter, waves: Tensor) -> float:
    with torch.no_grad():
        return float(model.network.conv(model.normalize(model.features(waves)).unsqueeze(1)).abs().max())


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3, 1.7, 8.0])
def test_the_range_of_the_convolution_has_a_factor_of_two_to_spare(gain: float) -> None:
    model, waves = spotter(STAGE_2), sound()
    with torch.no_grad():
        model.network.conv.weight.mul_(gain)
        model.network.conv.bias.mul_(gain)
    peak = max(largest_map(model, waves), largest_map(model, extremes(16_000)))
    assert 32_767 / 4 < peak * 2 ** calibrate(model, waves).map_bits <= 32_767 / 2


def test_extremes_count_though_no_recording_holds_them() -> None:
    """Kernels of one sign hear silence, the lowest of all log-mels, louder than any noise."""
    model, waves = spotter(STAGE_2), sound()
    with torch.no_grad():
        model.network.conv.weight.abs_()
    assert largest_map(model, extremes(16_000)) > 3 * largest_map(model, waves)
    assert largest_map(model, torch.zeros(1, 16_000)) * 2 ** calibrate(model, waves).map_bits <= 32_767 / 2


def test_attention_looks_where_the_float_model_does() -> None:
    model = spotter(STAGE_2)
    with torch.no_grad():
        model.network.attention.score.weight.mul_(30)
        features = model.normalize(model.features(sound()))
    integers = quantize_to_integers(model, calibrate(model, sound()))
    with torch.no_grad():
        looked = integers.network.trace(features, integers.network.initial_state(3)).attention
        expected = model.network.trace(features, model.network.initial_state(3)).attention
    assert expected.max() > 0.3
    assert (looked - expected).abs().max() < 0.03


@pytest.mark.parametrize("bits", [8, 4])
def test_scales_are_whole_multipliers_and_stay_so_when_asked_again(bits: int) -> None:
    network = network_of(in_integers(small_spotter(), bits=bits))
    matrices = {name for name, parameter in small_spotter().network.named_parameters() if parameter.ndim > 1}
    assert set(network.gains()) == matrices
    for name, gain in network.gains().items():
        quantizer = quantizer_of(network, name)
        multipliers, shift = multipliers_of(quantizer, gain)
        level = 16 if bits == 4 else 1  # of what fits in 8 bits
        exact = multipliers * 2.0 ** (shift - 32) * level / gain
        assert torch.equal(exact.float(), quantizer.scale.flatten()), name
        assert 32_768 <= multipliers.max() <= 65_535 or shift == 0
        assert multipliers.min() >= 1


def test_too_large_a_scale_is_refused() -> None:
    quantizer = RowQuantizer(torch.full((1, 2), 300.0), bits=8)
    with pytest.raises(ModelError, match=r"a weight's scale of .* is too large; normalise what comes in"):
        multipliers_of(quantizer, torch.tensor(1.0))


def test_an_affine_in_whole_numbers_is_within_half_a_step() -> None:
    affine = Affine(3)
    affine.normalize(torch.tensor([-3.0, 0.5, 2.0]), torch.tensor([1.5, 0.01, 4.0]))
    numbers = affine_numbers(affine, 6)
    assert isinstance(numbers, AffineNumbers)
    assert 32_768 <= numbers.scale.max() <= 65_535
    step = 2.0 ** -(numbers.exponent + 6)
    assert (numbers.scale * step - affine.scale).abs().max() <= step / 2
    assert (numbers.shift / 2**6 - affine.shift).abs().max() <= 2**-7


def test_a_training_step_moves_the_weights_and_lowers_the_loss() -> None:
    model = in_integers(small_spotter(), bits=4).train()
    waves = small_sound().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.softplus(-(model(waves)[:, 1, -1] - model(waves)[:, 0, -1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    for name, parameter in model.named_parameters():
        if name == "network.attention.score.bias":
            continue  # changes no weight of attention
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_a_file_keeps_a_model_in_integers_to_the_last_bit(tmp_path: Path) -> None:
    model = in_integers(small_spotter())
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(model))
    loaded = load(path)
    assert isinstance(loaded.network, IntegerCrnn)
    assert loaded.network.calibration == network_of(model).calibration
    assert weight_bits(loaded) == 8
    assert torch.equal(loaded(small_sound().float()), model(small_sound().float()))
    assert to_bytes(loaded) == path.read_bytes()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ModelError, match="quantised already; quantise the float model it came from"):
        quantize_to_integers(quantize(small_spotter()), Calibration(12, 12))
    with pytest.raises(ModelError, match="computes in floats; quantise it to integers first"):
        network_of(small_spotter())
    with pytest.raises(ConfigError, match="map_bits is 16, expected 0 to 15; calibrate on sound"):
        Calibration(12, 16)
    with pytest.raises(ConfigError, match="bits is 9, expected 2 to 8"):
        quantize_to_integers(small_spotter(), Calibration(12, 12), bits=9)


@pytest.mark.parametrize(("name", "missing"), [("separable", "column_bits"), ("low rank", "reduced_bits")])
def test_a_calibration_of_another_network_is_refused(name: str, missing: str) -> None:
    with pytest.raises(ConfigError, match=f"calibration without {missing}, which this network needs"):
        quantize_to_integers(small_spotter(CHEAPER[name]), Calibration(12, 12))


@pytest.mark.parametrize("name", CHEAPER)
def test_ranges_of_cheaper_networks_have_a_factor_of_two_to_spare(name: str) -> None:
    model = small_spotter(CHEAPER[name])
    calibration = calibrate(model, small_sound().float())
    sounds = [small_sound().float(), extremes(model.config.features.sample_rate)]
    with torch.no_grad():
        maps = [model.normalize(model.features(sound)).unsqueeze(1) for sound in sounds]
        for _, layer in model.network.front():
            maps = [layer(each) for each in maps]
        if model.network.reduce is not None:
            last = max(float(model.network.reduce(each.flatten(1, 2)).abs().max()) for each in maps)
            assert last * 2**calibration.reduced_bits <= 32_767 / 2
    assert max(float(each.abs().max()) for each in maps) * 2**calibration.map_bits <= 32_767 / 2


@pytest.mark.parametrize("name", CHEAPER)
@pytest.mark.parametrize("scales", ["row", "matrix"])
def test_cheaper_networks_stay_close_and_learn_in_integers(name: str, scales: Scales) -> None:
    model, waves = small_spotter(CHEAPER[name]), small_sound().float()
    integers = quantize_to_integers(model, calibrate(model, waves), scales=scales).train()
    assert (integers(waves) - model(waves)).abs().max() < 0.1
    keyword_score(integers(waves)[..., -1]).sum().backward()
    for name, parameter in integers.named_parameters():
        if name != "network.attention.score.bias":  # changes no weight of attention
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_rows_of_one_matrix_have_one_multiplier() -> None:
    """Rows of a sigmoid's gate are in twice the unit of a tanh's: their scales differ by what their units do."""
    model = small_spotter()
    network = network_of(quantize_to_integers(model, calibrate(model, small_sound().float()), scales="matrix"))
    for name, gain in network.gains().items():
        multipliers, _ = multipliers_of(quantizer_of(network, name), gain)
        assert len(multipliers.unique()) == 1, name
    scales = quantizer_of(network, "gru.0.weight_hh").scale.flatten()
    assert scales[:10].unique().tolist() == [2 * float(scales[-1])]


def test_a_shared_scale_has_the_least_error_of_those_that_are_tried() -> None:
    weight = seeded(lambda: torch.randn(6, 9))
    gain = torch.tensor([1.0, 1, 1, 2, 2, 2])
    chosen = best_shared_scale(weight, gain, bits=4)
    assert len((chosen.flatten() * gain).unique()) == 1

    def error(scale: Tensor) -> float:
        return float((RowQuantizer(weight, bits=4, scale=scale)(weight) - weight).square().sum())

    peak = (weight * gain[:, None]).abs().max() / 7 / gain[:, None]
    assert error(chosen) == min(error(share * peak) for share in torch.linspace(0.5, 1, 51))


def test_pruned_and_uneven_shapes_quantise_as_well() -> None:
    uneven = SMALL.__class__(**{**SMALL.__dict__, "hidden": (3, 7), "attention_units": 2})
    assert in_integers(small_spotter(uneven)).network.config.hidden == (3, 7)
