"""A runner that is never wrong about keywords that are loud, and recordings for it: outcomes known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hark.runtime import Floats, Sound
from hark.sound import audio

RATE = audio.SAMPLE_RATE
LOUD, QUIET = 0.5, 0.05


class Loudness:
    """Every 0.1 s it hears how loud they were."""

    def __init__(self, labels: tuple[str, ...] = ("", "loud"), *, sample_rate: int = RATE) -> None:
        """Of both classes, or of the loud one alone."""
        self.labels = labels
        self.sample_rate = sample_rate
        self.step_samples = self.first_step_samples = sample_rate // 10

    def stream(self) -> LoudnessStream:
        """Nothing heard."""
        return LoudnessStream(len(self.labels), self.step_samples)


class LoudnessStream:
    """Sound to logits (0, ±5), or the last alone: is the mean level above 0.4?"""

    def __init__(self, classes: int, step_samples: int) -> None:
        self._classes = classes
        self._step_samples = step_samples
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self._waiting = np.zeros(0, np.float32)

    def step_logits(self, sound: Sound, /) -> Floats:
        """Logits (steps, classes)."""
        samples = audio.from_pcm16(sound) if sound.dtype == np.int16 else sound
        heard = np.concatenate([self._waiting, samples])
        steps = len(heard) // self._step_samples
        whole, self._waiting = np.split(heard, [steps * self._step_samples])
        levels = np.abs(whole).reshape(steps, self._step_samples).mean(axis=1)
        both = np.stack([np.zeros(steps), np.where(levels > 0.4, 5.0, -5.0)], axis=1).astype(np.float32)
        return both[:, -self._classes :]

    def step(self, sound: Sound, /) -> Floats:
        """Posteriors (steps, classes)."""
        odds = np.exp(self.step_logits(sound))
        return odds / (odds.sum(axis=1, keepdims=True) if self._classes == 2 else 1 + odds)


def recording(path: Path, *, seconds: float, loud_at_s: tuple[float, ...]) -> Path:
    """A quiet recording with loud seconds in it."""
    levels = np.full(round(seconds * RATE), QUIET)
    for start in loud_at_s:
        levels[round(start * RATE) : round((start + 1) * RATE)] = LOUD
    audio.write(path, levels)
    return path
