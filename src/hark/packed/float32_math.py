"""exp, sigmoid, tanh and softmax in float32 with every rounding written down: docs/quantisation.md.

NumPy rounds each operation on float32 arrays once, as C does without fused multiply-add; so the C engine gives
the same bits. Nothing here calls a mathematical library, whose last bits differ from machine to machine.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

LOWEST, HIGHEST = np.float32(-87), np.float32(88)
"""Beyond, exp would leave the normal numbers."""
LOG2_E = np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
"""ln 2 in two parts, the first so short that its multiples are exact."""
POLYNOMIAL = np.array(
    [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5], np.float32
)
"""Of (exp(r) - 1 - r) / r² for |r| up to ln 2 / 2, the highest power first (Moshier's Cephes)."""
ROUNDER = np.float32(12_582_912)
"""1.5 · 2²³: added and taken away again, it leaves the nearest integer, ties to even."""
BEFORE_ALL = np.float32(-3.4028235e38)
"""What the search for a largest value begins with."""


def exp(x: Floats) -> Floats:
    """The exponential, to 2e-7 of it; x beyond -87 and 88 counts as these, NaN as -87."""
    x = np.where(x > LOWEST, x, LOWEST)
    x = np.where(x < HIGHEST, x, HIGHEST)
    power = (x * LOG2_E + ROUNDER) - ROUNDER
    rest = x - power * LN2_HIGH
    rest = rest - power * LN2_LOW
    y = np.full_like(rest, POLYNOMIAL[0])
    for coefficient in POLYNOMIAL[1:]:
        y = y * rest + coefficient
    y = y * (rest * rest)
    y = y + rest
    y = y + np.float32(1)
    two_to_power: Floats = ((power.astype(np.int32) + 127) << 23).view(np.float32)
    result: Floats = y * two_to_power
    return result


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)), to 2e-7."""
    return np.float32(1) / (np.float32(1) + exp(-x))


def tanh(x: Floats) -> Floats:
    """2 · sigmoid(2 x) - 1, to 2e-7."""
    return np.float32(2) * sigmoid(np.float32(2) * x) - np.float32(1)


def largest(x: Floats) -> Floats:
    """The largest along the last axis; NaN is never one."""
    return reduce(lambda most, values: np.where(values > most, values, most), _along(x), _like(x, BEFORE_ALL))


def ordered_sum(x: Floats) -> Floats:
    """The sum along the last axis, from 0 on, one after the other."""
    return reduce(np.add, _along(x), _like(x, np.float32(0)))


def softmax(x: Floats) -> Floats:
    """exp(x) over its sum along the last axis."""
    with np.errstate(over="ignore", invalid="ignore"):
        weights = exp(x - largest(x)[..., None])
        return weights / ordered_sum(weights)[..., None]


def posteriors(logits: Floats) -> Floats:
    """Probabilities of the classes from logits `(..., classes)`; of a single class, its sigmoid."""
    return sigmoid(logits) if logits.shape[-1] == 1 else softmax(logits)


def _along(x: Floats) -> Floats:
    return np.moveaxis(x, -1, 0)


def _like(x: Floats, value: np.float32) -> Floats:
    return np.full(x.shape[:-1], value, np.float32)
