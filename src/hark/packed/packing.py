"""The `.hark` file: a packed model as bytes and back. docs/format.md has the layout byte by byte.

Reading executes nothing, allocates little more than the file's own size, and checks everything before it is used.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from hark.errors import ConfigError, ModelFileError, UsageError
from hark.judging.detection import OperatingPoint
from hark.packed.byte_stream import ByteReader, ByteWriter
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.layer_packing import read_layers, write_layers
from hark.packed.packed_layers import Arithmetic, Frame
from hark.packed.packed_model import PackedModel

MAGIC = b"HARK"
VERSION = 1
HEADER = struct.Struct("<4sIIBB")
LARGEST_BYTES = 1 << 24
LARGEST_METADATA = 1 << 16
LOG_MEL = 1
ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "integer")


def to_bytes(model: PackedModel) -> bytes:
    """The model's file, the same bytes for the same model.

    Raises:
        ModelFileError: the model breaks a rule of docs/format.md.
    """
    model.check()
    body = ByteWriter(HEADER.size)
    _write_front_end(body, model.front_end)
    _write_outputs(body, model)
    write_layers(body, model.layers)
    length = body.position
    if length > LARGEST_BYTES:
        raise ModelFileError(f"a model of {length:,} bytes, expected at most {LARGEST_BYTES:,}; make it smaller")
    checked = struct.pack("<IBB", length, VERSION, ARITHMETICS.index(model.arithmetic)) + body.to_bytes()
    return MAGIC + struct.pack("<I", zlib.crc32(checked)) + checked + _metadata_bytes(model.metadata)


def from_bytes(file: bytes) -> PackedModel:
    """The model of a file, every rule of docs/format.md checked.

    Raises:
        ModelFileError: the file is damaged, of a newer version, or breaks a rule.
    """
    length, arithmetic = _checked_header(file)
    source = ByteReader(file[:length], HEADER.size)
    try:
        front_end = _read_front_end(source)
        outputs = _read_outputs(source)
        layers = read_layers(source, Frame(1, front_end.n_mels), arithmetic)
        source.expect_end()
        metadata = _read_metadata(file[length:])
        model = PackedModel(
            arithmetic=arithmetic, front_end=front_end, layers=layers, metadata=metadata, **outputs
        )
        return model.check()
    except ModelFileError as error:
        raise ModelFileError(f"not a valid .hark file: {error}; export the model again") from None


def load(path: Path) -> PackedModel:
    """The model in a file.

    Raises:
        ModelFileError: the file cannot be read, is damaged, or is no model.
    """
    largest = LARGEST_BYTES + LARGEST_METADATA + 4
    try:
        if not path.is_file() or path.stat().st_size > largest:
            raise ModelFileError(f"not a file of at most {largest:,} bytes; expected a .hark file")
        return from_bytes(path.read_bytes())
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); expected a .hark file") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _checked_header(file: bytes) -> tuple[int, Arithmetic]:
    """Length and arithmetic, once magic, length, checksum and version are right, in that order."""
    if file[: len(MAGIC)] != MAGIC:
        _refuse(f"begins with {file[:4]!r}, expected {MAGIC!r}; give a .hark file")
    if len(file) < HEADER.size:
        _refuse(f"cut off at {len(file)} bytes; copy it again")
    _, crc, length, version, arithmetic = HEADER.unpack_from(file)
    if not HEADER.size <= length <= LARGEST_BYTES:
        _refuse(f"a length of {length:,}, expected {HEADER.size} to {LARGEST_BYTES:,}; copy it again")
    if len(file) < length:
        _refuse(f"cut off at {len(file):,} of {length:,} bytes; copy it again")
    if zlib.crc32(memoryview(file)[8:length]) != crc:
        _refuse("damaged, its checksum differs; copy it again")
    if version != VERSION:
        _refuse(f"a .hark file of version {version}, expected {VERSION}; update hark")
    if arithmetic >= len(ARITHMETICS):
        _refuse(f"arithmetic {arithmetic}, expected 0 or 1; update hark")
    return length, ARITHMETICS[arithmetic]


def _refuse(message: str) -> NoReturn:
    raise ModelFileError(message)


def _write_front_end(to: ByteWriter, front_end: LogMelConfig) -> None:
    to.u8(LOG_MEL)
    to.varints(front_end.sample_rate, front_end.n_fft, front_end.hop_length, front_end.n_mels)


def _read_front_end(source: ByteReader) -> LogMelConfig:
    if (kind := source.u8()) != LOG_MEL:
        _refuse(f"front end {kind}, expected {LOG_MEL}, the log-mel")
    rate, n_fft, hop, n_mels = (source.varint() for _ in range(4))
    try:
        return LogMelConfig(sample_rate=rate, n_fft=n_fft, hop_length=hop, n_mels=n_mels)
    except ConfigError as error:
        raise ModelFileError(str(error)) from None


def _write_outputs(to: ByteWriter, model: PackedModel) -> None:
    to.u8(model.logit_bits)
    if point := model.operating_point:
        to.varints(point.smoothing_steps)
        to.raw(struct.pack("<f", point.threshold))
        to.varints(round(point.refractory_s * 1000))
    else:
        to.varints(0)
    to.varints(len(model.labels))
    for label in model.labels:
        text = label.encode()
        to.u8(len(text))
        to.raw(text)


def _read_outputs(source: ByteReader) -> dict[str, Any]:
    logit_bits, point = source.u8(), None
    try:
        if smoothing_steps := source.varint():
            (threshold,) = struct.unpack("<f", source.raw(4))
            point = OperatingPoint(threshold, smoothing_steps, source.varint() / 1000)
        labels = tuple(source.raw(source.u8()).decode() for _ in range(source.varint()))
    except (UsageError, UnicodeDecodeError) as error:
        raise ModelFileError(f"labels or operating point: {error}") from None
    return {"logit_bits": logit_bits, "operating_point": point, "labels": labels}


def _metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    if not metadata:
        return b""
    compact = json.dumps(metadata, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    text = compact.encode()
    if len(text) > LARGEST_METADATA:
        _refuse(f"{len(text):,} bytes of metadata, expected at most {LARGEST_METADATA:,}; say less")
    return struct.pack("<I", zlib.crc32(text)) + text


def _read_metadata(tail: bytes) -> dict[str, Any]:
    if not tail:
        return {}
    crc, text = tail[:4], tail[4:]
    if len(text) > LARGEST_METADATA or struct.pack("<I", zlib.crc32(text)) != crc:
        _refuse("metadata whose checksum differs")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict):
        _refuse("metadata that are no JSON object")
    return metadata
