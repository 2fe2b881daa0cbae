"""The front end's settings, and the constants that follow from them: the same bits on every platform.

A mathematical library rounds as it likes. Window, turns of the FFT and mel bank are therefore computed in
float64 from the four operations and rounded once to float32; `engine/settings.h` does the same in C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hark.errors import ConfigError

Floats: TypeAlias = NDArray[np.float32]
Complex: TypeAlias = tuple[Floats, Floats]
"""Real and imaginary parts, or cosines and sines."""

LARGEST_FFT = 4096
"""Samples: 85 ms at 48 kHz, more than any front end for speech takes."""

TAU = 6.283185307179586
LN_2_HIGH, LN_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the first has 21 zeros at its end


@dataclass(frozen=True, kw_only=True)
class LogMelConfig:
    """The front end's settings; lengths in samples. The window is as long as the FFT."""

    sample_rate: int = 16_000
    n_fft: int = 400
    hop_length: int = 160
    n_mels: int = 40

    def __post_init__(self) -> None:
        # Bounded above too, since a configuration may come from any file.
        if not 1_000 <= self.sample_rate <= 384_000:
            raise ConfigError(f"sample_rate {self.sample_rate}: expected 1,000 to 384,000 Hz")
        if not 4 <= self.n_fft <= LARGEST_FFT:
            raise ConfigError(f"n_fft {self.n_fft}: expected 4 to {LARGEST_FFT:,} samples")
        if not 0 < self.hop_length <= self.n_fft:
            raise ConfigError(f"hop_length {self.hop_length}: expected 1 to n_fft ({self.n_fft}) samples")
        if not 0 < self.n_mels <= self.n_fft // 4:
            raise ConfigError(f"n_mels {self.n_mels}: expected 1 to n_fft / 4 ({self.n_fft // 4}) bands")

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length


@dataclass(frozen=True)
class Constants:
    """All that a front end computes from its settings alone."""

    half_window: Floats
    """(n_fft,) half of the periodic Hann window; the FFT makes up for the half"""
    radices: tuple[int, ...]
    """of the passes of a complex FFT of size n_fft / 2"""
    order: NDArray[np.int64]
    """(n_fft / 2,) which input stands at each place before the first pass"""
    turns: tuple[Complex, ...]
    """for each pass but the first: cos and sin, (length, radix − 1), of 2π j q / (length · radix)"""
    split: Complex
    """cos and sin, (n_fft / 4,), of 2π k / n_fft for k = 1, 2, …"""
    corners: NDArray[np.int64]
    """(n_mels + 2,) the first FFT bin that is not below each corner of the mel bands"""
    bands: Floats
    """(n_fft / 2, 2) the weight of each FFT bin in the band that rises there, and in the one that falls"""


@lru_cache(maxsize=8)
def front_end_constants(config: LogMelConfig) -> Constants:
    """The constants of a front end.

    Raises:
        ConfigError: the engine has no FFT of that size.
    """
    size, factors = config.n_fft, radices(config.n_fft)
    corners, bands = _bands(config)
    window = [0.5 * (0.5 - 0.5 * _turn(n, size)[0]) for n in range(size)]
    return Constants(
        half_window=np.array(window).astype(np.float32),
        radices=factors,
        order=_decimated_order(factors),
        turns=tuple(
            _turns([[j * q for q in range(1, radix)] for j in range(length)], length * radix)
            for length, radix in zip(np.cumprod(factors).tolist(), factors[1:], strict=False)
        ),
        split=_turns(range(1, size // 4 + 1), size),
        corners=corners,
        bands=bands,
    )


def radices(n_fft: int) -> tuple[int, ...]:
    """The radices of an FFT of n_fft / 2 complex numbers, the pass without multiplications first.

    Raises:
        ConfigError: n_fft is odd or has a prime factor above 5.
    """
    factors: list[int] = []
    rest = n_fft // 2
    # The first pass alone has no turns: the largest radix saves most there.
    for radix in (8, 5, 4, 3, 2):
        while rest % radix == 0 and (radix != 8 or not factors):
            factors.append(radix)
            rest //= radix
    if n_fft % 2 or rest != 1:
        raise ConfigError(
            f"n_fft {n_fft}: expected an even number without prime factors above 5, such as 400 or 512"
        )
    return tuple(factors)


def _decimated_order(factors: tuple[int, ...]) -> NDArray[np.int64]:
    """The last pass joins inputs that are its radix apart; so did, within each of its parts, the one before."""
    order = np.zeros(1, np.int64)
    step = 1
    for radix in reversed(factors):
        order = (order[:, None] + step * np.arange(radix)).ravel()
        step *= radix
    return order


def _turns(numerators: ArrayLike, denominator: int) -> Complex:
    """Cosine and sine of 2π numerators / denominator, in the shape of `numerators`."""
    shape = np.shape(numerators)
    pairs = np.array([_turn(int(numerator), denominator) for numerator in np.ravel(numerators)])
    return pairs[:, 0].astype(np.float32).reshape(shape), pairs[:, 1].astype(np.float32).reshape(shape)


def _bands(config: LogMelConfig) -> tuple[NDArray[np.int64], Floats]:
    """Triangles on the HTK mel scale, 2595 log10(1 + f / 700), not normalised by area.

    Equal steps in mel are equal ratios of 1 + f / 700. Between two corners one band rises and the one below falls.
    """
    top, count = config.sample_rate / 2, config.n_mels + 1
    step = _logarithm(1 + top / 700) / count
    corners_hz = [0.0, *(700 * (_exponential(i * step) - 1) for i in range(1, count)), top]
    bins_hz = [k * config.sample_rate / config.n_fft for k in range(config.n_fft // 2)]
    corners = np.searchsorted(bins_hz, corners_hz)
    weights = np.zeros((len(bins_hz), 2))
    for band, (low, high) in enumerate(pairwise(corners_hz)):
        for k in range(corners[band], corners[band + 1]):
            weights[k, 0] = (bins_hz[k] - low) / (high - low) if band < config.n_mels else 0
            weights[k, 1] = (high - bins_hz[k]) / (high - low) if band > 0 else 0
    return corners, weights.astype(np.float32)


def _turn(numerator: int, denominator: int) -> tuple[float, float]:
    """Cosine and sine of 2π times a fraction: folded into the first eighth of a turn, then Taylor's series."""
    numerator, denominator = 8 * (numerator % denominator), 8 * denominator
    if 2 * numerator > denominator:
        cosine, sine = _first_half_turn(denominator - numerator, denominator)
        return cosine, -sine
    return _first_half_turn(numerator, denominator)


def _first_half_turn(numerator: int, denominator: int) -> tuple[float, float]:
    if 4 * numerator > denominator:
        cosine, sine = _first_quarter_turn(denominator // 2 - numerator, denominator)
        return -cosine, sine
    return _first_quarter_turn(numerator, denominator)


def _first_quarter_turn(numerator: int, denominator: int) -> tuple[float, float]:
    if 8 * numerator > denominator:
        cosine, sine = _first_eighth_turn(denominator // 4 - numerator, denominator)
        return sine, cosine
    return _first_eighth_turn(numerator, denominator)


def _first_eighth_turn(numerator: int, denominator: int) -> tuple[float, float]:
    angle = TAU * numerator / denominator
    square = angle * angle
    cosine = sine = 1.0
    for n in range(18, 0, -2):
        cosine = 1.0 - cosine * square / (n * (n - 1))
        sine = 1.0 - sine * square / (n * (n + 1))
    return cosine, sine * angle


def _logarithm(x: float) -> float:
    """The natural logarithm of x ≥ 1, by the series of 2 artanh; exact to a few units in the last place."""
    exponent = 0
    while x > 1.5:
        x, exponent = x / 2, exponent + 1
    s = (x - 1) / (x + 1)
    square, total = s * s, 0.0
    for n in range(25, 0, -2):
        total = total * square + 1.0 / n
    return exponent * LN_2_HIGH + (exponent * LN_2_LOW + 2 * s * total)


def _exponential(x: float) -> float:
    """e^x for 0 ≤ x < 700, by Taylor's series of the rest after whole octaves."""
    octaves = math.floor(x / LN_2_HIGH + 0.5)
    rest = (x - octaves * LN_2_HIGH) - octaves * LN_2_LOW
    total = 1.0
    for n in range(14, 0, -1):
        total = 1.0 + total * rest / n
    for _ in range(octaves):
        total *= 2
    return total
