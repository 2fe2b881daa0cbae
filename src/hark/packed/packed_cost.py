"""What a model costs: multiply-accumulates by named convention, bytes, state, latency; and that of a packed one.

Two conventions stand side by side, for figures without a name cannot be compared:

- `thop`: what thop 0.0.31 printed for the reference report. A convolution counts its bias, a GRU step
  3·[(I + H)·H + 3H] + 4H, a linear layer no bias; tanh, softmax, weighting, normalisation, pooling and front end
  nothing. It knows no other cells: by its rules a minimal GRU counts 2·[(I + H)·H + 3H] + 4H and a FastGRNN
  (I + H)·H + 3H + H + 3H, one H for its second bias.
- `macs`: multiplications of the matrix products, the convolution, the weighted sum of attention, the log-mel
  affine and the front end. Additions of biases and activation functions count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from hark.packed.front_end_settings import LogMelConfig, front_end_constants
from hark.packed.packed_layers import (
    Affine,
    Attention,
    Convolution,
    DepthwiseConvolution,
    FloatMatrix,
    Frame,
    Layer,
    Linear,
    Matrix,
    QueryAttention,
    RecurrentCell,
    Windowed,
)
from hark.packed.packed_model import PackedModel, frames_of

Rhythm = Literal["frame", "step", "decision"]
"""How often a layer works: for each frame, step, or decision (one per clip; in a stream, one per step)."""


@dataclass(frozen=True)
class LayerCost:
    """One layer's cost each time it works, and its size."""

    name: str
    rhythm: Rhythm
    thop: int
    macs: int
    parameters: int
    bytes: int
    lead_steps: float = 0.0
    """What it works in a clip beyond the steps, where windows behind it must fill first: in steps."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model, per one-second clip and per second of an endless stream."""

    layers: tuple[LayerCost, ...]
    steps_per_clip: int
    steps_per_second: float
    frames_per_second: float
    state_bytes: int
    first_decision_ms: float
    """Sound needed before the first output."""
    latency_ms: float
    """Longest wait between a sound and the first output that heard it: one step."""

    @property
    def parameters(self) -> int:
        """Learned numbers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as they are stored, scales included."""
        return sum(layer.bytes for layer in self.layers)

    def per_clip(self, convention: Literal["thop", "macs"]) -> int:
        """Network operations for a one-second clip with one decision at its end; no front end, no affine."""
        times = {"step": self.steps_per_clip, "decision": 1, "frame": 0}
        return sum(
            round(getattr(layer, convention) * (times[layer.rhythm] + layer.lead_steps)) for layer in self.layers
        )

    def per_second(self, convention: Literal["thop", "macs"]) -> float:
        """Network operations per second of stream with a decision at each step."""
        per_step: int = sum(getattr(layer, convention) for layer in self.layers if layer.rhythm != "frame")
        return self.steps_per_second * per_step

    @property
    def frontend_per_second(self) -> float:
        """Multiplications per second of stream in the front end and the affine."""
        return self.frames_per_second * sum(layer.macs for layer in self.layers if layer.rhythm == "frame")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `cost.json` has them."""
        return {
            "parameters": self.parameters,
            "macs_per_clip_thop": self.per_clip("thop"),
            "macs_per_clip": self.per_clip("macs"),
            "macs_per_second_thop": self.per_second("thop"),
            "macs_per_second": self.per_second("macs"),
            "frontend_macs_per_second": self.frontend_per_second,
            "weight_bytes": self.weight_bytes,
            "state_bytes": self.state_bytes,
            "first_decision_ms": self.first_decision_ms,
            "latency_ms": self.latency_ms,
            "layers": [asdict(layer) for layer in self.layers],
        }


def cost_of_packed(model: PackedModel, *, state_bytes: int) -> Cost:
    """Count a packed model, whose streams have a state of so many bytes.

    A layer that works several times for a step of the network is counted as often.
    """
    rate = model.front_end.frame_rate
    kernel, stride = model.first_step_frames, model.step_frames
    return Cost(
        layers=tuple(_layers(model)),
        steps_per_clip=_steps_per_clip(model),
        steps_per_second=rate / stride,
        frames_per_second=rate,
        state_bytes=state_bytes,
        first_decision_ms=kernel * 1000 / rate,
        latency_ms=stride * 1000 / rate,
    )


def _steps_per_clip(model: PackedModel) -> int:
    """Steps of a one-second clip."""
    return list(_outputs_per_clip(model))[-1]


def _outputs_per_clip(model: PackedModel) -> Iterator[int]:
    """Of each layer in a one-second clip; pooling over a cell's steps looks back over them, as attention does."""
    steps = round(model.front_end.frame_rate)
    is_behind_a_cell = False
    for layer in model.layers:
        is_behind_a_cell |= isinstance(layer, RecurrentCell)
        size, hop = frames_of(layer)
        if not (is_behind_a_cell and hop == 1):
            steps = (steps - size) // hop + 1
        yield steps


def log_mel_macs(config: LogMelConfig, *, bank: int) -> int:
    """Window, real FFT (2.5 N log2 N operations, half of them multiplications), power, `bank` weights of bands."""
    size = config.n_fft
    fft = round(2.5 * size * math.log2(size) / 2)
    power = 2 * (size // 2 + 1)
    return size + fft + power + bank


def _layers(model: PackedModel) -> Iterator[LayerCost]:
    bank = int(np.count_nonzero(front_end_constants(model.front_end).bands))
    yield LayerCost("features", "frame", 0, log_mel_macs(model.front_end, bank=bank), 0, 0)
    last = max((index for index, layer in enumerate(model.layers) if _remembers(layer)), default=-1)
    times, steps = model.step_frames, _steps_per_clip(model)
    layers = zip(model.layers, model.frames, _outputs_per_clip(model), strict=True)
    for index, (layer, frame, outputs) in enumerate(layers):
        if isinstance(layer, Windowed):
            times //= layer.stride[1]
        rhythm: Rhythm = "step" if index <= last else "decision"
        for line in _lines(layer, frame, rhythm):
            often = 1 if line.rhythm == "frame" else times
            lead = outputs / times - steps if line.rhythm == "step" else 0.0
            line = replace(line, thop=often * line.thop, macs=often * line.macs, lead_steps=lead)
            yield replace(line, name=f"{index}.{line.name}")


def _remembers(layer: Layer) -> bool:
    """Whether what it gives depends on earlier frames: then it works even where no decision is asked for."""
    return isinstance(layer, Windowed | RecurrentCell | Attention | QueryAttention)


def _lines(layer: Layer, frame: Frame, rhythm: Rhythm) -> Iterator[LayerCost]:
    """The lines of a layer, for one time that it works."""
    match layer:
        case Affine():
            yield LayerCost("affine", "frame", 0, frame.size, 0, layer.scale.nbytes + layer.shift.nbytes)
        case Convolution() | DepthwiseConvolution():
            out = layer.after(frame)
            products = out.size * layer.matrix.weights.shape[1]
            yield _line(_name(layer), rhythm, layer.matrix, thop=products + out.size, macs=products)
        case RecurrentCell():
            yield _cell_line(layer, rhythm)
        case Attention() | QueryAttention():
            yield LayerCost("attention", "decision", 0, layer.window * frame.size, 0, 0)
            if isinstance(layer, Attention):
                yield _line("attention.project", rhythm, layer.project)
            yield _line("attention.score", rhythm, layer.score)
        case Linear():
            yield _line("linear", rhythm, layer.matrix)
        case _:
            yield LayerCost(_name(layer), rhythm, 0, 0, 0, 0)


def _name(layer: Layer | RecurrentCell) -> str:
    return type(layer).__name__.lower()


def _cell_line(layer: RecurrentCell, rhythm: Rhythm) -> LayerCost:
    inner = [_line("", rhythm, matrix) for matrix in (layer.from_input, layer.from_state)]
    products = sum(line.macs for line in inner)
    return LayerCost(
        name=_name(layer),
        rhythm=rhythm,
        # FastGRNN has a second bias where the others have a product with a gate.
        thop=products + 3 * layer.gates * layer.units + 4 * layer.units,
        macs=products,
        parameters=sum(line.parameters for line in inner) + layer.bias.size,
        bytes=sum(line.bytes for line in inner) + layer.bias.nbytes,
    )


def _line(
    name: str, rhythm: Rhythm, matrix: Matrix, *, thop: int | None = None, macs: int | None = None
) -> LayerCost:
    """A layer of one matrix, which is multiplied once unless told otherwise."""
    products = matrix.weights.size
    biases = 0 if matrix.bias is None else matrix.bias.size
    return LayerCost(
        name=name,
        rhythm=rhythm,
        thop=products if thop is None else thop,
        macs=products if macs is None else macs,
        parameters=products + biases,
        bytes=_stored_bytes(matrix),
    )


def _stored_bytes(matrix: Matrix) -> int:
    """Of weights, scales and bias in the file; two weights of 4 bits share a byte."""
    bias = 0 if matrix.bias is None else matrix.bias.nbytes
    if isinstance(matrix, FloatMatrix):
        return matrix.weights.nbytes + bias
    rows, inputs = matrix.weights.shape
    row_bytes = (inputs * matrix.bits + 7) // 8
    return int(rows * row_bytes + matrix.multipliers.nbytes + bias)
