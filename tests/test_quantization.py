from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import (
    SMALL_SAMPLES,
    check_streaming_contract,
    chunkings,
    seeded,
    small_sound,
    small_spotter,
    spotter,
)
from hark.errors import ConfigError, ModelError
from hark.network.crnn import PUBLISHED, STAGE_2
from hark.shrinking.quantization import (
    QuantizedWeight,
    RowQuantizer,
    best_scale,
    is_quantized,
    quantize,
    quantize_dynamically,
    quantized_weights,
    set_quantized_weight,
    weight_bits,
)
from hark.storage.model_files import load, to_bytes

law = settings(max_examples=40, deadline=None, derandomize=True)
some_bits = st.integers(2, 8)


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Float32 matrices and kernels of any size of number, rows of zeros and outliers among them."""
    shape = draw(st.sampled_from([(1, 1), (3, 4), (2, 7), (2, 1, 3, 2)]))
    weight = seeded(lambda: torch.randn(shape), seed=draw(st.integers(0, 999)))
    size = draw(st.sampled_from([1e-6, 0.1, 30.0]))
    row = draw(st.sampled_from(["alike", "zero", "outlier"]))
    if row == "zero":
        weight[0] = 0
    elif row == "outlier":
        weight[0].view(-1)[0] = 50
    return size * weight


@law
@given(weight=weights(), bits=some_bits)
def test_levels_are_integers_within_the_range(weight: Tensor, bits: int) -> None:
    quantizer = RowQuantizer(weight, bits=bits)
    levels = quantizer.levels(weight)
    assert levels.dtype == torch.int8
    assert levels.shape == weight.shape
    assert quantizer.largest == 2 ** (bits - 1) - 1
    assert levels.abs().max() <= quantizer.largest


@law
@given(weight=weights(), bits=some_bits)
def test_a_quantised_weight_is_exactly_its_level_times_its_rows_scale(weight: Tensor, bits: int) -> None:
    quantizer = RowQuantizer(weight, bits=bits)
    assert quantizer.scale.shape == (len(weight), *[1] * (weight.ndim - 1))
    assert torch.equal(quantizer(weight), quantizer.levels(weight) * quantizer.scale)


@law
@given(weight=weights(), bits=some_bits)
def test_quantising_twice_is_quantising_once(weight: Tensor, bits: int) -> None:
    quantizer = RowQuantizer(weight, bits=bits)
    once = quantizer(weight)
    assert torch.equal(quantizer(once), once)
    assert torch.equal(quantizer.levels(once), quantizer.levels(weight))


@law
@given(weight=weights(), bits=some_bits)
def test_within_the_range_the_error_is_at_most_half_a_level(weight: Tensor, bits: int) -> None:
    quantizer = RowQuantizer(weight, bits=bits)
    bound = quantizer.scale * quantizer.largest
    error = (quantizer(weight) - weight.clamp(-bound, bound)).abs()
    assert torch.all(error <= quantizer.scale * (0.5 + 1e-4))


@law
@given(weight=weights(), bits=some_bits)
def test_the_chosen_scale_is_never_worse_than_that_of_the_largest_weight(weight: Tensor, bits: int) -> None:
    largest = 2 ** (bits - 1) - 1

    def squared_error(scale: Tensor) -> Tensor:
        rounded = (weight / scale).round().clamp(-largest, largest) * scale
        return (rounded - weight).square().flatten(1).sum(dim=1)

    peak = weight.flatten(1).abs().amax(dim=1).clamp(min=1e-8).view(-1, *[1] * (weight.ndim - 1))
    best = best_scale(weight, bits=bits)
    assert torch.all(squared_error(best) <= squared_error(peak / largest) * (1 + 1e-5))


def test_each_row_has_a_scale_of_its_own() -> None:
    weight = torch.tensor([[1.0, -0.5], [100.0, 25.0]])
    scale = RowQuantizer(weight, bits=8).scale
    assert scale[1] / scale[0] == pytest.approx(100, rel=0.05)
    alone = RowQuantizer(weight[:1], bits=8).scale
    assert torch.equal(alone, scale[:1])


def test_a_scale_clips_a_lone_outlier_where_that_is_the_smaller_error() -> None:
    row = torch.cat((torch.linspace(-1, 1, 400), torch.tensor([1.6])))[None]
    assert best_scale(row, bits=3) < 1.6 / 3


def test_rows_of_zeros_stay_zeros() -> None:
    quantizer = RowQuantizer(torch.zeros(2, 3), bits=8)
    assert torch.equal(quantizer(torch.zeros(2, 3)), torch.zeros(2, 3))
    assert torch.all(quantizer.scale > 0)


def test_levels_by_hand() -> None:
    """Two bits have the levels -1, 0 and 1."""
    quantizer = RowQuantizer(torch.ones(1, 1), bits=2)
    quantizer.scale.fill_(0.5)
    values = torch.tensor([[-3.0, -0.3, -0.2, 0.0, 0.2, 0.3, 3.0]])
    assert quantizer.levels(values).tolist() == [[-1, -1, 0, 0, 0, 1, 1]]
    assert quantizer(values).tolist() == [[-0.5, -0.5, 0.0, 0.0, 0.0, 0.5, 0.5]]


def test_the_gradient_passes_straight_through_within_the_range_and_stops_outside() -> None:
    quantizer = RowQuantizer(torch.ones(1, 1), bits=4)
    quantizer.scale.fill_(0.1)
    weight = torch.tensor([[-5.0, -0.33, 0.0, 0.69, 0.71, 5.0]], requires_grad=True)
    quantizer(weight).backward(torch.arange(1.0, 7.0)[None])
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 0.0, 0.0]]


def test_a_training_step_moves_the_weights_under_the_grid() -> None:
    model = quantize(small_spotter())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    before = [matrix.detach().clone() for matrix in matrices]
    model(small_sound().float())[:, 1].square().sum().backward()
    optimizer.step()
    assert len(matrices) == 8
    assert not any(torch.equal(matrix, old) for matrix, old in zip(matrices, before, strict=True))


@pytest.mark.parametrize("bits", [8, 4, 2])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_quantised_model_keeps_the_contract(bits: int, data: st.DataObject) -> None:
    check_streaming_contract(
        quantize(small_spotter(), bits=bits), small_sound(), data.draw(chunkings(SMALL_SAMPLES))
    )


def test_a_quantised_model_keeps_the_contract_sample_by_sample() -> None:
    check_streaming_contract(quantize(small_spotter()), small_sound(), [1] * SMALL_SAMPLES)


def test_every_matrix_and_kernel_is_on_a_grid_and_no_bias_is() -> None:
    model = spotter(STAGE_2)
    matrices = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    assert [name for name, _ in quantized_weights(quantize(model))] == matrices
    assert len(matrices) == 6


def test_the_float_model_stays_as_it_was() -> None:
    model = small_spotter()
    before = to_bytes(model)
    quantize(model)
    assert to_bytes(model) == before
    assert not is_quantized(model)


def test_a_quantised_model_says_so_with_its_bits() -> None:
    assert is_quantized(quantize(small_spotter(), bits=5))
    assert weight_bits(quantize(small_spotter(), bits=5)) == 5
    assert weight_bits(small_spotter()) is None


@pytest.mark.parametrize(("bits", "close"), [(8, 0.05), (4, 0.5)])
def test_more_bits_stay_closer_to_the_float_model(bits: int, close: float) -> None:
    sound = small_sound().float()
    model = small_spotter()
    assert 0 < (quantize(model, bits=bits)(sound) - model(sound)).abs().max() < close


def test_a_quantised_model_can_be_copied() -> None:
    model = quantize(small_spotter())
    copied = copy.deepcopy(model)
    sound = small_sound().float()
    assert torch.equal(copied(sound), model(sound))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not torch.equal(copied(sound), model(sound))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_file_keeps_every_bit_of_a_quantised_model(bits: int, tmp_path: Path) -> None:
    model = quantize(small_spotter(), bits=bits)
    path = tmp_path / "model.safetensors"
    path.write_bytes(to_bytes(model))
    loaded = load(path)
    assert weight_bits(loaded) == bits
    for (name, ours), (other, theirs) in zip(quantized_weights(model), quantized_weights(loaded), strict=True):
        assert name == other
        assert torch.equal(ours.levels, theirs.levels)
        assert torch.equal(ours.scale, theirs.scale)
    assert torch.equal(loaded(small_sound().float()), model(small_sound().float()))


def test_integers_can_be_put_in_the_place_of_a_weight() -> None:
    model = small_spotter()
    levels, scale = (
        torch.tensor([[1, -2, 3, 0], [0, 0, 127, -127]], dtype=torch.int8),
        torch.tensor([[0.5], [2.0]]),
    )
    set_quantized_weight(model, "network.classifier.weight", QuantizedWeight(levels, scale), bits=8)
    assert model.network.classifier.weight.tolist() == [[0.5, -1.0, 1.5, 0.0], [0.0, 0.0, 254.0, -254.0]]


def test_a_quantised_model_is_not_quantised_again() -> None:
    with pytest.raises(ModelError, match="quantised already; quantise the float model it came from"):
        quantize(quantize(small_spotter()))
    with pytest.raises(ModelError, match="holds no quantised weights; give it the float model"):
        quantize_dynamically(quantize(small_spotter()))


@pytest.mark.parametrize("bits", [0, 1, 9, 32])
def test_bits_out_of_range_are_refused(bits: int) -> None:
    with pytest.raises(ConfigError, match=f"quantize: bits is {bits}, expected 2 to 8"):
        quantize(small_spotter(), bits=bits)


@pytest.mark.parametrize("name", PUBLISHED)
def test_dynamic_quantisation_stays_close_to_the_float_model_on_a_clip(name: str) -> None:
    model = spotter(PUBLISHED[name])
    sound = seeded(lambda: 0.1 * torch.randn(4, 16_000))
    dynamic = quantize_dynamically(model)
    with torch.no_grad():
        logits = dynamic(sound)
        assert logits.shape == (4, 2, 1)
        assert 0 < (logits - model(sound)[..., -1:]).abs().max() < 0.05


@pytest.mark.parametrize(("name", "measured"), [("base", 83_489), ("stage-2", 10_925)])
def test_a_dynamically_quantised_network_takes_the_bytes_that_torch_takes(name: str, measured: int) -> None:
    """As measured on torch 2.13.0; other versions write containers of nearly that size."""
    assert len(quantize_dynamically(spotter(PUBLISHED[name])).to_bytes()) == pytest.approx(measured, rel=0.05)
