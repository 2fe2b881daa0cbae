"""Numbers on the grids that the engine's integers stand for, and its tables, as torch sees them.

Everything is computed in float64, where products and sums of such numbers are exact. Gradients pass straight
through roundings (Bengio et al. 2013, arXiv 1308.3432); tables have the gradients of their functions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hark.packed import integer_arithmetic
from hark.packed.integer_arithmetic import ENERGY_BITS, EXP2_TABLE, LARGEST, SIGMOID_BITS, STATE_BITS, TANH_BITS

ONE = 2.0**STATE_BITS
INT16 = np.arange(-LARGEST, LARGEST + 1)
TANH = torch.from_numpy(np.roll(integer_arithmetic.tanh(INT16), -LARGEST)).double()
"""The engine's tanh of every int16, in Q15; those below 0 at the end, where a negative index finds them."""
SIGMOID = 0.5 + TANH / (2 * ONE)
"""Its sigmoid: half the way of a tanh up from -1."""


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """The value of `hard` with the gradient of `soft`."""
    if not soft.requires_grad:
        return hard
    result: Tensor = _StraightThrough.apply(soft, hard.detach())  # type: ignore[no-untyped-call]
    return result


def whole(x: Tensor) -> Tensor:
    """`x` to the nearest whole number, halves up."""
    rounded = torch.floor(x + 0.5)
    return straight_through(x, rounded) if torch.is_grad_enabled() else rounded


def on_grid(x: Tensor, units: float | Tensor) -> Tensor:
    """`x` to the nearest multiple of 1 / units, halves up, in float64."""
    return whole(x.double() * units) / units


def limited(x: Tensor) -> Tensor:
    """Whole numbers limited to int16; no gradient beyond."""
    return x.clamp(-LARGEST, LARGEST)


def within(x: Tensor, bits: int) -> Tensor:
    """`x` limited to what an int16 of so many fraction bits holds; no gradient beyond."""
    return x.clamp(-LARGEST / 2**bits, LARGEST / 2**bits)


def features_on_grid(x: Tensor, bits: int) -> Tensor:
    """What the engine's affine makes of log-mels: the nearest multiple, halves to even, limited to int16.

    Exact in the type of `x`: powers of two are all that it is multiplied with.
    """
    return straight_through(x, within(torch.round(x * 2.0**bits) / 2.0**bits, bits))


def bias_shift(bias: Tensor, bits: int) -> int:
    """Bits that a bias in units of 2^-bits must lose to fit int16."""
    peak = float(bias.detach().abs().max()) * 2**bits
    return max(0, math.ceil(math.log2(max(1.0, peak / LARGEST))))


def bias_on_grid(bias: Tensor, bits: int) -> Tensor:
    """A bias as the file holds it."""
    kept = bits - bias_shift(bias, bits)
    return within(on_grid(bias, 2.0**kept), kept)


def look_up_tanh(a: Tensor) -> Tensor:
    """The engine's tanh, a whole number, of whole numbers in Q12 that are limited to int16 first."""
    a = limited(a)
    value = TANH.to(a).take(a.long())
    return straight_through(torch.tanh(a / 2**TANH_BITS) * ONE, value) if torch.is_grad_enabled() else value


def look_up_sigmoid(a: Tensor) -> Tensor:
    """The engine's sigmoid, a multiple of 2^-16, of whole numbers in Q11 that are limited to int16 first."""
    a = limited(a)
    value = SIGMOID.to(a).take(a.long())
    return straight_through(torch.sigmoid(a / 2**SIGMOID_BITS), value) if torch.is_grad_enabled() else value


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
