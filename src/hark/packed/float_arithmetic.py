"""The layers' arithmetic in float32, every sum in its one order: docs/quantisation.md.

`integer_arithmetic` has the same functions for quantised networks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hark.packed.float32_math import ordered_sum, sigmoid, softmax, tanh
from hark.packed.packed_layers import Affine, FastGrnn, FloatMatrix, Function, Gru, MinimalGru

Floats = npt.NDArray[np.float32]

ZERO = np.float32(0)


def quantize(layer: Affine, features: Floats) -> Floats:
    """Log-mels `(..., bands)` through the affine; nothing is rounded to a grid here."""
    return features * layer.scale + layer.shift


def product(matrix: FloatMatrix, x: Floats) -> Floats:
    """`x (..., inputs)` times the matrix, with its bias where it has one: `(..., rows)`."""
    return ordered_product(matrix.weights, _start(matrix), x)


def ordered_product(weights: npt.NDArray[Any], start: npt.NDArray[Any], x: Floats) -> Floats:
    """The sums of the rows of `weights (rows, inputs)`: `start (rows,)` first, then input after input."""
    y = np.broadcast_to(start, (*x.shape[:-1], len(start)))
    for column in range(x.shape[-1]):
        y = y + weights[:, column] * x[..., column, None]
    return y


def _start(matrix: FloatMatrix) -> Floats:
    return np.zeros(len(matrix.weights), np.float32) if matrix.bias is None else matrix.bias


layer_product = product


def logits(matrix: FloatMatrix, x: Floats, logit_bits: int) -> Floats:
    """The last layer: `(..., classes)`."""
    return product(matrix, x)


def depthwise(matrix: FloatMatrix, x: Floats) -> Floats:
    """`x (..., channels, bins, inputs)`, each channel times its row of the matrix: `(..., channels, bins)`."""
    y = np.broadcast_to(_start(matrix)[:, None], x.shape[:-1])
    for column in range(x.shape[-1]):
        y = y + matrix.weights[:, column, None] * x[..., column]
    return y


def cell_input(layer: Gru | MinimalGru | FastGrnn, x: Floats) -> Floats:
    """What the gates get from `x (..., inputs)`, with the biases of a GRU's: `(..., gates · units)`."""
    rows = len(layer.from_input.weights)
    start = np.zeros(rows, np.float32) if isinstance(layer, FastGrnn) else layer.bias[:rows]
    return ordered_product(layer.from_input.weights, start, x)


def next_state(layer: Gru | MinimalGru | FastGrnn, from_input: Floats, state: Floats) -> Floats:
    """The next state `(batch, units)`."""
    match layer:
        case Gru():
            return _gru_cell(layer, from_input, state)
        case MinimalGru():
            return _minimal_cell(layer, from_input, state)
        case FastGrnn():
            return _fast_cell(layer, from_input, state)


def _gru_cell(layer: Gru, from_input: Floats, state: Floats) -> Floats:
    x, h = _gates(layer, from_input), _gates(layer, _from_state(layer, state))
    reset, update = sigmoid(x[0] + h[0]), sigmoid(x[1] + h[1])
    candidate = tanh(x[2] + reset * h[2])
    return candidate + update * (state - candidate)


def _minimal_cell(layer: MinimalGru, from_input: Floats, state: Floats) -> Floats:
    x, h = _gates(layer, from_input), _gates(layer, _from_state(layer, state))
    forget = sigmoid(x[0] + h[0])
    candidate = tanh(x[1] + forget * h[1])
    return state + forget * (candidate - state)


def _fast_cell(layer: FastGrnn, from_input: Floats, state: Floats) -> Floats:
    both = from_input + ordered_product(layer.from_state.weights, np.zeros(layer.units, np.float32), state)
    update, candidate = sigmoid(both + layer.bias[: layer.units]), tanh(both + layer.bias[layer.units :])
    return candidate + update * (state - candidate)


def _from_state(layer: Gru | MinimalGru, state: Floats) -> Floats:
    """What the gates get from the state, the last with its bias: `(batch, gates · units)`."""
    rows, units = len(layer.from_state.weights), layer.units
    start = np.concatenate((np.zeros(rows - units, np.float32), layer.bias[rows:]))
    return ordered_product(layer.from_state.weights, start, state)


def _gates(layer: Gru | MinimalGru, values: Floats) -> list[Floats]:
    return np.split(values, layer.gates, axis=-1)


def energies(project: FloatMatrix, score: FloatMatrix, x: Floats) -> Floats:
    """Of each of the frames `x (..., inputs)`: `(...,)`."""
    return query_energies(score, tanh(product(project, x)))


def query_energies(query: FloatMatrix, x: Floats) -> Floats:
    """Of each of the frames `x (..., inputs)`: `(...,)`."""
    return product(query, x)[..., 0]


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
