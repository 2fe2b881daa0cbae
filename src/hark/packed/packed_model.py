"""A packed model as typed values, and the law that they must keep: what a `.hark` file says (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from hark.errors import ConfigError, ModelFileError
from hark.judging.detection import OperatingPoint
from hark.packed.front_end_settings import LogMelConfig, radices
from hark.packed.packed_layers import (
    LARGEST_SIZE,
    Affine,
    Arithmetic,
    Frame,
    Layer,
    Linear,
    Windowed,
)
from hark.packed.packed_matrices import expect

MOST_LAYERS = 32
MOST_LABEL_BYTES = 255
MOST_FRAMES = 1 << 16
"""Before the first output: 11 minutes at the usual hop."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedModel:
    """All that a `.hark` file holds."""

    arithmetic: Arithmetic
    front_end: LogMelConfig
    layers: tuple[Layer, ...]
    labels: tuple[str, ...]
    """One for each logit; the empty one stands for everything else."""
    logit_bits: int = 0
    """A logit of an integer model is its integer · 2^-logit_bits."""
    operating_point: OperatingPoint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """What goes into each layer."""
        steps = accumulate(self.layers[:-1], lambda frame, layer: layer.after(frame), initial=self.first_frame)
        return tuple(steps)

    @property
    def first_frame(self) -> Frame:
        """What goes into the first."""
        return Frame(1, self.front_end.n_mels)

    @property
    def step_frames(self) -> int:
        """Log-mel frames between two outputs."""
        return math.prod(frames_of(layer)[1] for layer in self.layers)

    @property
    def first_step_frames(self) -> int:
        """Log-mel frames before the first output."""
        frames, hop = 1, 1
        for layer in self.layers:
            size, stride = frames_of(layer)
            frames += (size - 1) * hop
            hop *= stride
        return frames

    def check(self) -> PackedModel:
        """The model itself, if it keeps the law of docs/format.md.

        Raises:
            ModelFileError: it does not; the message names the layer.
        """
        try:
            radices(self.front_end.n_fft)
        except ConfigError as error:
            raise ModelFileError(str(error)) from None
        expect(1 <= len(self.layers) <= MOST_LAYERS, f"{len(self.layers)} layers", f"1 to {MOST_LAYERS}")
        frame = self.first_frame
        for index, layer in enumerate(self.layers):
            try:
                frame = self._check_layer(index, layer, frame)
            except ModelFileError as error:
                raise ModelFileError(f"layer {index} ({type(layer).__name__}): {error}") from None
        expect(isinstance(self.layers[-1], Linear), "another last layer", "a linear one, which gives the logits")
        first = self.first_step_frames
        expect(first <= MOST_FRAMES, f"{first:,} frames before the first output", f"at most {MOST_FRAMES:,}")
        self._check_outputs(frame)
        return self

    def _check_layer(self, index: int, layer: Layer, frame: Frame) -> Frame:
        if isinstance(layer, Affine):
            expect(index == 0, "an affine behind other layers", "it to be the first layer")
        elif index == 0:
            expect(self.arithmetic == "float32", "another first layer than an affine", "one in an integer model")
        frame = layer.after(frame)
        expect(frame.size <= LARGEST_SIZE, f"frames of {frame.size:,} values", f"at most {LARGEST_SIZE:,}")
        layer.check(self.arithmetic)
        return frame

    def _check_outputs(self, frame: Frame) -> None:
        expect(len(self.labels) == frame.size, f"{len(self.labels)} labels", f"{frame.size}, one for each logit")
        for label in self.labels:
            expect(len(label.encode()) <= MOST_LABEL_BYTES, f"the label {label[:20]!r}…", "at most 255 bytes")
        most = 30 if self.arithmetic == "integer" else 0
        expect(0 <= self.logit_bits <= most, f"logits of {self.logit_bits} fraction bits", f"0 to {most}")
        if point := self.operating_point:
            steps = point.smoothing_steps
            expect(steps <= LARGEST_SIZE, f"smoothing over {steps:,} steps", f"at most {LARGEST_SIZE:,}")
            expect(point.refractory_s < 2_097, f"a refractory time of {point.refractory_s} s", "less than 2,097")


def frames_of(layer: Layer) -> tuple[int, int]:
    """How many frames a layer looks at, and how far it goes on."""
    return (layer.kernel[1], layer.stride[1]) if isinstance(layer, Windowed) else (1, 1)
