from __future__ import annotations

import numpy as np
import pytest

from hark.packed.float_arithmetic import activate, attend, energies, gru_cell, gru_input, mean, product, quantize
from hark.packed.packed_layers import Affine, FloatMatrix, Gru


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_a_product_begins_with_the_bias_and_goes_on_input_by_input() -> None:
    """(0.5 + 1e8) - 1e8 + 1: the half is lost, the one is not."""
    matrix = FloatMatrix(floats(1e8, -1e8, 1)[None], floats(0.5))
    assert product(matrix, floats(1, 1, 1)[None]).tolist() == [[1]]
    reordered = FloatMatrix(floats(1, 1e8, -1e8)[None], floats(0.5))
    assert product(reordered, floats(1, 1, 1)[None]).tolist() == [[0]]


def test_a_gru_cell_by_hand() -> None:
    """Gates half open: n = tanh(0.5 + 0.5 · (2 h + 1)), h' = (n + h) / 2."""
    layer = Gru(FloatMatrix(floats(0, 0, 1)[:, None]), FloatMatrix(floats(0, 0, 2)[:, None]), floats(0, 0, 0.2, 1))
    x = gru_input(layer, floats(0.3)[None])
    after = gru_cell(layer, x, floats(0.5)[None])
    assert after.item() == pytest.approx((np.tanh(0.5 + 0.5 * 2) + 0.5) / 2, abs=1e-6)


def test_a_gru_gate_gets_its_bias_with_the_input() -> None:
    layer = Gru(FloatMatrix(floats(0, 0, 0)[:, None]), FloatMatrix(floats(0, 0, 0)[:, None]), floats(3, -2, 1, 0))
    assert gru_input(layer, floats(0.3)[None]).tolist() == [[3, -2, 1]]


def test_attention_gives_the_weighted_mean() -> None:
    energy = np.log(floats(1, 2, 4))[None]
    frames = floats(7, 0, -7)[None, :, None]
    assert attend(energy, frames).item() == pytest.approx(-3, abs=1e-5)
    project, score = FloatMatrix(floats(2)[None], floats(0.5)), FloatMatrix(floats(3)[None])
    assert energies(project, score, floats(0.25)[None, None]).item() == pytest.approx(3 * np.tanh(1), abs=1e-6)


def test_activations_mean_and_affine_by_hand() -> None:
    x = floats(-1, 0, 2)
    assert activate("relu", x).tolist() == [0, 0, 2]
    assert activate("tanh", x) == pytest.approx(np.tanh(x), abs=2e-7)
    assert activate("sigmoid", x) == pytest.approx(1 / (1 + np.exp(-x)), abs=2e-7)
    assert mean(floats(1, 2, 6)).item() == 3
    assert quantize(Affine(floats(2, 4), floats(1, -1)), floats(3, 0.5)[None]).tolist() == [[7, 1]]
