from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import seeded
from hark.packed import integer_arithmetic
from hark.shrinking.integer_cells import IntegerGruLayer
from hark.shrinking.integer_grids import (
    bias_on_grid,
    bias_shift,
    features_on_grid,
    look_up_sigmoid,
    look_up_tanh,
    on_grid,
    table_softmax,
    within,
)
from hark.shrinking.integer_layers import IntegerConv2d

law = settings(max_examples=100, deadline=None, derandomize=True)
INT16 = torch.arange(-32_767, 32_768)


def gradient(function: object, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    function(x).sum().backward()  # type: ignore[operator]
    assert x.grad is not None
    return x.grad


def test_halves_go_up_on_the_grid_and_to_even_among_features() -> None:
    x = torch.tensor([-0.75, -0.25, 0.25, 0.75, 0.3])
    assert on_grid(x, 2.0).tolist() == [-0.5, 0.0, 0.5, 1.0, 0.5]
    assert features_on_grid(x, 1).tolist() == [-1.0, 0.0, 0.0, 1.0, 0.5]
    assert features_on_grid(torch.tensor([1e9]), 1).tolist() == [32_767 / 2]


def test_the_gradient_passes_straight_through_roundings_but_not_beyond_the_range() -> None:
    x = torch.tensor([0.3, 1e6])
    assert gradient(lambda v: on_grid(v, 2.0), x).tolist() == [1, 1]
    assert gradient(lambda v: within(v, 3), x).tolist() == [1, 0]
    assert gradient(lambda v: features_on_grid(v, 3), x).tolist() == [1, 1]


def test_tanh_is_the_engines_for_every_input_and_has_the_gradient_of_tanh() -> None:
    ours = look_up_tanh(INT16.double())
    assert np.array_equal(ours.numpy(), integer_arithmetic.tanh(INT16.numpy()))
    x = torch.linspace(-3, 3, 7).double()
    slope = gradient(lambda v: look_up_tanh(v * 2**12) / 2**15, x)
    assert torch.allclose(slope, 1 - torch.tanh(x) ** 2)


def test_sigmoid_is_the_engines_for_every_input() -> None:
    ours = look_up_sigmoid(INT16.double()) * 2**16
    assert np.array_equal(ours.numpy(), 32_768 + integer_arithmetic.tanh(INT16.numpy()))
    x = torch.linspace(-3, 3, 7).double()
    slope = gradient(lambda v: look_up_sigmoid(v * 2**11), x)
    assert torch.allclose(slope, torch.sigmoid(x) * torch.sigmoid(-x))


def test_what_is_beyond_int16_is_limited_before_it_is_looked_up() -> None:
    far = torch.tensor([-1e6, 1e6], dtype=torch.float64)
    assert torch.equal(look_up_tanh(far), look_up_tanh(far.clamp(-32_767, 32_767)))
    assert gradient(look_up_tanh, far).tolist() == [0, 0]


@law
@given(energies=st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=7), unfilled=st.integers(0, 3))
def test_softmax_is_the_engines_and_slots_not_filled_weigh_nothing(energies: list[int], unfilled: int) -> None:
    slots = torch.tensor([[-math.inf] * unfilled + [energy / 2**12 for energy in energies]])
    values = np.eye(len(energies), dtype=np.int64)[None] * 32_767
    expected = integer_arithmetic.attend(np.array([energies]), values)[0]
    shares = table_softmax(slots)[0]
    assert shares[:unfilled].tolist() == [0] * unfilled
    ours = torch.floor(shares[unfilled:] * 32_767 + 0.5).long()
    assert np.array_equal(ours.numpy(), expected)


def test_softmax_has_the_gradient_of_softmax() -> None:
    x = torch.tensor([[0.5, -1.0, 0.25]])
    first = gradient(lambda v: table_softmax(v)[:, 0], x)
    assert torch.allclose(first, gradient(lambda v: torch.softmax(v * math.log(2), -1)[:, 0], x))


@law
@given(values=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=5), bits=st.integers(0, 16))
def test_a_bias_loses_only_the_bits_that_it_must(values: list[float], bits: int) -> None:
    bias = torch.tensor(values)
    lost = bias_shift(bias, bits)
    kept = bias_on_grid(bias, bits)
    whole = kept * 2.0 ** (bits - lost)
    assert torch.equal(whole, whole.round())
    assert whole.abs().max() <= 32_767
    assert (kept - bias).abs().max() <= 0.5 / 2 ** (bits - lost)
    assert lost == 0 or bias.abs().max() * 2 ** (bits - lost + 1) > 32_767


def test_a_gates_bias_is_of_input_and_state_together() -> None:
    layer = seeded(lambda: IntegerGruLayer(2, 3))
    r, _, n_input, n_state = layer.whole_biases().chunk(4)
    assert torch.allclose(r / 2**11, (layer.bias_ih + layer.bias_hh)[:3].double(), atol=2**-12)
    assert torch.allclose(n_input / 2**12, layer.bias_ih[6:].double(), atol=2**-13)
    assert torch.allclose(n_state / 2**12, layer.bias_hh[6:].double(), atol=2**-13)


def test_a_convolution_gives_int16_of_its_own_unit() -> None:
    layer = seeded(lambda: IntegerConv2d(1, 2, bins=4, kernel=(2, 2), stride=(1, 1)))
    layer.in_bits, layer.out_bits = 3, 5
    with torch.no_grad():
        y = layer(torch.full((1, 1, 4, 3), 0.3)) * 2**5
        loud = layer(torch.full((1, 1, 4, 3), 1e9))
    assert torch.equal(y, y.round())
    assert loud.abs().max() <= 32_767 / 2**5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_states_keep_their_type(dtype: torch.dtype) -> None:
    layer = seeded(lambda: IntegerGruLayer(2, 3)).to(dtype)
    y, state = layer.step(torch.zeros(1, 2, 4, dtype=dtype), layer.initial_state())
    assert y.dtype == dtype
    assert state["hidden"].dtype == dtype  # type: ignore[union-attr]
