"""The layers of a packed model as typed values, and the law that each keeps.

docs/format.md defines every field; the names here are its names. Kernels and strides are (frequency, time).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hark.packed.packed_matrices import LARGEST_ROW as LARGEST_ROW
from hark.packed.packed_matrices import LARGEST_SIZE as LARGEST_SIZE
from hark.packed.packed_matrices import Arithmetic as Arithmetic
from hark.packed.packed_matrices import FloatMatrix as FloatMatrix
from hark.packed.packed_matrices import Floats, expect, expect_numbers, expect_size
from hark.packed.packed_matrices import IntegerMatrix as IntegerMatrix
from hark.packed.packed_matrices import Matrix as Matrix

Function: TypeAlias = Literal["relu", "sigmoid", "tanh"]
FUNCTIONS: tuple[Function, ...] = ("relu", "sigmoid", "tanh")

LARGEST_PAST = 1 << 20
"""Values that one layer may keep of a stream."""
LARGEST_POOL = 1 << 16


class Frame(NamedTuple):
    """The shape of what passes from one layer to the next at each step."""

    channels: int
    bins: int

    @property
    def size(self) -> int:
        """Values."""
        return self.channels * self.bins


@dataclass(frozen=True, eq=False)
class Affine:
    """Log-mels to the network's first values: `scale · 2^-exponent · x + shift`, of n bands or one for all."""

    scale: npt.NDArray[np.uint16] | Floats
    """(n,), uint16 in integer models"""
    shift: npt.NDArray[np.int16] | Floats
    """(n,), int16 in integer models"""
    exponent: int = 0

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        expect(len(self.scale) in (1, frame.size), f"an affine of {len(self.scale)} bands", f"1 or {frame.size}")
        return frame

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse numbers of another type, NaN and infinity."""
        expect(0 <= self.exponent <= 30, f"an exponent of {self.exponent}", "0 to 30")
        expect(len(self.scale) == len(self.shift), f"{len(self.shift)} shifts", f"{len(self.scale)}, as scales")
        expect_numbers(np.uint16 if arithmetic == "integer" else np.float32, self.scale)
        expect_numbers(np.int16 if arithmetic == "integer" else np.float32, self.shift)


@dataclass(frozen=True, eq=False)
class Convolution:
    """A valid convolution; inputs counted (time, channel, frequency)."""

    matrix: Matrix
    kernel: tuple[int, int]
    stride: tuple[int, int]

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        bins = _windows(self, frame)
        _expect_inputs(self.matrix, frame.channels * self.kernel[0] * self.kernel[1])
        return Frame(len(self.matrix.weights), bins)

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrix refuses."""
        self.matrix.check(arithmetic)


@dataclass(frozen=True, eq=False)
class DepthwiseConvolution:
    """A valid convolution of each channel on its own, one kernel for each; inputs counted (time, frequency).

    Behind a convolution over frequency alone it makes a kernel of rank 1 (Jaderberg et al. 2014, arXiv 1405.3866).
    """

    matrix: Matrix
    kernel: tuple[int, int]
    stride: tuple[int, int]

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        bins = _windows(self, frame)
        _expect_inputs(self.matrix, self.kernel[0] * self.kernel[1])
        rows = len(self.matrix.weights)
        expect(rows == frame.channels, f"{rows} kernels", f"{frame.channels}, one for each channel")
        return Frame(frame.channels, bins)

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrix refuses."""
        self.matrix.check(arithmetic)


@dataclass(frozen=True, eq=False)
class RecurrentCell:
    """What all cells have: rows of each gate from the input and from the state, and one bias more than gates."""

    gates: ClassVar[int]

    from_input: Matrix
    from_state: Matrix
    bias: Floats | npt.NDArray[np.int16]
    """((gates + 1) · units,): of each gate, of the last from the input first and then from the state"""

    @property
    def units(self) -> int:
        """Values of the state."""
        return int(self.from_state.weights.shape[1])

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        _expect_inputs(self.from_input, frame.size)
        rows = {len(self.from_input.weights), len(self.from_state.weights)}
        gates, units, biases = self.gates, self.units, len(self.bias)
        expect(rows == {gates * units}, f"a cell of {units} units with {rows} rows", f"{gates} for each unit")
        expect(biases == (gates + 1) * units, f"{biases} biases for {units} units", f"{gates + 1} for each")
        return Frame(1, units)

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrices refuse, and a bias of another type."""
        self.from_input.check(arithmetic)
        self.from_state.check(arithmetic)
        expect_numbers(np.int16 if arithmetic == "integer" else np.float32, self.bias)


@dataclass(frozen=True, eq=False)
class Gru(RecurrentCell):
    """A gated recurrent unit: rows of the gates r, z, n; biases r, z, n of the input, n of the state."""

    gates = 3


@dataclass(frozen=True, eq=False)
class MinimalGru(RecurrentCell):
    """A minimal gated unit (Zhou et al. 2016, arXiv 1603.09420): one gate f resets and updates.

    Rows f, n; biases f, n of the input, n of the state, in the reset-after form of cuDNN's GRU.
    """

    gates = 2


@dataclass(frozen=True, eq=False)
class FastGrnn(RecurrentCell):
    """FastGRNN (Kusupati et al. 2018, arXiv 1901.02358): gate and candidate share their rows.

    Biases z, n. With ζ = 1 and ν = 0 the state is a mean of candidates, and stays within ±1.
    """

    gates = 1


@dataclass(frozen=True, eq=False)
class Attention:
    """Additive attention over the last `window` frames."""

    project: Matrix
    score: Matrix
    window: int

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        _expect_attention(self.score, self.window, frame)
        _expect_inputs(self.project, frame.size)
        _expect_inputs(self.score, len(self.project.weights))
        return frame

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrices refuse."""
        self.project.check(arithmetic)
        self.score.check(arithmetic)


@dataclass(frozen=True, eq=False)
class QueryAttention:
    """Attention over the last `window` frames whose energies are their products with one learned query."""

    score: Matrix
    window: int

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        _expect_attention(self.score, self.window, frame)
        _expect_inputs(self.score, frame.size)
        return frame

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrix refuses."""
        self.score.check(arithmetic)


@dataclass(frozen=True, eq=False)
class Linear:
    """`W x + b` for each frame."""

    matrix: Matrix

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        _expect_inputs(self.matrix, frame.size)
        return Frame(1, len(self.matrix.weights))

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrix refuses."""
        self.matrix.check(arithmetic)


@dataclass(frozen=True)
class Activation:
    """A function of each value."""

    function: Function

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        return frame

    def check(self, arithmetic: Arithmetic) -> None:
        """Nothing: it has no numbers."""


@dataclass(frozen=True)
class MeanPooling:
    """The mean over valid windows of frequency and time, channel by channel."""

    kernel: tuple[int, int]
    stride: tuple[int, int]

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        bins = _windows(self, frame)
        values = self.kernel[0] * self.kernel[1]
        expect(values <= LARGEST_POOL, f"pooling over {values:,} values", f"at most {LARGEST_POOL:,}")
        return Frame(frame.channels, bins)

    def check(self, arithmetic: Arithmetic) -> None:
        """Nothing: it has no numbers."""


Windowed: TypeAlias = Convolution | DepthwiseConvolution | MeanPooling
"""Layers of which an output covers several frames."""
Layer: TypeAlias = (
    Affine | Windowed | Gru | MinimalGru | FastGrnn | Attention | QueryAttention | Linear | Activation
)


def _windows(layer: Windowed, frame: Frame) -> int:
    """Bins that come out of windows over frequency and time."""
    for size in (*layer.kernel, *layer.stride):
        expect_size(size, "a kernel or stride")
    (high, long), (_, hop) = layer.kernel, layer.stride
    expect(high <= frame.bins, f"a kernel {high} bins high", f"at most {frame.bins}")
    expect(hop <= long, f"a stride of {hop} frames", f"at most the kernel's {long}")
    _expect_past(long * frame.size)
    return (frame.bins - high) // layer.stride[0] + 1


def _expect_inputs(matrix: Matrix, inputs: int) -> None:
    found = matrix.weights.shape[1]
    expect(found == inputs, f"a matrix for {found} inputs", f"{inputs}")


def _expect_attention(score: Matrix, window: int, frame: Frame) -> None:
    expect_size(window, "an attention window")
    expect(len(score.weights) == 1, f"{len(score.weights)} attention scores", "one")
    _expect_past(window * frame.size)


def _expect_past(values: int) -> None:
    expect(values <= LARGEST_PAST, f"a memory of {values:,} values", f"at most {LARGEST_PAST:,}")
