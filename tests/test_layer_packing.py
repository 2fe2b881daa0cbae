from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hark.errors import ModelFileError
from hark.packed.byte_stream import ByteReader, ByteWriter
from hark.packed.layer_packing import KINDS, read_layers, write_layers
from hark.packed.packed_layers import Activation, FloatMatrix, Frame, IntegerMatrix, Linear
from packed_models import INNER, random_model


def written(*layers: Linear) -> bytes:
    to = ByteWriter(0)
    write_layers(to, layers)
    return to.to_bytes()


def read_back(data: bytes, inputs: int, arithmetic: str = "integer") -> Linear:
    (layer,) = read_layers(ByteReader(data, 0), Frame(1, inputs), arithmetic)  # type: ignore[arg-type]
    assert isinstance(layer, Linear)
    return layer


def four_bit(weights: npt.NDArray[np.int8]) -> Linear:
    rows = len(weights)
    multipliers, bias = np.ones(rows, np.uint16), np.zeros(rows, np.int16)
    return Linear(IntegerMatrix(bits=4, weights=weights, multipliers=multipliers, shift=1, bias=bias))


def test_random_models_have_every_kind_of_layer() -> None:
    """So that what is tried on them is tried on all."""
    found = {type(layer) for layer in random_model("integer", INNER).layers}
    assert found == {kind.layer for kind in KINDS.values()}
    assert [*KINDS] == list(range(1, len(KINDS) + 1))


@given(weights=arrays(np.int8, st.tuples(st.integers(1, 4), st.integers(1, 7))))
def test_four_bit_weights_come_back_in_half_the_bytes(weights: npt.NDArray[np.int8]) -> None:
    coarse = weights & np.int8(-16)
    rows, inputs = weights.shape
    data = written(four_bit(coarse))
    assert len(data) == 1 + 2 + 2 + 2 * rows + rows * ((inputs + 1) // 2) + 2 * rows
    assert np.array_equal(read_back(data, inputs).matrix.weights, coarse)


def test_the_first_of_two_four_bit_weights_is_in_the_low_bits() -> None:
    data = written(four_bit(np.array([[0x10, -0x10, 0x70]], np.int8)))
    assert data[7:9] == b"\xf1\x07"


def test_what_is_left_of_a_row_of_four_bit_weights_must_be_zero() -> None:
    data = bytearray(written(four_bit(np.array([[0x10, -0x10, 0x70]], np.int8))))
    data[8] |= 0x10
    with pytest.raises(ModelFileError, match="layer 0: four bits behind a row that are not 0"):
        read_back(bytes(data), 3)


def test_float_weights_stand_input_by_input() -> None:
    weights = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    data = written(Linear(FloatMatrix(weights, np.array([7, 8], np.float32))))
    assert np.frombuffer(data[4:], "<f4").tolist() == [1, 4, 2, 5, 3, 6, 7, 8]
    assert np.array_equal(read_back(data, 3, "float32").matrix.weights, weights)


def test_both_shifts_share_a_byte() -> None:
    layer = Linear(
        IntegerMatrix(
            bits=8,
            weights=np.array([[1]], np.int8),
            multipliers=np.array([2], np.uint16),
            shift=5,
            bias=np.array([3], np.int16),
            bias_shift=11,
        )
    )
    data = written(layer)
    assert data == bytes.fromhex("01 05 01 01 B5 0200 01 0300")
    assert (read_back(data, 1).matrix.shift, read_back(data, 1).matrix.bias_shift) == (5, 11)


@pytest.mark.parametrize(("bits", "form", "rest"), [(8, "03", "10 20 F0"), (4, "04", "01 02 0F")])
def test_one_multiplier_for_all_rows_is_written_once(bits: Literal[4, 8], form: str, rest: str) -> None:
    matrix = IntegerMatrix(
        bits=bits,
        weights=np.array([[16], [32], [-16]], np.int8),
        multipliers=np.array([513], np.uint16),
        shift=5,
        bias=np.zeros(3, np.int16),
    )
    data = written(Linear(matrix))
    assert data == bytes.fromhex(f"01 05 03 {form} 05 0102 {rest} 0000 0000 0000")
    read = read_back(data, 1).matrix
    assert isinstance(read, IntegerMatrix)
    assert (read.bits, read.multipliers.tolist(), read.weights.tolist()) == (bits, [513], matrix.weights.tolist())


@pytest.mark.parametrize(
    ("data", "arithmetic", "message"),
    [
        ("01 0C", "integer", "layer 0: kind 12, expected 1 to 11; a newer hark may know it"),
        ("01 00", "integer", "layer 0: kind 0"),
        ("01 05 00", "integer", "layer 0: a size of 0, expected 1 to 4,096"),
        ("01 05 8120", "integer", "layer 0: a size of 4,097"),
        ("01 05 01 00", "integer", "layer 0: weights of form 0 in an integer model, expected 1 to 4"),
        ("01 05 02 05", "integer", "layer 0: weights of form 5 in an integer model, expected 1 to 4"),
        ("01 05 01 03", "integer", "layer 0: a single row of form 3, expected 1, which says the same"),
        ("01 0A 01 04", "integer", "layer 0: a single row of form 4, expected 2, which says the same"),
        ("01 0B 04 01 01 01", "integer", "layer 0: .* bytes at offset 6"),
        ("01 05 01 01", "float32", "layer 0: weights of form 1 in a float32 model, expected 0"),
        ("01 06 03", "integer", "layer 0: function 3, expected 0 to 2"),
        ("01 07 04 01 01 01", "integer", "layer 0: a kernel 4 bins high, expected at most 3"),
        ("02 06 00", "integer", "layer 1: 1 bytes at offset 3, expected them before 3"),
    ],
)
def test_a_layer_that_cannot_be_is_refused_with_its_number(data: str, arithmetic: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_layers(ByteReader(bytes.fromhex(data), 0), Frame(1, 3), arithmetic)  # type: ignore[arg-type]


def test_an_activation_is_its_number() -> None:
    for number, function in enumerate(("relu", "sigmoid", "tanh")):
        to = ByteWriter(0)
        write_layers(to, (Activation(function),))  # type: ignore[arg-type]
        assert to.to_bytes() == bytes([1, 6, number])
