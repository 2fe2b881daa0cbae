"""The constants against the mathematical library, which is right but not the same everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings

from front_ends import SIZES, front_ends
from hark.errors import ConfigError
from hark.packed.front_end_settings import LogMelConfig, front_end_constants, radices

law = settings(max_examples=40, deadline=None, derandomize=True)


def test_sizes_are_the_even_ones_without_prime_factors_above_five() -> None:
    def is_valid(n_fft: int) -> bool:
        try:
            return math.prod(radices(n_fft)) == n_fft // 2
        except ConfigError:
            return False

    assert [n_fft for n_fft in range(4, 4097) if is_valid(n_fft)] == SIZES


def test_another_size_is_refused_with_a_size_that_works() -> None:
    with pytest.raises(ConfigError, match=r"n_fft 401: expected an even number .* such as 400 or 512"):
        front_end_constants(LogMelConfig(n_fft=401))


@law
@given(config=front_ends())
def test_the_window_is_half_a_periodic_hann_window(config: LogMelConfig) -> None:
    expected = np.hanning(config.n_fft + 1)[:-1] / 2
    np.testing.assert_allclose(front_end_constants(config).half_window, expected, rtol=0, atol=2e-8)


@law
@given(config=front_ends())
def test_the_order_of_the_first_pass_has_every_input_once(config: LogMelConfig) -> None:
    assert sorted(front_end_constants(config).order.tolist()) == list(range(config.n_fft // 2))


@law
@given(config=front_ends())
def test_turns_are_cosines_and_sines_to_half_a_unit_in_the_last_place(config: LogMelConfig) -> None:
    constants = front_end_constants(config)
    angles = 2 * np.pi * np.arange(1, config.n_fft // 4 + 1) / config.n_fft
    np.testing.assert_allclose(constants.split[0], np.cos(angles), rtol=1e-7, atol=2e-16)
    np.testing.assert_allclose(constants.split[1], np.sin(angles), rtol=1e-7, atol=2e-16)
    length = 1
    for index, radix in enumerate(constants.radices[1:]):
        length *= constants.radices[index]
        angles = 2 * np.pi * np.outer(np.arange(length), np.arange(1, radix)) / (length * radix)
        np.testing.assert_allclose(constants.turns[index][0], np.cos(angles), rtol=1e-7, atol=1e-15)
        np.testing.assert_allclose(constants.turns[index][1], np.sin(angles), rtol=1e-7, atol=1e-15)


@law
@given(config=front_ends())
def test_bands_are_triangles_at_equal_steps_in_mel(config: LogMelConfig) -> None:
    """As `np.interp` draws them between corners from the usual formula."""
    constants = front_end_constants(config)
    top = config.sample_rate / 2
    mels = np.linspace(0, 2595 * np.log10(1 + top / 700), config.n_mels + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    hertz = np.arange(config.n_fft // 2) * config.sample_rate / config.n_fft
    for band in range(config.n_mels):
        left, centre, right = constants.corners[band : band + 3]
        weights = np.zeros(len(hertz))
        weights[left:centre] = constants.bands[left:centre, 0]
        weights[centre:right] = constants.bands[centre:right, 1]
        np.testing.assert_allclose(
            weights, np.interp(hertz, corners[band : band + 3], [0, 1, 0]), rtol=0, atol=1e-7
        )
