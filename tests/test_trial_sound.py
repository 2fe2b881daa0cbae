from __future__ import annotations

import itertools

import numpy as np
import pytest

from hark.packed.front_end import clean_samples
from hark.proof.trial_sound import BLOCK_S, KINDS, PERIOD_BLOCKS, proof_sound, random_chunks, room_sound
from hark.sound.augmentation import generator

RATE = 1_000


@pytest.mark.parametrize("seconds", [0.5, 10, 12.5, 131])
def test_sound_is_as_long_as_asked_and_the_same_each_time(seconds: float) -> None:
    first, again = (np.concatenate([*proof_sound(RATE, seconds=seconds)]) for _ in range(2))
    assert len(first) == seconds * RATE
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)


def test_blocks_differ_for_a_minute_and_for_each_seed() -> None:
    blocks = [block.tobytes() for block in proof_sound(RATE, seconds=60)]
    assert len(set(blocks)) == PERIOD_BLOCKS == len(blocks)
    assert next(proof_sound(RATE, seconds=10, seed=1)).tobytes() not in blocks
    again = next(itertools.islice(proof_sound(RATE, seconds=80), PERIOD_BLOCKS, None))
    assert again.tobytes() == blocks[0]


def test_a_block_has_a_second_of_each_kind() -> None:
    assert len(KINDS) == BLOCK_S
    seconds = np.split(next(proof_sound(RATE, seconds=BLOCK_S)), BLOCK_S)
    assert sum(not second.any() for second in seconds) == 1, "silence"
    assert sum(not np.isfinite(second).all() for second in seconds) == 1, "no numbers"
    assert sum(np.abs(second).min() == 1 for second in seconds) == 2, "a constant and a square wave"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_a_second_of_float32_in_one_or_no_number(kind) -> None:  # type: ignore[no-untyped-def]
    second = kind(RATE, generator(0, 0, 0))
    assert (second.dtype, second.shape) == (np.float32, (RATE,))
    assert np.abs(clean_samples(second)[0]).max() <= 1
    assert np.isfinite(second).all() != (kind.__name__ == "_no_numbers")


def test_a_room_is_never_silent_and_else_the_same() -> None:
    room, sound = (next(make(RATE, seconds=10)) for make in (room_sound, proof_sound))
    usable = np.abs(sound) <= 1
    noise = room[usable] - sound[usable]
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(3e-3, rel=0.05)


def test_chunks_are_the_sound_in_lengths_from_one_sample_to_two_seconds() -> None:
    chunks = [*random_chunks(proof_sound(RATE, seconds=600), RATE)]
    np.testing.assert_array_equal(np.concatenate(chunks), np.concatenate([*proof_sound(RATE, seconds=600)]))
    sizes = [len(chunk) for chunk in chunks[:-1]]
    assert min(sizes) == 1
    assert 1.5 * RATE < max(sizes) <= 2 * RATE
    assert np.median(sizes) < 100, "short ones are as likely as long ones"
