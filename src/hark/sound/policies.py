"""Whole policies of augmentation: what happens to a clip each time it is heard in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from hark.errors import ConfigError, UsageError
from hark.sound.audio import SAMPLE_RATE, Waveform
from hark.sound.augmentation import (
    Range,
    Recording,
    Rng,
    add_noise,
    clip_peaks,
    gain,
    gaussian_noise,
    reverberate,
    shift,
    speed,
    within_one,
)


def reference_augmentation(x: Waveform, rng: Rng, noises: Sequence[Recording]) -> Waveform:
    """The reference report's policy: one of four, equally likely, clipped to ±1.

    Nothing; noise of deviation 0.01; volume 0.25; or a slice of a background recording. Its level was "1 dB"
    by the norms of the clip and of the *whole* recording: near 19 dB of SNR for a minute of even noise. That
    accident is kept, for it is what the reference trained on; here every slice comes at that SNR.
    """
    if len(noises) == 0:
        raise UsageError("no background recordings: the reference's policy mixes them in; give some")
    choice = int(rng.integers(4))
    if choice == 1:
        return within_one(gaussian_noise(x, rng, std=0.01))
    if choice == 2:
        return within_one(x * np.float32(0.25))
    if choice == 3:
        noise = noises[int(rng.integers(len(noises)))]
        snr_db = 1.0 + 10 * math.log10(max(1.0, len(noise) / max(1, len(x))))
        return within_one(add_noise(x, noise, rng, snr_db=(snr_db, snr_db)))
    return x.copy()


@dataclass(frozen=True, kw_only=True)
class WaveAugmentation:
    """A chain of augmentations in the order sound takes them: speaker, room, background, microphone.

    Each is applied with its probability, by itself; the defaults cost about 0.2 ms for a second of sound.
    """

    speed_probability: float = 0.3
    speed_factor: Range = (0.9, 1.1)
    shift_probability: float = 0.7
    shift_samples: int = 4000
    reverb_probability: float = 0.05
    rt60_s: Range = (0.1, 0.4)
    noise_probability: float = 0.5
    snr_db: Range = (-5.0, 25.0)
    clip_probability: float = 0.05
    drive_db: Range = (0.0, 12.0)
    gain_probability: float = 0.5
    gain_db: Range = (-30.0, 6.0)
    gaussian_probability: float = 0.1
    gaussian_std: float = 0.01
    sample_rate: int = SAMPLE_RATE

    def __post_init__(self) -> None:
        faults = [fault for field in fields(self) if (fault := _fault(field.name, getattr(self, field.name)))]
        if faults:
            raise ConfigError("augmentation: " + "; ".join(faults))

    def __call__(self, x: Waveform, rng: Rng, noises: Sequence[Recording] = ()) -> Waveform:
        """Vary `x` (samples,); `noises` are background recordings, float32 or PCM int16."""
        if self.noise_probability > 0 and len(noises) == 0:
            raise UsageError("no background recordings to mix in: give some, or set noise_probability to 0")
        chances = rng.random(7)
        y = x.copy()
        if chances[0] < self.speed_probability:
            y = speed(y, rng, factor=self.speed_factor)
        if chances[1] < self.shift_probability:
            y = shift(y, rng, max_samples=self.shift_samples)
        if chances[2] < self.reverb_probability:
            y = reverberate(y, rng, rt60_s=self.rt60_s, sample_rate=self.sample_rate)
        if chances[3] < self.noise_probability:
            y = add_noise(y, noises[int(rng.integers(len(noises)))], rng, snr_db=self.snr_db)
        if chances[4] < self.clip_probability:
            y = clip_peaks(y, rng, drive_db=self.drive_db)
        if chances[5] < self.gain_probability:
            y = gain(y, rng, gain_db=self.gain_db)
        if chances[6] < self.gaussian_probability:
            y = gaussian_noise(y, rng, std=self.gaussian_std)
        return y


# What each kind of field may be: beyond, there is no sound left, or numbers that no sample can hold.
_SHARE, _LEVEL_DB = (0.0, 1.0), (-200.0, 200.0)
_BOUNDS = {
    "speed_factor": (0.1, 10.0),
    "shift_samples": (0, 1 << 24),
    "rt60_s": (0.001, 10.0),
    "gaussian_std": (0.0, 10.0),
    "sample_rate": (1_000, 768_000),
}


def _fault(name: str, value: float | Range) -> str | None:
    """What is wrong with a field of `WaveAugmentation`, or None."""
    low, high = _SHARE if name.endswith("_probability") else _BOUNDS.get(name, _LEVEL_DB)
    if isinstance(value, (tuple, list)):
        expected = f"(lowest, highest) within {low:,g} to {high:,g}"
        fits = len(value) == 2 and low <= value[0] <= value[1] <= high
    else:
        expected = f"{low:,g} to {high:,g}"
        fits = low <= value <= high
    return None if fits else f"{name} is {value}, expected {expected}"
