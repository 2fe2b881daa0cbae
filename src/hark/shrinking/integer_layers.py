"""The layers of a network in the engine's integers, as torch sees them: to train for what will be shipped.

Each is its float layer with the roundings of docs/quantisation.md. Values stay real numbers on the grids that the
integers stand for, and are computed in float64, where every product and sum of such numbers is exact: so the
output equals the NumPy reference to the last bit. Gradients pass straight through the roundings (Bengio et al.
2013, arXiv 1308.3432); tables have the gradients of their functions.

Weights come rounded, through the `RowQuantizer` in front of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hark.network.attention import Attention
from hark.network.cells import GruLayer
from hark.network.layers import Conv2d, Linear
from hark.network.streaming import State, leaf
from hark.packed.integer_arithmetic import (
    ENERGY_BITS,
    EXP2_TABLE,
    LARGEST,
    SIGMOID_BITS,
    STATE_BITS,
    TANH_BITS,
    TANH_TABLE,
)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft`."""
    result: Tensor = _StraightThrough.apply(soft, hard.detach())  # type: ignore[no-untyped-call]
    return result


def on_grid(x: Tensor, units: float | Tensor) -> Tensor:
    """`x` to the nearest multiple of 1 / units, halves up, in float64."""
    x = x.double()
    return straight_through(x, torch.floor(x * units + 0.5) / units)


def within(x: Tensor, bits: int) -> Tensor:
    """`x` limited to what an int16 of so many fraction bits holds; no gradient beyond."""
    return x.clamp(-LARGEST / 2**bits, LARGEST / 2**bits)


def features_on_grid(x: Tensor, bits: int) -> Tensor:
    """What the engine's affine makes of log-mels: the nearest multiple, halves to even, limited to int16."""
    return straight_through(x, within(torch.round(x.double() * 2**bits) / 2**bits, bits).to(x))


def bias_shift(bias: Tensor, bits: int) -> int:
    """Bits that a bias in units of 2^-bits must lose to fit int16."""
    peak = float(bias.detach().abs().max()) * 2**bits
    return max(0, math.ceil(math.log2(max(1.0, peak / LARGEST))))


def bias_on_grid(bias: Tensor, bits: int) -> Tensor:
    """A bias as the file holds it."""
    kept = bits - bias_shift(bias, bits)
    return within(on_grid(bias, 2.0**kept), kept)


def table_tanh(a: Tensor) -> Tensor:
    """The engine's tanh of multiples of 2^-12."""
    table = torch.from_numpy(TANH_TABLE).to(a.device)
    whole = (a.detach().double() * 2**TANH_BITS).long()
    index, rest = whole.abs() >> 7, whole.abs() & 127
    line = (table[index] * (128 - rest) + table[index + 1] * rest + 64) >> 7
    return straight_through(torch.tanh(a), (torch.sign(whole) * line).double() / 2**STATE_BITS)


def table_sigmoid(a: Tensor) -> Tensor:
    """The engine's sigmoid of multiples of 2^-11: half the way of tanh(a / 2) up from -1."""
    return 0.5 + 0.5 * table_tanh(a / 2)


def table_softmax(energy: Tensor) -> Tensor:
    """The engine's softmax along the last axis of energies in octaves, multiples of 2^-12; -inf weighs nothing."""
    table = torch.from_numpy(EXP2_TABLE).to(energy.device)
    below = energy.detach().amax(dim=-1, keepdim=True) - energy.detach()
    d = (below.clamp(max=16).double() * 2**ENERGY_BITS).long()
    octaves, index, rest = d >> ENERGY_BITS, (d & 4095) >> 6, d & 63
    line = table[index] * (64 - rest) + table[(index + 1).clamp(max=64)] * rest
    weights = torch.where(octaves > 15, 0, (line + (1 << (5 + octaves))) >> (6 + octaves))
    total = weights.sum(dim=-1, keepdim=True)
    shares = (weights * 2**STATE_BITS + total // 2) // total
    return straight_through(torch.softmax(energy * math.log(2), dim=-1), shares.double() / 2**STATE_BITS)


class IntegerConv2d(Conv2d):
    """A convolution that takes its input to a grid of `in_bits` and gives int16 of `out_bits`."""

    in_bits = 12
    out_bits = 12

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        return super().step(features_on_grid(x, self.in_bits), state)

    def convolve(self, frames: Tensor) -> Tensor:
        """All windows of `frames`."""
        sums = functional.conv2d(frames.double(), self.weight.double(), None, self.stride)
        bias = bias_on_grid(self.bias, self.out_bits)[:, None, None]
        return within(on_grid(sums, 2.0**self.out_bits) + bias, self.out_bits).to(frames)


class IntegerLinear(Linear):
    """A linear layer that gives int32 of `out_bits`: the last one."""

    out_bits = 16

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        sums = functional.linear(x.transpose(1, 2).double(), self.weight.double())
        y = on_grid(sums, 2.0**self.out_bits) + bias_on_grid(self.bias, self.out_bits)
        return y.transpose(1, 2).to(x), state


class IntegerGruLayer(GruLayer):
    """A gated recurrent unit with int16 gates and an int16 state; takes inputs of `in_bits`."""

    in_bits = STATE_BITS

    def gate_units(self) -> Tensor:
        """What one is on the grids of the rows of r, z, n: `(3 · units,)` in float64."""
        units = [2.0**SIGMOID_BITS] * (2 * self.hidden) + [2.0**TANH_BITS] * self.hidden
        return torch.tensor(units, dtype=torch.float64, device=self.bias_ih.device)

    def gate_biases(self) -> list[Tensor]:
        """Of r, z, n from the input, n from the state, each on the grid of its rows."""
        r, z, _ = (self.bias_ih + self.bias_hh).chunk(3)
        n_input, n_state = self.bias_ih.chunk(3)[2], self.bias_hh.chunk(3)[2]
        bits = (SIGMOID_BITS, SIGMOID_BITS, TANH_BITS, TANH_BITS)
        return [within(on_grid(b, 2.0**own), own) for b, own in zip((r, z, n_input, n_state), bits, strict=True)]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        hidden, units, biases = leaf(state, "hidden").double(), self.gate_units(), self.gate_biases()
        weight = self.weight_hh.double()
        from_input = on_grid(functional.linear(x.permute(2, 0, 1).double(), self.weight_ih.double()), units)
        outputs = []
        for gates in from_input.unbind(0):
            hidden = _integer_cell(gates, on_grid(functional.linear(hidden, weight), units), biases, hidden)
            outputs.append(hidden)
        y = torch.stack(outputs, dim=-1) if outputs else x.new_zeros(x.shape[0], self.hidden, 0)
        return y.to(x), {"hidden": hidden.to(leaf(state, "hidden"))}


def _integer_cell(from_input: Tensor, from_state: Tensor, biases: list[Tensor], hidden: Tensor) -> Tensor:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = from_input.chunk(3, dim=-1), from_state.chunk(3, dim=-1)
    b_r, b_z, b_in, b_hn = biases
    reset = table_sigmoid(within(x_r + h_r + b_r, SIGMOID_BITS))
    update = table_sigmoid(within(x_z + h_z + b_z, SIGMOID_BITS))
    recurrent = on_grid(reset * within(h_n + b_hn, TANH_BITS), 2.0**TANH_BITS)
    candidate = table_tanh(within(x_n + b_in + recurrent, TANH_BITS))
    return on_grid((1 - update) * candidate + update * hidden, 2.0**STATE_BITS)


class IntegerAttention(Attention):
    """Additive attention with energies in octaves: the weights of its score are those of the float one / ln 2.

    Of the score's bias nothing remains: a constant changes no weight.
    """

    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""
        sums = functional.linear(x.transpose(1, 2).double(), self.project.weight.double())
        projected = on_grid(sums, 2.0**TANH_BITS) + bias_on_grid(self.project.bias, TANH_BITS)
        scores = functional.linear(table_tanh(within(projected, TANH_BITS)), self.score.weight.double())
        return on_grid(scores, 2.0**ENERGY_BITS).transpose(1, 2).to(x)

    def shares(self, energies: Tensor) -> Tensor:
        """The weights of the steps from their energies, along the last axis."""
        return table_softmax(energies).to(energies)

    def blend(self, windows: Tensor, shares: Tensor) -> Tensor:
        """The weighted sums of `windows (batch, inputs, steps, window)`."""
        sums = super().blend(windows.double(), shares.double())
        return within(on_grid(sums, 2.0**STATE_BITS), STATE_BITS).to(windows)
