"""What cannot be a recording is refused before anything is opened or decoded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hark.errors import AudioError
from hark.sound.recording import MOST_CHANNELS, AudioInfo, mono, require_regular_file, require_sane

HEADER = AudioInfo(16_000, 1, 16_000, "WAV", "PCM_16")


def test_a_header_of_a_recording_passes_and_says_how_long_it_is() -> None:
    require_sane(HEADER)
    require_sane(replace(HEADER, channels=MOST_CHANNELS, sample_rate=768_000, frames=1))
    assert replace(HEADER, frames=4_000).duration_s == 0.25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 0}, "0 Hz, expected 1000 to 768000 Hz"),
        ({"sample_rate": 999}, "999 Hz, expected"),
        ({"sample_rate": 2**31}, "2147483648 Hz, expected"),
        ({"channels": 0}, "0 channels, expected at most 64"),
        ({"channels": 65}, "65 channels, expected"),
        ({"frames": 0}, "a header without sound"),
        ({"frames": -1}, "a header without sound"),
    ],
)
def test_a_header_that_no_recording_has_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(AudioError, match=f"^{message}"):
        require_sane(replace(HEADER, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file or directory, expected a recording"),
        (Path.mkdir, "a folder, expected a regular file"),
        (os.mkfifo, "a pipe, expected a regular file"),
        (Path.touch, "0 bytes, expected a recording"),
        (lambda path: path.symlink_to("nowhere"), "symbolic link to nothing, expected a recording"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, expected a regular file"),
    ],
    ids=["nothing", "folder", "pipe", "empty", "dangling link", "device"],
)
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    make(tmp_path / "a.wav")
    with pytest.raises(AudioError, match=f"^{message}$"):
        require_regular_file(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a\0.wav", "a" * 300 + ".wav"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AudioError, match=r"expected a recording$"):
        require_regular_file(tmp_path / name)


def test_channels_are_averaged() -> None:
    frames = np.array([[0.5, -0.25], [1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(mono(frames), np.array([0.125, 0.5], np.float32))
    np.testing.assert_array_equal(mono(frames[:, :1]), frames[:, 0])
