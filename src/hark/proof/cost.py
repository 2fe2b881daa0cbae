"""What a model costs: multiply-accumulates by named convention, bytes, state, latency. Read off its weights.

Two conventions stand side by side, for figures without a name cannot be compared:

- `thop`: what thop 0.0.31 printed for the reference report. A convolution counts its bias, a GRU step
  3·[(I + H)·H + 3H] + 4H, a linear layer no bias; tanh, softmax, weighting, normalisation and front end nothing.
- `macs`: multiplications of the matrix products, the convolution, the weighted sum of attention, the log-mel
  affine and the front end. Additions of biases and activation functions count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from hark.network.crnn import FRAMES_PER_CLIP
from hark.network.features import LogMel
from hark.network.layers import Affine, Attention, Conv2d, GruLayer, Linear
from hark.network.spotter import Spotter
from hark.network.streaming import state_bytes
from hark.shrinking.quantization import RowQuantizer

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
        return sum(getattr(layer, convention) * times[layer.rhythm] for layer in self.layers)

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


def cost_of(model: Spotter) -> Cost:
    """Count `model` as it stands; pruned and quantised weights are seen as they are."""
    front_end, stride = model.config.features, model.network.conv.window.hop
    kernel = model.network.conv.window.size
    frame_ms = 1000 / front_end.frame_rate
    return Cost(
        layers=tuple(_layers(model)),
        steps_per_clip=(FRAMES_PER_CLIP - kernel) // stride + 1,
        steps_per_second=front_end.frame_rate / stride,
        frames_per_second=front_end.frame_rate,
        state_bytes=state_bytes(model.initial_state()),
        first_decision_ms=kernel * frame_ms,
        latency_ms=stride * frame_ms,
    )


def _layers(model: Spotter) -> Iterator[LayerCost]:
    for name, module in model.named_modules():
        match module:
            case LogMel():
                yield _layer(name, "frame", module, thop=0, macs=_log_mel_macs(module))
            case Affine():
                yield _layer(name, "frame", module, thop=0, macs=module.scale.numel())
            case Conv2d():
                products, places = module.weight.numel(), module.out_bins
                with_bias = products + module.weight.shape[0]
                yield _layer(name, "step", module, thop=places * with_bias, macs=places * products)
            case GruLayer():
                products = module.weight_ih.numel() + module.weight_hh.numel()
                extra = 3 * 3 * module.hidden + 4 * module.hidden
                yield _layer(name, "step", module, thop=products + extra, macs=products)
            case Attention():
                yield _layer(name, "decision", module, thop=0, macs=module.window * module.inputs)
            case Linear():
                products = module.weight.numel()
                rhythm: Rhythm = "decision" if name.endswith("classifier") else "step"
                yield _layer(name, rhythm, module, thop=products, macs=products)


def _layer(name: str, rhythm: Rhythm, module: nn.Module, *, thop: int, macs: int) -> LayerCost:
    """The cost of a layer whose inner layers have lines of their own."""
    own = module if not isinstance(module, Attention) else nn.Module()
    return LayerCost(
        name=name,
        rhythm=rhythm,
        thop=thop,
        macs=macs,
        parameters=sum(parameter.numel() for parameter in own.parameters()),
        bytes=stored_bytes(own),
    )


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's tensors in a file: quantised weights in their packed width, all else as it is."""
    packed = sum(inner.stored_bytes for inner in module.modules() if isinstance(inner, RowQuantizer))
    loose: int = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in module.state_dict().items()
        if "parametrizations" not in name
    )
    return loose + packed


def _log_mel_macs(front_end: LogMel) -> int:
    """Window, real FFT (2.5 N log2 N operations, half of them multiplications), power, non-zeros of the bank."""
    size = front_end.config.n_fft
    fft = round(2.5 * size * math.log2(size) / 2)
    power = 2 * (size // 2 + 1)
    return size + fft + power + int(torch.count_nonzero(front_end.bank))
