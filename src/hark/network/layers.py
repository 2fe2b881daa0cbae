"""The layers of a keyword spotter, each with its streaming state.

All shapes follow from the weights, so that pruned and quantised layers need no code of their own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hark.network.streaming import Chain, SlidingWindow, State, StreamingModule, leaf


class Affine(StreamingModule):
    """`scale * x + shift` per channel: brings log-mels to zero mean and unit variance.

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
        self.weight = _uniform(outputs, inputs, fan=inputs)
        self.bias = _uniform(outputs, fan=inputs)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, frames)` to `(batch, outputs, frames)`."""
        return _project(x, self.weight, self.bias), state


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
        self.weight = _uniform(outputs, inputs, *kernel, fan=fan)
        self.bias = _uniform(outputs, fan=fan)

    @property
    def out_bins(self) -> int:
        """Frequencies that come out."""
        return (self.bins - self.weight.shape[2]) // self.stride[0] + 1

    def initial_state(self, batch_size: int = 1) -> State:
        """An empty past of `(batch, channels, bins, kernel - 1)`."""
        return self.window.initial_state(self.weight.new_zeros(batch_size, self.weight.shape[1], self.bins, 0))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, bins, frames)` to `(batch, outputs, out_bins, steps)`."""
        frames, state = self.window.step(x, state)
        if not frames.shape[-1]:
            return x.new_zeros(x.shape[0], self.weight.shape[0], self.out_bins, 0), state
        return self.convolve(frames), state

    def convolve(self, frames: Tensor) -> Tensor:
        """All windows of `frames (batch, inputs, bins, frames)`."""
        return functional.conv2d(frames, self.weight, self.bias, self.stride)


class GruLayer(StreamingModule):
    """A gated recurrent unit (Cho et al. 2014, arXiv 1406.1078) in the form of cuDNN and `nn.GRU`.

    r = σ(W_ir x + b_ir + W_hr h + b_hr),  z = σ(W_iz x + b_iz + W_hz h + b_hz),
    n = tanh(W_in x + b_in + r ∘ (W_hn h + b_hn)),  h' = (1 − z) ∘ n + z ∘ h.

    The rows of each matrix are the gates r, z, n stacked. Written out, since exporters get `nn.GRU` wrong and
    a quantised cell needs the same equations.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih = _uniform(3 * hidden, inputs, fan=hidden)
        self.weight_hh = _uniform(3 * hidden, hidden, fan=hidden)
        self.bias_ih = _uniform(3 * hidden, fan=hidden)
        self.bias_hh = _uniform(3 * hidden, fan=hidden)

    @property
    def hidden(self) -> int:
        """Units."""
        return self.weight_hh.shape[1]

    def initial_state(self, batch_size: int = 1) -> State:
        """`hidden (batch, units)`, zero."""
        return {"hidden": self.weight_hh.new_zeros(batch_size, self.hidden)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, steps)` to the hidden states `(batch, units, steps)`."""
        hidden = leaf(state, "hidden")
        # A parametrised weight is computed anew at each access: read it once.
        weight, bias = self.weight_hh, self.bias_hh
        outputs = []
        for gates in functional.linear(x.permute(2, 0, 1), self.weight_ih, self.bias_ih).unbind(0):
            hidden = _gru_cell(gates, functional.linear(hidden, weight, bias), hidden)
            outputs.append(hidden)
        y = torch.stack(outputs, dim=-1) if outputs else x.new_zeros(x.shape[0], self.hidden, 0)
        return y, {"hidden": hidden}


def _gru_cell(from_input: Tensor, from_hidden: Tensor, hidden: Tensor) -> Tensor:
    units = hidden.shape[-1]
    reset_update = torch.sigmoid(from_input[:, : 2 * units] + from_hidden[:, : 2 * units])
    reset, update = reset_update[:, :units], reset_update[:, units:]
    candidate = torch.tanh(from_input[:, 2 * units :] + reset * from_hidden[:, 2 * units :])
    return candidate + update * (hidden - candidate)


class Dropout(StreamingModule):
    """Zeroes a share of the values in training; in use it passes everything."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x` of any shape to the same shape."""
        return functional.dropout(x, self.share, self.training), state


class Gru(Chain):
    """GRU layers one above the other, named 0, 1, …; dropout between them, in training only."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], *, dropout: float = 0.0) -> None:
        """`hidden` gives the units of each layer, which need not be equal."""
        links: dict[str, StreamingModule] = {}
        for index, (wide_in, wide_out) in enumerate(zip((inputs, *hidden), hidden, strict=False)):
            if index and dropout:
                links[f"dropout{index}"] = Dropout(dropout)
            links[str(index)] = GruLayer(wide_in, wide_out)
        super().__init__(**links)


class Attention(StreamingModule):
    """Additive attention over the last `window` steps (Shan et al. 2018, arXiv 1803.10916, eq. 1-4).

    e_t = v · tanh(W h_t + b) + c,  α = softmax(e over the window),  output = Σ α_t h_t.
    An energy never changes once computed: the state is a ring of past (h, e), so that a step costs one new
    energy and one weighted sum. Slots not yet filled have the energy -inf and so weigh nothing.
    """

    def __init__(self, inputs: int, units: int, *, window: int) -> None:
        super().__init__()
        self.window = window
        self.project = Linear(inputs, units)
        self.score = Linear(units, 1)

    @property
    def inputs(self) -> int:
        """Values per step."""
        return self.project.weight.shape[1]

    def initial_state(self, batch_size: int = 1) -> State:
        """`hidden (batch, inputs, window - 1)` of zeros and `energy (batch, 1, window - 1)` of -inf."""
        like = self.project.weight
        hidden = like.new_zeros(batch_size, self.inputs, self.window - 1)
        return {"hidden": hidden, "energy": like.new_full((batch_size, 1, self.window - 1), -math.inf)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, steps)` to the weighted sums `(batch, inputs, steps)`."""
        y, _, state = self.attend(x, state)
        return y, state

    def attend(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """As `step`, with the weights `(batch, steps, window)`, oldest first, in the middle."""
        energy = self.energies(x)
        hidden = torch.cat((leaf(state, "hidden"), x), dim=-1)
        energies = torch.cat((leaf(state, "energy"), energy), dim=-1)
        steps = x.shape[-1]
        # Cloned: a view would keep the whole chunk in memory for as long as the state lives.
        past: State = {"hidden": hidden[..., steps:].clone(), "energy": energies[..., steps:].clone()}
        if not steps:
            return x, x.new_zeros(x.shape[0], 0, self.window), past
        weights = self.shares(energies.unfold(-1, self.window, 1)[:, 0])
        return self.blend(hidden.unfold(-1, self.window, 1), weights), weights, past

    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""
        energies: Tensor = self.score(torch.tanh(self.project(x)))
        return energies

    def shares(self, energies: Tensor) -> Tensor:
        """The weights of the steps from their energies, along the last axis."""
        return torch.softmax(energies, dim=-1)

    def blend(self, windows: Tensor, shares: Tensor) -> Tensor:
        """The weighted sums `(batch, inputs, steps)` of `windows (batch, inputs, steps, window)`."""
        return torch.einsum("bisw,bsw->bis", windows, shares)


def _project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.linear(x.transpose(1, 2), weight, bias).transpose(1, 2)


def _uniform(*shape: int, fan: int) -> nn.Parameter:
    """PyTorch's own initialisation of these layers: U(-1/√fan, 1/√fan)."""
    bound = 1 / math.sqrt(fan)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
