"""The recurrent layers in the engine's integers, to train with: docs/quantisation.md has their equations.

Between layers values are real numbers on their grids. Along the steps they are the whole numbers themselves, in
float64; only a gate stays real, a multiple of 2^-16.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hark.network.cells import CellKind, FastGrnnLayer, GruLayer, MinimalGruLayer, RecurrentLayer
from hark.network.streaming import State, leaf
from hark.packed.integer_arithmetic import SIGMOID_BITS, STATE_BITS, TANH_BITS
from hark.shrinking.integer_grids import ONE, limited, look_up_sigmoid, look_up_tanh, whole
from hark.shrinking.recurrence import Inputs, states_of


class IntegerCell(RecurrentLayer):
    """A recurrent layer with int16 gates and an int16 state; takes inputs of `in_bits`."""

    in_bits = STATE_BITS
    row_bits: ClassVar[tuple[int, ...]]
    """Fraction bits of what the rows of each gate give."""

    @staticmethod
    @abstractmethod
    def cell(gates: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        """The next states from what input and states give, and the states: a `recurrence.Cell`."""

    def row_units(self) -> Tensor:
        """What one is on the grid of each row, `(rows,)` in float64."""
        return self._units(self.weight_hh)

    def whole_biases(self) -> Tensor:
        """The biases in the file's order as whole numbers on their grids: int16 in float64."""
        biases = zip(self.biases(), (*self.row_bits, TANH_BITS), strict=True)
        return torch.cat([limited(whole(bias.double() * 2.0**bits)) for bias, bits in biases])

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        hidden = leaf(state, "hidden")
        y, after = super().step(x.double(), {"hidden": hidden.double()})
        # Copied: a view would keep all steps in memory for as long as the state lives.
        return y.to(x), {"hidden": leaf(after, "hidden").to(hidden, copy=True)}

    def unroll(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        """The states after each of the steps of `x (steps, batch, inputs)`."""
        if not len(x):
            return []
        weight = self.weight_hh.double()
        units = self._units(weight)
        sums = whole(functional.linear(x, self.weight_ih.double() * units[:, None]))
        gates, bias = self._with_biases(sums)
        inputs = Inputs(gates, hidden * ONE, weight * (units / ONE)[:, None], bias)
        return list((states_of(self.cell, inputs) / ONE).unbind(0))

    def _with_biases(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """What the input gives to the gates, and what is added to the rows: the bias of the last gate's."""
        rows, biases = sums.shape[-1], self.whole_biases()
        return sums + biases[:rows], functional.pad(biases[rows:], (2 * rows - len(biases), 0))

    def _units(self, weight: Tensor) -> Tensor:
        units = torch.tensor([2.0**bits for bits in self.row_bits], dtype=torch.float64, device=weight.device)
        return units.repeat_interleave(weight.shape[1])


class IntegerGruLayer(IntegerCell, GruLayer):
    """The gated recurrent unit."""

    row_bits = (SIGMOID_BITS, SIGMOID_BITS, TANH_BITS)

    @staticmethod
    def cell(gates: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        """From the gates r, z, n."""
        (x_r, x_z, x_n), (h_r, h_z, h_n) = gates.chunk(3, dim=-1), rows.chunk(3, dim=-1)
        reset, update = look_up_sigmoid(x_r + h_r), look_up_sigmoid(x_z + h_z)
        candidate = look_up_tanh(x_n + whole(reset * limited(h_n)))
        return _mixed(candidate, hidden, update)


class IntegerMinimalGruLayer(IntegerCell, MinimalGruLayer):
    """The minimal gated unit."""

    row_bits = (SIGMOID_BITS, TANH_BITS)

    @staticmethod
    def cell(gates: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        """From the gates f, n."""
        (x_f, x_n), (h_f, h_n) = gates.chunk(2, dim=-1), rows.chunk(2, dim=-1)
        gate = look_up_sigmoid(x_f + h_f)
        candidate = look_up_tanh(x_n + whole(gate * limited(h_n)))
        return _mixed(hidden, candidate, gate)


class IntegerFastGrnnLayer(IntegerCell, FastGrnnLayer):
    """The FastGRNN cell: its one product serves a sigmoid too, which wants half of it."""

    row_bits = (TANH_BITS,)

    @staticmethod
    def cell(gates: Tensor, rows: Tensor, hidden: Tensor) -> Tensor:
        """From the gates z, n."""
        x_z, x_n = gates.chunk(2, dim=-1)
        update = look_up_sigmoid(whole(0.5 * (x_z + rows)))
        return _mixed(look_up_tanh(x_n + rows), hidden, update)

    def _with_biases(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        return sums.repeat(1, 1, 2) + self.whole_biases(), sums.new_zeros(sums.shape[-1])


INTEGER_CELLS: dict[CellKind, type[IntegerGruLayer | IntegerMinimalGruLayer | IntegerFastGrnnLayer]] = {
    "gru": IntegerGruLayer,
    "minimal": IntegerMinimalGruLayer,
    "fast": IntegerFastGrnnLayer,
}


def _mixed(shut: Tensor, open_: Tensor, gate: Tensor) -> Tensor:
    """The one where the gate is 0, the other where it is 1. Exact, in whichever form `lerp` takes it."""
    return whole(torch.lerp(shut, open_, gate))
