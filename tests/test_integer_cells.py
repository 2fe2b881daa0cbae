from __future__ import annotations

import pytest
import torch
from torch import Tensor

from contract import seeded
from hark.network.cells import CELLS
from hark.shrinking.integer_cells import INTEGER_CELLS, IntegerCell
from hark.shrinking.integer_grids import whole
from hark.shrinking.recurrence import Inputs, states_of

every_cell = pytest.mark.parametrize("kind", CELLS)


def layer_of(kind: str) -> IntegerCell:
    """A twin whose weights are large enough to bend its functions."""
    layer = seeded(lambda: INTEGER_CELLS[kind](3, 5))  # type: ignore[index]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(2)
    return layer


def noise(*shape: int, seed: int = 0) -> Tensor:
    return seeded(lambda: torch.randn(*shape), seed=seed)


def inputs_of(layer: IntegerCell, *, steps: int) -> Inputs:
    """Whole numbers as the layer has them along the steps, their gradients wanted."""
    rows, units = layer.weight_hh.shape
    gates = 2 * units if layer.row_bits == (12,) else rows
    weight = 0.1 * noise(rows, units, seed=1)
    values = (
        (2_000 * noise(steps, 4, gates)).round(),
        (9_000 * noise(4, units, seed=2)).round(),
        weight,
        noise(rows),
    )
    return Inputs(*(value.double().requires_grad_() for value in values))


def step_by_step(layer: IntegerCell, inputs: Inputs) -> Tensor:
    """The same states by autograd alone."""
    hidden, states = inputs.hidden, []
    for gates in inputs.gates:
        hidden = layer.cell(gates, whole(hidden @ inputs.weight.T + inputs.bias), hidden)
        states.append(hidden)
    return torch.stack(states)


@every_cell
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gradients_are_those_of_autograd_through_every_step(kind: str, steps: int) -> None:
    layer, weights = layer_of(kind), noise(steps, 4, 5, seed=3).double()
    inputs = inputs_of(layer, steps=steps)
    found, expected = states_of(layer.cell, inputs), step_by_step(layer, inputs)
    assert torch.equal(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@every_cell
def test_a_twin_follows_its_float_layer_and_so_do_its_gradients(kind: str) -> None:
    twin = layer_of(kind)
    layer = CELLS[kind](3, 5)  # type: ignore[index]
    layer.load_state_dict(twin.state_dict())
    x = (noise(4, 3, 9) * 2**12).round() / 2**12
    torch.testing.assert_close(twin(x), layer(x), rtol=0, atol=2e-3)
    twin(x).square().sum().backward()
    layer(x).square().sum().backward()
    for (name, ours), theirs in zip(twin.named_parameters(), layer.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0.02 * scale, msg=name)


@every_cell
def test_states_are_int16_whatever_is_heard(kind: str) -> None:
    y = layer_of(kind)(1e6 * noise(2, 3, 30)) * 2**15
    assert torch.equal(y, y.round())
    assert y.abs().max() <= 32_767


@every_cell
def test_no_steps_leave_the_state_as_it_is(kind: str) -> None:
    layer = layer_of(kind)
    y, state = layer.step(torch.zeros(2, 3, 0), layer.initial_state(2))
    assert y.shape == (2, 5, 0)
    assert torch.equal(state["hidden"], torch.zeros(2, 5))
