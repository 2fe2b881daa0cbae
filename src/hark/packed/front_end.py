"""The front end to the last bit: sound to log-mel frames in float32, each operation in one written order.

This is the reference of the C engine, which equals it on every platform: float32 operations with one rounding
each, no fused multiply-add, no `np.sum`, no `np.fft`, no mathematical library; arrays only across what is
independent (frames, butterflies). `hark.network.features` says the same in torch, for training, to 1e-5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hark.packed.front_end_settings import Complex, Constants, Floats, LogMelConfig, front_end_constants

FLOOR = 1e-9
"""Mel power below this is silence; keeps the logarithm finite."""

LARGEST_SAMPLE = 2.0**20
"""A sample beyond this, 120 dB over full scale, is not sound; it keeps every sum finite."""


def log_mels(sound: NDArray[np.int16] | Floats, config: LogMelConfig) -> Floats:
    """The log-mel frames `(frames, n_mels)` of a whole stream `sound (samples,)` that begins with silence."""
    return step(sound, initial_past(config), config)[0]


def initial_past(config: LogMelConfig) -> Floats:
    """The samples that a stream which has heard nothing still needs: the silence before its sound."""
    return np.zeros(config.n_fft - config.hop_length, np.float32)


def step(sound: NDArray[np.int16] | Floats, past: Floats, config: LogMelConfig) -> tuple[Floats, Floats]:
    """The frames `(frames, n_mels)` that more sound completes after `past`, and the samples still needed."""
    constants = front_end_constants(config)
    samples = np.concatenate([past, clean_samples(sound)[0]])
    count = max(0, (len(samples) - config.n_fft) // config.hop_length + 1)
    rest = samples[count * config.hop_length :]
    if not count:
        return np.zeros((0, config.n_mels), np.float32), rest
    frames = np.lib.stride_tricks.sliding_window_view(samples, config.n_fft)[:: config.hop_length]
    power = power_spectrum(frames * constants.half_window, constants)
    mels = [_band_power(power, band, constants) for band in range(config.n_mels)]
    return logarithm(np.maximum(np.stack(mels, axis=-1), np.float32(FLOOR))), rest


def clean_samples(sound: NDArray[np.int16] | Floats) -> tuple[Floats, int]:
    """Samples as float32 in ±1, and how many of them were no numbers or beyond all sound and are now 0."""
    if sound.dtype == np.int16:
        return sound.astype(np.float32) * np.float32(2.0**-15), 0
    usable = np.abs(sound) <= np.float32(LARGEST_SAMPLE)
    return np.where(usable, sound, np.float32(0)).astype(np.float32), int(np.sum(~usable))


def power_spectrum(frames: Floats, constants: Constants) -> Floats:
    """Power `(frames, n_fft / 2)` of windowed `frames (frames, n_fft)`; that of bin 0 is left at zero.

    Samples 2n and 2n + 1 are real and imaginary part of a complex FFT of half the size; its bins k and
    n_fft / 2 − k then hold what both of them need.
    """
    re, im = half_size_fft((frames[:, 0::2], frames[:, 1::2]), constants)
    size = re.shape[1]
    low = np.arange(1, size // 2 + 1)
    high = size - low
    even = re[:, low] + re[:, high], im[:, low] - im[:, high]
    odd = im[:, low] + im[:, high], re[:, high] - re[:, low]
    odd = rotate(odd, constants.split)
    power = np.zeros_like(re)
    power[:, low] = _square(even[0] + odd[0], even[1] + odd[1])
    power[:, high] = _square(even[0] - odd[0], even[1] - odd[1])
    return power


def half_size_fft(inputs: Complex, constants: Constants) -> Complex:
    """The FFT of `inputs (frames, size)`, by decimation in time: one pass for each radix."""
    re, im = (part[:, constants.order] for part in inputs)
    length = 1
    for radix, turns in zip(constants.radices, (None, *constants.turns), strict=True):
        parts = [part.reshape(len(re), -1, radix, length) for part in (re, im)]
        legs = [(parts[0][:, :, q], parts[1][:, :, q]) for q in range(radix)]
        if turns is not None:  # the first pass has none
            for q in range(1, radix):
                legs[q] = rotate(legs[q], (turns[0][:, q - 1], turns[1][:, q - 1]))
        legs = butterfly(*legs)
        re, im = (np.stack([leg[part] for leg in legs], axis=2).reshape(len(re), -1) for part in (0, 1))
        length *= radix
    return re, im


def butterfly(*z: Complex) -> list[Complex]:
    """The FFT of two, three, four, five or eight complex numbers, in the order of their frequency."""
    match len(z):
        case 2:
            return _butterfly2(*z)
        case 3:
            return _butterfly3(*z)
        case 4:
            return _butterfly4(*z)
        case 5:
            return _butterfly5(*z)
        case _:
            return _butterfly8(*z)


def rotate(z: Complex, turn: Complex) -> Complex:
    """`z` times e^(−iθ), for cos θ and sin θ."""
    (re, im), (cosine, sine) = z, turn
    return cosine * re + sine * im, cosine * im - sine * re


def _square(re: Floats, im: Floats) -> Floats:
    return re * re + im * im


def _band_power(power: Floats, band: int, constants: Constants) -> Floats:
    """`(frames,)`, added in the order of the bins: first those where the band rises, then where it falls."""
    left, centre, right = constants.corners[band : band + 3]
    total = np.zeros(len(power), np.float32)
    for k in range(left, right):
        total = total + power[:, k] * constants.bands[k, 0 if k < centre else 1]
    return total


def logarithm(x: Floats) -> Floats:
    """The natural logarithm, to 2e-7 of max(1, |ln x|), for positive, normal, finite x.

    ln 2 times the exponent, and of the rest a minimax polynomial, in pairs (Estrin's scheme).
    """
    bits = x.view(np.int32)
    exponent = (bits - np.int32(0x3F3504F3)) >> 23  # of x / √½, so that 1 + f lies in [√½, √2)
    f = (bits - (exponent << 23)).view(np.float32) - np.float32(1)
    c = LOGARITHM
    square = f * f
    low = (c[0] + c[1] * f) + square * (c[2] + c[3] * f)
    high = (c[4] + c[5] * f) + square * (c[6] + c[7] * f)
    result: Floats = f * (low + square * square * high) + exponent.astype(np.float32) * np.float32(0.6931472)
    return result


def _butterfly2(a: Complex, b: Complex) -> list[Complex]:
    return [_plus(a, b), _minus(a, b)]


def _butterfly3(a: Complex, b: Complex, c: Complex) -> list[Complex]:
    total, difference = _plus(b, c), _times(_SIN_3, _minus(b, c))
    middle = _minus(a, _times(_HALF, total))
    return [_plus(a, total), _plus(middle, _turned(difference)), _minus(middle, _turned(difference))]


def _butterfly4(a: Complex, b: Complex, c: Complex, d: Complex) -> list[Complex]:
    even, odd = _plus(a, c), _plus(b, d)
    even_difference, odd_difference = _minus(a, c), _turned(_minus(b, d))
    return [
        _plus(even, odd),
        _plus(even_difference, odd_difference),
        _minus(even, odd),
        _minus(even_difference, odd_difference),
    ]


def _butterfly5(a: Complex, b: Complex, c: Complex, d: Complex, e: Complex) -> list[Complex]:
    outer, outer_difference = _plus(b, e), _minus(b, e)
    inner, inner_difference = _plus(c, d), _minus(c, d)
    total = _plus(outer, inner)
    middle = _minus(a, _times(_QUARTER, total))
    spread = _times(_ROOT_5_QUARTER, _minus(outer, inner))
    near, far = _plus(middle, spread), _minus(middle, spread)
    near_turn = _turned(_plus(_times(_SIN_5, outer_difference), _times(_SIN_10, inner_difference)))
    far_turn = _turned(_minus(_times(_SIN_10, outer_difference), _times(_SIN_5, inner_difference)))
    return [
        _plus(a, total),
        _plus(near, near_turn),
        _plus(far, far_turn),
        _minus(far, far_turn),
        _minus(near, near_turn),
    ]


def _butterfly8(*z: Complex) -> list[Complex]:
    even = _butterfly4(*z[0::2])
    odd = _butterfly4(*z[1::2])
    (re1, im1), (re3, im3) = odd[1], odd[3]
    odd[1] = _ROOT_HALF * (re1 + im1), _ROOT_HALF * (im1 - re1)
    odd[2] = _turned(odd[2])
    odd[3] = _ROOT_HALF * (im3 - re3), -(_ROOT_HALF * (re3 + im3))
    return [_plus(e, o) for e, o in zip(even, odd, strict=True)] + [
        _minus(e, o) for e, o in zip(even, odd, strict=True)
    ]


def _plus(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _minus(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


def _times(factor: np.float32, z: Complex) -> Complex:
    return factor * z[0], factor * z[1]


def _turned(z: Complex) -> Complex:
    """`z` times −i."""
    return z[1], -z[0]


LOGARITHM = np.array(
    [0.99999994, -0.50000364, 0.3333506, -0.24969909, 0.19900161, -0.17250839, 0.1622263, -0.10106931], np.float32
)
"""Of ln(1 + f) / f for 1 + f from √½ to √2, the lowest power first; the largest relative error is 1.7e-7."""

_HALF, _QUARTER = np.float32(0.5), np.float32(0.25)
_SIN_3 = np.float32(0.86602540378443865)
_SIN_5, _SIN_10 = np.float32(0.95105651629515357), np.float32(0.58778525229247313)
_ROOT_5_QUARTER = np.float32(0.55901699437494742)
_ROOT_HALF = np.float32(0.70710678118654752)
