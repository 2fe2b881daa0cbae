from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contract import seeded
from hark.errors import ConfigError
from hark.network.layers import Affine, Attention, Conv2d, Dropout, Gru, GruLayer, Linear
from hark.network.streaming import flatten, leaf

EXACT = {"rtol": 0, "atol": 1e-12}


def noise(*shape: int) -> Tensor:
    return seeded(lambda: torch.randn(*shape, dtype=torch.float64))


def torch_gru(inputs: int, hidden: int, layers: int) -> nn.GRU:
    return seeded(lambda: nn.GRU(inputs, hidden, layers, batch_first=True).double())


def with_weights_of(theirs: nn.GRU, ours: Gru) -> Gru:
    """`ours` with the weights of `theirs`: `weight_ih_l1` there is `1.weight_ih` here."""
    weights = {f"{name[-1]}.{name[:-3]}": tensor for name, tensor in theirs.state_dict().items()}
    ours.double().load_state_dict(weights)
    return ours


@settings(max_examples=15, deadline=None, derandomize=True)
@given(inputs=st.integers(1, 6), hidden=st.integers(1, 6), layers=st.integers(1, 3), steps=st.integers(1, 12))
def test_a_gru_is_that_of_torch(inputs: int, hidden: int, layers: int, steps: int) -> None:
    theirs = torch_gru(inputs, hidden, layers)
    ours = with_weights_of(theirs, Gru(inputs, (hidden,) * layers))
    x = noise(2, inputs, steps)
    expected, last = theirs(x.transpose(1, 2))
    y, state = ours.step(x, ours.initial_state(2))
    torch.testing.assert_close(y, expected.transpose(1, 2), **EXACT)
    torch.testing.assert_close(torch.stack(list(flatten(state).values())), last, **EXACT)


def test_a_gru_goes_on_from_its_state_as_that_of_torch_does() -> None:
    theirs = torch_gru(3, 4, 1)
    ours = with_weights_of(theirs, Gru(3, (4,)))
    x, hidden = noise(2, 3, 5), noise(2, 4)
    expected, _ = theirs(x.transpose(1, 2), hidden[None])
    y, _ = ours.step(x, {"0": {"hidden": hidden}})
    torch.testing.assert_close(y, expected.transpose(1, 2), **EXACT)


def test_a_gru_of_zero_weights_halves_its_state_at_each_step() -> None:
    """R = z = ½ and n = 0, so h' = h / 2."""
    layer = GruLayer(2, 1).double()
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    y, _ = layer.step(noise(1, 2, 3), {"hidden": torch.ones(1, 1, dtype=torch.float64)})
    assert y.flatten().tolist() == [0.5, 0.25, 0.125]


def test_gru_layers_may_differ_in_width() -> None:
    assert Gru(3, (5, 2, 4))(torch.zeros(1, 3, 7)).shape == (1, 4, 7)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 6)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 6)),
    frames=st.integers(6, 20),
)
def test_a_convolution_is_that_of_torch(
    channels: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], frames: int
) -> None:
    stride = (stride[0], min(stride[1], kernel[1]))
    ours = Conv2d(*channels, bins=9, kernel=kernel, stride=stride).double()
    theirs = nn.Conv2d(*channels, kernel, stride).double()
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, channels[0], 9, frames)
    y = ours(x)
    assert y.shape[2] == ours.out_bins
    torch.testing.assert_close(y, theirs(x), **EXACT)


def test_a_convolution_short_of_a_window_gives_no_step() -> None:
    assert Conv2d(1, 2, bins=6, kernel=(3, 4), stride=(1, 2))(torch.zeros(1, 1, 6, 3)).shape == (1, 2, 4, 0)


def test_a_stride_that_skips_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="a window of 4 frames every 5 frames"):
        Conv2d(1, 1, bins=4, kernel=(2, 4), stride=(1, 5))


def test_a_linear_layer_sees_each_frame_on_its_own() -> None:
    layer, x = Linear(3, 2).double(), noise(2, 3, 4)
    expected = torch.einsum("oi,bit->bot", layer.weight, x) + layer.bias[:, None]
    torch.testing.assert_close(layer(x), expected, **EXACT)


def test_normalization_brings_mean_to_zero_and_deviation_to_one() -> None:
    layer = Affine(2).double()
    layer.normalize(torch.tensor([5.0, -1.0]), torch.tensor([2.0, 4.0]))
    x = torch.tensor([[[5.0, 7.0], [-1.0, -5.0]]], dtype=torch.float64)
    assert layer(x).tolist() == [[[0.0, 1.0], [0.0, -1.0]]]


def test_dropout_works_in_training_only() -> None:
    layer, x = Dropout(0.5), torch.ones(1, 4, 200)
    assert torch.equal(layer.eval()(x), x)
    assert set(seeded(lambda: layer.train()(x)).unique().tolist()) == {0.0, 2.0}


def test_dropout_lies_between_the_layers_of_a_gru_only() -> None:
    names = [name for name, _ in Gru(3, (4, 4, 4), dropout=0.1).layers()]
    assert names == ["0", "dropout1", "1", "dropout2", "2"]


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
