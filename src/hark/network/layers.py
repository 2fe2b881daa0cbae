"""The layers of a keyword spotter, each with its streaming state.

All shapes follow from the weights, so that pruned and quantised layers need no code of their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hark.network.streaming import SlidingWindow, State, StreamingModule


class Affine(StreamingModule):
    """`scale * x + shift`, of each channel or one for all: brings log-mels to zero mean and unit variance.

    Both are buffers: estimated from training data, not learned.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def normalize(self, mean: Tensor, deviation: Tensor) -> None:
        """Map `mean (channels,)` to 0 and `deviation (channels,)` to 1."""
        self.scale.copy_(1 / deviation)
        self.shift.copy_(-mean / deviation)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, channels, frames)` to the same shape."""
        return x * self.scale[:, None] + self.shift[:, None], state


class Linear(StreamingModule):
    """`W x + b` for each frame on its own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = uniform(outputs, inputs, fan=inputs)
        self.bias = uniform(outputs, fan=inputs)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, frames)` to `(batch, outputs, frames)`."""
        return functional.linear(x.transpose(1, 2), self.weight, self.bias).transpose(1, 2), state


class Conv2d(StreamingModule):
    """A valid convolution over frequency and time that invents no frames.

    Its past is what later windows still need: at most kernel - 1 frames.
    """

    def __init__(
        self, inputs: int, outputs: int, *, bins: int, kernel: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        """Kernel and stride are (frequency, time); `bins` is the number of input frequencies."""
        super().__init__()
        self.bins = bins
        self.stride = stride
        self.window = SlidingWindow(kernel[1], stride[1])
        fan = inputs * kernel[0] * kernel[1]
        self.weight = uniform(outputs, inputs, *kernel, fan=fan)
        self.bias = uniform(outputs, fan=fan)

    @property
    def inputs(self) -> int:
        """Channels that come in."""
        return self.weight.shape[1]

    @property
    def out_bins(self) -> int:
        """Frequencies that come out."""
        return (self.bins - self.weight.shape[2]) // self.stride[0] + 1

    def initial_state(self, batch_size: int = 1) -> State:
        """An empty past of `(batch, inputs, bins, kernel - 1)`."""
        return self.window.initial_state(self.weight.new_zeros(batch_size, self.inputs, self.bins, 0))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, bins, frames)` to `(batch, outputs, out_bins, steps)`."""
        frames, state = self.window.step(x, state)
        if not frames.shape[-1]:
            return x.new_zeros(x.shape[0], self.weight.shape[0], self.out_bins, 0), state
        return self.windows(frames), state

    def windows(self, frames: Tensor) -> Tensor:
        """All windows of `frames (batch, inputs, bins, frames)`."""
        return functional.conv2d(frames, self.weight, self.bias, self.stride)


class DepthwiseConv2d(Conv2d):
    """A convolution of each channel on its own, with one kernel.

    Along time, after one along frequency, it makes a separable convolution: each of its kernels has rank 1
    (Jaderberg et al. 2014, arXiv 1405.3866).
    """

    def __init__(self, channels: int, *, bins: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        super().__init__(1, channels, bins=bins, kernel=kernel, stride=stride)

    @property
    def inputs(self) -> int:
        """Channels that come in, and out."""
        return self.weight.shape[0]

    def windows(self, frames: Tensor) -> Tensor:
        """All windows of `frames (batch, channels, bins, frames)`."""
        return functional.conv2d(frames, self.weight, self.bias, self.stride, groups=self.inputs)


class MeanPooling(StreamingModule):
    """The mean over valid windows of frequency and time, channel by channel."""

    zero: Tensor

    def __init__(self, channels: int, *, bins: int, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
        """Kernel and stride are (frequency, time); `bins` is the number of input frequencies."""
        super().__init__()
        self.channels, self.bins = channels, bins
        self.kernel, self.stride = kernel, stride
        self.window = SlidingWindow(kernel[1], stride[1])
        # It has no weights that could say of which type and on which device its state is.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @property
    def out_bins(self) -> int:
        """Frequencies that come out."""
        return (self.bins - self.kernel[0]) // self.stride[0] + 1

    def initial_state(self, batch_size: int = 1) -> State:
        """An empty past of `(batch, channels, bins, kernel - 1)`."""
        return self.window.initial_state(self.zero.new_zeros(batch_size, self.channels, self.bins, 0))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, channels, bins, frames)` to `(batch, channels, out_bins, steps)`."""
        frames, state = self.window.step(x, state)
        if not frames.shape[-1]:
            return x.new_zeros(x.shape[0], self.channels, self.out_bins, 0), state
        return self.windows(frames), state

    def windows(self, frames: Tensor) -> Tensor:
        """The means of all windows of `frames (batch, channels, bins, frames)`."""
        return functional.avg_pool2d(frames, self.kernel, self.stride)


class Dropout(StreamingModule):
    """Zeroes a share of the values in training; in use it passes everything."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x` of any shape to the same shape."""
        return functional.dropout(x, self.share, self.training), state


def uniform(*shape: int, fan: int) -> nn.Parameter:
    """PyTorch's own initialisation of these layers: U(-1/√fan, 1/√fan)."""
    bound = 1 / math.sqrt(fan)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
