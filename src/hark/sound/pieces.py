"""Pieces of one length from all over the recordings in a folder: what a model's ranges are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hark.errors import CorpusError
from hark.sound import audio
from hark.sound.corpus import AUDIO_SUFFIXES

T = TypeVar("T")


def pieces(folder: Path, *, most: int, sample_rate: int, piece_s: float = 1.0) -> NDArray[np.float32]:
    """At most so many pieces, one after the other in their recordings, chosen evenly: the same ones each time.

    Args:
        folder: recordings of any format and rate, in folders or not.
        most: pieces, and recordings that are looked at.
        sample_rate: Hz of the result.
        piece_s: length of a piece; what is left of a recording is padded with silence.

    Returns:
        `(pieces, samples)`

    Raises:
        CorpusError: there are no recordings.
        AudioError: one cannot be read.
    """
    recordings = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not recordings:
        known = ", ".join(sorted(AUDIO_SUFFIXES))
        raise CorpusError(f"{folder}: no recordings found, expected files that end in {known}")
    places = [
        (path, piece_s * index)
        for path in _evenly(recordings, most)
        for index in range(max(1, int(audio.info(path).duration_s / piece_s)))
    ]
    return np.stack([_piece(path, start_s, piece_s, sample_rate) for path, start_s in _evenly(places, most)])


def _evenly(choices: Sequence[T], most: int) -> list[T]:
    """All, or so many from beginning to end."""
    count = min(most, len(choices))
    return [choices[index * len(choices) // count] for index in range(count)]


def _piece(path: Path, start_s: float, piece_s: float, sample_rate: int) -> NDArray[np.float32]:
    duration_s = min(piece_s, audio.info(path).duration_s - start_s)
    sound = audio.read(path, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s)
    piece = np.zeros(round(piece_s * sample_rate), np.float32)
    piece[: len(sound)] = sound[: len(piece)]
    return piece
