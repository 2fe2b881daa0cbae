"""The layers of a `.hark` file as bytes and back: one writer and one reader for each kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from hark.errors import ModelFileError
from hark.packed.byte_stream import ByteReader, ByteWriter
from hark.packed.packed_layers import (
    FUNCTIONS,
    Activation,
    Affine,
    Arithmetic,
    Attention,
    Convolution,
    DepthwiseConvolution,
    FastGrnn,
    FloatMatrix,
    Frame,
    Gru,
    IntegerMatrix,
    Layer,
    Linear,
    Matrix,
    MeanPooling,
    MinimalGru,
    QueryAttention,
    RecurrentCell,
)
from hark.packed.packed_matrices import expect_size

FLOAT_FORM = 0
INTEGER_FORMS: dict[int, Literal[4, 8]] = {1: 8, 2: 4, 3: 8, 4: 4}
"""Bits of a weight by the number of its form."""
ONE_MULTIPLIER = 2
"""What makes of a form with a multiplier for each row the one with one for all rows."""


def write_layers(to: ByteWriter, layers: tuple[Layer, ...]) -> None:
    """Write the number of layers and each of them."""
    to.u8(len(layers))
    for layer in layers:
        number, kind = next((n, k) for n, k in KINDS.items() if k.layer is type(layer))
        to.u8(number)
        kind.write(to, layer)


def read_layers(source: ByteReader, frame: Frame, arithmetic: Arithmetic) -> tuple[Layer, ...]:
    """The layers, the first of which gets frames of the shape `frame`.

    Raises:
        ModelFileError: they break off, or are of a kind or shape that cannot be.
    """
    layers: list[Layer] = []
    for index in range(source.u8()):
        try:
            if (number := source.u8()) not in KINDS:
                raise ModelFileError(f"kind {number}, expected 1 to {max(KINDS)}; a newer hark may know it")
            layer = KINDS[number].read(LayerSource(source, frame, arithmetic))
            frame = layer.after(frame)
        except ModelFileError as error:
            raise ModelFileError(f"layer {index}: {error}") from None
        layers.append(layer)
    return tuple(layers)


class LayerSource(NamedTuple):
    """Where a layer is read from, and what is known before it."""

    bytes: ByteReader
    frame: Frame
    arithmetic: Arithmetic

    def size(self) -> int:
        """The next number of a shape."""
        return expect_size(self.bytes.varint(), "a size")

    def sizes(self) -> tuple[int, int]:
        """The next two: frequency, time."""
        return self.size(), self.size()

    def numbers(self, integer: type[np.generic], count: int) -> npt.NDArray[Any]:
        """An array of the type `integer` in an integer model, of float32 in another."""
        return self.bytes.array(integer if self.arithmetic == "integer" else np.float32, count)


def _write_affine(to: ByteWriter, layer: Affine) -> None:
    to.varints(len(layer.scale))
    if layer.scale.dtype != np.float32:
        to.u8(layer.exponent)
    to.array(layer.scale)
    to.array(layer.shift)


def _read_affine(source: LayerSource) -> Affine:
    bands = source.size()
    exponent = source.bytes.u8() if source.arithmetic == "integer" else 0
    return Affine(source.numbers(np.uint16, bands), source.numbers(np.int16, bands), exponent)


def _write_convolution(to: ByteWriter, layer: Convolution) -> None:
    to.varints(len(layer.matrix.weights), *layer.kernel, *layer.stride)
    _write_matrix(to, layer.matrix, inputs_first=False)


def _read_convolution(source: LayerSource) -> Convolution:
    rows, kernel, stride = source.size(), source.sizes(), source.sizes()
    shape = rows, source.frame.channels * kernel[0] * kernel[1]
    return Convolution(_read_matrix(source, shape, bias=True, inputs_first=False), kernel, stride)


def _write_depthwise(to: ByteWriter, layer: DepthwiseConvolution) -> None:
    to.varints(*layer.kernel, *layer.stride)
    _write_matrix(to, layer.matrix, inputs_first=False)


def _read_depthwise(source: LayerSource) -> DepthwiseConvolution:
    kernel, stride = source.sizes(), source.sizes()
    shape = source.frame.channels, kernel[0] * kernel[1]
    return DepthwiseConvolution(_read_matrix(source, shape, bias=True, inputs_first=False), kernel, stride)


def _write_cell(to: ByteWriter, layer: RecurrentCell) -> None:
    to.varints(layer.units)
    _write_matrix(to, layer.from_input)
    _write_matrix(to, layer.from_state)
    to.array(layer.bias)


def _cell_reader(cell: type[Gru] | type[MinimalGru] | type[FastGrnn]) -> Callable[[LayerSource], Layer]:
    def read(source: LayerSource) -> Layer:
        units = source.size()
        from_input = _read_matrix(source, (cell.gates * units, source.frame.size), bias=False)
        from_state = _read_matrix(source, (cell.gates * units, units), bias=False)
        return cell(from_input, from_state, source.numbers(np.int16, (cell.gates + 1) * units))

    return read


def _write_attention(to: ByteWriter, layer: Attention) -> None:
    to.varints(len(layer.project.weights), layer.window)
    _write_matrix(to, layer.project)
    _write_matrix(to, layer.score)


def _read_attention(source: LayerSource) -> Attention:
    units, window = source.sizes()
    project = _read_matrix(source, (units, source.frame.size), bias=True)
    return Attention(project, _read_matrix(source, (1, units), bias=False), window)


def _write_query_attention(to: ByteWriter, layer: QueryAttention) -> None:
    to.varints(layer.window)
    _write_matrix(to, layer.score)


def _read_query_attention(source: LayerSource) -> QueryAttention:
    window = source.size()
    return QueryAttention(_read_matrix(source, (1, source.frame.size), bias=False), window)


def _write_linear(to: ByteWriter, layer: Linear) -> None:
    to.varints(len(layer.matrix.weights))
    _write_matrix(to, layer.matrix)


def _read_linear(source: LayerSource) -> Linear:
    return Linear(_read_matrix(source, (source.size(), source.frame.size), bias=True))


def _write_activation(to: ByteWriter, layer: Activation) -> None:
    to.varints(FUNCTIONS.index(layer.function))


def _read_activation(source: LayerSource) -> Activation:
    if (number := source.bytes.varint()) >= len(FUNCTIONS):
        raise ModelFileError(f"function {number}, expected 0 to {len(FUNCTIONS) - 1}; a newer hark may know it")
    return Activation(FUNCTIONS[number])


def _write_pooling(to: ByteWriter, layer: MeanPooling) -> None:
    to.varints(*layer.kernel, *layer.stride)


def _read_pooling(source: LayerSource) -> MeanPooling:
    return MeanPooling(source.sizes(), source.sizes())


class Kind(NamedTuple):
    """How a layer is written and read."""

    layer: type[Layer]
    write: Callable[[ByteWriter, Any], None]
    read: Callable[[LayerSource], Layer]


KINDS = {
    1: Kind(Affine, _write_affine, _read_affine),
    2: Kind(Convolution, _write_convolution, _read_convolution),
    3: Kind(Gru, _write_cell, _cell_reader(Gru)),
    4: Kind(Attention, _write_attention, _read_attention),
    5: Kind(Linear, _write_linear, _read_linear),
    6: Kind(Activation, _write_activation, _read_activation),
    7: Kind(MeanPooling, _write_pooling, _read_pooling),
    8: Kind(MinimalGru, _write_cell, _cell_reader(MinimalGru)),
    9: Kind(FastGrnn, _write_cell, _cell_reader(FastGrnn)),
    10: Kind(QueryAttention, _write_query_attention, _read_query_attention),
    11: Kind(DepthwiseConvolution, _write_depthwise, _read_depthwise),
}
"""By their numbers in the file: a new kind is one line more."""


def _write_matrix(to: ByteWriter, matrix: Matrix, *, inputs_first: bool = True) -> None:
    if isinstance(matrix, FloatMatrix):
        to.u8(FLOAT_FORM)
        to.array(matrix.weights.T if inputs_first else matrix.weights)
    else:
        to.u8(_integer_form(matrix))
        to.u8(matrix.bias_shift << 4 | matrix.shift)
        to.array(matrix.multipliers)
        to.raw(matrix.weights.tobytes() if matrix.bits == 8 else _nibbles(matrix.weights))
    if matrix.bias is not None:
        to.array(matrix.bias)


def _integer_form(matrix: IntegerMatrix) -> int:
    """A single row has one multiplier in any form: the first is taken."""
    form = next(form for form, bits in INTEGER_FORMS.items() if bits == matrix.bits)
    return form if len(matrix.multipliers) == len(matrix.weights) else form + ONE_MULTIPLIER


def _read_matrix(source: LayerSource, shape: tuple[int, int], *, bias: bool, inputs_first: bool = True) -> Matrix:
    form = source.bytes.u8()
    if source.arithmetic == "integer":
        return _read_integer_matrix(source, form, shape, bias=bias)
    rows, inputs = shape
    if form != FLOAT_FORM:
        raise ModelFileError(f"weights of form {form} in a float32 model, expected {FLOAT_FORM}")
    if inputs_first:
        weights = source.bytes.array(np.float32, inputs, rows).T
    else:
        weights = source.bytes.array(np.float32, rows, inputs)
    return FloatMatrix(weights, source.bytes.array(np.float32, rows) if bias else None)


def _read_integer_matrix(source: LayerSource, form: int, shape: tuple[int, int], *, bias: bool) -> IntegerMatrix:
    rows, inputs = shape
    if form not in INTEGER_FORMS:
        raise ModelFileError(
            f"weights of form {form} in an integer model, expected 1 to 4; a newer hark may know it"
        )
    is_one = form > ONE_MULTIPLIER
    if is_one and rows == 1:
        raise ModelFileError(f"a single row of form {form}, expected {form - ONE_MULTIPLIER}, which says the same")
    shifts = source.bytes.u8()
    multipliers = source.bytes.array(np.uint16, 1 if is_one else rows)
    if INTEGER_FORMS[form] == 8:
        weights = source.bytes.array(np.int8, rows, inputs)
    else:
        weights = _from_nibbles(source.bytes.array(np.uint8, rows, (inputs + 1) // 2), inputs)
    return IntegerMatrix(
        bits=INTEGER_FORMS[form],
        weights=weights,
        multipliers=multipliers,
        shift=shifts & 15,
        bias=source.bytes.array(np.int16, rows) if bias else None,
        bias_shift=shifts >> 4,
    )


def _nibbles(weights: npt.NDArray[np.int8]) -> bytes:
    """The high halves of two weights a byte, the first in its low half; each row begins a byte."""
    even = np.pad(weights, ((0, 0), (0, weights.shape[1] % 2))).view(np.uint8)
    return bytes((even[:, ::2] >> 4 | even[:, 1::2]).tobytes())


def _from_nibbles(packed: npt.NDArray[np.uint8], inputs: int) -> npt.NDArray[np.int8]:
    halves = np.stack((packed << 4, packed & 0xF0), axis=-1).reshape(len(packed), -1)
    if halves[:, inputs:].any():
        raise ModelFileError("four bits behind a row that are not 0")
    return halves[:, :inputs].view(np.int8)
