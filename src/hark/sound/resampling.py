"""Sound at another rate, by soxr at high quality: of linear phase and without delay.

What a network hears in training, in judging and in a recording passes through this one filter: flat up to 0.91 of
half the lower rate, and 120 dB down from that half on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from hark.sound.recording import Waveform

QUALITY = "HQ"


def resample(waveforms: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Waveforms `(…, samples)` at another rate, each by itself: `(…, samples · to_rate // from_rate)`."""
    if from_rate == to_rate:
        return waveforms
    import soxr

    rows = waveforms.reshape(-1, waveforms.shape[-1])
    heard = np.empty((len(rows), rows.shape[1] * to_rate // from_rate), np.float32)
    for row, new in zip(rows, heard, strict=True):
        # soxr rounds the length; a sample that is not whole would make a frame more than the sound has.
        new[:] = soxr.resample(row, from_rate, to_rate, quality=QUALITY)[: len(new)]
    return heard.reshape(*waveforms.shape[:-1], heard.shape[1])


def resample_stream(pieces: Iterable[Waveform], from_rate: int, to_rate: int) -> Iterator[Waveform]:
    """The pieces of one waveform at another rate; cutting the same sound into others gives the same samples."""
    if from_rate == to_rate:
        yield from pieces
        return
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=QUALITY)
    for piece in pieces:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)
