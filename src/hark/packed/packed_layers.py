"""The layers of a packed model as typed values, and the law that each keeps.

docs/format.md defines every field; the names here are its names. Kernels and strides are (frequency, time).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hark.errors import ModelFileError

Arithmetic: TypeAlias = Literal["float32", "integer"]
Floats: TypeAlias = npt.NDArray[np.float32]
Function: TypeAlias = Literal["relu", "sigmoid", "tanh"]
FUNCTIONS: tuple[Function, ...] = ("relu", "sigmoid", "tanh")

LARGEST_SIZE = 4_096
"""Of any number of a shape, and of a frame."""
LARGEST_PAST = 1 << 20
"""Values that one layer may keep of a stream."""
LARGEST_POOL = 1 << 16
LARGEST_ROW = 65_538
"""Of the sum of a row's |w|: times 32,767 it is still below 2³¹."""


class Frame(NamedTuple):
    """The shape of what passes from one layer to the next at each step."""

    channels: int
    bins: int

    @property
    def size(self) -> int:
        """Values."""
        return self.channels * self.bins


@dataclass(frozen=True, eq=False)
class FloatMatrix:
    """`weights (rows, inputs)` and, where the layer has one, `bias (rows,)`."""

    weights: Floats
    bias: Floats | None = None

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse NaN and infinity, and a place among integers."""
        expect(arithmetic == "float32", "float32 weights", "integers, as the model says")
        _expect_numbers(np.float32, self.weights, self.bias)
        _expect_per_row(self.weights, self.bias)


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerMatrix:
    """Levels with a multiplier per row: a row's product is worth accumulator · multiplier · 2^(shift − 32)."""

    bits: Literal[4, 8]
    weights: npt.NDArray[np.int8]
    """(rows, inputs)"""
    multipliers: npt.NDArray[np.uint16]
    """(rows,)"""
    shift: int
    bias: npt.NDArray[np.int16] | None = None
    """(rows,), in the unit of the output once multiplied by 2 ** bias_shift"""
    bias_shift: int = 0

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse rows that can overflow an accumulator, and what the file cannot hold."""
        expect(arithmetic == "integer", "integer weights", "float32, as the model says")
        _expect_numbers(np.int8, self.weights)
        _expect_numbers(np.uint16, self.multipliers)
        _expect_numbers(np.int16, self.bias)
        _expect_per_row(self.weights, self.multipliers, self.bias)
        expect(0 <= self.shift <= 15, f"a multiplier's shift of {self.shift}", "0 to 15")
        most = 15 if self.bias is not None else 0
        expect(0 <= self.bias_shift <= most, f"a bias's shift of {self.bias_shift}", f"0 to {most}")
        if self.bits == 4:
            expect(not (self.weights & 15).any(), "4-bit weights in between", "multiples of 16")
        most = int(np.abs(self.weights.astype(np.int32)).sum(axis=1).max())
        expect(most <= LARGEST_ROW, f"a row with a sum of |w| of {most:,}", f"at most {LARGEST_ROW:,}")


Matrix: TypeAlias = FloatMatrix | IntegerMatrix


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
        _expect_numbers(np.uint16 if arithmetic == "integer" else np.float32, self.scale)
        _expect_numbers(np.int16 if arithmetic == "integer" else np.float32, self.shift)


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
class Gru:
    """A gated recurrent unit: rows of the gates r, z, n."""

    from_input: Matrix
    from_state: Matrix
    bias: Floats | npt.NDArray[np.int16]
    """(4 · units,): r, z, n of the input, n of the state"""

    @property
    def units(self) -> int:
        """Values of the state."""
        return int(self.from_state.weights.shape[1])

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        _expect_inputs(self.from_input, frame.size)
        rows = {len(self.from_input.weights), len(self.from_state.weights), 3 * len(self.bias) / 4}
        expect(rows == {3 * self.units}, f"a GRU of {self.units} units with {rows} rows", "three for each unit")
        return Frame(1, self.units)

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrices refuse, and a bias of another type."""
        self.from_input.check(arithmetic)
        self.from_state.check(arithmetic)
        _expect_numbers(np.int16 if arithmetic == "integer" else np.float32, self.bias)


@dataclass(frozen=True, eq=False)
class Attention:
    """Additive attention over the last `window` frames."""

    project: Matrix
    score: Matrix
    window: int

    def after(self, frame: Frame) -> Frame:
        """The frame that comes out."""
        expect_size(self.window, "an attention window")
        _expect_inputs(self.project, frame.size)
        _expect_inputs(self.score, len(self.project.weights))
        expect(len(self.score.weights) == 1, f"{len(self.score.weights)} attention scores", "one")
        _expect_past(self.window * frame.size)
        return frame

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse what the matrices refuse."""
        self.project.check(arithmetic)
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


Layer: TypeAlias = Affine | Convolution | Gru | Attention | Linear | Activation | MeanPooling


def _windows(layer: Convolution | MeanPooling, frame: Frame) -> int:
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


def expect_size(size: int, what: str) -> int:
    """`size`, if a shape can have it."""
    expect(1 <= size <= LARGEST_SIZE, f"{what} of {size:,}", f"1 to {LARGEST_SIZE:,}")
    return size


def _expect_past(values: int) -> None:
    expect(values <= LARGEST_PAST, f"a memory of {values:,} values", f"at most {LARGEST_PAST:,}")


def _expect_numbers(dtype: type[np.generic], *arrays: npt.NDArray[Any] | None) -> None:
    for values in arrays:
        if values is not None:
            expect(values.dtype == dtype, f"numbers of type {values.dtype}", np.dtype(dtype).name)
            expect(bool(np.isfinite(values).all()), "NaN or infinity", "finite numbers")


def _expect_per_row(weights: npt.NDArray[Any], *arrays: npt.NDArray[Any] | None) -> None:
    for values in arrays:
        if values is not None:
            expect(len(values) == len(weights), f"{len(values)} values for {len(weights)} rows", "one for each")


def expect(valid: bool, found: str, expected: str) -> None:
    """Refuse what is not valid.

    Raises:
        ModelFileError: it is not.
    """
    if not valid:
        raise ModelFileError(f"{found}, expected {expected}")
