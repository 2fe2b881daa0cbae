"""Sound files in and out: anything libsndfile reads becomes mono float32 at the rate that is asked for.

A waveform is float32 `(samples,)` with values in ±1 and 16 kHz unless told otherwise; PCM is int16.
Reading is strict. libsndfile decodes a truncated file without a word and waits for ever on a pipe; here every
recording is whole, finite and of sane shape, or it is an `AudioError` of one line that begins with the path.
"""

from __future__ import annotations

import re
import secrets
import stat
import wave
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hark.errors import AudioError

if TYPE_CHECKING:
    from soundfile import SoundFile

Waveform = NDArray[np.float32]
Pcm = NDArray[np.int16]

SAMPLE_RATE = 16_000
LONGEST_READ_S = 2 * 3600.0
BLOCK_SAMPLES = 1 << 16
PCM_SCALE = 32_768
SANE_RATES = range(1_000, 768_001)
MOST_CHANNELS = 64

# libsndfile's log of a header that promises more than the file holds: `data : 32000 (should be 20000)`.
_BROKEN_PROMISE = re.compile(r": (\d+) \(should be (\d+)\)")
# What libsndfile says of a stream that never states its length.
_UNKNOWN_FRAMES = 1 << 62
_PLAIN_WORDS = {"Internal error : SF_INFO struct incomplete": "impossible sample rate"}
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
    with _opened(Path(path)) as (sound, header):
        first, last = _part(path, header, start_s=start_s, duration_s=duration_s)
        if last - first > longest_s * header.sample_rate:
            found = (last - first) / header.sample_rate
            raise AudioError(
                f"{path}: {found:.1f} s of sound, expected at most {longest_s:g} s; read it in blocks"
            )
        pieces = _decode(path, sound, first, last)
        return _joined(_resample(pieces, header.sample_rate, sample_rate))


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
    with _opened(Path(path)) as (sound, header):
        pieces = _decode(path, sound, 0, header.frames)
        yield from _regroup(_resample(pieces, header.sample_rate, sample_rate), block_samples)


def info(path: str | Path) -> AudioInfo:
    """What the header says, after the checks that `read` makes before it decodes."""
    with _opened(Path(path)) as (_, found):
        return found


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


@contextmanager
def _opened(path: Path) -> Iterator[tuple[SoundFile, AudioInfo]]:
    """The decoder of a file and its checked header; every fault of either comes out as an `AudioError`."""
    import soundfile

    _require_regular_file(path)
    try:
        # A descriptor, not a name: Python's error says why a file cannot be opened, libsndfile's doesn't.
        with path.open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            yield sound, _checked_header(path, sound)
    except soundfile.LibsndfileError as error:
        why = error.error_string.strip().rstrip(".") or "libsndfile gives no reason"
        why = _PLAIN_WORDS.get(why, why)
        raise AudioError(f"{path}: not decodable ({why}), expected WAV, FLAC, OGG or MP3") from None
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror})") from None


def _require_regular_file(path: Path) -> None:
    """Look before opening: opening a pipe would wait for a writer that never comes."""
    try:
        status = path.stat()
    except OSError as error:
        kind = "symbolic link to nothing" if path.is_symlink() else error.strerror
        raise AudioError(f"{path}: {kind}, expected a recording") from None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "device")
        raise AudioError(f"{path}: a {kind}, expected a regular file")
    if status.st_size == 0:
        raise AudioError(f"{path}: 0 bytes, expected a recording")


def _checked_header(path: Path, sound: SoundFile) -> AudioInfo:
    """Refuse headers that no recording has, and those that promise more than the file holds."""
    for promised, held in _BROKEN_PROMISE.findall(sound.extra_info):
        if int(promised) > int(held):
            raise AudioError(f"{path}: truncated, the header promises {promised} bytes, the file holds {held}")
    if sound.samplerate not in SANE_RATES:
        raise AudioError(f"{path}: {sound.samplerate} Hz, expected {SANE_RATES.start} to {SANE_RATES.stop - 1} Hz")
    if sound.channels > MOST_CHANNELS:
        raise AudioError(f"{path}: {sound.channels} channels, expected at most {MOST_CHANNELS}")
    if sound.frames == 0:
        raise AudioError(f"{path}: a header without sound, expected at least one sample")
    if not 0 < sound.frames < _UNKNOWN_FRAMES:
        raise AudioError(f"{path}: the header does not say how long it is; convert it with ffmpeg first")
    return AudioInfo(sound.samplerate, sound.channels, sound.frames, sound.format, sound.subtype)


def _part(path: str | Path, header: AudioInfo, *, start_s: float, duration_s: float | None) -> tuple[int, int]:
    """First frame and the one after the last of the part asked for."""
    first = round(start_s * header.sample_rate)
    last = header.frames if duration_s is None else first + round(duration_s * header.sample_rate)
    # Manifests give times in milliseconds, so the end may be missed by half of one.
    within = last <= header.frames + header.sample_rate / 1000
    last = min(last, header.frames)
    if not (0 <= first < last and within):
        length = "the rest" if duration_s is None else f"{duration_s:g} s"
        raise AudioError(f"{path}: {length} from {start_s:g} s asked for, it is {header.duration_s:.3f} s long")
    return first, last


def _decode(path: str | Path, sound: SoundFile, first: int, last: int) -> Iterator[Waveform]:
    """Mono pieces at the file's own rate; a decoder that stops early is an error here."""
    if first:
        sound.seek(first)
    position = first
    while position < last:
        frames = sound.read(min(BLOCK_SAMPLES, last - position), dtype="float32", always_2d=True)
        if not len(frames):
            raise AudioError(f"{path}: truncated, {last} samples promised, {position} decoded")
        if not np.isfinite(frames).all():
            raise AudioError(f"{path}: NaN or infinite samples, at about {position / sound.samplerate:.2f} s")
        position += len(frames)
        yield frames[:, 0] if sound.channels == 1 else frames.mean(axis=1, dtype=np.float32)


def _resample(pieces: Iterator[Waveform], from_rate: int, to_rate: int) -> Iterator[Waveform]:
    """The pieces at another rate; cutting the same sound into other pieces gives the same samples."""
    if from_rate == to_rate:
        yield from pieces
        return
    import soxr

    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    for piece in pieces:
        yield stream.resample_chunk(piece)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


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
