"""Whatever must be decoded is decoded elsewhere: the same samples, and a helper that outlives no bad file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from hark.confinement import Helper
from hark.errors import AudioError, DecoderLost
from hark.sound import decoding
from hark.sound.decoding import Encoded
from hark.sound.recording import BLOCK_SAMPLES, AudioInfo, mono

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * BLOCK_SAMPLES)


@pytest.fixture(autouse=True)
def own_helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A helper for each test, which other tests can't have spoilt."""
    monkeypatch.setattr(decoding, "_own", type(decoding._own)())
    yield
    decoding._helper().close()


def written(path: Path, sound: np.ndarray = NOISE, **form: str) -> Path:
    soundfile.write(path, sound, 16_000, **form)
    return path


def pid_of_helper() -> int:
    running = decoding._helper()._running
    assert running is not None
    return running._process.pid


def whole(file: Encoded, *, step: int = BLOCK_SAMPLES) -> np.ndarray:
    frames = file.header.frames
    return np.concatenate([file.piece(first, min(first + step, frames)) for first in range(0, frames, step)])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.flac", {}),
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.ogg", {"subtype": "OPUS"}),
        ("a.mp3", {}),
        ("a.wav", {"subtype": "ULAW"}),
        ("a.wav", {"subtype": "IMA_ADPCM"}),
        ("a.aiff", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("subtype", ""),
)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_samples_are_those_that_libsndfile_decodes(
    tmp_path: Path, name: str, form: dict[str, str], channels: int
) -> None:
    path = written(tmp_path / name, NOISE.reshape(-1, channels), **form)
    file, about = Encoded(path), soundfile.info(path)
    assert file.header == AudioInfo(16_000, channels, about.frames, about.format, about.subtype)
    expected = mono(soundfile.read(path, dtype="float32", always_2d=True)[0])
    # A hundredth of a step of 16 bits: MP3 decodes a little differently in other blocks.
    np.testing.assert_allclose(whole(file), expected, atol=3e-7, rtol=0)


def test_a_part_is_a_slice_of_the_whole_wherever_the_decoder_stands(tmp_path: Path) -> None:
    file = Encoded(written(tmp_path / "a.flac"))
    expected = whole(file)
    for first in (0, 100_000, 70_000, 65_536, 5, 196_600):
        np.testing.assert_array_equal(file.piece(first, first + 8), expected[first : first + 8])


def test_files_read_by_turns_do_not_mix(tmp_path: Path) -> None:
    sounds = {name: NOISE * scale for name, scale in (("a", 1.0), ("b", 0.5))}
    files = {name: Encoded(written(tmp_path / f"{name}.flac", sound)) for name, sound in sounds.items()}
    for first in range(0, len(NOISE), BLOCK_SAMPLES):
        for name, file in files.items():
            piece = file.piece(first, first + BLOCK_SAMPLES)
            np.testing.assert_allclose(piece, sounds[name][first : first + BLOCK_SAMPLES], atol=1e-4)


def test_a_file_replaced_is_read_anew(tmp_path: Path) -> None:
    Encoded(written(tmp_path / "a.flac"))
    assert Encoded(written(tmp_path / "a.flac", NOISE[:7])).header.frames == 7


def test_a_relative_path_is_found_wherever_the_helper_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Encoded(written(tmp_path / "a.flac"))
    (tmp_path / "b").mkdir()
    written(tmp_path / "b" / "c.flac", NOISE[:7])
    monkeypatch.chdir(tmp_path / "b")
    assert Encoded(Path("c.flac")).header.frames == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", r"not decodable \(Format not recognised\), expected WAV, FLAC, OGG or MP3"),
        (b"fLaC" + bytes(50), "not decodable "),
        (b"", "0 bytes, expected a recording"),
    ],
)
def test_what_is_not_decodable_is_refused_and_the_helper_stays(
    tmp_path: Path, content: bytes, message: str
) -> None:
    good = written(tmp_path / "good.flac")
    Encoded(good)
    before = pid_of_helper()
    (tmp_path / "bad.flac").write_bytes(content)
    with pytest.raises(AudioError, match=f"^{message}"):
        Encoded(tmp_path / "bad.flac")
    assert whole(Encoded(good)).shape == NOISE.shape
    assert pid_of_helper() == before


def test_no_file_is_left_open(tmp_path: Path) -> None:
    good = written(tmp_path / "good.flac", NOISE[:99])
    (tmp_path / "bad.flac").write_bytes(b"fLaC" + bytes(50))
    Encoded(good)
    descriptors = Path(f"/proc/{pid_of_helper()}/fd")
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        with pytest.raises(AudioError):
            Encoded(tmp_path / "bad.flac")
        Encoded(good)
    assert len(list(descriptors.iterdir())) == before


def test_a_wav_of_samples_that_must_be_decoded_is_held_to_its_promise(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", NOISE[:16_000], subtype="ULAW")
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(AudioError, match=r"truncated, the header promises \d+ bytes, the file holds \d+"):
        Encoded(path)


def test_the_time_for_a_file_is_for_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What opening it has taken is no longer there for its blocks; but a long recording has longer."""
    asked: list[float] = []
    ask = Helper.ask

    def slowly(self: Helper, question: dict[str, object], *, within_s: float) -> object:
        asked.append(within_s)
        clock_s[0] += 4.0
        return ask(self, question)

    clock_s = [0.0]
    monkeypatch.setattr(decoding.time, "monotonic", lambda: clock_s[0])
    monkeypatch.setattr(Helper, "ask", slowly)
    file = Encoded(written(tmp_path / "a.flac"))
    for first in (0, BLOCK_SAMPLES, 2 * BLOCK_SAMPLES):
        file.piece(first, first + 1)
    assert asked == [10.0, 6.0, pytest.approx(2.0 + BLOCK_SAMPLES / 16_000)]


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"sample_rate": "x", "channels": 1, "frames": 1, "format": "", "subtype": ""},
        {"sample_rate": float("inf"), "channels": 1, "frames": 1, "format": "", "subtype": ""},
        {"sample_rate": None, "channels": 1, "frames": 1, "format": "", "subtype": "", "more": 1},
    ],
)
def test_a_helper_that_a_file_has_taken_over_is_not_believed(
    told: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Helper, "ask", mock.Mock(return_value=(told, bytearray(7))))
    with pytest.raises(DecoderLost, match="answered nonsense"):
        Encoded(Path("a.flac"))


def test_a_fork_has_a_helper_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac")
    Encoded(path)
    child = os.fork()
    if child == 0:
        frames = Encoded(path).header.frames
        os._exit(0 if frames == len(NOISE) and decoding._own.process_id == os.getpid() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(whole(Encoded(path))) == len(NOISE)


def test_threads_decode_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac")
    pids = []

    def decode() -> None:
        Encoded(path)
        pids.append(pid_of_helper())

    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(pids)) == 3


def test_the_helper_has_a_gibibyte_and_ten_seconds() -> None:
    assert (decoding.LIMITS.memory_bytes, decoding.LIMITS.answer_s) == (1 << 30, 10.0)
