"""The conditions that a model is tried under: noise, other levels, rooms.

Two tables, as papers on robust recognition print them (noises by ratios in Aurora-2, Pearce and Hirsch 2000):
every noise at every ratio, at the level of the recording and in no room; and every gain in every room, without
noise. All axes crossed would be nine times as many cells. The clean cell stands in both.

The order is nature's: the room rings, noise joins, the amplifier amplifies, the converter clips at full scale and
rounds to 16 bits. A clip meets the same piece of a noise at every ratio, so a row differs in loudness alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from hark.sound import audio
from hark.sound.audio import Pcm, Waveform
from hark.sound.augmentation import INAUDIBLE_POWER, Rng, generator, reverberate

Room: TypeAlias = Literal["none", "small", "large"]
Noises: TypeAlias = Mapping[str, Pcm | None]
"""Recordings by name; None is Gaussian noise, made afresh for each clip."""

SNRS_DB = (20.0, 10.0, 5.0, 0.0)
GAINS_DB = (-20.0, -10.0, 0.0, 10.0)
RT60_S: dict[Room, float] = {"none": 0.0, "small": 0.2, "large": 0.8}
"""How long each room rings: until its sound has decayed by 60 dB."""
GAUSSIAN = "Gaussian"
BLOCK_SAMPLES = audio.SAMPLE_RATE // 50
SOUNDING_RATIO = 0.01
"""A block of 20 ms sounds within 20 dB of the loudest; ITU-T P.56 has a margin of 15.9 dB to the active level."""


@dataclass(frozen=True)
class Condition:
    """How a clip is heard; as it was recorded where nothing is said."""

    noise: str | None = None
    snr_db: float | None = None
    gain_db: float = 0.0
    room: Room = "none"

    def __str__(self) -> str:
        noise = f"{self.noise} at {self.snr_db:g} dB" if self.noise is not None else ""
        gain = f"gain {self.gain_db:+g} dB" if self.gain_db else ""
        room = f"{self.room} room" if self.room != "none" else ""
        return ", ".join(filter(None, (noise, gain, room))) or "clean"


CLEAN = Condition()
Table: TypeAlias = dict[str, dict[str, Condition]]
"""Conditions by the names of row and column."""


def noise_table(noises: Iterable[str]) -> Table:
    """A row for each noise, a column for each ratio; the first is the clean cell."""
    ratios = {f"{snr_db:g} dB": snr_db for snr_db in SNRS_DB}
    return {
        noise: {"clean": CLEAN} | {name: Condition(noise=noise, snr_db=snr_db) for name, snr_db in ratios.items()}
        for noise in noises
    }


def room_table() -> Table:
    """A row for each room, a column for each gain; one of them is the clean cell."""
    return {
        f"{room} room".replace("none", "no"): {
            f"{gain_db:+g} dB".replace("+0", "0"): Condition(gain_db=gain_db, room=room) for gain_db in GAINS_DB
        }
        for room in RT60_S
    }


def grid_of(noises: Iterable[str]) -> tuple[Condition, ...]:
    """The conditions of both tables, each once and the clean one first."""
    tables = (noise_table(noises), room_table())
    return tuple(
        dict.fromkeys([CLEAN, *(cell for table in tables for row in table.values() for cell in row.values())])
    )


def hear(pcm: Pcm, condition: Condition, noises: Noises, *, seed: int) -> Pcm:
    """Clips `(clips, samples)` as a microphone gives them under a condition: as many, of the same length.

    Every clip is heard in the same room. Its piece of noise is drawn by (seed, noise, row), at any ratio the same.
    """
    heard = np.empty_like(pcm)
    for row, clip in enumerate(pcm):
        x = audio.from_pcm16(clip)
        if condition.room != "none":
            rt60_s = RT60_S[condition.room]
            x = reverberate(x, generator(seed, _key(condition.room), 0), rt60_s=(rt60_s, rt60_s))
        if condition.noise is not None and condition.snr_db is not None:
            rng = generator(seed, _key(condition.noise), row)
            x = add_noise_at(x, _piece(noises[condition.noise], len(x), rng), snr_db=condition.snr_db)
        heard[row] = audio.to_pcm16(x * np.float32(10 ** (condition.gain_db / 20)))
    return heard


def add_noise_at(x: Waveform, noise: Waveform, *, snr_db: float) -> Waveform:
    """Add noise of the same length, so much weaker than `x` on average over the sounding part of `x`.

    Pauses around a word do not count, or a short word would get less noise than a long one. Where either side is
    silent there no ratio exists, and `x` comes back.
    """
    part = sounding(x)
    signal, disturbance = (float(np.mean(np.square(y[part], dtype=np.float64))) for y in (x, noise))
    if min(signal, disturbance) < INAUDIBLE_POWER:
        return x.copy()
    return x + np.float32(math.sqrt(signal / disturbance) * 10 ** (-snr_db / 20)) * noise


def sounding(x: Waveform) -> npt.NDArray[np.bool_]:
    """Where `x` sounds, `(samples,)`: the blocks of 20 ms whose energy is within 20 dB of the loudest's."""
    energies = np.add.reduceat(np.square(x, dtype=np.float64), np.arange(0, len(x), BLOCK_SAMPLES))
    return np.repeat(energies >= SOUNDING_RATIO * energies.max(), BLOCK_SAMPLES)[: len(x)]


def _key(name: str) -> int:
    return zlib.crc32(name.encode())


def _piece(noise: Pcm | None, samples: int, rng: Rng) -> Waveform:
    """So much of a noise from a random place; a recording that is too short is repeated."""
    if noise is None:
        return rng.standard_normal(samples, dtype=np.float32)
    start = int(rng.integers(max(1, len(noise) - samples + 1)))
    return audio.from_pcm16(np.resize(noise[start : start + samples], samples))
