"""A day of sound, however bad, leaves a stream as it would be without: what it heard fades, and nothing drifts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch

import hark
from contract import seeded
from front_ends import some_sound
from hark.network.crnn import STAGE_2
from hark.network.spotter import Spotter, SpotterConfig, estimate_normalization
from hark.packed import packing
from hark.shipping.model_packing import pack
from hark.shrinking.integer_quantization import calibrate, quantize_to_integers

RATE = 16_000
Pcm = npt.NDArray[np.int16] | npt.NDArray[np.float32]


@pytest.fixture(scope="module", params=["int8", "float32"])
def model(request: pytest.FixtureRequest) -> hark.Model:
    """The stage-2 student, untrained: what fades does so by its gates, whatever they have learned."""
    spotter = seeded(lambda: Spotter(SpotterConfig(keyword="word", network=STAGE_2))).eval()
    sound = torch.from_numpy(some_sound(8 * RATE, seed=0).reshape(8, RATE) / 32_768).float()
    estimate_normalization(spotter, sound)
    if request.param == "int8":
        spotter = quantize_to_integers(spotter, calibrate(spotter, sound))
    return hark.Model(packing.to_bytes(pack(spotter)))


def hours(number: int, sound: Pcm) -> Iterator[Pcm]:
    """A minute over and over."""
    for _ in range(60 * number):
        yield sound


def a_bad_day() -> Iterator[Pcm]:
    """Silence, a constant, noise and clipped music at full scale, and what is no number: 24 hours."""
    rng, seconds = np.random.default_rng(0), np.arange(60 * RATE) / RATE
    chords = sum(np.sin(2 * np.pi * pitch * seconds) for pitch in (110.0, 138.6, 164.8, 220.0, 880.0))
    yield from hours(8, np.zeros(60 * RATE, np.int16))
    yield from hours(5, np.full(60 * RATE, 32_767, np.int16))
    yield from hours(5, rng.integers(-32_768, 32_768, 60 * RATE).astype(np.int16))
    yield from hours(5, np.clip(32_768 * chords, -32_768, 32_767).astype(np.int16))
    yield from hours(1, np.resize(np.float32([np.nan, np.inf, -np.inf, 1e30, -1.0]), 60 * RATE))


def test_after_a_bad_day_a_stream_gives_what_a_fresh_one_gives(model: hark.Model) -> None:
    """From the moment on when neither remembers what was before; to the last bit."""
    old, fresh, heard = model.stream(), model.stream(), 0
    for sound in a_bad_day():
        assert np.isfinite(old.step_logits(sound)).all()
        heard += len(sound)
    assert heard == 24 * 3600 * RATE
    assert heard % model.step_samples == 0, "so that both make their steps at the same samples"
    minute = some_sound(60 * RATE, seed=1).astype(np.int16)
    first = [stream.step_logits(minute) for stream in (old, fresh)]
    assert not np.array_equal(first[0][-len(first[1]) :][:10], first[1][:10]), "it did remember"
    then = [stream.step_logits(minute) for stream in (old, fresh)]
    assert np.array_equal(*then)
