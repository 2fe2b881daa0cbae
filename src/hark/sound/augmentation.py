"""Fresh variations of a recording: pure functions of (x, rng) on NumPy alone.

Every function leaves its arguments untouched and returns a new float32 array. A waveform is (samples,) in
±1, and keeps its length except in `lived_in`, `lived_in_batch` and `cut_or_pad`. Ranges are (lowest, highest)
and drawn from uniformly. Nothing is clipped to ±1 unless the function says so: a model reads floats.

Randomness is keyed, never run on: `generator(seed, epoch, index)` gives one clip in one epoch its own stream,
so that neither the order of the clips nor the number of workers nor a resumed run changes a single draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from hark.errors import UsageError
from hark.sound.audio import PCM_SCALE, SAMPLE_RATE, Pcm, Waveform

Recording: TypeAlias = Waveform | Pcm
Range: TypeAlias = tuple[float, float]
Rng: TypeAlias = np.random.Generator

INAUDIBLE_POWER = 1e-12  # −120 dB of full scale: below it a ratio of powers means nothing


def generator(seed: int, epoch: int, index: int) -> Rng:
    """The random stream of one clip in one epoch, about 7 µs to make.

    Philox turns (key, counter) into random bits directly; the index stands in the counter's top word, so two
    streams of one key would meet only after 2^192 draws.

    Raises:
        UsageError: A number is negative or needs more than 64 bits.
    """
    try:
        key = np.array((seed, epoch), dtype=np.uint64)
        counter = np.array((0, 0, 0, index), dtype=np.uint64)
    except OverflowError:
        keys = f"seed {seed}, epoch {epoch}, index {index}"
        raise UsageError(f"{keys}: expected whole numbers from 0 to 2^64 - 1") from None
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def add_noise(x: Waveform, noise: Recording, rng: Rng, *, snr_db: Range = (0.0, 30.0)) -> Waveform:
    """Mix in a random slice of `noise` at a ratio of mean powers, clip to slice, drawn from `snr_db`.

    A recording shorter than `x` is repeated. Where either side is silent no ratio exists, and `x` comes back.
    """
    ratio_db = _draw("snr_db", snr_db, rng)
    piece = _random_piece(noise, len(x), rng)
    signal_power, noise_power = _power(x), _power(piece)
    if min(signal_power, noise_power) < INAUDIBLE_POWER:
        return x.copy()
    scale = math.sqrt(signal_power / noise_power) * 10 ** (-ratio_db / 20)
    return x + np.float32(scale) * piece


def gaussian_noise(x: Waveform, rng: Rng, *, std: float = 0.01) -> Waveform:
    """Add white noise of standard deviation `std`."""
    hiss = rng.standard_normal(len(x), dtype=np.float32)
    return x + np.float32(std) * hiss


def gain(x: Waveform, rng: Rng, *, gain_db: Range = (-12.0, 6.0)) -> Waveform:
    """Make it louder or quieter by an amount drawn from `gain_db`."""
    return x * np.float32(10 ** (_draw("gain_db", gain_db, rng) / 20))


def shift(x: Waveform, rng: Rng, *, max_samples: int = 1600) -> Waveform:
    """Move it by up to `max_samples` either way; what becomes free is silence."""
    farthest = min(max_samples, len(x))
    later = int(rng.integers(-farthest, farthest, endpoint=True))
    moved = np.zeros_like(x)
    if later >= 0:
        moved[later:] = x[: len(x) - later]
    else:
        moved[:later] = x[-later:]
    return moved


def speed(x: Waveform, rng: Rng, *, factor: Range = (0.9, 1.1)) -> Waveform:
    """Play it faster (factor > 1) or slower about its middle, pitch included, by linear interpolation.

    Faster leaves silence at both ends; slower loses as much there.
    """
    rate = _draw("factor", factor, rng)
    if len(x) < 2:
        return x.copy()
    played = np.zeros_like(x)
    middle = (len(x) - 1) / 2
    first = max(0, math.ceil(middle - middle / rate))
    positions = middle + (np.arange(first, len(x) - first) - middle) * rate
    before = np.minimum(positions.astype(np.intp), len(x) - 2)
    between = (positions - before).astype(np.float32)
    left = x[before]
    played[first : len(x) - first] = left + between * (x[before + 1] - left)
    return played


def clip_peaks(x: Waveform, rng: Rng, *, drive_db: Range = (0.0, 12.0)) -> Waveform:
    """Record it too loud: raise its peak to `drive_db` above full scale, then clip to ±1."""
    drive = 10 ** (_draw("drive_db", drive_db, rng) / 20)
    peak = float(np.abs(x).max(initial=0.0))
    if peak**2 < INAUDIBLE_POWER:
        return x.copy()
    return within_one(x * np.float32(drive / peak))


def reverberate(
    x: Waveform,
    rng: Rng,
    *,
    rt60_s: Range = (0.1, 0.4),
    impulse_response: Waveform | None = None,
    sample_rate: int = SAMPLE_RATE,
) -> Waveform:
    """Hear it in a room; the energy of the clip stays as it was.

    The room is `impulse_response` where given. Otherwise it is drawn: the direct sound, then noise of equal
    energy that decays by 60 dB within a time from `rt60_s`. What rings on past the clip's end is cut.
    """
    response = impulse_response
    if response is None:
        response = _room(_draw("rt60_s", rt60_s, rng), sample_rate, rng)
    heard = _convolve(x, response[: len(x)])
    power = _power(heard)
    if power < INAUDIBLE_POWER:
        return x.copy()
    return heard * np.float32(math.sqrt(_power(x) / power))


def lived_in(
    x: Waveform,
    sounds: Sequence[Recording],
    rng: Rng,
    *,
    max_s: float = 3.0,
    sample_rate: int = SAMPLE_RATE,
) -> Waveform:
    """Put 0 to `max_s` seconds of other sound before `x`, so that training sees the state a stream carries.

    The past is strung together from random pieces of the sounds; the result is (past + samples,).
    """
    stream: Waveform = lived_in_batch(x[None], sounds, rng, max_s=max_s, sample_rate=sample_rate)[0]
    return stream


def lived_in_batch(
    clips: Waveform,
    sounds: Sequence[Recording],
    rng: Rng,
    *,
    max_s: float = 3.0,
    sample_rate: int = SAMPLE_RATE,
) -> Waveform:
    """`lived_in` for clips (batch, samples): each has a past of its own, all of one length drawn once.

    Returns:
        waveforms (batch, past + samples).
    """
    if len(sounds) == 0:
        raise UsageError("no sounds to put before a clip: expected at least one recording; give some")
    batch, samples = clips.shape
    past = int(rng.integers(0, round(max_s * sample_rate), endpoint=True))
    streams = np.empty((batch, past + samples), dtype=np.float32)
    streams[:, past:] = clips
    for row in streams:
        _fill(row[:past], sounds, rng)
    return streams


def cut_or_pad(x: Waveform, samples: int, *, position: float = 0.0) -> Waveform:
    """Bring `x` to `samples` by cutting it or adding silence.

    Args:
        x: waveform (any length,).
        samples: the length wanted.
        position: where the shorter lies within the longer: 0 at its start, 0.5 in the middle, 1 at its end.
    """
    start = round(position * abs(samples - len(x)))
    if len(x) >= samples:
        return x[start : start + samples].copy()
    padded = np.zeros(samples, dtype=np.float32)
    padded[start : start + len(x)] = x
    return padded


def mask_spectrogram(
    features: npt.NDArray[np.float32],
    rng: Rng,
    *,
    max_bins: int = 15,
    max_frames: int = 35,
    fill: float = 0.0,
) -> npt.NDArray[np.float32]:
    """Hide one band of mel bins and one stretch of frames (SpecAugment, Park et al. 2019, without warping).

    Args:
        features: log-mels (..., n_mels, frames); each of a batch is masked on its own.
        rng: source of randomness.
        max_bins: widest band; widths from 0 are equally likely.
        max_frames: longest stretch.
        fill: what hidden places become. The reference used 0; silence is log(1e-9) = −20.7.
    """
    hidden = spectrogram_mask(features.shape, rng, max_bins=max_bins, max_frames=max_frames)
    return np.where(hidden, np.float32(fill), features)


def spectrogram_mask(
    shape: tuple[int, ...], rng: Rng, *, max_bins: int = 15, max_frames: int = 35
) -> npt.NDArray[np.bool_]:
    """The places that `mask_spectrogram` hides in log-mels of this shape, for those who mask tensors."""
    *batch, n_mels, frames = shape
    bins = _band(tuple(batch), n_mels, max_bins, rng)
    stretch = _band(tuple(batch), frames, max_frames, rng)
    return bins[..., :, None] | stretch[..., None, :]


def _draw(name: str, bounds: Range, rng: Rng) -> float:
    lowest, highest = bounds
    if not lowest <= highest:
        raise UsageError(f"{name} is ({lowest}, {highest}), expected (lowest, highest)")
    return float(rng.uniform(lowest, highest))


def within_one(x: Waveform) -> Waveform:
    """Clip to ±1, as a converter does."""
    return np.clip(x, np.float32(-1), np.float32(1))


def _power(x: Waveform) -> float:
    return float(x @ x) / max(1, len(x))


def _random_piece(recording: Recording, samples: int, rng: Rng) -> Waveform:
    """`samples` in a row from a random place in the recording, which is repeated where it is too short."""
    if len(recording) == 0:
        raise UsageError("a recording to mix in is empty: expected at least one sample; leave it out")
    start = int(rng.integers(max(0, len(recording) - samples), endpoint=True))
    piece = recording[start : start + samples]
    waveform = piece / np.float32(PCM_SCALE) if piece.dtype == np.int16 else piece
    return np.resize(waveform, samples).astype(np.float32, copy=False)


def _fill(room: Waveform, sounds: Sequence[Recording], rng: Rng) -> None:
    """Write random pieces of the sounds into `room`, one after the other, until it is full."""
    filled = 0
    while filled < len(room):
        sound = sounds[int(rng.integers(len(sounds)))]
        piece = _random_piece(sound, min(max(1, len(sound)), len(room) - filled), rng)
        room[filled : filled + len(piece)] = piece
        filled += len(piece)


def _room(rt60_s: float, sample_rate: int, rng: Rng) -> Waveform:
    """An impulse response (rt60 · rate,): direct sound and a decaying tail, of equal energy."""
    samples = max(2, round(rt60_s * sample_rate))
    decay = np.exp(np.arange(samples, dtype=np.float32) * np.float32(-3 * math.log(10) / samples))
    response: Waveform = rng.standard_normal(samples, dtype=np.float32) * decay
    response /= np.float32(math.sqrt(float(response[1:] @ response[1:])))
    response[0] = 1.0
    return response


def _convolve(x: Waveform, response: Waveform) -> Waveform:
    """The first `len(x)` samples of x ∗ response, by FFT."""
    size = 1 << (len(x) + len(response)).bit_length()
    spectrum = np.fft.rfft(x, size) * np.fft.rfft(response, size)
    heard = np.fft.irfft(spectrum, size).astype(np.float32, copy=False)
    return heard[: len(x)]


def _band(batch: tuple[int, ...], length: int, widest: int, rng: Rng) -> npt.NDArray[np.bool_]:
    """(*batch, length) that is true on one random band of each row."""
    width = np.asarray(rng.integers(0, min(widest, length), size=batch, endpoint=True))
    start = np.asarray(rng.integers(0, length - width, endpoint=True))
    after = np.arange(length) - start[..., None]
    band: npt.NDArray[np.bool_] = (after >= 0) & (after < width[..., None])
    return band
