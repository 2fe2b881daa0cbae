from __future__ import annotations

import numpy as np
import pytest

from hark.packed.float_arithmetic import (
    activate,
    attend,
    cell_input,
    depthwise,
    energies,
    mean,
    next_state,
    product,
    quantize,
    query_energies,
)
from hark.packed.packed_layers import Affine, FastGrnn, FloatMatrix, Gru, MinimalGru


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
    x = cell_input(layer, floats(0.3)[None])
    after = next_state(layer, x, floats(0.5)[None])
    assert after.item() == pytest.approx((np.tanh(0.5 + 0.5 * 2) + 0.5) / 2, abs=1e-6)


def test_a_gru_gate_gets_its_bias_with_the_input() -> None:
    layer = Gru(FloatMatrix(floats(0, 0, 0)[:, None]), FloatMatrix(floats(0, 0, 0)[:, None]), floats(3, -2, 1, 0))
    assert cell_input(layer, floats(0.3)[None]).tolist() == [[3, -2, 1]]


def test_a_minimal_cell_by_hand() -> None:
    """A gate a quarter open: n = tanh(0.5 + 0.25 · (2 h + 1)), h' = h + 0.25 · (n - h)."""
    from_input, from_state = FloatMatrix(floats(0, 1)[:, None]), FloatMatrix(floats(0, 2)[:, None])
    layer = MinimalGru(from_input, from_state, floats(-np.log(3), 0.2, 1))
    after = next_state(layer, cell_input(layer, floats(0.3)[None]), floats(0.5)[None])
    assert after.item() == pytest.approx(0.5 + 0.25 * (np.tanh(0.5 + 0.25 * 2) - 0.5), abs=1e-6)


def test_a_fast_cell_by_hand() -> None:
    """Of one sum a = 0.3 + 2 h: z = sigmoid(a - 1), n = tanh(a + 0.2), h' = n + z · (h - n)."""
    layer = FastGrnn(FloatMatrix(floats(1)[None]), FloatMatrix(floats(2)[None]), floats(-1, 0.2))
    after = next_state(layer, cell_input(layer, floats(0.3)[None]), floats(0.5)[None])
    z, n = 1 / (1 + np.exp(-0.3)), np.tanh(1.5)
    assert after.item() == pytest.approx(n + z * (0.5 - n), abs=1e-6)


def test_the_biases_of_a_fast_cell_come_when_the_sums_are_done() -> None:
    """(0 + 1e8) + (0 - 1e8) + 0.5: begun with the half, the sum would lose it."""
    layer = FastGrnn(FloatMatrix(floats(1)[None]), FloatMatrix(floats(-1)[None]), floats(0.5, 0.5))
    after = next_state(layer, cell_input(layer, floats(1e8)[None]), floats(1e8)[None]).item()
    z, n = 1 / (1 + np.exp(-0.5)), np.tanh(0.5)
    assert after == pytest.approx(n + z * (1e8 - n), rel=1e-6)


def test_a_depthwise_convolution_keeps_channels_apart_and_begins_with_the_bias() -> None:
    matrix = FloatMatrix(floats(1e8, -1e8, 2, 3).reshape(2, 2), floats(0.5, 1))
    x = floats(1, 1, 2, 1, 1, 1, 2, 0).reshape(2, 2, 2)  # (channels, bins, inputs)
    assert depthwise(matrix, x).tolist() == [[0, 1e8], [6, 5]]


def test_the_energy_of_a_query_is_its_product() -> None:
    assert query_energies(FloatMatrix(floats(2, -3)[None]), floats(1, 2)[None, None]).tolist() == [[-4]]


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
