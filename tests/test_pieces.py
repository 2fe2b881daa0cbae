from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import AudioError, CorpusError
from hark.sound import audio
from hark.sound.pieces import pieces

RATE = 1_000


def write(path: Path, levels: list[float], *, rate: int = RATE) -> None:
    """A recording with a second of each level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, np.repeat(levels, rate), sample_rate=rate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds in two recordings, and half a second in a folder; each second has a level of its own."""
    folder = tmp_path_factory.mktemp("pieces")
    write(folder / "a.wav", [index / 32 for index in range(1, 13)])
    write(folder / "inner" / "b.flac.wav", [index / 32 for index in range(13, 21)])
    audio.write(folder / "z.wav", np.full(RATE // 2, 31 / 32), sample_rate=RATE)
    (folder / "notes.txt").write_text("no recording")
    return folder


def test_pieces_are_whole_seconds_and_the_rest_is_silence(folder: Path) -> None:
    found = pieces(folder, most=100, sample_rate=RATE)
    levels = [index / 32 for index in range(1, 21)]
    assert np.array_equal(found[:20], np.repeat(np.float32(levels), RATE).reshape(20, RATE))
    assert np.array_equal(found[20:], [np.repeat(np.float32([31 / 32, 0]), RATE // 2)])


@given(most=st.integers(3, 40))
def test_fewer_pieces_come_from_all_over(folder: Path, most: int) -> None:
    found = pieces(folder, most=most, sample_rate=RATE)
    assert len(found) == min(most, 21)
    places = np.round(found[:, 0] * 32).astype(int)
    assert places[0] == 1
    steps = np.diff([min(place, 21) for place in places])
    assert steps.min() >= 1
    assert steps.max() <= steps.min() + 1, "evenly"


def test_few_of_many_recordings_are_looked_at(folder: Path, tmp_path: Path) -> None:
    """Judging the headers of a whole corpus would take minutes: damage in what is not needed is not met."""
    for index in range(10):
        write(tmp_path / f"{index}.wav", [index / 32])
    (tmp_path / "1.wav").write_bytes(b"damaged")
    assert pieces(tmp_path, most=2, sample_rate=RATE)[:, 0].tolist() == [0, 5 / 32]
    with pytest.raises(AudioError, match=r"1\.wav: "):
        pieces(tmp_path, most=10, sample_rate=RATE)


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", [0.5, 0.5], rate=8_000)
    found = pieces(tmp_path, most=5, sample_rate=16_000)
    assert found.shape == (2, 16_000)
    assert found[0, 8_000] == pytest.approx(0.5, abs=0.01)


def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"no recordings found, expected files that end in \.flac, \.mp3, \.ogg, \.wav"
    ):
        pieces(tmp_path, most=5, sample_rate=RATE)
