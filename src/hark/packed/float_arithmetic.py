"""The layers' arithmetic in float32, every sum in its one order: docs/quantisation.md.

`integer_arithmetic` has the same functions for quantised networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hark.packed.float32_math import ordered_sum, sigmoid, softmax, tanh
from hark.packed.packed_layers import Affine, FloatMatrix, Function, Gru

Floats = npt.NDArray[np.float32]

ZERO = np.float32(0)


def quantize(layer: Affine, features: Floats) -> Floats:
    """Log-mels `(..., bands)` through the affine; nothing is rounded to a grid here."""
    return features * layer.scale + layer.shift


def product(matrix: FloatMatrix, x: Floats) -> Floats:
    """`x (..., inputs)` times the matrix, with its bias where it has one: `(..., rows)`."""
    rows = len(matrix.weights)
    start = np.zeros(rows, np.float32) if matrix.bias is None else matrix.bias
    return ordered_product(matrix.weights, start, x)


def ordered_product(weights: npt.NDArray[Any], start: npt.NDArray[Any], x: Floats) -> Floats:
    """The sums of the rows of `weights (rows, inputs)`: `start (rows,)` first, then input after input."""
    y = np.broadcast_to(start, (*x.shape[:-1], len(start)))
    for column in range(x.shape[-1]):
        y = y + weights[:, column] * x[..., column, None]
    return y


layer_product = product


def logits(matrix: FloatMatrix, x: Floats, logit_bits: int) -> Floats:
    """The last layer: `(..., classes)`."""
    return product(matrix, x)


def gru_input(layer: Gru, x: Floats) -> Floats:
    """What the gates get from `x (..., inputs)`, with the biases of r, z and n: `(..., 3 · units)`."""
    return ordered_product(layer.from_input.weights, layer.bias[: 3 * layer.units], x)


def gru_cell(layer: Gru, from_input: Floats, state: Floats) -> Floats:
    """The next state `(batch, units)`."""
    start = np.concatenate((np.zeros(2 * layer.units, np.float32), layer.bias[3 * layer.units :]))
    from_state = ordered_product(layer.from_state.weights, start, state)
    x, h = np.split(from_input, 3, axis=-1), np.split(from_state, 3, axis=-1)
    reset, update = sigmoid(x[0] + h[0]), sigmoid(x[1] + h[1])
    candidate = tanh(x[2] + reset * h[2])
    return candidate + update * (state - candidate)


def energies(project: FloatMatrix, score: FloatMatrix, x: Floats) -> Floats:
    """Of each of the frames `x (..., inputs)`: `(...,)`."""
    return product(score, tanh(product(project, x)))[..., 0]


def attend(energy: Floats, x: Floats) -> Floats:
    """The sum of the frames `x (batch, window, inputs)`, weighed by the softmax of their energies."""
    return ordered_sum(np.moveaxis(softmax(energy)[..., None] * x, 1, -1))


def activate(function: Function, x: Floats) -> Floats:
    """The function of each value."""
    match function:
        case "relu":
            return np.where(x > 0, x, ZERO)
        case "sigmoid":
            return sigmoid(x)
        case "tanh":
            return tanh(x)


def mean(x: Floats) -> Floats:
    """The mean along the last axis."""
    return ordered_sum(x) / np.float32(x.shape[-1])
