from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contract import EXAMPLES, Example, check_streaming_contract, chunkings, streaming_classes
from hark.errors import ConfigError
from hark.network.cells import GruLayer
from hark.network.layers import Dropout
from hark.network.streaming import Chain, SlidingWindow, State, detach, flatten, state_bytes, unflatten

ALL_EXAMPLES = [
    pytest.param(example, id=f"{cls.__name__}-{number}")
    for cls, examples in EXAMPLES.items()
    for number, example in enumerate(examples)
]


def test_every_streaming_module_is_held_to_the_contract() -> None:
    """Whoever adds a layer or a model adds an example of it to tests/contract.py."""
    assert {cls.__name__ for cls in EXAMPLES} == {cls.__name__ for cls in streaming_classes()}


@pytest.mark.parametrize("example", ALL_EXAMPLES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_module_keeps_the_contract_in_any_chunking(example: Example, data: st.DataObject) -> None:
    check_streaming_contract(example.module(), example.sound(), data.draw(chunkings(example.frames)))


@pytest.mark.parametrize("example", ALL_EXAMPLES)
def test_a_module_keeps_the_contract_frame_by_frame(example: Example) -> None:
    check_streaming_contract(example.module(), example.sound(), [1] * example.frames)


@pytest.mark.parametrize("example", ALL_EXAMPLES)
def test_a_module_keeps_the_contract_when_all_comes_between_two_empty_chunks(example: Example) -> None:
    check_streaming_contract(example.module(), example.sound(), [0, example.frames, 0])


class Replayed(GruLayer):
    """A layer with the field's most common fault: each chunk starts from the initial state."""

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """As if nothing had been heard before."""
        return super().step(x, self.initial_state(len(x)))


class Remembering(GruLayer):
    """A layer that keeps its state on itself, so that streams meet in it."""

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Go on from wherever the last stream stopped."""
        y, self.state = super().step(x, getattr(self, "state", state))
        return y, self.state


class InPlace(Dropout):
    """A layer that writes into what it was given."""

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Double `x` where it lies."""
        return x.mul_(2), state


class Peeking(Dropout):
    """A layer that looks at the whole chunk, future included."""

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Subtract the mean over time."""
        return x - x.mean(dim=-1, keepdim=True), state


class Mixing(Dropout):
    """A layer in which the streams of a batch see each other."""

    def step(self, x: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Subtract the mean over the batch."""
        return x - x.mean(dim=0), state


@pytest.mark.parametrize(
    "broken", [Replayed(3, 4), Remembering(3, 4), InPlace(0.1), Peeking(0.1), Mixing(0.1)], ids=repr
)
def test_the_contract_catches_a_broken_layer(broken: GruLayer | Dropout) -> None:
    sound = Example(lambda: broken, (3,), 7).sound()
    with pytest.raises(AssertionError):
        check_streaming_contract(broken, sound, [2, 5])


def test_windows_by_hand() -> None:
    """Windows of 3 every 2 over 0…6: [0 1 2], [2 3 4], [4 5 6]; frame 6 is kept for the next."""
    window = SlidingWindow(3, 2)
    state = window.initial_state(torch.zeros(1, 0))
    ready = []
    for chunk in ([0.0, 1.0], [2.0, 3.0, 4.0, 5.0], [6.0]):
        frames, state = window.step(torch.tensor([chunk]), state)
        ready.append(frames.tolist()[0])
    assert ready == [[], [0, 1, 2, 3, 4], [4, 5, 6]]
    assert {name: tensor.tolist() for name, tensor in flatten(state).items()} == {"past": [[6, 0]], "filled": 1}


@settings(deadline=None, derandomize=True)
@given(size=st.integers(1, 9), hop=st.integers(1, 9), frames=st.integers(0, 40))
def test_as_many_windows_as_fit(size: int, hop: int, frames: int) -> None:
    window = SlidingWindow(size, min(hop, size))
    ready, state = window.step(torch.zeros(2, frames), window.initial_state(torch.zeros(2, 0)))
    count = len(range(0, frames - size + 1, window.hop))
    assert ready.shape == (2, (count - 1) * window.hop + size if count else 0)
    assert flatten(state)["filled"] == frames - count * window.hop


def test_a_hop_that_skips_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 frames every 4 frames: expected 1 <= hop <= size; choose a smaller"):
        SlidingWindow(3, 4)


CHAIN = Chain(low=GruLayer(3, 4), drop=Dropout(0.5), high=GruLayer(4, 2))


def test_states_are_named_by_module_paths() -> None:
    assert set(flatten(CHAIN.initial_state())) == {"low.hidden", "high.hidden"}


def test_unflatten_restores_the_nesting_with_its_empty_states() -> None:
    state = CHAIN.initial_state(2)
    assert repr(unflatten(flatten(state), like=state)) == repr(state)
    assert state["drop"] == {}


def test_a_detached_state_carries_no_gradient_history() -> None:
    _, state = CHAIN.step(torch.ones(1, 3, 5), CHAIN.initial_state())
    assert all(tensor.requires_grad for tensor in flatten(state).values())
    assert not any(tensor.requires_grad for tensor in flatten(detach(state)).values())


def test_state_bytes_by_hand() -> None:
    """Two rows of 4 + 2 float32 hidden units."""
    assert state_bytes(CHAIN.initial_state(2)) == 2 * (4 + 2) * 4
