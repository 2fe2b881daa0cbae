"""Sound that tries whatever hears it: all that a microphone gives and much that it should not, of any length.

Everything is a function of the seed, so that a proof that failed fails again.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np

from hark.proof.checks import Floats
from hark.sound.augmentation import generator

BLOCK_S = 10
PERIOD_BLOCKS = 6
LONGEST_CHUNK_S = 2
ROOM_NOISE = 3e-3
"""RMS."""


def proof_sound(sample_rate: int, *, seconds: float, seed: int = 0) -> Iterator[Floats]:
    """Sound of any length in blocks of 10 s, the same for the same seed; after a minute it begins anew.

    Each block has a second of each kind, in any order: noise that swells, hum, sweeps and clicks; and what no
    recording should: digital silence, a constant or a square wave at full scale, samples that are no numbers.
    """
    left = round(seconds * sample_rate)
    minute: list[Floats] = []
    while left > 0 and len(minute) < PERIOD_BLOCKS:
        minute.append(_block(sample_rate, generator(seed, 0, len(minute))))
        yield minute[-1][:left]
        left -= len(minute[-1])
    for block in itertools.cycle(minute):
        if left <= 0:
            return
        yield block[:left]
        left -= len(block)


def room_sound(sample_rate: int, *, seconds: float) -> Iterator[Floats]:
    """The same with the noise of a room in it, 50 dB below full scale.

    Where a pure tone leaves bands empty, all that is in them is how an FFT has rounded, and no two round alike:
    on such sound no two front ends can be held to agree.
    """
    for index, block in enumerate(proof_sound(sample_rate, seconds=seconds)):
        noise = generator(0, 1, index).standard_normal(len(block), np.float32)
        yield block + np.float32(ROOM_NOISE) * noise


def random_chunks(blocks: Iterable[Floats], sample_rate: int, *, seed: int = 0) -> Iterator[Floats]:
    """The same sound in chunks from one sample to 2 s, short ones as likely as long ones."""
    rng = generator(seed, 2, 0)
    waiting = np.zeros(0, np.float32)
    size = 1
    for block in blocks:
        waiting = np.concatenate([waiting, block])
        while len(waiting) >= size:
            yield waiting[:size]
            waiting = waiting[size:]
            size = int(math.exp(rng.uniform(0, math.log(LONGEST_CHUNK_S * sample_rate + 1))))
    yield waiting


def _block(sample_rate: int, rng: np.random.Generator) -> Floats:
    pieces = [kind(sample_rate, rng) for kind in KINDS]
    return np.concatenate([pieces[place] for place in rng.permutation(len(pieces))])


def _swelling_noise(sample_rate: int, rng: np.random.Generator) -> Floats:
    loudness = np.logspace(rng.uniform(-5, -3), rng.uniform(-1, 0), sample_rate)
    return np.clip(loudness * rng.standard_normal(sample_rate), -1, 1).astype(np.float32)


def _faint_noise(sample_rate: int, rng: np.random.Generator) -> Floats:
    return (1e-4 * rng.standard_normal(sample_rate)).astype(np.float32)


def _full_scale_noise(sample_rate: int, rng: np.random.Generator) -> Floats:
    return rng.uniform(-1, 1, sample_rate).astype(np.float32)


def _silence(sample_rate: int, rng: np.random.Generator) -> Floats:
    return np.zeros(sample_rate, np.float32)


def _constant(sample_rate: int, rng: np.random.Generator) -> Floats:
    return np.full(sample_rate, rng.choice([-1, 1]), np.float32)


def _square_wave(sample_rate: int, rng: np.random.Generator) -> Floats:
    half_period = int(rng.integers(1, 64))
    return np.where(np.arange(sample_rate) // half_period % 2, 1, -1).astype(np.float32)


def _sweep(sample_rate: int, rng: np.random.Generator) -> Floats:
    """From silence in the bass up to half the sample rate."""
    time = np.arange(sample_rate) / sample_rate
    return (rng.uniform(0.01, 1) * np.sin(np.pi / 2 * sample_rate * time**2)).astype(np.float32)


def _hum(sample_rate: int, rng: np.random.Generator) -> Floats:
    """Harmonics in syllables, as voices have them."""
    time = np.arange(sample_rate) / sample_rate
    pitch_hz = rng.uniform(80, 300)
    voice = sum(np.sin(2 * np.pi * pitch_hz * n * time) / n for n in range(1, 16))
    return (0.2 * voice * np.sin(np.pi * rng.integers(1, 5) * time) ** 2).astype(np.float32)


def _clicks(sample_rate: int, rng: np.random.Generator) -> Floats:
    clicks = np.zeros(sample_rate, np.float32)
    clicks[rng.integers(0, sample_rate, 20)] = rng.uniform(-1, 1, 20)
    return clicks


def _no_numbers(sample_rate: int, rng: np.random.Generator) -> Floats:
    """Noise with samples in it that count as 0."""
    noise = (0.1 * rng.standard_normal(sample_rate)).astype(np.float32)
    noise[rng.integers(0, sample_rate, 60)] = rng.choice([np.nan, np.inf, -np.inf, 1e30], 60)
    return noise


KINDS = (
    _swelling_noise,
    _faint_noise,
    _full_scale_noise,
    _silence,
    _constant,
    _square_wave,
    _sweep,
    _hum,
    _clicks,
    _no_numbers,
)
