"""Recurrent layers: the GRU, and smaller cells for smaller spotters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from hark.network.layers import Dropout, uniform
from hark.network.streaming import Chain, State, StreamingModule, leaf


class RecurrentLayer(StreamingModule, ABC):
    """A layer whose output is its state, computed from its input and the state before."""

    weight_ih: nn.Parameter
    """(rows, inputs)"""
    weight_hh: nn.Parameter
    """(rows, units)"""

    @property
    def hidden(self) -> int:
        """Units."""
        return self.weight_hh.shape[1]

    def initial_state(self, batch_size: int = 1) -> State:
        """`hidden (batch, units)`, zero."""
        return {"hidden": self.weight_hh.new_zeros(batch_size, self.hidden)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, steps)` to the hidden states `(batch, units, steps)`."""
        states = self.unroll(x.permute(2, 0, 1), leaf(state, "hidden"))
        if not states:
            return x.new_zeros(x.shape[0], self.hidden, 0), state
        return torch.stack(states, dim=-1), {"hidden": states[-1]}

    @abstractmethod
    def biases(self) -> list[Tensor]:
        """Of what the input gives to each gate, and of what the state gives to the last: `(units,)` each.

        Those that are only ever added up are one.
        """

    @abstractmethod
    def unroll(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        """The states `(batch, units)` after each of the steps of `x (steps, batch, inputs)`."""


class GruLayer(RecurrentLayer):
    """A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) in the form of cuDNN and `nn.GRU`.

    r = σ(W_ir x + b_ir + W_hr h + b_hr),  z = σ(W_iz x + b_iz + W_hz h + b_hz),
    n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)),  h' = (1 − z) ∘ n + z ∘ h.

    The rows of each matrix are the gates r, z, n stacked. Written out, since exporters get `nn.GRU` wrong and
    a quantised cell needs the same equations.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = uniform(3 * hidden, inputs, fan=hidden)
        self.weight_hh = uniform(3 * hidden, hidden, fan=hidden)
        self.bias_ih = uniform(3 * hidden, fan=hidden)
        self.bias_hh = uniform(3 * hidden, fan=hidden)

    def biases(self) -> list[Tensor]:
        """Of r, of z, of n from the input, of n from the state."""
        r, z, _ = (self.bias_ih + self.bias_hh).chunk(3)
        return [r, z, self.bias_ih.chunk(3)[2], self.bias_hh.chunk(3)[2]]

    def unroll(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        """The states after each of the steps of `x (steps, batch, inputs)`."""
        # A parametrised weight is computed anew at each access: read it once.
        weight, bias = self.weight_hh, self.bias_hh
        states = []
        for gates in functional.linear(x, self.weight_ih, self.bias_ih).unbind(0):
            hidden = _gru_cell(gates, functional.linear(hidden, weight, bias), hidden)
            states.append(hidden)
        return states


def _gru_cell(from_input: Tensor, from_hidden: Tensor, hidden: Tensor) -> Tensor:
    units = hidden.shape[-1]
    reset_update = torch.sigmoid(from_input[:, : 2 * units] + from_hidden[:, : 2 * units])
    reset, update = reset_update[:, :units], reset_update[:, units:]
    candidate = torch.tanh(from_input[:, 2 * units :] + reset * from_hidden[:, 2 * units :])
    return candidate + update * (hidden - candidate)


class MinimalGruLayer(RecurrentLayer):
    """A minimal gated unit (Zhou et al. 2016, arXiv 1603.09420): one gate, two thirds of a GRU.

    f = σ(W_if x + b_f + W_hf h),  n = tanh(W_in x + b_in + f ∘ (W_hn h + b_hn)),  h' = (1 − f) ∘ h + f ∘ n.

    The gate comes after the product with the state, as in cuDNN's GRU: a step then has one product. The rows of
    each matrix are f and n stacked.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = uniform(2 * hidden, inputs, fan=hidden)
        self.weight_hh = uniform(2 * hidden, hidden, fan=hidden)
        self.bias_ih = uniform(2 * hidden, fan=hidden)
        self.bias_hh = uniform(hidden, fan=hidden)

    def biases(self) -> list[Tensor]:
        """Of f, of n from the input, of n from the state."""
        return [*self.bias_ih.chunk(2), self.bias_hh]

    def unroll(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        """The states after each of the steps of `x (steps, batch, inputs)`."""
        weight, bias = self.weight_hh, functional.pad(self.bias_hh, (len(self.bias_hh), 0))
        states = []
        with _precision_of(hidden):
            gates, candidates = functional.linear(x.to(hidden), self.weight_ih, self.bias_ih).chunk(2, dim=-1)
            for x_f, x_n in zip(gates.unbind(0), candidates.unbind(0), strict=True):
                h_f, h_n = functional.linear(hidden, weight, bias).chunk(2, dim=-1)
                gate = torch.sigmoid(x_f + h_f)
                hidden = torch.lerp(hidden, torch.tanh(torch.addcmul(x_n, gate, h_n)), gate)
                states.append(hidden)
        return states


class FastGrnnLayer(RecurrentLayer):
    """A FastGRNN cell (Kusupati et al. 2018, arXiv 1901.02358): gate and candidate share their products.

    a = W_i x + W_h h,  z = σ(a + b_z),  n = tanh(a + b_n),  h' = (1 − z) ∘ n + z ∘ h: the paper's
    with ζ = 1 and ν = 0, so that the state stays within ±1. `bias` is b_z and b_n stacked.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = uniform(hidden, inputs, fan=hidden)
        self.weight_hh = uniform(hidden, hidden, fan=hidden)
        self.bias = nn.Parameter(torch.ones(2 * hidden))  # as its authors begin

    def biases(self) -> list[Tensor]:
        """Of z, of n."""
        return list(self.bias.chunk(2))

    def unroll(self, x: Tensor, hidden: Tensor) -> list[Tensor]:
        """The states after each of the steps of `x (steps, batch, inputs)`."""
        weight, (gate_bias, bias) = self.weight_hh.T, self.bias.chunk(2)
        ahead, states = gate_bias - bias, []
        with _precision_of(hidden):
            for from_input in functional.linear(x.to(hidden), self.weight_ih, bias).unbind(0):
                sums = torch.addmm(from_input, hidden, weight)
                hidden = torch.lerp(torch.tanh(sums), hidden, torch.sigmoid(sums + ahead))
                states.append(hidden)
        return states


def _precision_of(hidden: Tensor) -> torch.autocast:
    """What keeps autocast away from a recurrence: an error of its state would last."""
    return torch.autocast(hidden.device.type, enabled=False)


CellKind: TypeAlias = Literal["gru", "minimal", "fast"]
Cell: TypeAlias = GruLayer | MinimalGruLayer | FastGrnnLayer
CELLS: dict[CellKind, type[Cell]] = {
    "gru": GruLayer,
    "minimal": MinimalGruLayer,
    "fast": FastGrnnLayer,
}


class Gru(Chain):
    """Recurrent layers one above the other, named 0, 1, …; dropout between them, in training only."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], *, cell: type[Cell] = GruLayer, dropout: float = 0.0
    ) -> None:
        """`hidden` gives the units of each layer, which need not be equal."""
        links: dict[str, StreamingModule] = {}
        for index, (wide_in, wide_out) in enumerate(zip((inputs, *hidden), hidden, strict=False)):
            if index and dropout:
                links[f"dropout{index}"] = Dropout(dropout)
            links[str(index)] = cell(wide_in, wide_out)
        super().__init__(**links)
