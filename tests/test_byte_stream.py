from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import ModelFileError
from hark.packed.byte_stream import ByteReader, ByteWriter


@given(values=st.lists(st.integers(0, 2**21 - 1)))
def test_varints_come_back_and_are_as_short_as_can_be(values: list[int]) -> None:
    writer = ByteWriter(0)
    writer.varints(*values)
    data = writer.to_bytes()
    assert len(data) == sum(1 + (value >= 1 << 7) + (value >= 1 << 14) for value in values)
    reader = ByteReader(data, 0)
    assert [reader.varint() for _ in values] == values
    reader.expect_end()


def test_varints_by_hand() -> None:
    writer = ByteWriter(0)
    writer.varints(0, 127, 128, 16_000)
    assert writer.to_bytes() == bytes.fromhex("00 7F 8001 807D")


@pytest.mark.parametrize("data", ["8000", "FF8000", "FFFFFF01", "80808000"])
def test_a_varint_has_one_form_only(data: str) -> None:
    with pytest.raises(ModelFileError, match="too long, expected a varint"):
        ByteReader(bytes.fromhex(data), 0).varint()


@pytest.mark.parametrize("offset", range(4))
def test_floats_begin_at_multiples_of_four_of_the_file(offset: int) -> None:
    writer = ByteWriter(offset)
    writer.array(np.array([1.5], np.float32))
    assert writer.position == (4 if offset == 0 else 8)
    reader = ByteReader(bytes(offset) + writer.to_bytes(), offset)
    assert reader.array(np.float32, 1).tolist() == [1.5]


def test_padding_must_be_zero() -> None:
    with pytest.raises(ModelFileError, match="padding before offset 4 that is not 0"):
        ByteReader(b"\0\0\0\1\0\0\0\0", 3).array(np.float32, 1)


def test_integers_are_little_endian_and_not_padded() -> None:
    writer = ByteWriter(1)
    writer.array(np.array([[258, 3]], ">u2"))
    assert writer.to_bytes() == b"\2\1\3\0"
    assert ByteReader(writer.to_bytes(), 0).array(np.uint16, 1, 2).tolist() == [[258, 3]]


def test_nothing_is_read_beyond_the_end() -> None:
    reader = ByteReader(b"abc", 1)
    with pytest.raises(ModelFileError, match=r"4,000,000 bytes at offset 1, expected them before 3"):
        reader.array(np.int8, 2_000, 2_000)
    with pytest.raises(ModelFileError, match="2 bytes behind the last layer, expected none"):
        reader.expect_end()
    assert reader.raw(2) == b"bc"
    with pytest.raises(ModelFileError, match="1 bytes at offset 3"):
        reader.u8()
