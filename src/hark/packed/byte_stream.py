"""Bytes one after the other: what a `.hark` file is written to and read from, every read checked first."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hark.errors import ModelFileError

VARINT_BYTES = 3


class ByteWriter:
    """Little-endian values, with float32 arrays at multiples of 4 of the file."""

    def __init__(self, offset: int) -> None:
        """`offset` is where in the file the first byte will stand."""
        self._parts: list[bytes] = []
        self.position = offset

    def to_bytes(self) -> bytes:
        """All that was written."""
        return b"".join(self._parts)

    def raw(self, data: bytes) -> None:
        """Write `data` as it is."""
        self._parts.append(data)
        self.position += len(data)

    def u8(self, value: int) -> None:
        """Write one byte."""
        self.raw(bytes((value,)))

    def varints(self, *values: int) -> None:
        """Write unsigned LEB128."""
        for value in values:
            rest = value
            while rest >= 0x80:
                self.u8(rest & 0x7F | 0x80)
                rest >>= 7
            self.u8(rest)

    def array(self, values: npt.NDArray[Any]) -> None:
        """Write an array, its last axis fastest."""
        if values.dtype == np.float32:
            self.raw(bytes(-self.position % 4))
        self.raw(values.astype(values.dtype.newbyteorder("<")).tobytes())


class ByteReader:
    """What has not been read yet."""

    def __init__(self, data: bytes, offset: int) -> None:
        self._data = data
        self._position = offset

    def raw(self, size: int) -> bytes:
        """The next `size` bytes."""
        start, end = self._position, self._position + size
        if end > len(self._data):
            raise ModelFileError(f"{size:,} bytes at offset {start:,}, expected them before {len(self._data):,}")
        self._position = end
        return self._data[start:end]

    def u8(self) -> int:
        """The next byte."""
        return self.raw(1)[0]

    def varint(self) -> int:
        """The next unsigned LEB128, in its one shortest form."""
        value = 0
        for index in range(VARINT_BYTES):
            byte = self.u8()
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if index and not byte:
                    break
                return value
        raise ModelFileError(f"a number before offset {self._position:,} that is too long, expected a varint")

    def array(self, dtype: type[np.generic], *shape: int) -> npt.NDArray[Any]:
        """The next array."""
        if dtype is np.float32 and any(self.raw(-self._position % 4)):
            raise ModelFileError(f"padding before offset {self._position:,} that is not 0")
        stored = np.dtype(dtype).newbyteorder("<")
        size = stored.itemsize
        for length in shape:
            size *= length
        return np.frombuffer(self.raw(size), stored).astype(dtype).reshape(shape)

    def expect_end(self) -> None:
        """Refuse anything behind."""
        if rest := len(self._data) - self._position:
            raise ModelFileError(f"{rest:,} bytes behind the last layer, expected none")
