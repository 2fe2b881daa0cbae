"""The CRNN with attention of the reference report.

Log-mels → one strided convolution → GRU → attention → logits, after Arik et al. 2017 (arXiv 1703.05390)
and Shan et al. 2018 (arXiv 1803.10916). No normalisation and no activation after the convolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hark.configuration import shown
from hark.errors import ConfigError, ModelFileError
from hark.network.layers import Attention, Conv2d, Gru, Linear
from hark.network.streaming import State, StreamingModule, substate

FRAMES_PER_CLIP = 100
LARGEST_SIZE = 4096
MOST_LAYERS = 16


@dataclass(frozen=True, kw_only=True)
class CrnnConfig:
    """The network's shape. Kernel and stride are (frequency, time); `hidden` gives each layer's units."""

    n_mels: int = 40
    channels: int = 8
    kernel: tuple[int, int] = (5, 20)
    stride: tuple[int, int] = (2, 8)
    hidden: tuple[int, ...] = (64, 64)
    dropout: float = 0.1
    attention_units: int | None = None
    attention_window: int | None = None
    classes: int = 2

    def __post_init__(self) -> None:
        # Bounded above too, since a configuration may come from any file.
        faults = [
            f"{name} is {shown(value)}, expected 1 to {LARGEST_SIZE:,}"
            for name, value in vars(self).items()
            if name != "dropout" and value is not None and not _are_sizes(value)
        ]
        if not 1 <= len(self.hidden) <= MOST_LAYERS:
            faults.append(f"{len(self.hidden)} layers are hidden, expected 1 to {MOST_LAYERS} GRU layers")
        if not 0 <= self.dropout < 1:
            faults.append(f"dropout is {self.dropout}, expected 0 up to, not including, 1")
        if faults := faults or self._misfits():
            raise ConfigError(f"network: {'; '.join(faults)}")

    def _misfits(self) -> list[str]:
        """What sizes that are right in themselves make impossible together."""
        faults = []
        if self.window < 1:
            faults.append(
                f"kernel is {self.kernel}: a clip's {FRAMES_PER_CLIP} frames give no step; "
                "shorten it or set attention_window"
            )
        if self.kernel[0] > self.n_mels:
            faults.append(f"kernel is {self.kernel}, expected at most {self.n_mels} bins (n_mels) high")
        return faults

    @property
    def window(self) -> int:
        """Steps that attention looks back over: by default as many as a one-second clip has."""
        return self.attention_window or (FRAMES_PER_CLIP - self.kernel[1]) // self.stride[1] + 1

    @property
    def values_per_step(self) -> int:
        """Numbers that one step holds at once: the convolution's, the widest GRU's gates, what attention sums."""
        bins = (self.n_mels - self.kernel[0]) // self.stride[0] + 1
        return self.channels * bins + 3 * max(self.hidden) + self.window * self.hidden[-1]


def _are_sizes(value: int | tuple[int, ...]) -> bool:
    return all(1 <= size <= LARGEST_SIZE for size in (value if isinstance(value, tuple) else (value,)))


BASE = CrnnConfig()
STAGE_1 = CrnnConfig(hidden=(40, 40))
STAGE_2 = CrnnConfig(channels=2, stride=(2, 6), hidden=(16,), dropout=0.0)
PUBLISHED = {"base": BASE, "stage-1": STAGE_1, "stage-2": STAGE_2}
"""The reference's three networks: 70,443, 34,731 and 3,117 parameters."""


class Trace(NamedTuple):
    """What one step of the network thought: logits, and where attention looked."""

    logits: Tensor
    """(batch, classes, steps)"""
    attention: Tensor
    """(batch, steps, window), oldest step first"""
    state: State


class Crnn(StreamingModule):
    """Log-mels `(batch, n_mels, frames)` to logits `(batch, classes, steps)`."""

    def __init__(self, config: CrnnConfig) -> None:
        super().__init__()
        self.config = config
        self.conv = Conv2d(1, config.channels, bins=config.n_mels, kernel=config.kernel, stride=config.stride)
        self.gru = Gru(config.channels * self.conv.out_bins, config.hidden, dropout=config.dropout)
        width = config.hidden[-1]
        self.attention = Attention(width, config.attention_units or width, window=config.window)
        self.classifier = Linear(width, config.classes)

    def initial_state(self, batch_size: int = 1) -> State:
        """The initial states of convolution, GRU and attention."""
        return {
            "conv": self.conv.initial_state(batch_size),
            "gru": self.gru.initial_state(batch_size),
            "attention": self.attention.initial_state(batch_size),
        }

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, n_mels, frames)` to logits `(batch, classes, steps)`."""
        trace = self.trace(x, state)
        return trace.logits, trace.state

    def trace(self, x: Tensor, state: State) -> Trace:
        """As `step`, and where attention looked: for distillation and for looking inside."""
        maps, conv = self.conv.step(x.unsqueeze(1), substate(state, "conv"))
        hidden, gru = self.gru.step(maps.flatten(1, 2), substate(state, "gru"))
        context, weights, attention = self.attention.attend(hidden, substate(state, "attention"))
        after: State = {"conv": conv, "gru": gru, "attention": attention}
        return Trace(self.classifier(context), weights, after)


def from_reference(weights: Mapping[str, Tensor]) -> Crnn:
    """A network from a state dict in the reference's own layout (`conv.0.weight`, `gru.weight_ih_l0`, …).

    All sizes but the stride follow from the weights; the stride is 8 frames, or 6 for the one-layer student,
    as the report has it.

    Raises:
        ModelFileError: the names or shapes are not those of this network.
    """
    layers = sum(name.startswith("gru.weight_ih_l") for name in weights)
    try:
        channels, _, *kernel = weights["conv.0.weight"].shape
        hidden = tuple(weights[f"gru.weight_hh_l{index}"].shape[1] for index in range(layers))
        config = CrnnConfig(
            channels=channels,
            kernel=(kernel[0], kernel[1]),
            stride=(2, 8 if layers > 1 else 6),
            hidden=hidden,
            attention_units=weights["attention.energy.0.weight"].shape[0],
            classes=weights["classifier.weight"].shape[0],
        )
        with torch.device("meta"):  # nothing of the size that one tensor claims is made before the others fit it
            network = Crnn(config)
        network.load_state_dict({our_name(name): tensor for name, tensor in weights.items()}, assign=True)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, ConfigError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(
            f"not the reference's CRNN ({reason}); expected conv.0.*, gru.*_l0, attention.energy.*, classifier.*"
        ) from error
    return network


def our_name(name: str) -> str:
    """Our name of a reference weight: `gru.0.weight_ih` for `gru.weight_ih_l0`, and so on."""
    if name.startswith("gru."):
        kind, _, layer = name.removeprefix("gru.").rpartition("_l")
        return f"gru.{layer}.{kind}"
    for theirs, ours in (
        ("conv.0.", "conv."),
        ("attention.energy.0.", "attention.project."),
        ("attention.energy.2.", "attention.score."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
