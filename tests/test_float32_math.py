from __future__ import annotations

import numpy as np
import pytest

from hark.packed.float32_math import (
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    POLYNOMIAL,
    exp,
    largest,
    ordered_sum,
    posteriors,
    sigmoid,
    softmax,
    tanh,
)

GRID = np.linspace(-87, 88, 1_000_003, dtype=np.float32)


def test_the_constants_are_the_documents() -> None:
    constants = np.array([LOG2_E, LN2_HIGH, LN2_LOW, *POLYNOMIAL], "<f4").view("<u4")
    assert " ".join(f"{bits:08X}" for bits in constants) == (
        "3FB8AA3B 3F318000 B95E8083 39506967 3AB743CE 3C088908 3D2AA9C1 3E2AAAAA 3F000000"
    )


def test_exp_is_right_to_2e_7_of_itself() -> None:
    exact = np.exp(GRID.astype(np.float64))
    assert (np.abs(exp(GRID) - exact) / exact).max() < 2e-7
    assert exp(np.zeros(1, np.float32)).tolist() == [1.0]


def test_sigmoid_and_tanh_are_right_to_2e_7() -> None:
    wide = GRID.astype(np.float64)
    assert np.abs(sigmoid(GRID) - 1 / (1 + np.exp(-wide))).max() < 2e-7
    assert np.abs(tanh(GRID) - np.tanh(wide)).max() < 2e-7


@pytest.mark.parametrize("function", [exp, sigmoid, tanh])
def test_every_input_gives_a_finite_value_of_float32(function: type) -> None:
    """NaN too: no recurrent state can be poisoned."""
    strange = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0], np.float32)
    with np.errstate(over="ignore"):
        values = function(strange)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


def test_what_is_no_number_counts_as_the_lowest() -> None:
    """So that C's comparisons, the wrong way round, would be seen."""
    assert exp(np.array([np.nan], np.float32)) == exp(np.array([-87], np.float32))


def test_a_sum_is_made_in_order() -> None:
    x = np.array([[1e8, 1, -1e8, 1], [1e8, -1e8, 1, 1]], np.float32)
    assert ordered_sum(x).tolist() == [1, 2]


def test_the_largest_is_never_nan() -> None:
    assert largest(np.array([[1, np.nan, 3, 2], [np.nan, -np.inf, -2, np.nan]], np.float32)).tolist() == [3, -2]


def test_a_softmax_adds_up_to_one_and_does_not_overflow() -> None:
    x = np.array([[1000, 1001, 990], [-5, -5, -5]], np.float32)
    exact = np.exp(x - x.max(axis=1, keepdims=True).astype(np.float64))
    assert np.abs(softmax(x) - exact / exact.sum(axis=1, keepdims=True)).max() < 2e-7


def test_a_single_class_has_the_sigmoid_of_its_logit() -> None:
    logit = np.array([[0.3], [-2]], np.float32)
    assert np.array_equal(posteriors(logit), sigmoid(logit))
    assert posteriors(np.array([[0, 0]], np.float32)).tolist() == [[0.5, 0.5]]
