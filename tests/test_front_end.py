"""The written-out front end against a definition of its own, against torch, and against its own bits of old."""

from __future__ import annotations

import math
import zlib

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from front_ends import COMMON, SIZES, front_ends, some_sound
from hark.network.features import LogMel
from hark.packed.front_end import (
    FLOOR,
    butterfly,
    clean_samples,
    half_size_fft,
    log_mels,
    logarithm,
    power_spectrum,
)
from hark.packed.front_end_settings import LogMelConfig, front_end_constants

Floats = npt.NDArray[np.float64]
law = settings(max_examples=40, deadline=None, derandomize=True)


def mel_power(sound: Floats, config: LogMelConfig) -> Floats:
    """`(frames, n_mels)` in float64 from NumPy's FFT and triangles drawn by `np.interp`."""
    silence = np.zeros(config.n_fft - config.hop_length)
    windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([silence, sound]), config.n_fft)
    hann = np.hanning(config.n_fft + 1)[:-1]
    power = np.abs(np.fft.rfft(windows[:: config.hop_length] * hann)) ** 2
    top = config.sample_rate / 2
    corners = 700 * ((1 + top / 700) ** (np.arange(config.n_mels + 2) / (config.n_mels + 1)) - 1)
    hertz = np.linspace(0, top, config.n_fft // 2 + 1)
    bank = [np.interp(hertz, corners[band : band + 3], [0, 1, 0]) for band in range(config.n_mels)]
    return np.maximum(power @ np.array(bank).T, FLOOR)


@law
@given(config=front_ends(), seed=st.integers(0, 99))
def test_log_mels_are_those_of_a_definition_of_their_own(config: LogMelConfig, seed: int) -> None:
    """To a hundred-thousandth of a frame's loudest band, where float32 leaves off."""
    sound = some_sound(3 * config.n_fft, kind="float32", seed=seed)
    expected = mel_power(sound.astype(np.float64), config)
    difference = np.abs(np.exp(log_mels(sound, config).astype(np.float64)) - expected)
    assert np.all(difference <= 1e-5 * expected.max(axis=1, keepdims=True))


@pytest.mark.parametrize("config", COMMON[:3], ids=lambda config: f"{config.n_fft}")
def test_torch_agrees_to_a_hundred_thousandth_where_there_is_sound(config: LogMelConfig) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    ours = np.exp(log_mels(sound, config).astype(np.float64))
    theirs = np.exp(LogMel(config)(torch.from_numpy(sound)[None])[0].double().numpy().T)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_an_fft_of_each_size_is_that_of_numpy(size: int) -> None:
    constants = front_end_constants(LogMelConfig(n_fft=size, hop_length=size, n_mels=1))
    samples = np.random.default_rng(size).normal(size=(2, size)).astype(np.float32)
    re, im = half_size_fft((samples[:, 0::2], samples[:, 1::2]), constants)
    expected = np.fft.fft(samples[:, 0::2] + 1j * samples[:, 1::2].astype(np.float64))
    assert np.abs(re + 1j * im - expected).max() <= 4e-7 * np.abs(expected).max()
    power = power_spectrum(samples * np.float32(0.5), constants)
    expected_power = np.abs(np.fft.rfft(samples)) ** 2
    assert np.abs(power[:, 1:] - expected_power[:, 1:-1]).max(initial=0) <= 2e-6 * expected_power.max()


@pytest.mark.parametrize("radix", [2, 3, 4, 5, 8])
def test_a_butterfly_is_a_small_fft(radix: int) -> None:
    z = np.random.default_rng(radix).normal(size=(radix, 2)).astype(np.float32)
    y = butterfly(*((np.array([re]), np.array([im])) for re, im in z))
    expected = np.fft.fft(z[:, 0] + 1j * z[:, 1])
    np.testing.assert_allclose([re[0] + 1j * im[0] for re, im in y], expected, rtol=0, atol=1e-6)


def test_the_logarithm_is_that_of_the_library_to_two_units_of_float32() -> None:
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(math.log(FLOOR), 40, 200_000)).astype(np.float32)
    expected = np.log(x.astype(np.float64))
    assert np.all(np.abs(logarithm(x) - expected) <= 2e-7 * np.maximum(1, np.abs(expected)))
    assert logarithm(np.float32([1])) == 0


def test_a_second_is_exactly_a_hundred_frames() -> None:
    samples = (0, 159, 160, 319, 320, 16_000)
    assert [len(log_mels(np.zeros(count, np.int16), LogMelConfig())) for count in samples] == [0, 0, 1, 1, 2, 100]


def test_silence_is_the_logarithm_of_the_floor() -> None:
    mels = log_mels(np.zeros(320, np.float32), LogMelConfig())
    np.testing.assert_allclose(mels, math.log(FLOOR), rtol=1e-7)


def test_an_int16_is_a_32768th() -> None:
    sound = some_sound(2_000)
    as_float = (sound / 32_768).astype(np.float32)
    assert np.array_equal(log_mels(sound, LogMelConfig()), log_mels(as_float, LogMelConfig()))


def test_what_is_no_number_or_beyond_all_sound_is_counted_and_silent() -> None:
    sound = np.float32([0.5, np.nan, np.inf, -np.inf, 2.0**20, -(2.0**20), 2.0**20 + 0.125, -1e38])
    clean, replaced = clean_samples(sound)
    assert clean.tolist() == [0.5, 0, 0, 0, 2.0**20, -(2.0**20), 0, 0]
    assert replaced == 5


def test_the_loudest_sound_gives_finite_log_mels() -> None:
    sound = np.full(1_600, 2.0**20, np.float32) * np.sign(np.random.default_rng(0).normal(size=1_600)).astype(
        np.float32
    )
    assert np.all(np.isfinite(log_mels(sound, LogMelConfig())))


def golden_sound() -> npt.NDArray[np.int16]:
    """A second of what no library can round otherwise: squares, reduced."""
    sample = np.arange(16_000, dtype=np.int64)
    return ((sample * sample * 7_919 // 64) % 65_536 - 32_768).astype(np.int16)


GOLDEN = {400: 0x83573C9A, 512: 0xF3F81673, 256: 0xBF52FB34, 1200: 0x082008A6}
"""CRC-32 of the golden sound's log-mels, by n_fft."""


@pytest.mark.parametrize("config", COMMON, ids=lambda config: f"{config.n_fft}")
def test_the_golden_sound_gives_the_same_bits_on_every_machine(config: LogMelConfig) -> None:
    assert zlib.crc32(log_mels(golden_sound(), config).tobytes()) == GOLDEN[config.n_fft]
