"""The states of a cell in integers over all steps, with a backward pass of few operations.

Such a cell takes so many operations a step that autograd, which goes back through each of them, takes many times
longer than their arithmetic. Here the states are computed without it. Once all are known, what each owes to its
gates is derived for all steps together, and only the sum along the steps is left to be done one by one
(backpropagation through time, Werbos 1990).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hark.shrinking.integer_grids import whole

Cell: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The next states from what the input gives to the gates `(..., gates · units)`, what the rows give `(..., rows)`,
and the states `(..., units)`: unit by unit, in whole numbers."""


class Inputs(NamedTuple):
    """All that the states of a cell depend on; its products with states are rounded to whole numbers."""

    gates: Tensor
    """What the input gives: (steps, batch, gates · units)."""
    hidden: Tensor
    """The states before the first step, (batch, units)."""
    weight: Tensor
    """(rows, units)"""
    bias: Tensor
    """(rows,)"""


def states_of(cell: Cell, inputs: Inputs) -> Tensor:
    """The states `(steps, batch, units)` after each of at least one step."""
    states: Tensor = _Recurrence.apply(cell, *inputs)  # type: ignore[no-untyped-call]
    return states


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cell: Cell, *inputs: Tensor) -> Tensor:
        gates, hidden, weight, bias = inputs
        columns, states = weight.T.contiguous(), []
        for of_step in gates.unbind(0):
            hidden = cell(of_step, whole(torch.addmm(bias, hidden, columns)), hidden)
            states.append(hidden)
        ctx.cell = cell
        ctx.save_for_backward(*inputs, *states)
        return torch.stack(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # In float32, for a derivative need not be exact.
        gates, hidden, weight, bias, *states = (tensor.float() for tensor in ctx.saved_tensors)
        before = torch.stack((hidden, *states[:-1]))
        by_gates, by_rows, by_state = _slopes(ctx.cell, gates, whole(before @ weight.T + bias), before)
        flows, to_hidden = _back_through_time(gradients[0].float().contiguous(), by_rows, by_state, weight)
        to_rows = _spread(flows, by_rows)
        to_weight = to_rows.flatten(0, 1).T @ before.flatten(0, 1)
        inner = _spread(flows, by_gates), to_hidden, to_weight, to_rows.sum(dim=(0, 1))
        return None, *(gradient.double() for gradient in inner)


def _slopes(cell: Cell, *arguments: Tensor) -> tuple[Tensor, ...]:
    """The derivatives of the next states by each argument: of their sum, since no unit depends on another's."""
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    with torch.enable_grad():
        after = cell(*leaves)
    return torch.autograd.grad(after, leaves, torch.ones_like(after))


def _back_through_time(
    gradient: Tensor, by_rows: Tensor, by_state: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """How the loss depends on the states after each step, `(steps, batch, units)`, and before the first."""
    flow, flows = gradient[-1], []
    directly = (*gradient[:-1].flip(0).unbind(0), torch.zeros_like(flow))
    for rows, state, direct in zip(by_rows.flip(0), by_state.flip(0), directly, strict=True):
        flows.append(flow)
        flow = torch.addmm(torch.addcmul(direct, flow, state), _spread(flow, rows), weight)
    return torch.stack(flows).flip(0), flow


def _spread(flow: Tensor, slopes: Tensor) -> Tensor:
    """`flow (..., units)` through `slopes (..., rows)`."""
    by_gate = slopes.view(*slopes.shape[:-1], -1, flow.shape[-1])
    return (flow[..., None, :] * by_gate).flatten(-2)
