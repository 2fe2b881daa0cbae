"""The one idea: everything between the microphone and the detection is `step(input, state) -> (output, state)`.

Running offline is one long step from the initial state, so a stream's n-th output *is* the offline n-th
output, whatever the chunks were. State is explicit, never on `self`: one module serves any number of streams.
Time is the last axis everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from hark.errors import ConfigError

State: TypeAlias = "dict[str, Tensor | State]"
"""What a stream remembers: tensors by name, nested as the modules are. Treat it as immutable."""


class StreamingModule(nn.Module):
    """A module that takes any number of frames and gives out those that are complete.

    The base class is the contract for a module without memory; those with memory override
    `initial_state` and `step`, never `forward`.
    """

    def initial_state(self, batch_size: int = 1) -> State:
        """The state of `batch_size` streams that have heard nothing."""
        return {}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Take the next frames `x (batch, ..., frames)`; give the completed output frames and the new state."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """The offline output: one long step from the initial state."""
        return self.step(x, self.initial_state(x.shape[0]))[0]


class Chain(StreamingModule):
    """Named streaming modules, one after the other."""

    def __init__(self, **layers: StreamingModule) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def layers(self) -> Iterator[tuple[str, StreamingModule]]:
        """The links with their names, in the order in which sound passes through them."""
        return cast("Iterator[tuple[str, StreamingModule]]", self.named_children())

    def initial_state(self, batch_size: int = 1) -> State:
        """The initial states of all links, under their names."""
        return {name: layer.initial_state(batch_size) for name, layer in self.layers()}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Pass `x` through every link."""
        after: State = {}
        for name, layer in self.layers():
            x, after[name] = layer.step(x, substate(state, name))
        return x, after


@dataclass(frozen=True)
class SlidingWindow:
    """Windows of `size` frames, one every `hop`: what framing, convolution and pooling have in common.

    Windows are *valid*: none is completed by invented frames. The state is the frames that a later window
    still needs, in a buffer of fixed shape `(..., size - 1)`, of which the first `filled` count.
    """

    size: int
    hop: int

    def __post_init__(self) -> None:
        if not 1 <= self.hop <= self.size:
            raise ConfigError(
                f"a window of {self.size} frames every {self.hop} frames: "
                "expected 1 <= hop <= size; choose a smaller stride or a longer kernel"
            )

    def initial_state(self, empty: Tensor, *, filled: int = 0) -> State:
        """State with a buffer like `empty (..., 0)` in shape, type and device; `filled` frames of it are 0."""
        past = empty.new_zeros((*empty.shape[:-1], self.size - 1))
        return {"past": past, "filled": torch.tensor(filled, device=empty.device)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Join `x (..., frames)` to the past; give the frames of all complete windows, and what is left.

        The first output has `(n - 1) * hop + size` frames for n complete windows, or none at all.
        """
        filled = int(leaf(state, "filled"))
        joined = torch.cat((leaf(state, "past")[..., :filled], x), dim=-1)
        count = max(0, (joined.shape[-1] - self.size) // self.hop + 1)
        ready = joined[..., : (count - 1) * self.hop + self.size if count else 0]
        return ready, self._keep(joined[..., count * self.hop :])

    def _keep(self, rest: Tensor) -> State:
        filled = rest.shape[-1]
        past = nn.functional.pad(rest, (0, self.size - 1 - filled))
        return {"past": past, "filled": torch.tensor(filled, device=rest.device)}


def leaf(state: State, name: str) -> Tensor:
    """The tensor `name` of a state."""
    return cast("Tensor", state[name])


def substate(state: State, name: str) -> State:
    """The state of the inner module `name`."""
    return cast("State", state[name])


def flatten(state: State) -> dict[str, Tensor]:
    """One level of names, e.g. `gru.0.hidden`; what an exported graph or a file needs."""
    flat: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            flat[name] = value
        else:
            flat |= {f"{name}.{inner}": tensor for inner, tensor in flatten(value).items()}
    return flat


def unflatten(flat: Mapping[str, Tensor], like: State) -> State:
    """The inverse of `flatten`; `like` gives the nesting, empty inner states included."""
    state: State = {}
    for name, value in like.items():
        if isinstance(value, Tensor):
            state[name] = flat[name]
        else:
            inner = {key[len(name) + 1 :]: t for key, t in flat.items() if key.startswith(f"{name}.")}
            state[name] = unflatten(inner, value)
    return state


def detach(state: State) -> State:
    """The same state without its gradient history."""
    return unflatten({name: tensor.detach() for name, tensor in flatten(state).items()}, state)


def state_bytes(state: State) -> int:
    """Memory of a state, in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(state).values())
