"""Clips under worse conditions: noise at the ratio that is said, and no change where nothing is said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hark.sound import audio
from hark.sound.audio import Pcm, Waveform
from hark.sound.augmentation import generator
from hark.sound.conditions import (
    CLEAN,
    GAUSSIAN,
    Condition,
    add_noise_at,
    grid_of,
    hear,
    noise_table,
    room_table,
    sounding,
)

RATE = audio.SAMPLE_RATE
SEEDS = st.integers(0, 2**32)


def word(level: float = 0.1, *, clips: int = 1) -> Pcm:
    """Silence, a third of a second of tone, silence."""
    t = np.arange(RATE) / RATE
    tone = np.where((t > 0.3) & (t < 0.64), level * np.sin(2 * np.pi * 440 * t), 0.0)
    return audio.to_pcm16(np.tile(tone, (clips, 1)))


def noises(seed: int = 0) -> dict[str, Pcm | None]:
    """A recording of three seconds, and the Gaussian one."""
    hum = audio.to_pcm16(0.1 * generator(seed, 0, 0).standard_normal(3 * RATE).cumsum() / 50)
    return {GAUSSIAN: None, "hum": hum}


def power(x: Waveform) -> float:
    return float(np.mean(np.square(x, dtype=np.float64)))


@given(snr_db=st.floats(-20, 40), seed=SEEDS, level=st.floats(0.01, 0.9))
def test_the_ratio_of_powers_over_the_sounding_part_is_the_one_asked_for(
    snr_db: float, seed: int, level: float
) -> None:
    x = audio.from_pcm16(word(level)[0])
    hiss = generator(seed, 0, 0).standard_normal(RATE, dtype=np.float32)
    added = add_noise_at(x, hiss, snr_db=snr_db) - x
    ratio = power(x[sounding(x)]) / power(added[sounding(x)])
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.01)


def test_at_0_db_word_and_noise_are_of_one_power() -> None:
    """By hand: a word of ±0.5 in half the clip, a noise of ±0.1 throughout becomes one of ±0.5."""
    x, noise = np.zeros(RATE, np.float32), np.full(RATE, np.float32(0.1))
    x[: RATE // 2] = 0.5
    np.testing.assert_allclose(add_noise_at(x, noise, snr_db=0.0), x + 0.5, rtol=1e-6)


def test_what_sounds_is_within_20_db_of_the_loudest_block() -> None:
    x = np.repeat(np.array([0.0, 0.5, 0.06, 0.04, -0.5], np.float32), RATE // 50)
    assert sounding(x)[:: RATE // 50].tolist() == [False, True, True, False, True]
    assert len(sounding(x[:-7])) == len(x) - 7


@given(pcm=arrays(np.int16, (3, 700)), seed=SEEDS)
def test_without_noise_gain_or_room_no_bit_changes(pcm: Pcm, seed: int) -> None:
    np.testing.assert_array_equal(hear(pcm, CLEAN, {}, seed=seed), pcm)


@pytest.mark.parametrize("condition", grid_of(noises())[1:], ids=str)
def test_every_other_condition_changes_the_sound_and_the_same_seed_gives_the_same_bits(
    condition: Condition,
) -> None:
    pcm = word(clips=2)
    heard = hear(pcm, condition, noises(), seed=3)
    assert heard.dtype == np.int16
    assert heard.shape == pcm.shape
    assert (heard != pcm).any(axis=1).all()
    np.testing.assert_array_equal(hear(pcm, condition, noises(), seed=3), heard)


@pytest.mark.parametrize("noise", noises())
def test_noise_depends_on_seed_and_row_and_on_nothing_else(noise: str) -> None:
    pcm, condition = word(clips=3), Condition(noise=noise, snr_db=0.0)
    heard = hear(pcm, condition, noises(), seed=0)
    assert len({row.tobytes() for row in heard}) == 3
    np.testing.assert_array_equal(hear(pcm[:2], condition, noises(), seed=0), heard[:2])
    assert (hear(pcm, condition, noises(), seed=1) != heard).any(axis=1).all()


def test_a_clip_meets_the_same_piece_of_noise_at_every_ratio() -> None:
    pcm = word(0.1)
    loud, faint = (
        hear(pcm, Condition(noise="hum", snr_db=snr_db), noises(), seed=0).astype(float) - pcm
        for snr_db in (0.0, 20.0)
    )
    np.testing.assert_allclose(loud, 10 * faint, atol=6)  # both are rounded to whole numbers


def test_every_clip_is_heard_in_the_same_room() -> None:
    first, second = hear(word(clips=2), Condition(room="small"), {}, seed=0)
    np.testing.assert_array_equal(first, second)


def test_the_larger_room_rings_longer() -> None:
    click = np.zeros((1, RATE), np.int16)
    click[0, 0] = 30_000
    tails = [
        power(audio.from_pcm16(hear(click, Condition(room=room), {}, seed=0)[0, RATE // 4 :]))
        for room in ("none", "small", "large")
    ]
    assert tails[0] == 0 == tails[1] < tails[2]


def test_what_is_too_loud_is_clipped_as_a_converter_clips() -> None:
    pcm = word(0.9)
    louder = hear(pcm, Condition(gain_db=10.0), {}, seed=0)
    assert (louder.min(), louder.max()) == (-32768, 32767)
    assert (np.sign(louder) == np.sign(pcm)).all()
    quieter = hear(pcm, Condition(gain_db=-20.0), {}, seed=0)
    np.testing.assert_allclose(quieter, pcm / 10, atol=0.51)


@pytest.mark.parametrize("condition", [Condition(noise="hum", snr_db=0.0), Condition(room="large")], ids=str)
def test_silence_has_no_ratio_and_no_echo_and_stays(condition: Condition) -> None:
    silence = np.zeros((1, RATE), np.int16)
    assert not hear(silence, condition, noises(), seed=0).any()


@pytest.mark.parametrize("samples", [0, 1, RATE // 3])
def test_a_noise_shorter_than_a_clip_is_repeated(samples: int) -> None:
    """A recording of nothing is silent, so the clip stays."""
    short = np.full(samples, 1000, np.int16)
    added = hear(word(), Condition(noise="short", snr_db=0.0), {"short": short}, seed=0)[0] - word()[0]
    assert len(np.unique(added)) == 1
    assert (added != 0).all() == (samples > 0)


def test_the_grid_has_the_cells_of_both_tables_once_and_the_clean_one_first() -> None:
    names = [GAUSSIAN, "a", "b"]
    grid = grid_of(names)
    assert grid[0] == CLEAN
    assert len(grid) == len(set(grid)) == 1 + 3 * 4 + 3 * 4 - 1
    cells = [c for table in (noise_table(names), room_table()) for row in table.values() for c in row.values()]
    assert set(cells) == set(grid)


def test_tables_and_conditions_are_named_in_plain_words() -> None:
    assert list(noise_table(["hum"])["hum"]) == ["clean", "20 dB", "10 dB", "5 dB", "0 dB"]
    assert list(room_table()) == ["no room", "small room", "large room"]
    assert list(room_table()["no room"]) == ["-20 dB", "-10 dB", "0 dB", "+10 dB"]
    assert [str(c) for c in (CLEAN, Condition("hum", 5.0), Condition(gain_db=10.0, room="small"))] == [
        "clean",
        "hum at 5 dB",
        "gain +10 dB, small room",
    ]
