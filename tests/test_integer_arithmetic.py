from __future__ import annotations

import zlib
from fractions import Fraction
from math import floor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hark.packed.integer_arithmetic import (
    EXP2_TABLE,
    LARGEST,
    TANH_TABLE,
    attend,
    depthwise,
    energies,
    exp2_minus,
    layer_product,
    logits,
    mean,
    next_state,
    product,
    quantize,
    query_energies,
    requantize,
    tanh,
)
from hark.packed.packed_layers import LARGEST_ROW, Affine, FastGrnn, Gru, IntegerMatrix, MinimalGru
from packed_models import CELLS

law = settings(max_examples=200, deadline=None, derandomize=True)
int16 = st.integers(-LARGEST, LARGEST)
INT32 = range(-(2**31), 2**31)


def matrix(*rows: list[int], multiplier: int = 65_535, shift: int = 15) -> IntegerMatrix:
    return IntegerMatrix(
        bits=8,
        weights=np.array(rows, np.int8),
        multipliers=np.full(len(rows), multiplier, np.uint16),
        shift=shift,
    )


def test_the_tables_are_the_documents() -> None:
    assert TANH_TABLE.shape == (257,)
    assert EXP2_TABLE.shape == (65,)
    assert zlib.crc32(TANH_TABLE.astype("<i2").tobytes()) == 0x71382557
    assert zlib.crc32(EXP2_TABLE.astype("<i2").tobytes()) == 0x681017CA


@law
@given(
    accumulator=st.integers(-(2**31) + 2, 2**31 - 2),
    multiplier=st.integers(0, 65_535),
    shift=st.integers(0, 15),
)
def test_requantising_is_exact_scaling_rounded_half_up(accumulator: int, multiplier: int, shift: int) -> None:
    exact = Fraction(accumulator * multiplier * 2**shift, 2**32)
    got = int(requantize(np.array([accumulator]), matrix([1], multiplier=multiplier, shift=shift))[0])
    assert got == floor(exact + Fraction(1, 2))
    assert abs(got) < 2**30 - 2**14


def test_halves_round_up() -> None:
    half = matrix([1], multiplier=1 << 15, shift=15)  # a quarter
    assert requantize(np.array([[-6], [-2], [2], [6], [7]]), half).ravel().tolist() == [-1, 0, 1, 2, 2]


def test_the_largest_row_that_is_allowed_stays_within_32_bits() -> None:
    assert LARGEST_ROW * LARGEST in INT32
    assert (LARGEST_ROW + 1) * LARGEST not in INT32


def test_no_sum_in_a_gru_cell_leaves_32_bits() -> None:
    """The largest of each term of docs/quantisation.md, as the file allows it."""
    product_at_most = 2**30 - 2**14 - 1
    for sign in (-1, 1):
        assert sign * 2 * product_at_most + (32_767 if sign > 0 else -32_768) in INT32  # before clamping
        assert sign * 65_535 * LARGEST + 32_768 in INT32  # reset times recurrent
        assert sign * 65_536 * LARGEST + 32_768 in INT32  # (1 - z) n + z h, whose factors add up to 65,536
        both = sign * 2 * product_at_most + (32_767 if sign > 0 else -32_768)
        assert both + 1 in INT32  # of a FastGRNN, before halving
    assert product_at_most + 32_767 * 2**15 in INT32  # a bias with the largest shift


def test_tanh_is_within_three_steps_of_the_function_odd_and_never_falls() -> None:
    a = np.arange(-LARGEST, LARGEST + 1)
    y = tanh(a)
    assert np.abs(y / 32_768 - np.tanh(a / 4_096)).max() < 2.2 / 32_768
    assert np.array_equal(y, -y[::-1])
    assert (np.diff(y) >= 0).all()
    assert y[-1] == LARGEST


def test_exp2_is_within_two_steps_of_the_function_and_never_rises() -> None:
    d = np.arange(18 << 12)
    p = exp2_minus(d)
    assert np.abs(p / 32_767 - 2 ** (-d / 4_096)).max() < 1.4 / 32_768
    assert (np.diff(p) <= 0).all()
    assert (p[0], p[(16 << 12) - 1], p[16 << 12]) == (32_767, 1, 0)
    assert exp2_minus(np.array([2**31])).tolist() == [0]


def test_the_affine_rounds_to_even_clips_and_lets_no_nan_through() -> None:
    affine = Affine(np.array([3], np.uint16), np.array([10], np.int16), 1)
    x = np.array([[0, 1, -1, 1 / 3, 1e9, -1e9, np.inf, np.nan]], np.float32)
    assert quantize(affine, x).tolist() == [[10, 12, 8, 10, LARGEST, -LARGEST, LARGEST, -LARGEST]]


@pytest.mark.parametrize("kind", CELLS)
@law
@given(data=st.data(), units=st.integers(1, 4))
def test_a_state_never_leaves_int16_and_a_shut_gate_keeps_it(
    kind: type[Gru | MinimalGru | FastGrnn], data: st.DataObject, units: int
) -> None:
    rows, biases = kind.gates * units, (kind.gates + 1) * units
    bias = data.draw(st.lists(st.integers(-32_768, 32_767), min_size=biases, max_size=biases))
    from_input = data.draw(st.lists(st.integers(-(2**30), 2**30), min_size=rows, max_size=rows))
    hidden = np.array([data.draw(st.lists(int16, min_size=units, max_size=units))])
    recurrent = matrix(*[[3] * units] * rows, multiplier=9, shift=0)
    layer = kind(recurrent, recurrent, np.array(bias, np.int16))
    after = next_state(layer, np.array([from_input]), hidden)
    assert (np.abs(after) <= LARGEST).all()
    frozen = np.array([from_input])
    gate = slice(units, 2 * units) if kind is Gru else slice(units)
    frozen[:, gate] = -(2**30) if kind is MinimalGru else 2**30  # as shut as it comes: 1/65,536 is let through
    assert (np.abs(next_state(layer, frozen, hidden) - hidden) <= 1).all()


def test_a_gru_cell_by_hand() -> None:
    """Half open gates, u = 2 · 0.5 + 1: n = tanh(0.5 + 0.5 · 2), h' = (n + h) / 2."""
    state = matrix([0], [0], [32], multiplier=1 << 15, shift=10)  # 32 / 128 of Q15: 2 · h in Q12
    layer = Gru(state, state, np.array([0, 0, 0, 4_096], np.int16))
    after = next_state(layer, np.array([[0, 0, 2_048]]), np.array([[16_384]]))
    assert after[0, 0] / 32_768 == pytest.approx((np.tanh(1.5) + 0.5) / 2, abs=4 / 32_768)


def test_a_minimal_cell_by_hand() -> None:
    """A gate half open, u = 2 · 0.5 + 1: n = tanh(0.5 + 0.5 · 2), h' = (n + h) / 2."""
    state = matrix([0], [32], multiplier=1 << 15, shift=10)
    layer = MinimalGru(state, state, np.array([0, 0, 4_096], np.int16))
    after = next_state(layer, np.array([[0, 2_048]]), np.array([[16_384]]))
    assert after[0, 0] / 32_768 == pytest.approx((np.tanh(1.5) + 0.5) / 2, abs=4 / 32_768)
    is_open = next_state(layer, np.array([[2**20, 2_048]]), np.array([[16_384]]))
    assert is_open[0, 0] / 32_768 == pytest.approx(np.tanh(2.5), abs=4 / 32_768)


def test_a_fast_cell_by_hand() -> None:
    """Of one sum a = 0.5 + 2 h: z = sigmoid(a - 0.5), n = tanh(a + 0.25), h' = n + z · (h - n)."""
    state = matrix([32], multiplier=1 << 15, shift=10)
    layer = FastGrnn(state, state, np.array([-2_048, 1_024], np.int16))
    after = next_state(layer, np.array([[2_048]]), np.array([[16_384]]))
    z, n = 1 / (1 + np.exp(-1)), np.tanh(1.75)
    assert after[0, 0] / 32_768 == pytest.approx(n + z * (0.5 - n), abs=6 / 32_768)


def test_what_the_state_adds_is_clipped_at_eight() -> None:
    """R · u = 0.5 · 8, though u would be far more: with 4 taken away again nothing is left of n."""
    layer = Gru(matrix([0], [0], [96], shift=10), matrix([0], [0], [127], shift=15), np.zeros(4, np.int16))
    after = next_state(layer, np.array([[0, 0, -16_384]]), np.array([[LARGEST]]))
    assert abs(int(after[0, 0]) - LARGEST // 2) <= 3


@law
@given(energy=st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=9), value=int16)
def test_attention_to_equal_frames_gives_the_frame(energy: list[int], value: int) -> None:
    frames = np.full((1, len(energy), 1), value)
    assert abs(int(attend(np.array([energy]), frames)[0, 0]) - value) <= 1 + len(energy) // 2


def test_attention_weighs_by_octaves() -> None:
    """Weights 1 : 1/2 : 1/4 of 7,000, and a frame 20 octaves below that counts nothing."""
    energy = np.array([[0, -4_096, -8_192, -(20 << 12)]])
    frames = np.array([[[7_000], [0], [-7_000], [32_767]]])
    assert attend(energy, frames).ravel().tolist() == [pytest.approx(7_000 * (4 - 1) / 7, abs=2)]


def test_a_window_of_the_largest_frames_does_not_overflow() -> None:
    longest = 4_096
    assert attend(np.zeros((1, longest), np.int64), np.full((1, longest, 1), LARGEST)).item() == LARGEST
    assert (32_768 + longest // 2) * LARGEST + 16_384 in INT32


@law
@given(values=st.lists(int16, min_size=1, max_size=12))
def test_a_mean_is_the_exact_one_rounded(values: list[int]) -> None:
    count = len(values)
    got = int(mean(np.array(values)))
    assert got == floor(Fraction(sum(values) + count // 2, count))
    in_unsigned = (sum(values) + 32_768 * count + count // 2) // count - 32_768
    assert got == in_unsigned


def test_a_product_has_its_bias_in_units_of_the_output() -> None:
    w = IntegerMatrix(
        bits=8,
        weights=np.array([[100, -100]], np.int8),
        multipliers=np.array([1 << 15], np.uint16),
        shift=10,
        bias=np.array([-7], np.int16),
        bias_shift=3,
    )
    x = np.array([[[1_000, 200]]])
    assert product(w, x).tolist() == [[[80_000 // 128 - 56]]]
    assert logits(w, x, 4).tolist() == [[[(80_000 // 128 - 56) / 16]]]
    assert logits(w, x, 4).dtype == np.float32


def test_one_multiplier_is_worth_as_many_equal_ones() -> None:
    x = np.array([[[1_000, -200]]])
    each = matrix([100, -100], [3, 4], [5, -6], multiplier=40_000)
    one = IntegerMatrix(bits=8, weights=each.weights, multipliers=np.array([40_000], np.uint16), shift=15)
    assert np.array_equal(product(each, x), product(one, x))


@law
@given(data=st.data())
def test_a_depthwise_convolution_is_a_product_for_each_channel(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    w = IntegerMatrix(
        bits=8,
        weights=rng.integers(-128, 128, (3, 4)).astype(np.int8),
        multipliers=rng.integers(0, 65_536, data.draw(st.sampled_from([1, 3]))).astype(np.uint16),
        shift=data.draw(st.integers(0, 15)),
        bias=rng.integers(-32_768, 32_768, 3).astype(np.int16),
        bias_shift=2,
    )
    x = rng.integers(-LARGEST, LARGEST + 1, (2, 5, 3, 6, 4))  # (batch, steps, channels, bins, inputs)
    expected = np.stack([layer_product(w, x[:, :, c])[..., c] for c in range(3)], axis=2)
    assert np.array_equal(depthwise(w, x), expected)


def test_the_energy_of_a_query_is_its_product() -> None:
    query = matrix([4, -4], multiplier=1 << 15, shift=15)
    assert query_energies(query, np.array([[[7, 2]]])).tolist() == [[5]]


def test_energies_are_not_clipped() -> None:
    project, score = matrix([127], multiplier=65_535), matrix([127], multiplier=65_535)
    x: npt.NDArray[np.int64] = np.array([[[LARGEST]]])
    assert int(energies(project, score, x)[0, 0]) > 10 * LARGEST
