"""What each bit of a packed network's output must be: log-mel frames in, logits out, with NumPy alone.

Slow and plain: the C engine is held to it. One shape, `step(input, state) -> (output, state)`, for float32 and
integer networks alike; only the arithmetic behind it is another. docs/quantisation.md has the equations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from hark.packed import float32_math, float_arithmetic, integer_arithmetic
from hark.packed.packed_layers import (
    Activation,
    Affine,
    Attention,
    Convolution,
    DepthwiseConvolution,
    FastGrnn,
    Frame,
    Gru,
    Layer,
    Linear,
    MeanPooling,
    MinimalGru,
    QueryAttention,
    RecurrentCell,
    Windowed,
)
from hark.packed.packed_model import PackedModel

Values: TypeAlias = npt.NDArray[Any]
"""float32, or integers in int64; between layers `(batch, frames, channels, bins)`."""
Floats: TypeAlias = npt.NDArray[np.float32]
Memory: TypeAlias = dict[str, Values]
"""What one layer remembers of a stream; empty for those that remember nothing."""
State: TypeAlias = tuple[Memory, ...]


@dataclass(frozen=True)
class NetworkReference:
    """A packed model's network, for any number of streams in lockstep."""

    model: PackedModel

    def initial_state(self, batch_size: int = 1) -> State:
        """The state of streams that have heard nothing."""
        zero = _arithmetic(self.model).ZERO
        return tuple(
            _initial_memory(layer, frame, batch_size, zero)
            for layer, frame in zip(self.model.layers, self.model.frames, strict=True)
        )

    def step(self, features: Floats, state: State) -> tuple[Floats, State]:
        """Log-mels `(batch, n_mels, frames)` to logits `(batch, classes, steps)` and the next state."""
        arithmetic = _arithmetic(self.model)
        x: Values = features.transpose(0, 2, 1)[:, :, None]
        after = []
        for layer, memory in zip(self.model.layers[:-1], state, strict=False):
            x, memory = _step(layer, x, memory, arithmetic)
            after.append(memory)
        last = self.model.layers[-1]
        logits: Floats = arithmetic.logits(last.matrix, _flat(x), self.model.logit_bits)  # type: ignore[union-attr]
        return logits.transpose(0, 2, 1), (*after, {})

    def __call__(self, features: Floats) -> Floats:
        """The offline output: one long step from the initial state."""
        return self.step(features, self.initial_state(len(features)))[0]


def posteriors(logits: Floats) -> Floats:
    """The probabilities of logits, both `(batch, classes, steps)`."""
    return float32_math.posteriors(logits.transpose(0, 2, 1)).transpose(0, 2, 1)


def _arithmetic(model: PackedModel) -> ModuleType:
    return integer_arithmetic if model.arithmetic == "integer" else float_arithmetic


def _initial_memory(layer: Layer, frame: Frame, batch_size: int, zero: Any) -> Memory:
    def empty(*shape: int) -> Values:
        return np.full((batch_size, *shape), zero)

    match layer:
        case Convolution() | DepthwiseConvolution() | MeanPooling():
            return {"past": empty(0, *frame)}
        case RecurrentCell():
            return {"hidden": empty(layer.units)}
        case Attention() | QueryAttention():
            return {"hidden": empty(0, frame.size), "energy": empty(0)}
        case _:
            return {}


def _step(layer: Layer, x: Values, memory: Memory, arithmetic: ModuleType) -> tuple[Values, Memory]:
    match layer:
        case Affine():
            return arithmetic.quantize(layer, x), memory
        case Convolution():
            windows, memory = _windows(layer, x, memory)  # (batch, steps, channels, bins, time, frequency)
            inputs = _joined(windows.transpose(0, 1, 3, 4, 2, 5), 3)
            return arithmetic.layer_product(layer.matrix, inputs).transpose(0, 1, 3, 2), memory
        case DepthwiseConvolution():
            windows, memory = _windows(layer, x, memory)
            return arithmetic.depthwise(layer.matrix, _joined(windows, 2)), memory
        case Gru() | MinimalGru() | FastGrnn():
            return _cell(layer, _flat(x), memory, arithmetic)
        case Attention() | QueryAttention():
            y, memory = _attention(layer, _flat(x), memory, arithmetic)
            return y.reshape(x.shape), memory
        case Linear():
            return arithmetic.layer_product(layer.matrix, _flat(x))[:, :, None], memory
        case Activation():
            return arithmetic.activate(layer.function, x), memory
        case MeanPooling():
            windows, memory = _windows(layer, x, memory)
            return arithmetic.mean(_joined(windows, 2)), memory


def _windows(layer: Windowed, x: Values, memory: Memory) -> tuple[Values, Memory]:
    """All complete windows, `(batch, steps, channels, bins, time, frequency)`, and the frames still needed."""
    (high, long), (climb, hop) = layer.kernel, layer.stride
    joined = np.concatenate((memory["past"], x), axis=1)
    count = max(0, (joined.shape[1] - long) // hop + 1)
    past = {"past": joined[:, count * hop :]}
    if not count:
        bins = (x.shape[-1] - high) // climb + 1
        return np.zeros((len(x), 0, x.shape[2], bins, long, high), x.dtype), past
    return sliding_window_view(joined, (long, high), axis=(1, 3))[:, ::hop, :, ::climb], past


def _cell(layer: RecurrentCell, x: Values, memory: Memory, arithmetic: ModuleType) -> tuple[Values, Memory]:
    hidden = memory["hidden"]
    outputs = np.empty((*x.shape[:2], 1, layer.units), x.dtype)
    from_input = arithmetic.cell_input(layer, x)
    for step in range(x.shape[1]):
        hidden = arithmetic.next_state(layer, from_input[:, step], hidden)
        outputs[:, step, 0] = hidden
    return outputs, {"hidden": hidden}


def _attention(
    layer: Attention | QueryAttention, x: Values, memory: Memory, arithmetic: ModuleType
) -> tuple[Values, Memory]:
    hidden = np.concatenate((memory["hidden"], x), axis=1)
    if isinstance(layer, Attention):
        energies = arithmetic.energies(layer.project, layer.score, x)
    else:
        energies = arithmetic.query_energies(layer.score, x)
    energy = np.concatenate((memory["energy"], energies), axis=1)
    outputs = np.empty_like(x)
    for step in range(x.shape[1]):
        end = memory["energy"].shape[1] + step + 1
        window = slice(max(0, end - layer.window), end)
        outputs[:, step] = arithmetic.attend(energy[:, window], hidden[:, window])
    kept = slice(max(0, energy.shape[1] - (layer.window - 1)), None)
    return outputs, {"hidden": hidden[:, kept], "energy": energy[:, kept]}


def _flat(x: Values) -> Values:
    return _joined(x, 2)


def _joined(x: Values, axes: int) -> Values:
    """The last `axes` axes as one."""
    return x.reshape(*x.shape[:-axes], math.prod(x.shape[-axes:]))
