"""What a recording is, whatever its format: a regular file, and a header that some recording could have.

Errors here say what is wrong and leave the file's name to whoever was asked for it.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hark.errors import AudioError

Waveform = NDArray[np.float32]

BLOCK_SAMPLES = 1 << 16
SANE_RATES = range(1_000, 768_001)
MOST_CHANNELS = 64

_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe"}


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording says; `frames` counts samples of one channel."""

    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def require_regular_file(path: Path) -> None:
    """Look before opening: opening a pipe would wait for a writer that never comes."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        is_link = os.path.islink(path)  # noqa: PTH114 (where Path.is_symlink raises, it says no)
        why = "symbolic link to nothing" if is_link else getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{why}, expected a recording") from None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device")
        raise AudioError(f"a {kind}, expected a regular file")
    if status.st_size == 0:
        raise AudioError("0 bytes, expected a recording")


def require_sane(header: AudioInfo) -> None:
    """Refuse headers that no recording has."""
    if header.sample_rate not in SANE_RATES:
        raise AudioError(f"{header.sample_rate} Hz, expected {SANE_RATES.start} to {SANE_RATES.stop - 1} Hz")
    if not 1 <= header.channels <= MOST_CHANNELS:
        raise AudioError(f"{header.channels} channels, expected at most {MOST_CHANNELS}")
    if header.frames <= 0:
        raise AudioError("a header without sound, expected at least one sample")


def mono(frames: Waveform) -> Waveform:
    """The average of the channels: `(frames, channels)` to `(frames,)`."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is no sound becomes infinite, and is refused
        return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32)
