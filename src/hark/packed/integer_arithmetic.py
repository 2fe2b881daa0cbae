"""The layers' arithmetic in integers: docs/quantisation.md, whose equations these are.

In int64, so that a value which a 32-bit engine could not hold is seen here, not wrapped. `float_arithmetic` has
the same functions for float32 networks.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt

from hark.packed.packed_layers import Affine, FastGrnn, Function, Gru, IntegerMatrix, MinimalGru

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

LARGEST = 32_767
"""Of an activation or state, and minus that."""
STATE_BITS, TANH_BITS, SIGMOID_BITS, ENERGY_BITS = 15, 12, 11, 12
"""Fraction bits of states and outputs of tanh, inputs of tanh, inputs of sigmoid, and energies (octaves)."""
ONE = 1 << STATE_BITS


def _tanh_table() -> Integers:
    y = np.tanh(np.arange(257) / 32)
    lifted: npt.NDArray[np.float64] = np.rint(32_768 * (y + y * (1 - y * y) / 8_192))
    return lifted.clip(max=LARGEST).astype(np.int64)


def _exp2_table() -> Integers:
    return np.rint(32_767 * 2 ** (-np.arange(65) / 64)).astype(np.int64)


TANH_TABLE = _tanh_table()
"""tanh at multiples of 1/32 up to 8, lifted so that lines between them err to both sides alike."""
EXP2_TABLE = _exp2_table()
"""2 to the -1/64, -2/64 … -1."""


def clamp(x: Integers) -> Integers:
    """Values within int16, symmetrically."""
    return np.clip(x, -LARGEST, LARGEST)


def requantize(accumulator: Integers, matrix: IntegerMatrix) -> Integers:
    """Accumulators `(..., rows)` in the unit of the output: the high word of a product, rounded half up."""
    multiplier = matrix.multipliers.astype(np.int64) << matrix.shift
    return (accumulator * multiplier + (1 << 31)) >> 32


def tanh(a: Integers) -> Integers:
    """Q15 tanh of Q12 (-32,767 to 32,767): a table and straight lines."""
    index, rest = np.abs(a) >> 7, np.abs(a) & 127
    line = (TANH_TABLE[index] * (128 - rest) + TANH_TABLE[index + 1] * rest + 64) >> 7
    return np.asarray(np.where(a < 0, -line, line))


def exp2_minus(d: Integers) -> Integers:
    """0 to 32,767 for 2^-d, d at least 0 in octaves of 12 fraction bits."""
    octaves, index, rest = np.minimum(d >> ENERGY_BITS, 16), (d & 4095) >> 6, d & 63
    line = EXP2_TABLE[index] * (64 - rest) + EXP2_TABLE[index + 1] * rest
    return np.where(octaves > 15, 0, (line + (1 << (5 + octaves))) >> (6 + octaves))


def quantize(layer: Affine, features: Floats) -> Integers:
    """Log-mels `(..., bands)` to int16."""
    with np.errstate(over="ignore", invalid="ignore"):
        v = features * (layer.scale.astype(np.float32) * np.float32(2.0**-layer.exponent))
        v = v + layer.shift.astype(np.float32)
        v = np.where(v > -LARGEST, v, np.float32(-LARGEST))
        v = np.where(v < LARGEST, v, np.float32(LARGEST))
        return np.rint(v).astype(np.int64)


def product(matrix: IntegerMatrix, x: Integers) -> Integers:
    """`x (..., inputs)` times the matrix, requantised, with its bias where it has one: `(..., rows)`."""
    return _in_output_unit(matrix, x @ matrix.weights.T.astype(np.int64))


def _in_output_unit(matrix: IntegerMatrix, accumulator: Integers) -> Integers:
    y = requantize(accumulator, matrix)
    return y if matrix.bias is None else y + (matrix.bias.astype(np.int64) << matrix.bias_shift)


def layer_product(matrix: IntegerMatrix, x: Integers) -> Integers:
    """`product` as it goes on to the next layer."""
    return clamp(product(matrix, x))


def logits(matrix: IntegerMatrix, x: Integers, logit_bits: int) -> Floats:
    """The last layer: `(..., classes)`."""
    return product(matrix, x).astype(np.float32) * np.float32(2.0**-logit_bits)


def depthwise(matrix: IntegerMatrix, x: Integers) -> Integers:
    """`x (..., channels, bins, inputs)`, each channel times its row of the matrix: `(..., channels, bins)`."""
    accumulator = (x * matrix.weights[:, None].astype(np.int64)).sum(axis=-1)
    return clamp(_in_output_unit(matrix, accumulator.swapaxes(-1, -2))).swapaxes(-1, -2)


def cell_input(layer: Gru | MinimalGru | FastGrnn, x: Integers) -> Integers:
    """What the gates get from `x (..., inputs)`: `(..., gates · units)`."""
    return product(cast("IntegerMatrix", layer.from_input), x)


def next_state(layer: Gru | MinimalGru | FastGrnn, from_input: Integers, state: Integers) -> Integers:
    """The next state `(batch, units)` in Q15."""
    from_state = product(cast("IntegerMatrix", layer.from_state), state)
    x, h = np.split(from_input, layer.gates, axis=-1), np.split(from_state, layer.gates, axis=-1)
    biases = layer.bias.astype(np.int64).reshape(layer.gates + 1, -1)
    match layer:
        case Gru():
            return _gru_cell(x, h, biases, state)
        case MinimalGru():
            return _minimal_cell(x, h, biases, state)
        case FastGrnn():
            return _fast_cell(x[0] + h[0], biases, state)


def _gru_cell(x: list[Integers], h: list[Integers], b: Integers, state: Integers) -> Integers:
    reset = ONE + tanh(clamp(x[0] + h[0] + b[0]))
    update = tanh(clamp(x[1] + h[1] + b[1]))
    candidate = _candidate(x[2] + b[2], reset, h[2] + b[3])
    return _mixed(update, state, candidate)


def _minimal_cell(x: list[Integers], h: list[Integers], b: Integers, state: Integers) -> Integers:
    forget = tanh(clamp(x[0] + h[0] + b[0]))
    candidate = _candidate(x[1] + b[1], ONE + forget, h[1] + b[2])
    return _mixed(forget, candidate, state)


def _fast_cell(both: Integers, b: Integers, state: Integers) -> Integers:
    update = tanh(clamp((both + b[0] + 1) >> 1))  # from the unit of a tanh to that of a sigmoid
    return _mixed(update, state, tanh(clamp(both + b[1])))


def _candidate(x: Integers, reset: Integers, h: Integers) -> Integers:
    return tanh(clamp(x + ((reset * clamp(h) + ONE) >> 16)))


def _mixed(gate: Integers, open_: Integers, shut: Integers) -> Integers:
    """`open_` where the gate, a sigmoid's tanh, is 1; `shut` where it is -1."""
    return ((ONE - gate) * shut + (ONE + gate) * open_ + ONE) >> 16


def energies(project: IntegerMatrix, score: IntegerMatrix, x: Integers) -> Integers:
    """Of each of the frames `x (..., inputs)`: `(...,)`."""
    return query_energies(score, tanh(layer_product(project, x)))


def query_energies(query: IntegerMatrix, x: Integers) -> Integers:
    """Of each of the frames `x (..., inputs)`: `(...,)`."""
    return product(query, x)[..., 0]


def attend(energy: Integers, x: Integers) -> Integers:
    """The sum of the frames `x (batch, window, inputs)`, weighed by the softmax of their energies."""
    weights = exp2_minus(energy.max(axis=-1, keepdims=True) - energy)
    total = weights.sum(axis=-1, keepdims=True)
    shares = (weights * ONE + total // 2) // total
    return clamp(((shares[..., None] * x).sum(axis=-2) + (ONE >> 1)) >> STATE_BITS)


def activate(function: Function, x: Integers) -> Integers:
    """The function of each value."""
    match function:
        case "relu":
            return np.maximum(x, 0)
        case "sigmoid":
            return (ONE + tanh(x)) >> 1
        case "tanh":
            return tanh(x)


def mean(x: Integers) -> Integers:
    """The mean along the last axis, rounded half up."""
    count = x.shape[-1]
    rounded: Integers = (x.sum(axis=-1) + count // 2) // count
    return rounded


ZERO = np.int64(0)
