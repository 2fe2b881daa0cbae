from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from contract import seeded
from hark.network.attention import Attention, QueryAttention
from hark.network.streaming import leaf

EXACT = {"rtol": 0, "atol": 1e-12}


def noise(*shape: int) -> Tensor:
    return seeded(lambda: torch.randn(*shape, dtype=torch.float64))


def attention(*, window: int) -> Attention:
    return seeded(lambda: Attention(4, 3, window=window).double())


def plain_attention(layer: Attention, hidden: Tensor) -> Tensor:
    """Softmax attention over all of `hidden (inputs, steps)`, one step at a time: eq. 1-4 as they stand."""
    energies = [
        layer.score.weight[0] @ torch.tanh(layer.project.weight @ h + layer.project.bias) + layer.score.bias[0]
        for h in hidden.T
    ]
    weights = [energy.exp() / sum(other.exp() for other in energies) for energy in energies]
    return sum(weight * h for weight, h in zip(weights, hidden.T, strict=True))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(window=st.integers(1, 8), steps=st.integers(1, 14))
def test_attention_is_softmax_attention_over_the_window_that_ends_at_each_step(window: int, steps: int) -> None:
    """Before the window is full, over all steps so far: slots not yet filled weigh nothing."""
    layer, x = attention(window=window), noise(1, 4, steps)
    expected = [plain_attention(layer, x[0, :, max(0, end - window) : end]) for end in range(1, steps + 1)]
    torch.testing.assert_close(layer(x)[0], torch.stack(expected, dim=1), **EXACT)


def test_attention_over_a_clip_of_exactly_the_window_is_over_the_whole_clip() -> None:
    layer, x = attention(window=11), noise(1, 4, 11)
    torch.testing.assert_close(layer(x)[0, :, -1], plain_attention(layer, x[0]), **EXACT)


def test_weights_sum_to_one_and_empty_slots_weigh_exactly_nothing() -> None:
    layer = attention(window=5)
    _, weights, _ = layer.attend(noise(2, 4, 8), layer.initial_state(2))
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 8, dtype=torch.float64), **EXACT)
    empty = [[4 - step > slot for slot in range(5)] for step in range(8)]
    assert torch.equal(weights[0] == 0, torch.tensor(empty))


def test_attention_forgets_what_has_left_the_window() -> None:
    layer, x = attention(window=3), noise(1, 4, 6)
    changed = torch.cat((100 + x[..., :3], x[..., 3:]), dim=-1)
    torch.testing.assert_close(layer(changed)[..., -1], layer(x)[..., -1], **EXACT)


def test_an_empty_ring_has_the_energy_of_minus_infinity() -> None:
    state = attention(window=3).initial_state(2)
    assert leaf(state, "energy").tolist() == [[[-math.inf, -math.inf]]] * 2
    assert leaf(state, "hidden").shape == (2, 4, 2)


def test_gradients_pass_empty_slots() -> None:
    layer = attention(window=5)
    layer(noise(1, 4, 2)).square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_a_query_is_attention_whose_energies_are_products_with_it() -> None:
    layer, x = seeded(lambda: QueryAttention(4, window=3).double()), noise(1, 4, 6)
    _, weights, _ = layer.attend(x, layer.initial_state())
    for end in range(6):
        window = x[0, :, max(0, end - 2) : end + 1]
        torch.testing.assert_close(layer(x)[0, :, end], window @ (layer.query[0] @ window).softmax(0), **EXACT)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 6, dtype=torch.float64), **EXACT)
