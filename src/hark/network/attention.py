"""Attention over the last steps: what a spotter looks at when it judges."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional

from hark.network.layers import Linear, uniform
from hark.network.streaming import State, StreamingModule, leaf


class WindowAttention(StreamingModule, ABC):
    """The weighted sum of the last `window` steps, α = softmax(e) over the window, output = Σ α_t h_t.

    An energy never changes once computed: the state is a ring of past (h, e), so that a step costs one new
    energy and one weighted sum. Slots not yet filled have the energy -inf and so weigh nothing.
    """

    window: int

    @property
    @abstractmethod
    def reader(self) -> Tensor:
        """The matrix `(rows, inputs)` that reads the steps."""

    @abstractmethod
    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""

    @property
    def inputs(self) -> int:
        """Values per step."""
        return self.reader.shape[1]

    def initial_state(self, batch_size: int = 1) -> State:
        """`hidden (batch, inputs, window - 1)` of zeros and `energy (batch, 1, window - 1)` of -inf."""
        like = self.reader
        hidden = like.new_zeros(batch_size, like.shape[1], self.window - 1)
        return {"hidden": hidden, "energy": like.new_full((batch_size, 1, self.window - 1), -math.inf)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, inputs, steps)` to the weighted sums `(batch, inputs, steps)`."""
        y, _, state = self.attend(x, state)
        return y, state

    def attend(self, x: Tensor, state: State, *, decisions: int | None = None) -> tuple[Tensor, Tensor, State]:
        """As `step`, with the weights `(batch, steps, window)`, oldest first, in the middle.

        Of the sums and weights only those of the last `decisions` steps are computed, where that is given.
        """
        energy = self.energies(x)
        hidden = torch.cat((leaf(state, "hidden"), x), dim=-1)
        energies = torch.cat((leaf(state, "energy"), energy), dim=-1)
        steps = x.shape[-1]
        # Cloned: a view would keep the whole chunk in memory for as long as the state lives.
        past: State = {"hidden": hidden[..., steps:].clone(), "energy": energies[..., steps:].clone()}
        first = 0 if decisions is None else max(0, steps - decisions)
        if first == steps:
            return x[..., steps:], x.new_zeros(x.shape[0], 0, self.window), past
        weights = self.shares(energies[..., first:].unfold(-1, self.window, 1)[:, 0])
        return self.blend(hidden[..., first:].unfold(-1, self.window, 1), weights), weights, past

    def shares(self, energies: Tensor) -> Tensor:
        """The weights of the steps from their energies, along the last axis."""
        return torch.softmax(energies, dim=-1)

    def blend(self, windows: Tensor, shares: Tensor) -> Tensor:
        """The weighted sums `(batch, inputs, steps)` of `windows (batch, inputs, steps, window)`."""
        return torch.einsum("bisw,bsw->bis", windows, shares)


class Attention(WindowAttention):
    """Additive attention (Shan et al. 2018, arXiv 1803.10916, eq. 1-4): e_t = v · tanh(W h_t + b) + c."""

    def __init__(self, inputs: int, units: int, *, window: int) -> None:
        super().__init__()
        self.window = window
        self.project = Linear(inputs, units)
        self.score = Linear(units, 1)

    @property
    def reader(self) -> Tensor:
        """The projection's weight."""
        return self.project.weight

    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""
        energies: Tensor = self.score(torch.tanh(self.project(x)))
        return energies


class QueryAttention(WindowAttention):
    """Attention by one learned query: e_t = q · h_t, no more than a product for each step."""

    def __init__(self, inputs: int, *, window: int) -> None:
        super().__init__()
        self.window = window
        self.query = uniform(1, inputs, fan=inputs)

    @property
    def reader(self) -> Tensor:
        """The query."""
        return self.query

    def energies(self, x: Tensor) -> Tensor:
        """Of each step of `x (batch, inputs, steps)`: `(batch, 1, steps)`."""
        return functional.linear(x.transpose(1, 2), self.query).transpose(1, 2)
