"""Sound files in and out: anything libsndfile reads becomes mono float32 at the rate that is asked for.

A waveform is float32 `(samples,)` with values in ±1 and 16 kHz unless told otherwise; PCM is int16.
Reading is strict: every recording is whole, finite and of sane shape, or it is an `AudioError` of one line that
begins with the path. Plain WAV is read here, whatever must be decoded is decoded in a helper process.
"""

from __future__ import annotations

import secrets
import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hark.errors import AudioError
from hark.sound.decoding import Encoded
from hark.sound.recording import BLOCK_SAMPLES, require_regular_file
from hark.sound.recording import AudioInfo as AudioInfo
from hark.sound.recording import Waveform as Waveform
from hark.sound.resampling import resample_stream
from hark.sound.wav import PlainWav, open_plain

Pcm = NDArray[np.int16]
Recording: TypeAlias = PlainWav | Encoded

SAMPLE_RATE = 16_000
LONGEST_READ_S = 2 * 3600.0
PCM_SCALE = 32_768


def read(
    path: str | Path,
    *,
    sample_rate: int = SAMPLE_RATE,
    start_s: float = 0.0,
    duration_s: float | None = None,
    longest_s: float = LONGEST_READ_S,
) -> Waveform:
    """Read a recording, or the part of it from `start_s`, at once.

    Args:
        path: Any file that libsndfile decodes (WAV, FLAC, OGG, MP3, …), any rate, channels and depth.
        sample_rate: Rate of the result in Hz; channels are averaged, then soxr resamples at high quality.
        start_s: Where to begin, in seconds.
        duration_s: How much to read, in seconds; to the end by default.
        longest_s: More sound than this is refused; `blocks` reads recordings of any length.

    Returns:
        Waveform `(samples,)`.

    Raises:
        AudioError: Not a readable recording, damaged, too long, or shorter than the part asked for.
    """
    with opened(path) as recording:
        return sound(
            recording, sample_rate=sample_rate, start_s=start_s, duration_s=duration_s, longest_s=longest_s
        )


def blocks(
    path: str | Path, *, sample_rate: int = SAMPLE_RATE, block_samples: int = BLOCK_SAMPLES
) -> Iterator[Waveform]:
    """Stream a recording of any length in constant memory; the blocks joined are what `read` returns.

    Args:
        path: As for `read`.
        sample_rate: Rate of the result in Hz.
        block_samples: Length of every block but the last, which may be shorter.

    Yields:
        Waveforms `(block_samples,)`.

    Raises:
        AudioError: As for `read`; damage is reported when it is reached.
    """
    with opened(path) as recording:
        pieces = _pieces(recording, 0, recording.header.frames)
        yield from _regroup(resample_stream(pieces, recording.header.sample_rate, sample_rate), block_samples)


def info(path: str | Path) -> AudioInfo:
    """What the header says, after the checks that `read` makes before it decodes."""
    with opened(path) as recording:
        return recording.header


@contextmanager
def opened(path: str | Path) -> Iterator[Recording]:
    """A recording with its header checked, for `sound`; all that is wrong with it comes out under its name."""
    try:
        require_regular_file(Path(path))
        with Path(path).open("rb") as file:
            yield open_plain(file) or Encoded(Path(path))
    except AudioError as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from None


def sound(
    recording: Recording,
    *,
    sample_rate: int = SAMPLE_RATE,
    start_s: float = 0.0,
    duration_s: float | None = None,
    longest_s: float = LONGEST_READ_S,
) -> Waveform:
    """What `read` returns, of a recording that is open."""
    header = recording.header
    first, last = _part(header, start_s=start_s, duration_s=duration_s)
    if last - first > longest_s * header.sample_rate:
        found = (last - first) / header.sample_rate
        raise AudioError(f"{found:.1f} s of sound, expected at most {longest_s:g} s; read it in blocks")
    return _joined(resample_stream(_pieces(recording, first, last), header.sample_rate, sample_rate))


def write(path: str | Path, waveform: NDArray[np.floating[Any]], *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono WAV of 16 bits; it appears under its name only when it is whole.

    Args:
        path: Where to; an existing file is replaced.
        waveform: `(samples,)`, finite; values out of ±1 are clipped.
        sample_rate: In Hz.

    Raises:
        AudioError: The waveform is not a finite vector, or the file cannot be written.
    """
    if waveform.ndim != 1 or not np.isfinite(waveform).all():
        raise AudioError(f"{path}: waveform of shape {waveform.shape}, expected (samples,) of finite values")
    encoded = BytesIO()
    with wave.open(encoded, "wb") as file:
        file.setparams((1, 2, sample_rate, 0, "NONE", ""))
        file.writeframes(to_pcm16(waveform).astype("<i2").tobytes())
    _replace(Path(path), encoded.getvalue())


def to_pcm16(waveform: NDArray[np.floating[Any]]) -> Pcm:
    """Round finite values in ±1 to 16 bits; what lies outside is clipped."""
    pcm: Pcm = np.clip(np.rint(waveform * PCM_SCALE), -PCM_SCALE, PCM_SCALE - 1).astype(np.int16)
    return pcm


def from_pcm16(pcm: Pcm) -> Waveform:
    """Exact inverse of `to_pcm16` on every 16-bit value, and the scale that libsndfile reads with."""
    return pcm.astype(np.float32) / np.float32(PCM_SCALE)


def _part(header: AudioInfo, *, start_s: float, duration_s: float | None) -> tuple[int, int]:
    """First frame and the one after the last of the part asked for."""
    first = round(start_s * header.sample_rate)
    last = header.frames if duration_s is None else first + round(duration_s * header.sample_rate)
    # Manifests give times in milliseconds, so the end may be missed by half of one.
    within = last <= header.frames + header.sample_rate / 1000
    last = min(last, header.frames)
    if not (0 <= first < last and within):
        length = "the rest" if duration_s is None else f"{duration_s:g} s"
        raise AudioError(f"{length} from {start_s:g} s asked for, it is {header.duration_s:.3f} s long")
    return first, last


def _pieces(recording: Recording, first: int, last: int) -> Iterator[Waveform]:
    """Mono pieces at the file's own rate; a file or decoder that ends early is an error here."""
    while first < last:
        piece = recording.piece(first, min(first + BLOCK_SAMPLES, last))
        if not len(piece):
            raise AudioError(f"truncated, {last} samples promised, {first} decoded")
        if not np.isfinite(piece).all():
            raise AudioError(f"NaN or infinite samples, at about {first / recording.header.sample_rate:.2f} s")
        first += len(piece)
        yield piece


def _regroup(pieces: Iterable[Waveform], block_samples: int) -> Iterator[Waveform]:
    """The same samples in blocks of one length; the last may be shorter."""
    kept: list[Waveform] = []
    held = 0
    for piece in pieces:
        kept.append(piece)
        held += len(piece)
        if held < block_samples:
            continue
        joined = _joined(kept)
        whole = held - held % block_samples
        yield from joined[:whole].reshape(-1, block_samples)
        kept, held = [joined[whole:]], held - whole
    if held:
        yield _joined(kept)


def _joined(pieces: Iterable[Waveform]) -> Waveform:
    """The pieces as one contiguous waveform."""
    parts = list(pieces)
    return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts))


def _replace(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that no reader sees half a file.

    Without fsync: clips come by the thousand and can be made again.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise AudioError(f"{path}: cannot be written ({error.strerror})") from None
