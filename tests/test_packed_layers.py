from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hark.errors import ModelFileError
from hark.packed.packed_layers import (
    Activation,
    Affine,
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
    MeanPooling,
    MinimalGru,
    QueryAttention,
)


def matrix(rows: int, inputs: int, *, with_bias: bool = True, **changes: Any) -> IntegerMatrix:
    values = {
        "bits": 8,
        "weights": np.ones((rows, inputs), np.int8),
        "multipliers": np.ones(rows, np.uint16),
        "shift": 3,
        "bias": np.ones(rows, np.int16) if with_bias else None,
    }
    return IntegerMatrix(**{**values, **changes})


def cell(kind: type[Any], units: int, inputs: int, *, rows: int | None = None, biases: int | None = None) -> Layer:
    from_input = matrix(rows or kind.gates * units, inputs, with_bias=False)
    bias = np.zeros(biases or (kind.gates + 1) * units, np.int16)
    made: Layer = kind(from_input, matrix(kind.gates * units, units, with_bias=False), bias)
    return made


def gru(units: int, inputs: int) -> Gru:
    made = cell(Gru, units, inputs)
    assert isinstance(made, Gru)
    return made


def query(inputs: int, window: int, *, rows: int = 1) -> QueryAttention:
    return QueryAttention(matrix(rows, inputs, with_bias=False), window)


def affine(bands: int) -> Affine:
    return Affine(np.ones(bands, np.uint16), np.zeros(bands, np.int16), 2)


@pytest.mark.parametrize(
    ("layer", "frame"),
    [
        (affine(9), Frame(1, 9)),
        (affine(1), Frame(1, 9)),
        (Convolution(matrix(5, 24), (3, 4), (2, 2)), Frame(5, 4)),
        (DepthwiseConvolution(matrix(2, 12), (3, 4), (2, 2)), Frame(2, 4)),
        (gru(4, 18), Frame(1, 4)),
        (cell(MinimalGru, 4, 18), Frame(1, 4)),
        (cell(FastGrnn, 4, 18), Frame(1, 4)),
        (query(18, 5), Frame(2, 9)),
        (Attention(matrix(3, 18), matrix(1, 3, with_bias=False), 5), Frame(2, 9)),
        (Linear(matrix(7, 18)), Frame(1, 7)),
        (Activation("relu"), Frame(2, 9)),
        (MeanPooling((2, 3), (2, 1)), Frame(2, 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_frame_that_comes_out(layer: Layer, frame: Frame) -> None:
    incoming = Frame(1, 9) if isinstance(layer, Affine) else Frame(2, 9)
    layer.check("integer")
    assert layer.after(incoming) == frame


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (affine(2), "an affine of 2 bands, expected 1 or 18"),
        (Convolution(matrix(5, 23), (3, 4), (2, 2)), "a matrix for 23 inputs, expected 24"),
        (Convolution(matrix(5, 80), (10, 4), (2, 2)), "a kernel 10 bins high, expected at most 9"),
        (Convolution(matrix(5, 24), (3, 4), (2, 5)), "a stride of 5 frames, expected at most the kernel's 4"),
        (Convolution(matrix(5, 24), (3, 4), (0, 2)), "a kernel or stride of 0, expected 1 to 4,096"),
        (MeanPooling((1, 4_097), (1, 1)), "a kernel or stride of 4,097"),
        (gru(4, 17), "a matrix for 17 inputs, expected 18"),
        (DepthwiseConvolution(matrix(2, 24), (3, 4), (2, 2)), "a matrix for 24 inputs, expected 12"),
        (DepthwiseConvolution(matrix(3, 12), (3, 4), (2, 2)), "3 kernels, expected 2, one for each channel"),
        (DepthwiseConvolution(matrix(2, 40), (10, 4), (2, 2)), "a kernel 10 bins high, expected at most 9"),
        (cell(Gru, 4, 18, rows=13), r"a cell of 4 units with \{.*\} rows, expected 3 for each unit"),
        (cell(MinimalGru, 4, 18, rows=12), r"a cell of 4 units with \{.*\} rows, expected 2 for each unit"),
        (cell(FastGrnn, 4, 18, rows=8), r"a cell of 4 units with \{.*\} rows, expected 1 for each unit"),
        (cell(FastGrnn, 4, 18, biases=4), "4 biases for 4 units, expected 2 for each"),
        (query(17, 5), "a matrix for 17 inputs, expected 18"),
        (query(18, 5, rows=2), "2 attention scores, expected one"),
        (query(18, 0), "an attention window of 0"),
        (Attention(matrix(3, 18), matrix(1, 4, with_bias=False), 5), "a matrix for 4 inputs, expected 3"),
        (Attention(matrix(3, 18), matrix(2, 3, with_bias=False), 5), "2 attention scores, expected one"),
        (Attention(matrix(3, 18), matrix(1, 3, with_bias=False), 0), "an attention window of 0"),
        (Linear(matrix(7, 19)), "a matrix for 19 inputs, expected 18"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(layer: Layer, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        layer.after(Frame(2, 9))


def test_what_a_layer_keeps_of_a_stream_is_bounded() -> None:
    with pytest.raises(ModelFileError, match="a memory of 2,097,152 values, expected at most 1,048,576"):
        MeanPooling((1, 512), (1, 1)).after(Frame(1, 4_096))
    with pytest.raises(ModelFileError, match="a memory of 1,052,672 values"):
        Attention(matrix(1, 4_096), matrix(1, 1, with_bias=False), 257).after(Frame(1, 4_096))
    with pytest.raises(ModelFileError, match="a memory of 1,052,672 values"):
        query(4_096, 257).after(Frame(1, 4_096))
    with pytest.raises(ModelFileError, match="a memory of 2,097,152 values"):
        DepthwiseConvolution(matrix(1, 512), (1, 512), (1, 1)).after(Frame(1, 4_096))
    with pytest.raises(ModelFileError, match="pooling over 131,072 values, expected at most 65,536"):
        MeanPooling((512, 256), (1, 1)).after(Frame(1, 512))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": 16}, "a multiplier's shift of 16, expected 0 to 15"),
        ({"bias_shift": 16}, "a bias's shift of 16, expected 0 to 15"),
        ({"bias": None, "bias_shift": 1}, "a bias's shift of 1, expected 0 to 0"),
        ({"bits": 4}, "4-bit weights in between, expected multiples of 16"),
        ({"multipliers": np.ones(3, np.uint16)}, "3 values for 2 rows, expected one for each"),
        ({"multipliers": np.ones(2, np.int32)}, "numbers of type int32, expected uint16"),
        ({"bias": np.ones(2, np.float32)}, "numbers of type float32, expected int16"),
        ({"weights": np.ones((2, 5), np.float32)}, "numbers of type float32, expected int8"),
    ],
)
def test_integers_that_the_file_cannot_hold_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        matrix(2, 5, **changes).check("integer")


def test_one_multiplier_may_serve_all_rows() -> None:
    matrix(3, 5, multipliers=np.ones(1, np.uint16)).check("integer")


def test_a_row_that_could_overflow_is_refused_and_the_largest_is_not() -> None:
    weights = np.zeros((2, 600), np.int8)
    weights[1, :516], weights[1, 516] = -127, 6
    largest = matrix(2, 600, weights=weights)
    largest.check("integer")
    weights[1, 517] = 1
    with pytest.raises(ModelFileError, match=r"a row with a sum of \|w\| of 65,539, expected at most 65,538"):
        largest.check("integer")
    lowest = np.full((1, 513), -128, np.int8)  # whose absolute value int8 does not have
    with pytest.raises(ModelFileError, match=r"\|w\| of 65,664"):
        matrix(1, 513, weights=lowest).check("integer")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_must_be_numbers(value: float) -> None:
    weights, bias = np.ones((2, 3), np.float32), np.ones(2, np.float32)
    FloatMatrix(weights, bias).check("float32")
    for broken in (
        FloatMatrix(weights * value, bias),
        FloatMatrix(weights, bias * value),
        Affine(bias * value, bias),
        Affine(bias, bias * value),
        Gru(FloatMatrix(weights), FloatMatrix(weights), bias * value),
    ):
        with pytest.raises(ModelFileError, match="NaN or infinity, expected finite numbers"):
            broken.check("float32")


def test_integers_and_floats_do_not_mix() -> None:
    floats = FloatMatrix(np.ones((1, 1), np.float32))
    for layer, arithmetic in (
        (Linear(floats), "integer"),
        (Linear(matrix(1, 1)), "float32"),
        (Attention(matrix(1, 1), floats, 1), "integer"),
        (replace(gru(1, 1), bias=np.zeros(4, np.float32)), "integer"),
        (replace(gru(1, 1), from_state=floats), "integer"),
        (Convolution(floats, (1, 1), (1, 1)), "integer"),
        (DepthwiseConvolution(floats, (1, 1), (1, 1)), "integer"),
        (QueryAttention(floats, 1), "integer"),
        (affine(1), "float32"),
    ):
        with pytest.raises(ModelFileError, match="expected"):
            layer.check(arithmetic)  # type: ignore[arg-type]


def test_an_affine_has_as_many_shifts_as_scales_and_a_small_exponent() -> None:
    with pytest.raises(ModelFileError, match="1 shifts, expected 2, as scales"):
        Affine(np.ones(2, np.uint16), np.zeros(1, np.int16), 2).check("integer")
    with pytest.raises(ModelFileError, match="an exponent of 31, expected 0 to 30"):
        replace(affine(1), exponent=31).check("integer")
