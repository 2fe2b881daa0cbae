"""The layers of a network in the engine's integers, as torch sees them: to train for what will be shipped.

Each is its float layer with the roundings of docs/quantisation.md. Values stay real numbers on the grids that the
integers stand for, and sums are computed in float64, where they are exact: so the output equals the NumPy
reference to the last bit. `integer_cells` has the recurrent layers.

Weights come rounded, through the `RowQuantizer` in front of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hark.network.attention import Attention, QueryAttention, WindowAttention
from hark.network.layers import Conv2d, DepthwiseConv2d, Linear, MeanPooling
from hark.network.streaming import State
from hark.packed.integer_arithmetic import ENERGY_BITS, STATE_BITS, TANH_BITS
from hark.shrinking.integer_grids import (
    ONE,
    bias_on_grid,
    features_on_grid,
    look_up_tanh,
    on_grid,
    straight_through,
    table_softmax,
    whole,
    within,
)


class IntegerConv2d(Conv2d):
    """A convolution that takes its input to a grid of `in_bits` and gives int16 of `out_bits`."""

    in_bits = 12
    out_bits = 12

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        return super().step(features_on_grid(x, self.in_bits), state)

    def windows(self, frames: Tensor) -> Tensor:
        """All windows of `frames`."""
        weight, bias = self.weight.detach(), self.bias.detach()
        sums = functional.conv2d(frames.detach().double(), weight.double(), None, self.stride)
        exact = _with_bias(sums, bias[:, None, None], self.out_bits).to(frames)
        if not torch.is_grad_enabled():
            return exact
        # The gradient is that of the float layer, whose convolution is several times as fast as one in float64.
        return straight_through(within(super().windows(frames), self.out_bits), exact)


class IntegerDepthwiseConv2d(DepthwiseConv2d):
    """A convolution of each channel on its own; takes int16 of `in_bits` and gives int16 of `out_bits`."""

    in_bits = 12
    out_bits = 12

    def windows(self, frames: Tensor) -> Tensor:
        """All windows of `frames`."""
        weight = self.weight.double()
        sums = functional.conv2d(frames.double(), weight, None, self.stride, groups=len(weight))
        return _with_bias(sums, self.bias[:, None, None], self.out_bits).to(frames)


class IntegerMeanPooling(MeanPooling):
    """The mean of values that it takes to a grid of `bits`, on the same grid."""

    bits = STATE_BITS

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        return super().step(features_on_grid(x, self.bits), state)

    def windows(self, frames: Tensor) -> Tensor:
        """The means of all windows of `frames`."""
        count = self.kernel[0] * self.kernel[1]
        sums = functional.avg_pool2d(frames.double(), self.kernel, self.stride, divisor_override=1)
        # The quotient of whole numbers: a mean that is not one would be rounded before it is rounded.
        return (whole((sums * 2.0**self.bits - (count % 2) / 2) / count) / 2.0**self.bits).to(frames)


class IntegerLinear(Linear):
    """A linear layer that gives int32 of `out_bits`: the last one."""

    out_bits = 16

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        sums = functional.linear(x.transpose(1, 2).double(), self.weight.double())
        y = on_grid(sums, 2.0**self.out_bits) + bias_on_grid(self.bias, self.out_bits)
        return y.transpose(1, 2).to(x), state


class IntegerProjection(IntegerLinear):
    """A linear layer between others: takes int16 of `in_bits` and gives int16 of `out_bits`."""

    in_bits = 12

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As the float layer's."""
        y, state = super().step(x, state)
        return within(y, self.out_bits), state


class _IntegerWindow(WindowAttention):
    """What attention in integers has in common: energies in octaves, and their softmax by a table.

    The weights of a score are those of the float layer / ln 2. Of its bias nothing remains: a constant changes no
    weight.
    """

    def shares(self, energies: Tensor) -> Tensor:
        """The weights of the steps from their energies, along the last axis."""
        return table_softmax(energies).to(energies)

    def blend(self, windows: Tensor, shares: Tensor) -> Tensor:
        """The weighted sums of `windows (batch, inputs, steps, window)`."""
        sums = super().blend(windows.double(), shares.double())
        return within(on_grid(sums, 2.0**STATE_BITS), STATE_BITS).to(windows)


class IntegerAttention(_IntegerWindow, Attention):
    """Additive attention."""

    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""
        sums = functional.linear(x.transpose(1, 2).double(), self.project.weight.double())
        projected = on_grid(sums, 2.0**TANH_BITS) + bias_on_grid(self.project.bias, TANH_BITS)
        scores = functional.linear(look_up_tanh(projected * 2.0**TANH_BITS) / ONE, self.score.weight.double())
        return on_grid(scores, 2.0**ENERGY_BITS).transpose(1, 2).to(x)


class IntegerQueryAttention(_IntegerWindow, QueryAttention):
    """Attention by one query."""

    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""
        scores = functional.linear(x.transpose(1, 2).double(), self.query.double())
        return on_grid(scores, 2.0**ENERGY_BITS).transpose(1, 2).to(x)


def _with_bias(sums: Tensor, bias: Tensor, bits: int) -> Tensor:
    return within(on_grid(sums, 2.0**bits) + bias_on_grid(bias, bits), bits)
