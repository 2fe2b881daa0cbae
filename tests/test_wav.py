"""Plain WAV read by hand: the samples that libsndfile reads, and no benefit of the doubt."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.errors import AudioError
from hark.sound.recording import AudioInfo, mono
from hark.sound.wav import MOST_CHUNKS, PlainWav, open_plain

SUBTYPES = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"]
SOUND = np.random.default_rng(0).integers(-32_768, 32_768, 1_000).astype("<i2").tobytes()
GUID = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, content: bytes, *, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


def form(
    kind: int = 1, *, channels: int = 1, rate: int = 16_000, bits: int = 16, block: int | None = None
) -> bytes:
    block = channels * bits // 8 if block is None else block
    return struct.pack("<HHIIHH", kind, channels, rate, rate * block % 2**32, block % 2**16, bits)


def wav(*chunks: bytes) -> BytesIO:
    body = b"WAVE" + b"".join(chunks)
    return BytesIO(b"RIFF" + struct.pack("<I", len(body)) + body)


def opened(file: BytesIO) -> PlainWav:
    found = open_plain(file)
    assert found is not None
    return found


@settings(max_examples=60, deadline=None)
@given(
    subtype=st.sampled_from(SUBTYPES),
    channels=st.integers(1, 3),
    frames=st.integers(1, 500),
    container=st.sampled_from(["WAV", "WAVEX"]),
    seed=st.integers(0, 99),
)
def test_the_samples_are_those_that_libsndfile_reads(
    subtype: str, channels: int, frames: int, container: str, seed: int
) -> None:
    file = BytesIO()
    loud = np.random.default_rng(seed).uniform(-1.2, 1.2, (frames, channels))
    soundfile.write(file, loud, 22_050, subtype=subtype, format=container)
    file.seek(0)
    expected = mono(soundfile.read(file, dtype="float32", always_2d=True)[0])
    file.seek(0)
    found = opened(file)
    assert found.header == AudioInfo(22_050, channels, frames, "WAV", subtype)
    np.testing.assert_array_equal(found.piece(0, frames), expected)


@given(cuts=st.lists(st.integers(0, 1_000), max_size=5).map(sorted))
def test_pieces_joined_are_the_whole(cuts: list[int]) -> None:
    file = opened(wav(chunk(b"fmt ", form()), chunk(b"data", SOUND)))
    pieces = [file.piece(first, last) for first, last in zip([0, *cuts], [*cuts, 1_000], strict=True)]
    np.testing.assert_array_equal(np.concatenate(pieces), file.piece(0, 1_000))


def test_other_chunks_are_passed_over() -> None:
    file = opened(
        wav(
            chunk(b"LIST", b"odd"),
            chunk(b"fmt ", form() + b"\0" * 90),
            chunk(b"data", SOUND),
            chunk(b"id3 ", b"x"),
        )
    )
    assert file.header.frames == 1_000
    assert (
        file.piece(0, 1_000).tobytes()
        == opened(wav(chunk(b"fmt ", form()), chunk(b"data", SOUND))).piece(0, 1_000).tobytes()
    )


@pytest.mark.parametrize(
    "file",
    [
        BytesIO(b""),
        BytesIO(b"fLaC" + bytes(100)),
        BytesIO(b"RIFF\0\0\0\0AVI " + bytes(100)),
        wav(chunk(b"fmt ", form(7, bits=8)), chunk(b"data", SOUND)),
        wav(chunk(b"fmt ", form(bits=12, block=2)), chunk(b"data", SOUND)),
        wav(chunk(b"fmt ", form(0xFFFE) + bytes(8) + b"\x07\0" + GUID), chunk(b"data", SOUND)),
        wav(chunk(b"fmt ", form(0xFFFE) + bytes(8) + b"\x01\0" + GUID[::-1]), chunk(b"data", SOUND)),
    ],
    ids=["nothing", "FLAC", "AVI", "µ-law", "12 bits", "extensible µ-law", "another GUID"],
)
def test_what_is_not_plain_is_left_to_the_decoder(file: BytesIO) -> None:
    assert open_plain(file) is None


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (wav(), "cut off before its sound begins"),
        (wav(chunk(b"fmt ", form())), "cut off before its sound begins"),
        (wav(chunk(b"LIST", b"", size=2**32 - 1), chunk(b"data", SOUND)), "cut off before its sound begins"),
        (wav(chunk(b"data", SOUND)), "its sound comes before its format"),
        (wav(chunk(b"fmt ", form()[:14]), chunk(b"data", SOUND)), "its sound comes before its format"),
        (wav(*[chunk(b"junk", b"")] * MOST_CHUNKS), "more than 1000 chunks before its sound"),
        (wav(chunk(b"fmt ", form()), chunk(b"data", b"")), "a header without sound"),
        (wav(chunk(b"fmt ", form()), chunk(b"data", b"\0")), "a header without sound"),
        (wav(chunk(b"fmt ", form(channels=0)), chunk(b"data", SOUND)), "0 channels, expected at most 64"),
        (wav(chunk(b"fmt ", form(rate=0)), chunk(b"data", SOUND)), "0 Hz, expected 1000 to 768000 Hz"),
        (wav(chunk(b"fmt ", form(block=4)), chunk(b"data", SOUND)), "blocks of 4 bytes, expected 2: the header"),
        (
            wav(chunk(b"fmt ", form()), chunk(b"data", SOUND, size=2_001)),
            "truncated, the header promises 2001 bytes of sound, the file holds 2000",
        ),
    ],
)
def test_a_damaged_header_is_refused(file: BytesIO, message: str) -> None:
    with pytest.raises(AudioError, match=f"^{message}"):
        open_plain(file)


def test_a_double_too_big_for_a_float_is_infinite() -> None:
    sound = np.array([1e300, -1e300, 0.5], "<f8").tobytes()
    file = opened(wav(chunk(b"fmt ", form(3, bits=64)), chunk(b"data", sound)))
    assert file.piece(0, 3).tolist() == [np.inf, -np.inf, 0.5]


def test_a_file_cut_after_it_was_opened_gives_fewer_samples() -> None:
    file = wav(chunk(b"fmt ", form()), chunk(b"data", SOUND))
    found = opened(file)
    file.truncate(44 + 999)
    assert len(found.piece(0, 1_000)) == 499


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_read_refused_or_left_to_the_decoder(noise: bytes, at: int) -> None:
    whole = bytearray(wav(chunk(b"fmt ", form()), chunk(b"data", SOUND[:40])).getvalue())
    whole[at : at + len(noise)] = noise
    try:
        found = open_plain(BytesIO(bytes(whole)))
    except AudioError as error:
        assert "expected" in str(error) or "the file holds" in str(error)
    else:
        if found is not None:
            assert 0 < len(found.piece(0, 100)) <= len(whole)
