"""Plain WAV, the format of corpora: samples as they are, behind a header that is read here, strictly.

RIFF with PCM of 8, 16, 24 or 32 bits, or floating point of 32 or 64. There is nothing to decode in it, so a
hostile file reaches these lines and no decoder; every other file is for `hark.sound.decoding`.
Errors leave the file's name to the caller.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hark.errors import AudioError
from hark.sound.recording import AudioInfo, Waveform, mono, require_sane

MOST_CHUNKS = 1_000

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_FORM = struct.Struct("<HHIIHH")
_CHUNK = struct.Struct("<4sI")
# An extensible header names its format as a GUID; those of the plain formats end like this.
_GUID_AT, _LONGEST_FORM, _PLAIN_GUID = 24, 40, bytes.fromhex("000000001000800000aa00389b71")


def _from_24_bits(raw: NDArray[np.uint8]) -> NDArray[Any]:
    """Three bytes a sample, as the upper three of four."""
    wide = np.zeros((len(raw) // 3, 4), np.uint8)
    wide[:, 1:] = raw.reshape(-1, 3)
    return wide.view("<i4")[:, 0]


# By format and bits: libsndfile's name, and how bytes become integers or floats, with their full scale.
_SAMPLES: dict[tuple[int, int], tuple[str, Callable[[NDArray[np.uint8]], NDArray[Any]], float]] = {
    (_PCM, 8): ("PCM_U8", lambda raw: raw.astype(np.int16) - 128, 2.0**7),
    (_PCM, 16): ("PCM_16", lambda raw: raw.view("<i2"), 2.0**15),
    (_PCM, 24): ("PCM_24", _from_24_bits, 2.0**31),
    (_PCM, 32): ("PCM_32", lambda raw: raw.view("<i4"), 2.0**31),
    (_FLOAT, 32): ("FLOAT", lambda raw: raw.view("<f4"), 1.0),
    (_FLOAT, 64): ("DOUBLE", lambda raw: raw.view("<f8"), 1.0),
}


@dataclass(frozen=True)
class PlainWav:
    """The plain WAV in an open file.

    Attributes:
        header: What it says it holds, checked.
    """

    header: AudioInfo
    _file: BinaryIO
    _bits: tuple[int, int]
    _sound_at: int

    def piece(self, first: int, last: int) -> Waveform:
        """Samples from `first` to before `last` at the file's own rate, channels averaged; fewer if cut short."""
        _, unpacked, full_scale = _SAMPLES[self._bits]
        frame_bytes = self.header.channels * self._bits[1] // 8
        self._file.seek(self._sound_at + first * frame_bytes)
        raw = self._file.read((last - first) * frame_bytes)
        whole = np.frombuffer(raw, np.uint8, len(raw) // frame_bytes * frame_bytes)
        with np.errstate(over="ignore", invalid="ignore"):  # a double too big becomes infinite, and is refused
            waveform = unpacked(whole).astype(np.float32) / np.float32(full_scale)
        return mono(waveform.reshape(-1, self.header.channels))


def open_plain(file: BinaryIO) -> PlainWav | None:
    """What an open file holds if it is plain WAV; nothing if it is something else.

    Raises:
        AudioError: It is WAV, but damaged, or no recording has such a header.
    """
    outermost = file.read(12)
    if outermost[:4] != b"RIFF" or outermost[8:] != b"WAVE":
        return None
    form = b""
    for _ in range(MOST_CHUNKS):
        opening = file.read(_CHUNK.size)
        if len(opening) < _CHUNK.size:
            raise AudioError("cut off before its sound begins, expected a whole recording")
        name, size = _CHUNK.unpack(opening)
        if name == b"data":
            return _plain(file, form, size)
        after = file.tell() + size + size % 2
        if name == b"fmt ":
            form = file.read(min(size, _LONGEST_FORM))
        file.seek(after)
    raise AudioError(f"more than {MOST_CHUNKS} chunks before its sound, expected a recording")


def _plain(file: BinaryIO, form: bytes, promised: int) -> PlainWav | None:
    """The file, read up to its sound, if its samples are plain."""
    if len(form) < _FORM.size:
        raise AudioError("its sound comes before its format, expected a recording")
    kind, channels, rate, _, block_bytes, bits = _FORM.unpack_from(form)
    if kind == _EXTENSIBLE and form[_GUID_AT + 2 :] == _PLAIN_GUID:
        kind = int.from_bytes(form[_GUID_AT : _GUID_AT + 2], "little")
    if (kind, bits) not in _SAMPLES:
        return None
    frames = promised // max(1, channels * bits // 8)
    header = AudioInfo(rate, channels, frames, "WAV", _SAMPLES[kind, bits][0])
    require_sane(header)
    if block_bytes != channels * bits // 8:
        raise AudioError(
            f"blocks of {block_bytes} bytes, expected {channels * bits // 8}: the header contradicts itself"
        )
    sound_at = file.tell()
    held = file.seek(0, os.SEEK_END) - sound_at
    if promised > held:
        raise AudioError(f"truncated, the header promises {promised} bytes of sound, the file holds {held}")
    return PlainWav(header, file, (kind, bits), sound_at)
