"""Resampling: in place, at its level, nothing folded back, and the same however the sound is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract import chunkings
from hark.packed.front_end import log_mels
from hark.packed.front_end_settings import LogMelConfig
from hark.sound.audio import Waveform, from_pcm16, to_pcm16
from hark.sound.resampling import resample, resample_stream

RATE = 16_000
RATES = st.sampled_from([4_000, 8_000, 11_025, 16_000, 22_050, 48_000])


def noise(samples: int, *, seed: int = 0) -> Waveform:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def tone(rate: int, hertz: float, *, seconds: float = 1.0) -> Waveform:
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


@given(samples=st.integers(1, 4_000), rate=RATES, data=st.data())
def test_a_stream_in_any_pieces_is_the_whole_at_once(samples: int, rate: int, data: st.DataObject) -> None:
    whole = resample(noise(samples), RATE, rate)
    pieces = np.split(noise(samples), np.cumsum(data.draw(chunkings(samples)))[:-1])
    streamed = np.concatenate(list(resample_stream(pieces, RATE, rate)))
    assert 0 <= len(streamed) - len(whole) <= 1, "a last sample may be but half covered by sound"
    np.testing.assert_allclose(streamed[: len(whole)], whole, atol=1e-6)


@given(samples=st.integers(1, 4_000), rate=RATES, rows=st.integers(1, 3))
def test_each_waveform_is_resampled_by_itself_to_the_whole_samples_that_it_has(
    samples: int, rate: int, rows: int
) -> None:
    waveforms = np.stack([noise(samples, seed=row) for row in range(rows)])
    together = resample(waveforms, RATE, rate)
    assert together.shape == (rows, samples * rate // RATE)
    assert together.dtype == np.float32
    np.testing.assert_array_equal(together, [resample(row, RATE, rate) for row in waveforms])
    np.testing.assert_array_equal(resample(waveforms[None], RATE, rate), together[None])


def test_sound_at_its_own_rate_is_left_alone() -> None:
    sound = noise(100)
    assert resample(sound, RATE, RATE) is sound
    assert [piece is sound for piece in resample_stream([sound], RATE, RATE)] == [True]


@pytest.mark.parametrize("hertz", [50, 440, 3_000, 3_600])
def test_a_tone_below_half_the_rate_stays_in_its_place_at_its_level(hertz: float) -> None:
    found = resample(tone(RATE, hertz), RATE, 8_000)
    np.testing.assert_allclose(found[500:-500], tone(8_000, hertz)[500:-500], atol=1e-4)


@pytest.mark.parametrize("hertz", [4_001, 4_400, 6_000, 7_900])
def test_nothing_above_half_the_rate_is_folded_back(hertz: float) -> None:
    assert np.abs(resample(tone(RATE, hertz), RATE, 8_000)[500:-500]).max() < 1e-5


@given(samples=st.integers(1, 20_000), hop=st.integers(1, 400), times=st.sampled_from([1, 2, 4, 5]))
def test_sound_has_as_many_frames_at_a_whole_part_of_its_rate(samples: int, hop: int, times: int) -> None:
    """Whether hops are counted before or after: what masks, pasts and lessons rely on."""
    heard = resample(np.zeros(samples, np.float32), RATE, RATE // times)
    assert len(heard) // hop == samples // (times * hop)


def test_sixteen_bits_at_the_new_rate_are_enough_for_the_front_end() -> None:
    """Training hears floats, judging what a converter would give: in speech's band their log-mels agree."""
    front_end = LogMelConfig(sample_rate=8_000, hop_length=160, n_fft=256, n_mels=16)
    sound = from_pcm16(to_pcm16(noise(RATE)))
    floats = resample(sound, RATE, 8_000)
    rounded = log_mels(to_pcm16(floats), front_end)
    assert np.abs(log_mels(floats, front_end) - rounded).max() < 0.01
