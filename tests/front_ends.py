"""Front ends of any settings that the engine can do, and sound for them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from hark.packed.front_end_settings import LogMelConfig

SIZES = sorted(
    size
    for twos in range(1, 13)
    for threes in range(8)
    for fives in range(6)
    if 4 <= (size := 2**twos * 3**threes * 5**fives) <= 4096
)
"""Of the FFT."""

COMMON = (
    LogMelConfig(),
    LogMelConfig(n_fft=512),
    LogMelConfig(sample_rate=8_000, n_fft=256, hop_length=80, n_mels=32),
    LogMelConfig(sample_rate=48_000, n_fft=1_200, hop_length=480, n_mels=64),
)
"""What recipes choose."""


@st.composite
def front_ends(draw: st.DrawFn, *, largest: int = 1_500) -> LogMelConfig:
    """Settings from the common ones to the strangest."""
    if draw(st.booleans()):
        return draw(st.sampled_from(COMMON))
    n_fft = draw(st.sampled_from([size for size in SIZES if size <= largest]))
    return LogMelConfig(
        sample_rate=draw(st.integers(1_000, 48_000)),
        n_fft=n_fft,
        hop_length=draw(st.integers(1, n_fft)),
        n_mels=draw(st.integers(1, n_fft // 4)),
    )


def some_sound(
    samples: int, *, kind: Literal["int16", "float32"] = "int16", seed: int = 0, streams: int | None = None
) -> npt.NDArray[np.int16] | npt.NDArray[np.float32]:
    """Noise that swells and fades, `(samples,)` or `(streams, samples)`, with spells of silence."""
    rng = np.random.default_rng(seed)
    shape = (samples,) if streams is None else (streams, samples)
    loudness = rng.choice([0, 1e-4, 0.01, 0.3], samples // 200 + 1).repeat(200)[:samples]
    sound = np.clip(loudness * rng.normal(size=shape), -1, 1)
    return sound.astype(np.float32) if kind == "float32" else np.rint(32_767 * sound).astype(np.int16)
