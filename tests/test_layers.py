from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from contract import seeded
from hark.errors import ConfigError
from hark.network.layers import Affine, Conv2d, DepthwiseConv2d, Dropout, Linear, MeanPooling

EXACT = {"rtol": 0, "atol": 1e-12}


def noise(*shape: int) -> Tensor:
    return seeded(lambda: torch.randn(*shape, dtype=torch.float64))


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


def test_a_depthwise_convolution_is_that_of_torch_in_groups() -> None:
    ours = seeded(lambda: DepthwiseConv2d(3, bins=5, kernel=(2, 4), stride=(1, 3)).double())
    theirs = nn.Conv2d(3, 3, (2, 4), (1, 3), groups=3).double()
    theirs.load_state_dict(ours.state_dict())
    x = noise(2, 3, 5, 13)
    torch.testing.assert_close(ours(x), theirs(x), **EXACT)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 6)), stride=st.tuples(st.integers(1, 4), st.integers(1, 6))
)
def test_pooling_is_the_mean_of_each_window(kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    stride = (stride[0], min(stride[1], kernel[1]))
    layer, x = MeanPooling(2, bins=7, kernel=kernel, stride=stride).double(), noise(3, 2, 7, 15)
    windows = x.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    torch.testing.assert_close(layer(x), windows.mean(dim=(-2, -1)), **EXACT)


def test_pooling_has_no_weights_and_its_state_is_of_the_type_it_is_converted_to() -> None:
    layer = MeanPooling(2, bins=3, kernel=(1, 2), stride=(1, 2))
    assert not layer.state_dict()
    assert layer.double().initial_state()["past"].dtype == torch.float64


def test_one_scale_and_shift_serve_all_channels() -> None:
    layer = Affine(1).double()
    layer.normalize(torch.tensor([5.0]), torch.tensor([2.0]))
    x = torch.tensor([[[5.0, 7.0], [-1.0, 5.0]]], dtype=torch.float64)
    assert layer(x).tolist() == [[[0.0, 1.0], [-3.0, 0.0]]]
