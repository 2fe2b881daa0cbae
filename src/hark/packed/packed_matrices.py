"""The matrices of a packed model, and what its numbers must keep to: docs/format.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hark.errors import ModelFileError

Arithmetic: TypeAlias = Literal["float32", "integer"]
Floats: TypeAlias = npt.NDArray[np.float32]

LARGEST_SIZE = 4_096
"""Of any number of a shape, and of a frame."""
LARGEST_ROW = 65_538
"""Of the sum of a row's |w|: times 32,767 it is still below 2³¹."""


@dataclass(frozen=True, eq=False)
class FloatMatrix:
    """`weights (rows, inputs)` and, where the layer has one, `bias (rows,)`."""

    weights: Floats
    bias: Floats | None = None

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse NaN and infinity, and a place among integers."""
        expect(arithmetic == "float32", "float32 weights", "integers, as the model says")
        expect_numbers(np.float32, self.weights, self.bias)
        expect_per_row(self.weights, self.bias)


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerMatrix:
    """Levels with multipliers: a row's product is worth accumulator · multiplier · 2^(shift − 32)."""

    bits: Literal[4, 8]
    weights: npt.NDArray[np.int8]
    """(rows, inputs)"""
    multipliers: npt.NDArray[np.uint16]
    """(rows,), or (1,) for all rows"""
    shift: int
    bias: npt.NDArray[np.int16] | None = None
    """(rows,), in the unit of the output once multiplied by 2 ** bias_shift"""
    bias_shift: int = 0

    def check(self, arithmetic: Arithmetic) -> None:
        """Refuse rows that can overflow an accumulator, and what the file cannot hold."""
        expect(arithmetic == "integer", "integer weights", "float32, as the model says")
        expect_numbers(np.int8, self.weights)
        expect_numbers(np.uint16, self.multipliers)
        expect_numbers(np.int16, self.bias)
        expect_per_row(self.weights, self.bias, self.multipliers if len(self.multipliers) != 1 else None)
        expect(0 <= self.shift <= 15, f"a multiplier's shift of {self.shift}", "0 to 15")
        most = 15 if self.bias is not None else 0
        expect(0 <= self.bias_shift <= most, f"a bias's shift of {self.bias_shift}", f"0 to {most}")
        if self.bits == 4:
            expect(not (self.weights & 15).any(), "4-bit weights in between", "multiples of 16")
        most = int(np.abs(self.weights.astype(np.int32)).sum(axis=1).max())
        expect(most <= LARGEST_ROW, f"a row with a sum of |w| of {most:,}", f"at most {LARGEST_ROW:,}")


Matrix: TypeAlias = FloatMatrix | IntegerMatrix


def expect_size(size: int, what: str) -> int:
    """`size`, if a shape can have it."""
    expect(1 <= size <= LARGEST_SIZE, f"{what} of {size:,}", f"1 to {LARGEST_SIZE:,}")
    return size


def expect(valid: bool, found: str, expected: str) -> None:
    """Refuse what is not valid.

    Raises:
        ModelFileError: it is not.
    """
    if not valid:
        raise ModelFileError(f"{found}, expected {expected}")


def expect_numbers(dtype: type[np.generic], *arrays: npt.NDArray[Any] | None) -> None:
    """Refuse other types, NaN and infinity."""
    for values in arrays:
        if values is not None:
            expect(values.dtype == dtype, f"numbers of type {values.dtype}", np.dtype(dtype).name)
            expect(bool(np.isfinite(values).all()), "NaN or infinity", "finite numbers")


def expect_per_row(weights: npt.NDArray[Any], *arrays: npt.NDArray[Any] | None) -> None:
    """Refuse arrays of another length than `weights (rows, inputs)` has rows."""
    for values in arrays:
        if values is not None:
            expect(len(values) == len(weights), f"{len(values)} values for {len(weights)} rows", "one for each")
