from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contract import seeded
from hark.network.cells import CELLS, FastGrnnLayer, Gru, GruLayer, MinimalGruLayer
from hark.network.streaming import flatten

EXACT = {"rtol": 0, "atol": 1e-12}


def noise(*shape: int) -> Tensor:
    return seeded(lambda: torch.randn(*shape, dtype=torch.float64))


def torch_gru(inputs: int, hidden: int, layers: int) -> nn.GRU:
    return seeded(lambda: nn.GRU(inputs, hidden, layers, batch_first=True).double())


def with_weights_of(theirs: nn.GRU, ours: Gru) -> Gru:
    """`ours` with the weights of `theirs`: `weight_ih_l1` there is `1.weight_ih` here."""
    weights = {f"{name[-1]}.{name[:-3]}": tensor for name, tensor in theirs.state_dict().items()}
    ours.double().load_state_dict(weights)
    return ours


@settings(max_examples=15, deadline=None, derandomize=True)
@given(inputs=st.integers(1, 6), hidden=st.integers(1, 6), layers=st.integers(1, 3), steps=st.integers(1, 12))
def test_a_gru_is_that_of_torch(inputs: int, hidden: int, layers: int, steps: int) -> None:
    theirs = torch_gru(inputs, hidden, layers)
    ours = with_weights_of(theirs, Gru(inputs, (hidden,) * layers))
    x = noise(2, inputs, steps)
    expected, last = theirs(x.transpose(1, 2))
    y, state = ours.step(x, ours.initial_state(2))
    torch.testing.assert_close(y, expected.transpose(1, 2), **EXACT)
    torch.testing.assert_close(torch.stack(list(flatten(state).values())), last, **EXACT)


def test_a_gru_goes_on_from_its_state_as_that_of_torch_does() -> None:
    theirs = torch_gru(3, 4, 1)
    ours = with_weights_of(theirs, Gru(3, (4,)))
    x, hidden = noise(2, 3, 5), noise(2, 4)
    expected, _ = theirs(x.transpose(1, 2), hidden[None])
    y, _ = ours.step(x, {"0": {"hidden": hidden}})
    torch.testing.assert_close(y, expected.transpose(1, 2), **EXACT)


def test_a_gru_of_zero_weights_halves_its_state_at_each_step() -> None:
    """R = z = ½ and n = 0, so h' = h / 2."""
    layer = GruLayer(2, 1).double()
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    y, _ = layer.step(noise(1, 2, 3), {"hidden": torch.ones(1, 1, dtype=torch.float64)})
    assert y.flatten().tolist() == [0.5, 0.25, 0.125]


def test_gru_layers_may_differ_in_width() -> None:
    assert Gru(3, (5, 2, 4))(torch.zeros(1, 3, 7)).shape == (1, 4, 7)


def run(layer: MinimalGruLayer | FastGrnnLayer, x: Tensor, h: Tensor) -> Tensor:
    """The states after each step of `x (inputs, steps)` from the state `h (units,)` on, by `layer`."""
    return layer.step(x[None], {"hidden": h[None]})[0][0]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(inputs=st.integers(1, 6), units=st.integers(1, 6), steps=st.integers(1, 9))
def test_a_minimal_gated_unit_is_its_equations(inputs: int, units: int, steps: int) -> None:
    layer = seeded(lambda: MinimalGruLayer(inputs, units).double())
    (w_if, w_in), (w_hf, w_hn) = layer.weight_ih.chunk(2), layer.weight_hh.chunk(2)
    (b_f, b_in), b_hn = layer.bias_ih.chunk(2), layer.bias_hh
    x, h = noise(inputs, steps), noise(units).tanh()
    expected, state = [], h
    for column in x.T:
        f = 1 / (1 + torch.exp(-(w_if @ column + b_f + w_hf @ state)))
        n = torch.tanh(w_in @ column + b_in + f * (w_hn @ state + b_hn))
        state = (1 - f) * state + f * n
        expected.append(state)
    torch.testing.assert_close(run(layer, x, h), torch.stack(expected, dim=-1), **EXACT)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(inputs=st.integers(1, 6), units=st.integers(1, 6), steps=st.integers(1, 9))
def test_a_fast_grnn_is_its_equations(inputs: int, units: int, steps: int) -> None:
    layer = seeded(lambda: FastGrnnLayer(inputs, units).double())
    b_z, b_n = noise(2, units)
    layer.load_state_dict(layer.state_dict() | {"bias": torch.cat((b_z, b_n))})
    x, h = noise(inputs, steps), noise(units).tanh()
    expected, state = [], h
    for column in x.T:
        sums = layer.weight_ih @ column + layer.weight_hh @ state
        z, n = 1 / (1 + torch.exp(-(sums + b_z))), torch.tanh(sums + b_n)
        state = (1 - z) * n + z * state
        expected.append(state)
    torch.testing.assert_close(run(layer, x, h), torch.stack(expected, dim=-1), **EXACT)


@pytest.mark.parametrize("cell", CELLS)
def test_no_state_leaves_one(cell: str) -> None:
    layer = seeded(lambda: CELLS[cell](3, 4))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(100)
    assert layer(100 * noise(2, 3, 50).float()).abs().max() <= 1


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_keeps_its_precision_where_products_are_cast(cell: str) -> None:
    layer, x = seeded(lambda: CELLS[cell](3, 4)), noise(2, 3, 5).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer.step(x.bfloat16(), layer.initial_state(2))
        y.sum().backward()
    assert y.dtype == state["hidden"].dtype == torch.float32
    torch.testing.assert_close(y, layer(x), rtol=0, atol=0.05)


@pytest.mark.parametrize("cell", CELLS)
def test_every_weight_of_a_cell_learns(cell: str) -> None:
    layer = seeded(lambda: CELLS[cell](3, 4))
    layer(noise(2, 3, 5).float()).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_dropout_lies_between_the_layers_of_a_gru_only() -> None:
    names = [name for name, _ in Gru(3, (4, 4, 4), dropout=0.1).layers()]
    assert names == ["0", "dropout1", "1", "dropout2", "2"]
