"""The engine as a reader of files: what opens, what is refused, and that the reader in Python says the same."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark import _engine
from hark.errors import ModelFileError
from hark.packed import packing
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import (
    Activation,
    Affine,
    Convolution,
    DepthwiseConvolution,
    FloatMatrix,
    IntegerMatrix,
    Layer,
    Linear,
    MeanPooling,
    QueryAttention,
)
from hark.packed.packed_model import PackedModel
from packed_models import ARITHMETICS, INNER, SMALL, random_model

GOLDEN = Path(__file__).parent / "golden"
golden = pytest.mark.parametrize("name", [path.name for path in sorted(GOLDEN.glob("*.hark"))])
law = settings(max_examples=300, deadline=None, derandomize=True)


def takes(file: bytes) -> bool:
    """Whether the engine opens these bytes."""
    try:
        _engine.Model(file).describe()
    except ValueError:
        return False
    return True


def is_valid(file: bytes) -> bool:
    """Whether the reader in Python does."""
    try:
        packing.from_bytes(file)
    except ModelFileError:
        return False
    return True


def sealed(body: bytes) -> bytes:
    """A file of version and all that follows it, with a length and a checksum that fit."""
    checked = struct.pack("<I", 12 + len(body)) + body
    return b"HARK" + struct.pack("<I", zlib.crc32(checked)) + checked


@golden
def test_every_truncation_and_every_flipped_bit_is_refused(name: str) -> None:
    file = (GOLDEN / name).read_bytes()
    length = struct.unpack_from("<I", file, 8)[0]
    assert takes(file)
    assert not any(takes(file[:end]) for end in range(length))
    for place in range(8 * length):
        flipped = bytearray(file)
        flipped[place // 8] ^= 1 << place % 8
        assert not takes(bytes(flipped)), f"bit {place}"


PATCHES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\x00\x00\x80\x7f", b"\x01\x00\x80\xff")
"""What is put in every place of a file: numbers at their borders, infinity and NaN."""


@golden
def test_engine_and_reader_agree_on_every_place_of_a_golden_file(name: str) -> None:
    file = (GOLDEN / name).read_bytes()
    body = file[12 : struct.unpack_from("<I", file, 8)[0]]
    verdicts = set()
    for place in range(len(body)):
        for patch in PATCHES:
            patched = sealed(body[:place] + patch + body[place + len(patch) :])
            verdict = takes(patched)
            assert verdict == is_valid(patched), f"{patch!r} at {12 + place}"
            verdicts.add(verdict)
    assert verdicts == {True, False}


@law
@given(seed=st.integers(0, 499), arithmetic=st.sampled_from(ARITHMETICS), data=st.data())
def test_engine_and_reader_refuse_the_same_files(seed: int, arithmetic: str, data: st.DataObject) -> None:
    """Damaged files whose length and checksum are right: only the rules of the format are left to refuse them."""
    inner = [INNER[(seed + i) % len(INNER)] for i in range(seed % 4)]
    model = replace(random_model(arithmetic, inner, seed=seed), metadata={})  # type: ignore[arg-type]
    body = bytearray(packing.to_bytes(model)[12:])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change":
                body[place] = data.draw(st.integers(0, 255))
            case "cut":
                del body[place : place + data.draw(st.integers(1, 4))]
            case "insert":
                body[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        if not body:
            return
    file = sealed(bytes(body))
    assert takes(file) == is_valid(file)


@pytest.mark.parametrize(
    ("settings", "meaning"),
    [
        (b"\x01\x80\x7d\x20\x08\x08", "valid"),
        (b"\x02\x80\x7d\x20\x08\x08", "a kind of front end that is unknown"),
        (b"\x01\x80\xfd\x00\x20\x08\x08", "a number longer than needed"),
        (b"\x01\x80\xfd\x80\x01\x20\x08\x08", "a number of four bytes"),
        (b"\x01\x80\xfd\xff\x7f\x20\x08\x08", "a sample rate of millions"),
        (b"\x01\xe7\x07\x20\x08\x08", "999 Hz"),
        (b"\x01\x80\x7d\x21\x08\x08", "an odd n_fft"),
        (b"\x01\x80\x7d\x20\x21\x08", "a hop longer than the window"),
        (b"\x01\x80\x7d\x20\x00\x08", "no hop"),
        (b"\x01\x80\x7d\x20\x08\x09", "more bands than n_fft / 4"),
        (b"\x01\x80\x7d\x20\x08\x00", "no bands"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_engine_and_reader_take_the_same_front_ends(settings: bytes, meaning: str) -> None:
    file = packing.to_bytes(replace(random_model("integer", ["gru"]), metadata={}))
    body = file[12:].replace(b"\x01\x80\x7d\x20\x08\x08", settings, 1)
    mended = sealed(body)
    assert takes(mended) == (meaning == "valid")
    assert is_valid(mended) == (meaning == "valid")


@pytest.mark.parametrize(("refractory", "is_right"), [(b"\xe2\x09", True), (b"\xe2\x89\x80\x01", False)])
def test_a_number_of_four_bytes_is_refused_where_any_number_would_do(refractory: bytes, is_right: bool) -> None:
    seeds = (random_model("integer", ["gru"], seed=seed) for seed in range(20))
    model = next(model for model in seeds if model.operating_point)
    body = packing.to_bytes(replace(model, metadata={}))[12:]
    half = struct.pack("<f", 0.5)
    mended = sealed(body.replace(half + b"\xe2\x09", half + refractory, 1))
    assert takes(mended) == is_valid(mended) == is_right


@pytest.mark.parametrize(("last", "is_right"), [(66, True), (67, False), (-66, True), (-67, False)])
def test_a_row_that_could_overflow_its_sum_is_refused(last: int, is_right: bool) -> None:
    """512 · 127 + 8 · 56 + 66 is 65,538, and so much may be."""
    row = np.array([127] * 512 + [56] * 8 + [66], np.int8)
    one = np.ones(1, np.uint16)
    matrix = IntegerMatrix(bits=8, weights=row[None], multipliers=one, shift=0, bias=np.zeros(1, np.int16))
    config = LogMelConfig(n_fft=4_096, n_mels=len(row))
    layers = (Affine(one, np.zeros(1, np.int16)), Linear(matrix))
    file = packing.to_bytes(PackedModel(arithmetic="integer", front_end=config, layers=layers, labels=("word",)))
    body = file[12:].replace(row.tobytes(), row[:-1].tobytes() + np.int8(last).tobytes())
    assert takes(sealed(body)) == is_valid(sealed(body)) == is_right


def float_matrix(rows: int, inputs: int) -> FloatMatrix:
    return FloatMatrix(np.zeros((rows, inputs), np.float32), np.zeros(rows, np.float32))


def affine(arithmetic: str, bands: int) -> Affine:
    types = (np.uint16, np.int16) if arithmetic == "integer" else (np.float32, np.float32)
    return Affine(*(np.ones(bands, dtype) for dtype in types))


RULED = LogMelConfig(n_fft=128, hop_length=8, n_mels=20)
LAST = Linear(float_matrix(2, 20))
LONG_POOLING = MeanPooling((1, 4_096), (1, 1))
QUERY = FloatMatrix(np.zeros((1, 20), np.float32))
THREE_CHANNELS = Convolution(float_matrix(3, 1), (1, 1), (1, 1))
LAST_OF_THREE = Linear(float_matrix(2, 60))
RULES: dict[str, tuple[Layer, ...]] = {
    "valid": (affine("float32", 20), LAST),
    "an affine of three bands for twenty": (affine("float32", 3), LAST),
    "an affine behind another layer": (Activation("relu"), affine("float32", 20), LAST),
    "a last layer that is not linear": (Linear(float_matrix(2, 20)), Activation("relu")),
    "three logits for two labels": (Linear(float_matrix(3, 20)),),
    "a kernel higher than the frame": (MeanPooling((21, 1), (1, 1)), LAST),
    "a stride longer than the kernel": (MeanPooling((1, 1), (1, 2)), LAST),
    "a depthwise convolution of three channels": (
        *(THREE_CHANNELS, DepthwiseConvolution(float_matrix(3, 6), (3, 2), (1, 1)), Linear(float_matrix(2, 54))),
    ),
    "a depthwise kernel higher than the frame": (
        *(THREE_CHANNELS, DepthwiseConvolution(float_matrix(3, 21), (21, 1), (1, 1)), LAST_OF_THREE),
    ),
    "a depthwise stride longer than the kernel": (
        *(THREE_CHANNELS, DepthwiseConvolution(float_matrix(3, 1), (1, 1), (1, 2)), LAST_OF_THREE),
    ),
    "two depthwise kernels for three channels": (
        *(THREE_CHANNELS, DepthwiseConvolution(float_matrix(2, 1), (1, 1), (1, 1)), LAST_OF_THREE),
    ),
    "a query over as many steps as may be": (QueryAttention(QUERY, 4_096), LAST),
    "a query of three rows": (QueryAttention(FloatMatrix(np.zeros((3, 20), np.float32)), 5), LAST),
    "a query that is too short": (QueryAttention(FloatMatrix(np.zeros((1, 19), np.float32)), 5), LAST),
    "a query over 1,052,672 values": (
        Linear(float_matrix(4_096, 20)),
        QueryAttention(FloatMatrix(np.zeros((1, 4_096), np.float32)), 257),
        Linear(float_matrix(2, 4_096)),
    ),
    "a mean of 69,632 values": (MeanPooling((17, 4_096), (1, 1)), Linear(float_matrix(2, 4))),
    "a frame of 4,100 values": (Convolution(float_matrix(205, 1), (1, 1), (1, 1)), Linear(float_matrix(2, 4_100))),
    "65,521 frames before the first step": (*[LONG_POOLING] * 16, LAST),
    "65,537 frames before the first step": (*[LONG_POOLING] * 16, MeanPooling((1, 17), (1, 1)), LAST),
    "32 layers": (*[Activation("tanh")] * 31, LAST),
    "33 layers": (*[Activation("tanh")] * 32, LAST),
}
VALID = {
    "valid",
    "a depthwise convolution of three channels",
    "a query over as many steps as may be",
    "65,521 frames before the first step",
    "32 layers",
}


@pytest.mark.parametrize("rule", RULES)
def test_engine_and_reader_keep_the_same_rules(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PackedModel(arithmetic="float32", front_end=RULED, layers=RULES[rule], labels=("", "word"))
    with monkeypatch.context() as unchecked:
        unchecked.setattr(PackedModel, "check", lambda model: model)
        file = packing.to_bytes(model)
    assert takes(file) == is_valid(file) == (rule in VALID)


def test_an_integer_model_begins_with_an_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("integer", [])
    with monkeypatch.context() as unchecked:
        unchecked.setattr(PackedModel, "check", lambda model: model)
        file = packing.to_bytes(replace(model, layers=model.layers[1:], metadata={}))
    assert not takes(file)
    assert not is_valid(file)


def test_the_half_byte_that_an_odd_row_of_4_bits_leaves_is_zero() -> None:
    row = np.int8([[16, 32, 48, 64, 80, 96, 112]])
    one = np.ones(1, np.uint16)
    matrix = IntegerMatrix(bits=4, weights=row, multipliers=one, shift=0, bias=np.zeros(1, np.int16))
    layers = (affine("integer", 7), Linear(matrix))
    config = replace(SMALL, n_mels=7)
    body = packing.to_bytes(PackedModel(arithmetic="integer", front_end=config, layers=layers, labels=("word",)))[
        12:
    ]
    assert b"\x21\x43\x65\x07" in body
    for last, is_right in ((b"\x07", True), (b"\x17", False)):
        patched = sealed(body.replace(b"\x21\x43\x65\x07", b"\x21\x43\x65" + last))
        assert takes(patched) == is_valid(patched) == is_right


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_single_row_has_one_multiplier_without_a_form_of_its_own(bits: Literal[4, 8], rows: int) -> None:
    """Forms 3 and 4 need two rows: a model is one file and no other."""
    one = np.ones(1, np.uint16)
    weights = np.full((rows, 8), 16, np.int8)
    matrix = IntegerMatrix(bits=bits, weights=weights, multipliers=one, shift=0, bias=np.zeros(rows, np.int16))
    labels = ("word", "")[:rows]
    layers = (affine("integer", 8), Linear(matrix))
    body = packing.to_bytes(PackedModel(arithmetic="integer", front_end=SMALL, layers=layers, labels=labels))[12:]
    form = {8: 1, 4: 2}[bits]
    place = body.rindex(bytes([5, rows])) + 2
    assert body[place] == (form if rows == 1 else form + 2)
    other = sealed(body[:place] + bytes([form + 2]) + body[place + 1 :])
    assert takes(sealed(body))
    assert takes(other) == is_valid(other) == (rows == 2)


def test_a_model_says_what_is_in_its_file() -> None:
    model = random_model("integer", ["convolution", "gru"], seed=0)
    about = _engine.Model(packing.to_bytes(model)).describe()
    assert about["labels"] == model.labels
    assert about["is_integer"]
    assert about["sample_rate"] == model.front_end.sample_rate
    point = model.operating_point
    expected = (point.smoothing_steps, point.threshold, round(point.refractory_s * 1000)) if point else (0, 0.0, 0)
    assert (about["smoothing_steps"], about["threshold"], about["refractory_ms"]) == expected
