"""Augmentation: pure, keyed, and each function does to the sound what it says."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hark.errors import ConfigError, UsageError
from hark.sound import augmentation as aug
from hark.sound import policies

Wave = npt.NDArray[np.float32]
Variation = Callable[[Wave, np.random.Generator], Wave]


def tone(samples: int = 4000, level: float = 0.1) -> Wave:
    return (level * np.sin(np.arange(samples) * 0.3)).astype(np.float32)


def power_db(x: Wave) -> float:
    return 10 * math.log10(float(np.mean(x.astype(np.float64) ** 2)))


HISS = np.random.default_rng(7).standard_normal(20_000).astype(np.float32) * np.float32(0.05)
EVERYTHING = policies.WaveAugmentation(
    speed_probability=1,
    shift_probability=1,
    reverb_probability=1,
    noise_probability=1,
    clip_probability=1,
    gain_probability=1,
    gaussian_probability=1,
)
VARIATIONS: dict[str, Variation] = {
    "add_noise": lambda x, rng: aug.add_noise(x, HISS, rng),
    "gaussian_noise": aug.gaussian_noise,
    "gain": aug.gain,
    "shift": aug.shift,
    "speed": aug.speed,
    "clip_peaks": aug.clip_peaks,
    "reverberate": aug.reverberate,
    "reference_augmentation": lambda x, rng: policies.reference_augmentation(x, rng, [HISS]),
    "WaveAugmentation": lambda x, rng: policies.WaveAugmentation()(x, rng, [HISS]),
    "everything at once": lambda x, rng: EVERYTHING(x, rng, [HISS]),
}
every_variation = pytest.mark.parametrize("vary", VARIATIONS.values(), ids=VARIATIONS.keys())


@every_variation
def test_a_variation_is_a_new_float32_array_of_the_same_length(vary: Variation) -> None:
    x = tone()
    x.flags.writeable = False
    for index in range(8):
        y = vary(x, aug.generator(0, 0, index))
        assert (y.dtype, y.shape) == (np.float32, x.shape)
        assert not np.shares_memory(x, y)
        assert np.isfinite(y).all()


@every_variation
def test_the_same_key_gives_the_same_variation_and_another_key_another(vary: Variation) -> None:
    keys = [(1, 2, index) for index in range(12)]
    first, again = ([vary(tone(), aug.generator(*key)) for key in keys] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({y.tobytes() for y in first}) > 3


@every_variation
@pytest.mark.parametrize("samples", [0, 1, 2, 17])
def test_silence_and_clips_of_no_length_pass(vary: Variation, samples: int) -> None:
    y = vary(np.zeros(samples, dtype=np.float32), aug.generator(0, 0, 5))
    assert y.shape == (samples,) and np.isfinite(y).all()


def test_every_part_of_the_key_gives_a_stream_of_its_own() -> None:
    keys = [(s, e, i) for s in (0, 1, 2**63) for e in (0, 1, 2) for i in (0, 1, 2, 2**40)]
    draws = np.array([aug.generator(*key).random(64) for key in keys])
    assert len(np.unique(draws)) == draws.size
    between_streams = np.corrcoef(draws) - np.eye(len(keys))
    assert np.abs(between_streams).max() < 0.6  # 4.8 standard deviations of chance


def test_streams_with_neighbouring_indices_do_not_overlap() -> None:
    assert not set(aug.generator(0, 0, 0).random(5000)) & set(aug.generator(0, 0, 1).random(5000))


@pytest.mark.parametrize("key", [(-1, 0, 0), (0, -1, 0), (0, 0, 2**64)])
def test_a_key_out_of_range_is_refused(key: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"expected whole numbers from 0 to 2\^64 - 1"):
        aug.generator(*key)


@given(snr_db=st.floats(-20, 40), level=st.floats(0.001, 1), seed=st.integers(0, 999))
def test_noise_comes_at_the_ratio_that_was_asked_for(snr_db: float, level: float, seed: int) -> None:
    x = tone(level=level)
    added = aug.add_noise(x, HISS, aug.generator(seed, 0, 0), snr_db=(snr_db, snr_db)) - x
    assert power_db(x) - power_db(added) == pytest.approx(snr_db, abs=0.05)


def test_ratios_fill_their_range_evenly() -> None:
    x = tone()
    ratios = [
        power_db(x) - power_db(aug.add_noise(x, HISS, aug.generator(0, 0, i), snr_db=(5, 15)) - x)
        for i in range(400)
    ]
    assert min(ratios) >= 4.99 and max(ratios) <= 15.01
    assert np.mean(ratios) == pytest.approx(10, abs=0.6) and np.std(ratios) == pytest.approx(2.89, abs=0.3)


def test_pcm_noise_sounds_like_float_noise() -> None:
    pcm = np.round(HISS * 32768).astype(np.int16)
    heard = [aug.add_noise(tone(), noise, aug.generator(0, 0, 0)) for noise in (HISS, pcm)]
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-4)


def test_noise_shorter_than_the_clip_is_repeated() -> None:
    x = tone(10)
    added = aug.add_noise(x, HISS[:4], aug.generator(0, 0, 0)) - x
    np.testing.assert_allclose(added[:4], added[4:8], atol=1e-7)
    assert added.any()


def test_a_silent_clip_or_noise_changes_nothing() -> None:
    silence = np.zeros(100, dtype=np.float32)
    np.testing.assert_array_equal(aug.add_noise(silence, HISS, aug.generator(0, 0, 0)), silence)
    np.testing.assert_array_equal(aug.add_noise(tone(100), silence, aug.generator(0, 0, 0)), tone(100))


def test_gaussian_noise_has_the_deviation_asked_for() -> None:
    added = aug.gaussian_noise(np.zeros(50_000, dtype=np.float32), aug.generator(0, 0, 0), std=0.02)
    assert float(added.std()) == pytest.approx(0.02, rel=0.02)


def test_gain_of_six_decibels_doubles() -> None:
    np.testing.assert_allclose(
        aug.gain(tone(), aug.generator(0, 0, 0), gain_db=(6.0206, 6.0206)), 2 * tone(), rtol=1e-5
    )


def test_a_shift_moves_the_sound_and_leaves_silence() -> None:
    x = np.array([1, 2, 3, 4], dtype=np.float32)
    seen = {tuple(aug.shift(x, aug.generator(0, 0, i), max_samples=2)) for i in range(60)}
    assert seen == {(3, 4, 0, 0), (2, 3, 4, 0), (1, 2, 3, 4), (0, 1, 2, 3), (0, 0, 1, 2)}


def test_a_shift_goes_no_farther_than_out_of_the_clip() -> None:
    seen = {tuple(aug.shift(tone(2) + 1, aug.generator(0, 0, i), max_samples=99)) for i in range(60)}
    assert len(seen) == 4 and (0, 0) in seen


def test_speed_changes_the_pitch_by_its_factor() -> None:
    x = np.sin(2 * np.pi * 500 * np.arange(16_000) / 16_000).astype(np.float32)
    for factor in (0.8, 1.25):
        played = aug.speed(x, aug.generator(0, 0, 0), factor=(factor, factor))
        middle = played[4000:12_000] * np.hanning(8000)
        assert np.abs(np.fft.rfft(middle)).argmax() * 2 == pytest.approx(500 * factor, abs=2)


def test_speed_plays_about_the_middle_by_hand() -> None:
    x = np.array([1, 2, 3, 4, 5], dtype=np.float32)
    np.testing.assert_allclose(aug.speed(x, aug.generator(0, 0, 0), factor=(2, 2)), [0, 1, 3, 5, 0])
    np.testing.assert_allclose(aug.speed(x, aug.generator(0, 0, 0), factor=(0.5, 0.5)), [2, 2.5, 3, 3.5, 4])
    np.testing.assert_allclose(aug.speed(x, aug.generator(0, 0, 0), factor=(1, 1)), x)


def test_clipping_cuts_at_full_scale_and_raises_the_rest() -> None:
    x = np.array([0.1, -0.05, 0.025], dtype=np.float32)
    driven = aug.clip_peaks(x, aug.generator(0, 0, 0), drive_db=(12.0412, 12.0412))
    np.testing.assert_allclose(driven, [1, -1, 1], rtol=1e-4)
    np.testing.assert_allclose(
        aug.clip_peaks(x, aug.generator(0, 0, 0), drive_db=(0, 0)), [1, -0.5, 0.25], rtol=1e-5
    )


def test_a_room_keeps_the_energy_and_rings_on() -> None:
    click = np.zeros(16_000, dtype=np.float32)
    click[1000] = 0.5
    heard = aug.reverberate(click, aug.generator(0, 0, 0), rt60_s=(0.3, 0.3))
    assert float(heard @ heard) == pytest.approx(0.25, rel=1e-4)
    assert np.abs(heard[:1000]).max() < 1e-6
    early, late = power_db(heard[1100:1580]), power_db(heard[5300:5780])
    assert early - late == pytest.approx(60 * 4200 / 4800, abs=3)  # 60 dB in 0.3 s


def test_a_given_room_is_convolved_as_numpy_does() -> None:
    room = np.array([1, 0, -0.5, 0.25], dtype=np.float32)
    expected = np.convolve(tone(300), room)[:300]
    heard = aug.reverberate(tone(300), aug.generator(0, 0, 0), impulse_response=room)
    assert float(heard @ heard) == pytest.approx(float(tone(300) @ tone(300)), rel=1e-4)
    np.testing.assert_allclose(heard / np.abs(heard).max(), expected / np.abs(expected).max(), atol=1e-5)


def test_what_was_heard_before_comes_before_the_clip() -> None:
    sounds = [np.full(50, 0.25, dtype=np.float32), np.full(70, 16_384, dtype=np.int16)]
    lengths = set()
    for index in range(50):
        stream = aug.lived_in(tone(100), sounds, aug.generator(0, 0, index), max_s=0.02)
        past = len(stream) - 100
        lengths.add(past)
        np.testing.assert_array_equal(stream[past:], tone(100))
        assert set(stream[:past]) <= {0.25, 0.5}
    assert min(lengths) < 30 and max(lengths) > 290 and max(lengths) <= 320


def test_a_batch_shares_the_length_of_its_past_and_nothing_else() -> None:
    clips = np.stack([tone(100), -tone(100)])
    streams = aug.lived_in_batch(clips, [HISS], aug.generator(0, 0, 3), max_s=0.1)
    past = streams.shape[1] - 100
    assert past > 0 and streams.dtype == np.float32
    np.testing.assert_array_equal(streams[:, past:], clips)
    assert not np.array_equal(streams[0, :past], streams[1, :past])


def test_no_past_is_possible_and_no_sounds_are_not() -> None:
    np.testing.assert_array_equal(aug.lived_in(tone(9), [HISS], aug.generator(0, 0, 0), max_s=0.0), tone(9))
    with pytest.raises(UsageError, match="no sounds to put before a clip"):
        aug.lived_in(tone(9), [], aug.generator(0, 0, 0))
    with pytest.raises(UsageError, match="is empty"):
        aug.lived_in(tone(9), [HISS[:0]], aug.generator(0, 0, 0))


@given(length=st.integers(0, 40), samples=st.integers(0, 40), position=st.floats(0, 1))
def test_cutting_and_padding_keep_what_both_lengths_hold(length: int, samples: int, position: float) -> None:
    x = np.arange(1, length + 1, dtype=np.float32)
    y = aug.cut_or_pad(x, samples, position=position)
    assert len(y) == samples and not np.shares_memory(x, y)
    np.testing.assert_array_equal(y[y > 0], x if samples >= length else y)
    assert np.count_nonzero(y) == min(length, samples)


def test_position_says_which_end_is_cut_or_padded() -> None:
    x = np.array([1, 2, 3, 4], dtype=np.float32)
    assert [aug.cut_or_pad(x, 2, position=p).tolist() for p in (0, 0.5, 1)] == [[1, 2], [2, 3], [3, 4]]
    assert [aug.cut_or_pad(x[:2], 4, position=p).tolist() for p in (0, 0.5, 1)] == [
        [1, 2, 0, 0],
        [0, 1, 2, 0],
        [0, 0, 1, 2],
    ]


@given(max_bins=st.integers(0, 50), max_frames=st.integers(0, 120), seed=st.integers(0, 999))
def test_a_mask_is_one_band_and_one_stretch_no_wider_than_allowed(
    max_bins: int, max_frames: int, seed: int
) -> None:
    hidden = aug.spectrogram_mask(
        (3, 40, 100), aug.generator(seed, 0, 0), max_bins=max_bins, max_frames=max_frames
    )
    for mask in hidden:
        bins, frames = mask.all(axis=1), mask.all(axis=0)
        widths = (min(max_bins, 40), min(max_frames, 100))
        for band, widest in zip((bins, frames), widths, strict=True):
            places = np.flatnonzero(band)
            assert band.all() or len(places) <= widest
            assert band.all() or len(places) == 0 or np.ptp(places) == len(places) - 1
        np.testing.assert_array_equal(mask, bins[:, None] | frames[None, :])


def test_masking_fills_hidden_places_and_leaves_the_rest() -> None:
    features = np.ones((16, 40, 100), dtype=np.float32)
    masked = aug.mask_spectrogram(features, aug.generator(0, 0, 0), fill=-20.7)
    assert set(np.unique(masked)) == {np.float32(-20.7), np.float32(1)}
    assert features.all() and masked.dtype == np.float32
    assert len({row.tobytes() for row in masked}) == 16
    assert aug.mask_spectrogram(features[0], aug.generator(0, 0, 0)).shape == (40, 100)


def test_every_width_up_to_the_widest_occurs() -> None:
    hidden = aug.spectrogram_mask((400, 40, 100), aug.generator(0, 0, 0), max_bins=3, max_frames=0)
    assert set(hidden[:, :, 0].sum(axis=1)) == {0, 1, 2, 3}
    assert set(np.flatnonzero(hidden.any(axis=(0, 2)))) == set(range(40))


def test_the_reference_policy_is_one_of_four() -> None:
    x = tone(16_000, level=0.5)
    changes = [
        policies.reference_augmentation(x, aug.generator(0, 0, i), [np.tile(HISS, 48)]) - x for i in range(200)
    ]
    kinds = {"none": 0, "hiss": 0, "quiet": 0, "background": 0}
    for change in changes:
        if not change.any():
            kinds["none"] += 1
        elif np.allclose(change, -0.75 * x, atol=1e-6):
            kinds["quiet"] += 1
        elif float(change.std()) == pytest.approx(0.01, rel=0.05):
            kinds["hiss"] += 1
        elif power_db(x) - power_db(change) == pytest.approx(1 + 10 * math.log10(60), abs=0.1):
            kinds["background"] += 1
    assert sum(kinds.values()) == 200 and min(kinds.values()) > 30


def test_probability_zero_leaves_the_clip_alone() -> None:
    names = ("speed", "shift", "reverb", "noise", "clip", "gain", "gaussian")
    nothing = policies.WaveAugmentation(**{f"{name}_probability": 0.0 for name in names})
    np.testing.assert_array_equal(nothing(tone(), aug.generator(0, 0, 0)), tone())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"noise_probability": 1.5}, "noise_probability is 1.5, expected 0 to 1"),
        ({"snr_db": (30, 0)}, r"snr_db is \(30, 0\), expected \(lowest, highest\) within -200 to 200"),
        ({"speed_factor": (0, 1)}, r"speed_factor is \(0, 1\), expected \(lowest, highest\) within 0.1 to 10"),
        ({"gaussian_std": math.nan}, "gaussian_std is nan, expected 0 to 10"),
        # These ended a training with an error of arithmetic, or with a loss that was no number.
        ({"drive_db": (0.0, 1e308)}, r"drive_db is .*, expected \(lowest, highest\) within -200 to 200"),
        ({"rt60_s": (1e308, 1e308)}, r"rt60_s is .*, expected \(lowest, highest\) within 0.001 to 10"),
        ({"gaussian_std": 1e308}, "gaussian_std is 1e\\+308, expected 0 to 10"),
        ({"sample_rate": 0}, "sample_rate is 0, expected 1,000 to 768,000"),
        ({"shift_samples": -1, "gain_probability": 2}, "shift_samples is -1.*; gain_probability is 2"),
    ],
)
def test_faults_of_a_policy_are_all_named_at_once(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policies.WaveAugmentation(**setting)  # type: ignore[arg-type]


def test_noise_without_recordings_is_refused_before_any_draw() -> None:
    with pytest.raises(UsageError, match="no background recordings"):
        policies.WaveAugmentation(noise_probability=1e-9)(tone(), aug.generator(0, 0, 0))
    with pytest.raises(UsageError, match="no background recordings"):
        policies.reference_augmentation(tone(), aug.generator(0, 0, 0), [])


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gain_db is \(3, -3\), expected \(lowest, highest\)"):
        aug.gain(tone(), aug.generator(0, 0, 0), gain_db=(3, -3))
