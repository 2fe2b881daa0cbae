from __future__ import annotations

import json
import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import ModelFileError
from hark.judging.detection import OperatingPoint
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.layer_packing import KINDS
from hark.packed.network_reference import NetworkReference
from hark.packed.packed_layers import IntegerMatrix
from hark.packed.packed_model import PackedModel
from packed_models import INNER, packed_models, random_model, some_features

GOLDEN = Path(__file__).parent / "golden"
FORMAT = Path(__file__).parents[1] / "docs" / "format.md"

GOLDEN_FILES = ("v1-integer", "v1-float32", "v1-cells-integer", "v1-cells-float32")
golden = pytest.mark.parametrize("name", GOLDEN_FILES)
law = settings(max_examples=150, deadline=None, derandomize=True)


def length_of(file: bytes) -> int:
    return int(struct.unpack_from("<I", file, 8)[0])


def sealed(core: bytes) -> bytes:
    """`core` with a length and a checksum that fit."""
    checked = struct.pack("<I", len(core)) + core[12:]
    return core[:4] + struct.pack("<I", zlib.crc32(checked)) + checked


@settings(law, max_examples=50)
@given(model=packed_models())
def test_a_file_gives_back_the_model(model: PackedModel) -> None:
    file = packing.to_bytes(model)
    read = packing.from_bytes(file)
    assert packing.to_bytes(read) == file
    assert (read.labels, read.operating_point, read.metadata) == (
        model.labels,
        model.operating_point,
        model.metadata,
    )
    assert (read.arithmetic, read.front_end, read.logit_bits) == (
        model.arithmetic,
        model.front_end,
        model.logit_bits,
    )
    features = some_features(model, 2 * model.first_step_frames)
    assert np.array_equal(NetworkReference(read)(features), NetworkReference(model)(features))


@law
@given(model=packed_models(), data=st.data())
def test_any_bytes_under_a_right_checksum_are_refused_or_are_a_whole_model(
    model: PackedModel, data: st.DataObject
) -> None:
    """A flipped bit is caught by the checksum, a forger's by the rules: what opens can be written again."""
    file = packing.to_bytes(replace(model, metadata={}))
    forged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 3))):
        forged[data.draw(st.integers(12, len(file) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del forged[data.draw(st.integers(14, len(file) - 1)) :]
    core = sealed(bytes(forged))
    try:
        read = packing.from_bytes(core)
    except ModelFileError as error:
        assert "\n" not in str(error)
    else:
        assert packing.to_bytes(read) == core


@golden
def test_every_flipped_bit_is_seen(name: str) -> None:
    file = (GOLDEN / f"{name}.hark").read_bytes()
    for bit in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ModelFileError):
            packing.from_bytes(bytes(flipped))


@golden
def test_every_cut_is_seen_but_the_one_that_takes_the_metadata_off(name: str) -> None:
    file = (GOLDEN / f"{name}.hark").read_bytes()
    for size in set(range(len(file))) - {length_of(file)}:
        with pytest.raises(ModelFileError):
            packing.from_bytes(file[:size])


def test_without_its_metadata_a_file_is_the_same_model() -> None:
    model = replace(random_model("integer", ["gru"]), metadata={"licence": "CC0-1.0"})
    file = packing.to_bytes(model)
    bare = packing.from_bytes(file[: length_of(file)])
    assert bare.metadata == {}
    assert packing.to_bytes(replace(bare, metadata=model.metadata)) == file


def test_metadata_need_their_checksum_and_must_be_an_object() -> None:
    file = packing.to_bytes(replace(random_model("integer", []), metadata={}))
    for text in (b"[1]", b"{", b'{"a": NaN', b"[" * 50_000, b"\xff"):
        with pytest.raises(ModelFileError, match="no JSON object"):
            packing.from_bytes(file + struct.pack("<I", zlib.crc32(text)) + text)
    with pytest.raises(ModelFileError, match="metadata whose checksum differs"):
        packing.from_bytes(file + b"\0\0\0\0{}")
    with pytest.raises(ModelFileError, match="metadata, expected at most 65,536"):
        packing.to_bytes(replace(random_model("integer", []), metadata={"story": "x" * 70_000}))


@golden
def test_files_of_version_1_open_for_ever(name: str) -> None:
    """Made once; that they open, and what they then say, may never change."""
    family, _, arithmetic = name.rpartition("-")
    expected = json.loads((GOLDEN / f"{family}.json").read_text())
    model = packing.load(GOLDEN / f"{name}.hark")
    assert model.labels == (("hé",) if family == "v1-cells" else ("", "hé"))
    assert model.operating_point == OperatingPoint(0.75, 2, 1.5)
    assert model.metadata == {"licence": "CC0-1.0"}
    features = np.array(expected["features"], np.float32)
    assert NetworkReference(model)(features).tolist() == expected[arithmetic]
    assert packing.to_bytes(model) == (GOLDEN / f"{name}.hark").read_bytes()


def test_the_golden_files_have_every_kind_of_layer_and_form_of_matrix() -> None:
    models = [packing.load(GOLDEN / f"{name}.hark") for name in GOLDEN_FILES]
    for arithmetic in ("integer", "float32"):
        layers = [layer for model in models if model.arithmetic == arithmetic for layer in model.layers]
        assert {type(layer) for layer in layers} == {kind.layer for kind in KINDS.values()}
    matrices = [values for model in models for layer in model.layers for values in vars(layer).values()]
    forms = {
        (matrix.bits, len(matrix.multipliers) == len(matrix.weights))
        for matrix in matrices
        if isinstance(matrix, IntegerMatrix)
    }
    assert forms == {(8, True), (4, True), (8, False), (4, False)}


@pytest.mark.parametrize(("title", "name"), [("An", "v1-integer"), ("Another", "v1-cells-integer")])
def test_the_examples_in_the_document_are_the_golden_files(title: str, name: str) -> None:
    example = FORMAT.read_text().split(f"## {title} example", 1)[1].split("## ", 1)[0]
    rows = re.findall(r"^\| (\d+) \| `([0-9A-F ]+)` \|", example, re.M)
    assert bytes.fromhex("".join(numbers for _, numbers in rows)) == (GOLDEN / f"{name}.hark").read_bytes()
    sizes = [len(bytes.fromhex(numbers)) for _, numbers in rows]
    assert [int(offset) for offset, _ in rows] == [0, *accumulate(sizes[:-1])]


def test_floats_lie_at_multiples_of_four() -> None:
    model = random_model("float32", ["convolution", "gru", "attention"], seed=3)
    file = packing.to_bytes(model)
    for layer in model.layers[1:]:
        for matrix in (getattr(layer, name, None) for name in ("matrix", "from_state", "project")):
            if matrix is not None:
                weights = matrix.weights if hasattr(layer, "kernel") else matrix.weights.T
                assert file.find(weights.astype("<f4").tobytes()) % 4 == 0


def test_an_integer_file_has_no_byte_too_many() -> None:
    """Header 14, front end 5, outputs 2 + labels, count 1, affine 3 + 4 n, linear 4 + 2 m + (n + 2) per row."""
    model = replace(random_model("integer", [], seed=4), operating_point=None, metadata={})
    affine, linear = model.layers
    labels = 1 + sum(1 + len(label.encode()) for label in model.labels)
    rows, inputs = linear.matrix.weights.shape
    weights = rows * inputs * linear.matrix.bits // 8
    expected = 14 + 1 + 5 + 2 + labels + 1 + (3 + 4 * len(affine.scale))
    expected += 4 + 2 * len(linear.matrix.multipliers) + weights + 2 * rows
    assert len(packing.to_bytes(model)) == expected


def test_what_is_no_file_of_ours_is_told_apart_from_what_is_damaged() -> None:
    file = packing.to_bytes(random_model("integer", []))
    newer = sealed(file[:12] + b"\x02" + file[13 : length_of(file)])
    for wrong, message in [
        (b"", "begins with b'', expected b'HARK'"),
        (b"RIFF" + file[4:], "begins with b'RIFF', expected b'HARK'"),
        (file[:13], "cut off at 13 bytes"),
        (file[:40], f"cut off at 40 of {length_of(file)} bytes; copy it again"),
        (file[:8] + b"\xff\xff\xff\xff" + file[12:], "a length of 4,294,967,295"),
        (file[:20] + b"\xff" + file[21:], "damaged, its checksum differs; copy it again"),
        (newer, "version 2, expected 1; update hark"),
        (sealed(file[:13] + b"\x02" + file[14 : length_of(file)]), "arithmetic 2, expected 0 or 1"),
        (sealed(file[: length_of(file)] + b"\0"), "1 bytes behind the last layer, expected none"),
    ]:
        with pytest.raises(ModelFileError, match=re.escape(message)):
            packing.from_bytes(wrong)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (14, b"\x02", "front end 2, expected 1, the log-mel"),
        (15, b"\x01", "sample_rate 1: expected 1,000 to 384,000 Hz"),
        (17, b"\x22", "n_fft 34: expected an even number without prime factors above 5"),
        (20, b"\x1f", "logits of 31 fraction bits, expected 0 to 30"),
        (22, b"\x00\x00\xc0\x7f", "threshold nan, expected a finite number"),
        (31, b"\xff", "labels or operating point: 'utf-8' codec can't decode"),
    ],
)
def test_what_stands_before_the_layers_is_checked(at: int, value: bytes, message: str) -> None:
    file = (GOLDEN / "v1-integer.hark").read_bytes()
    core = file[:at] + value + file[at + len(value) : length_of(file)]
    with pytest.raises(ModelFileError, match=re.escape(message)):
        packing.from_bytes(sealed(core))


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 8, 9, 10, 11])
def test_a_small_file_cannot_make_the_reader_allocate_much(kind: int) -> None:
    model = replace(random_model("integer", []), metadata={})
    body = packing.to_bytes(model)
    affine = body.index(bytes([2, 1])) + 1  # two layers, the first of kind 1
    size = 2 + 1 + 4 * len(model.layers[0].scale)
    sizes = b"\x80\x20" * 5  # 4,096 each
    core = body[: affine + size] + bytes([kind]) + sizes + b"\x01\x00"
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=r"layer 1: .*expected"):
        packing.from_bytes(sealed(core))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_file_is_read_from_disk_with_its_name_in_every_message(tmp_path: Path) -> None:
    model = random_model("float32", list(INNER))
    path = tmp_path / "word.hark"
    path.write_bytes(packing.to_bytes(model))
    assert packing.to_bytes(packing.load(path)) == path.read_bytes()
    path.write_bytes(b"RIFF")
    with pytest.raises(ModelFileError, match=re.escape(f"{path}: begins with b'RIFF'")):
        packing.load(path)
    with pytest.raises(ModelFileError, match=re.escape(f"{tmp_path}: not a file")):
        packing.load(tmp_path)
    with pytest.raises(ModelFileError, match=r"gone.hark: not a file"):
        packing.load(tmp_path / "gone.hark")


def test_a_model_that_breaks_a_rule_is_not_written() -> None:
    model = random_model("integer", [])
    with pytest.raises(ModelFileError, match="n_fft 28: expected an even number"):
        packing.to_bytes(replace(model, front_end=LogMelConfig(n_fft=28, hop_length=8, n_mels=4)))
