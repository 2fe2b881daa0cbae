from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import seeded
from hark.errors import ConfigError
from hark.network.features import FLOOR, LogMel, LogMelConfig
from hark.network.layers import Affine
from hark.network.streaming import Chain
from hark.sound import audio

Sound = npt.NDArray[np.float64]

GOLDEN = Path(__file__).parent / "golden" / "log_mel.npy"
N_FFT, HOP, BANDS, TOP_HZ = 400, 160, 40, 8000


def reference_mel_power(waveform: Sound) -> Sound:
    """Mel power `(bands, frames)` straight from the definition: a written-out DFT, band by band.

    The front end shares no line with this, nor any FFT, mel formula or triangle.
    """
    padded = np.concatenate([np.zeros(N_FFT - HOP), waveform])
    frames = np.stack([padded[start : start + N_FFT] for start in range(0, len(waveform) - HOP + 1, HOP)])
    sample = np.arange(N_FFT)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * sample / N_FFT)
    dft = np.exp(-2j * np.pi * (np.outer(sample, np.arange(N_FFT // 2 + 1)) % N_FFT) / N_FFT)
    power = np.abs(np.einsum("fs,sb->fb", frames * hann, dft)) ** 2
    # Equal steps in mel are equal ratios of 1 + f / 700, whatever the scale's factor and logarithm.
    corners_hz = 700 * ((1 + TOP_HZ / 700) ** (np.arange(BANDS + 2) / (BANDS + 1)) - 1)
    bins_hz = np.linspace(0, TOP_HZ, N_FFT // 2 + 1)
    bank = [np.interp(bins_hz, corners_hz[band : band + 3], [0, 1, 0]) for band in range(BANDS)]
    return np.maximum(np.array(bank) @ power.T, FLOOR)


def golden_signal() -> Sound:
    """A quarter of a second: two rising tones, a click, and silence at the end."""
    t = np.arange(4000) / 16_000
    signal = 0.5 * np.sin(2 * np.pi * (200 + 3000 * t) * t) + 0.1 * np.sin(2 * np.pi * (3000 + 9000 * t) * t)
    signal[1000] = 1.0
    signal[3000:] = 0.0
    return signal


def noise(seed: int, samples: int, gain: float) -> Sound:
    return np.clip(gain * np.random.default_rng(seed).normal(size=samples), -1, 1)


def log_mel(waveform: Sound, dtype: torch.dtype = torch.float64) -> Sound:
    """The front end's log-mels `(bands, frames)` of one waveform, computed in `dtype`."""
    front_end = LogMel(LogMelConfig()).to(dtype)
    return front_end(torch.from_numpy(waveform)[None].to(dtype))[0].double().numpy()


def assert_float32_is_close(waveform: Sound) -> None:
    expected = reference_mel_power(waveform)
    difference = np.abs(np.exp(log_mel(waveform, torch.float32)) - expected)
    assert np.all(difference <= 1e-5 * expected.max(axis=0))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), samples=st.integers(160, 3000), gain=st.sampled_from([1e-4, 0.05, 3.0]))
def test_log_mels_are_those_of_an_independent_implementation(seed: int, samples: int, gain: float) -> None:
    waveform = noise(seed, samples, gain)
    np.testing.assert_allclose(log_mel(waveform), np.log(reference_mel_power(waveform)), rtol=0, atol=1e-9)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), hertz=st.floats(20, 7900), gain=st.floats(0.001, 1))
def test_float32_is_within_a_hundred_thousandth_of_the_peak(seed: int, hertz: float, gain: float) -> None:
    """Even where a loud tone stands beside near silence."""
    tone = gain * np.sin(2 * np.pi * hertz * np.arange(3200) / 16_000)
    assert_float32_is_close(np.clip(tone + noise(seed, 3200, 1e-4), -1, 1))


def test_float32_is_as_close_on_a_real_recording(shared_data: Path) -> None:
    recording = min((shared_data / "speech_commands" / "happy").iterdir())
    assert_float32_is_close(audio.read(recording).astype(np.float64))


def test_the_golden_signal_gives_the_golden_log_mels() -> None:
    """tests/golden/README.md says where they are from."""
    np.testing.assert_allclose(log_mel(golden_signal()), np.load(GOLDEN), rtol=0, atol=1e-9)


def test_a_second_is_exactly_a_hundred_frames() -> None:
    assert log_mel(np.zeros(16_000)).shape == (40, 100)
    assert log_mel(np.zeros(15_999)).shape == (40, 99)


def test_every_hop_of_sound_gives_one_frame() -> None:
    assert [log_mel(np.zeros(samples)).shape[1] for samples in (0, 159, 160, 319, 320)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("sample", [0, 100, 159])
def test_the_first_window_holds_240_samples_of_silence_and_160_of_sound(sample: int) -> None:
    """A click has a flat spectrum: its mel power is the Hann weight at its place in the window, squared."""
    click = np.zeros(160)
    click[sample] = 1.0
    hann = np.sin(np.pi * (240 + sample) / 400) ** 2
    power = np.exp(log_mel(click))[:, 0]
    bank = LogMel(LogMelConfig()).double().bank.sum(dim=0).numpy()
    np.testing.assert_allclose(power, hann**2 * bank, rtol=1e-9)


def test_silence_is_the_logarithm_of_the_floor() -> None:
    assert np.all(log_mel(np.zeros(320)) == np.log(1e-9))


def test_a_front_end_inside_a_model_is_as_exact_in_float64_as_one_alone() -> None:
    """Its constants are computed anew, not widened from float32, however the conversion reaches it."""
    waveform = seeded(lambda: torch.randn(1, 800, dtype=torch.float64))
    alone = LogMel(LogMelConfig()).double()
    for inside in (
        Chain(features=LogMel(LogMelConfig()), affine=Affine(40)).double(),
        Chain(features=LogMel(LogMelConfig()).half(), affine=Affine(40)).to(torch.float64),
    ):
        torch.testing.assert_close(inside(waveform), alone(waveform), rtol=0, atol=0)


def test_constants_are_not_part_of_a_saved_model() -> None:
    assert LogMel(LogMelConfig()).state_dict() == {}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"hop_length": 401}, r"hop_length 401: expected 1 to n_fft \(400\) samples"),
        ({"hop_length": 0}, "hop_length 0: expected 1"),
        ({"n_mels": 101}, r"n_mels 101: expected 1 to n_fft / 4 \(100\) bands"),
        ({"n_mels": 0}, "n_mels 0: expected 1"),
        ({"n_fft": 1 << 30}, "n_fft 1073741824: expected 4 to 4,096 samples"),
        ({"sample_rate": 0}, "sample_rate 0: expected 1,000 to 384,000 Hz"),
        ({"sample_rate": float("nan")}, "sample_rate nan"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogMelConfig(**setting)
