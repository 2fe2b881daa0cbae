"""The CRNN with attention of the reference report, and the same in cheaper forms.

Log-mels → one strided convolution → GRU → attention → logits, after Arik et al. 2017 (arXiv 1703.05390)
and Shan et al. 2018 (arXiv 1803.10916). No normalisation and no activation after the convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor

from hark.configuration import shown
from hark.errors import ConfigError
from hark.network.attention import Attention, QueryAttention, WindowAttention
from hark.network.cells import CELLS, Cell, CellKind, Gru
from hark.network.layers import Conv2d, DepthwiseConv2d, Linear, MeanPooling
from hark.network.streaming import State, StreamingModule, substate

LARGEST_SIZE = 4096
MOST_LAYERS = 16

ConvolutionKind: TypeAlias = Literal["full", "separable"]
AttentionKind: TypeAlias = Literal["additive", "query", "mean", "last"]
CHOICES = {
    "convolution": get_args(ConvolutionKind),
    "cell": get_args(CellKind),
    "attention": get_args(AttentionKind),
}


@dataclass(frozen=True, kw_only=True)
class CrnnConfig:
    """The network's shape, by default the reference's.

    Pooling, kernel and stride are (frequency, time) and count bands and frames of the front end; `hidden` gives
    the units of each recurrent layer.
    """

    n_mels: int = 40
    pooling: tuple[int, int] = (1, 1)
    """The convolution gets the means of so many log-mels, none of which is in two of them."""
    channels: int = 8
    kernel: tuple[int, int] = (5, 20)
    stride: tuple[int, int] = (2, 8)
    convolution: ConvolutionKind = "full"
    """`separable` goes over frequency into all channels, then over time in each channel on its own."""
    rank: int | None = None
    """Values that the convolution's are projected to first: input weights of low rank in the first layer."""
    cell: CellKind = "gru"
    hidden: tuple[int, ...] = (64, 64)
    dropout: float = 0.1
    attention: AttentionKind = "additive"
    """`query` has no units; `mean` is that of the window, once it is full; `last` is each step's own state."""
    attention_units: int | None = None
    attention_window: int | None = None
    classes: int = 2
    """All else and the keyword; of a single one the sigmoid is the keyword's posterior."""
    frames_per_clip: int = 100
    """Of a clip as in training, which has as many steps as attention looks back over; 100 are a second."""

    def __post_init__(self) -> None:
        # Bounded above too, since a configuration may come from any file.
        faults = [
            f"{name} is {shown(value)}, expected 1 to {LARGEST_SIZE:,}"
            for name, value in vars(self).items()
            if name not in ("dropout", *CHOICES) and value is not None and not _are_sizes(value)
        ]
        faults += [
            f"{name} is {shown(getattr(self, name))}, expected {' or '.join(choices)}"
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        if not 1 <= len(self.hidden) <= MOST_LAYERS:
            faults.append(f"{len(self.hidden)} layers are hidden, expected 1 to {MOST_LAYERS} recurrent layers")
        if not 0 <= self.dropout < 1:
            faults.append(f"dropout is {self.dropout}, expected 0 up to, not including, 1")
        if faults := faults or self._misfits():
            raise ConfigError(f"network: {'; '.join(faults)}")

    def _misfits(self) -> list[str]:
        """What sizes that are right in themselves make impossible together."""
        faults = []
        if self.window < 1:
            faults.append(
                f"kernel is {self.kernel}: a clip's {self.frames_per_clip} frames give no step; "
                "shorten it or set attention_window"
            )
        if self.kernel[0] > self.pooled_bins:
            faults.append(
                f"kernel is {self.kernel}, expected at most {self.pooled_bins} bins (n_mels // pooling) high"
            )
        if self.attention == "mean" and 1 <= self.steps_per_clip < self.window:
            faults.append(
                f"attention_window is {self.window}, expected at most a clip's {self.steps_per_clip} steps: "
                "a mean comes when its window is full"
            )
        if self.attention_units and self.attention != "additive":
            faults.append(
                f"attention_units is {self.attention_units}, expected none: attention is {self.attention}"
            )
        return faults

    @property
    def pooled_bins(self) -> int:
        """Frequencies that the convolution gets."""
        return self.n_mels // self.pooling[0]

    @property
    def map_bins(self) -> int:
        """Frequencies that come out of it."""
        return (self.pooled_bins - self.kernel[0]) // self.stride[0] + 1

    @property
    def step_frames(self) -> int:
        """Log-mel frames between two steps."""
        return self.pooling[1] * self.stride[1]

    @property
    def seen_frames(self) -> int:
        """Log-mel frames that one step sees, its state apart."""
        return self.pooling[1] * self.kernel[1]

    @property
    def first_step_frames(self) -> int:
        """Log-mel frames before the first output: a mean waits until its window is full."""
        waited = self.window - 1 if self.attention == "mean" else 0
        return self.seen_frames + waited * self.step_frames

    @property
    def steps_per_clip(self) -> int:
        """Steps of a clip."""
        return (self.frames_per_clip - self.seen_frames) // self.step_frames + 1

    @property
    def window(self) -> int:
        """Steps that attention looks back over: by default as many as a clip has."""
        return self.attention_window or self.steps_per_clip

    @property
    def values_per_step(self) -> int:
        """Numbers that one step holds at once: the convolution's, the widest layer's gates, attention's window."""
        columns = self.kernel[1] if self.convolution == "separable" else 0
        maps = self.channels * self.map_bins * (1 + columns)
        return maps + 3 * max(self.hidden) + self.window * self.hidden[-1]


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
    attention: Tensor | None
    """(batch, steps, window), oldest step first; None where nothing weighs the steps"""
    state: State


class Parts(NamedTuple):
    """The layers that a network is made of."""

    pooling: type[MeanPooling] = MeanPooling
    convolution: type[Conv2d] = Conv2d
    depthwise: type[DepthwiseConv2d] = DepthwiseConv2d
    projection: type[Linear] = Linear
    cells: Mapping[CellKind, type[Cell]] = CELLS
    attention: type[Attention] = Attention
    query: type[QueryAttention] = QueryAttention
    classifier: type[Linear] = Linear


class Crnn(StreamingModule):
    """Log-mels `(batch, n_mels, frames)` to logits `(batch, classes, steps)`."""

    parts: ClassVar = Parts()

    def __init__(self, config: CrnnConfig) -> None:
        super().__init__()
        self.config = config
        parts, values = self.parts, config.channels * config.map_bins
        self.pool = _pooling(config, parts)
        self.conv, self.depthwise = _convolution(config, parts)
        self.reduce = parts.projection(values, config.rank) if config.rank else None
        cell = parts.cells[config.cell]
        self.gru = Gru(config.rank or values, config.hidden, cell=cell, dropout=config.dropout)
        self.attention = _attention(config, parts)
        self.classifier = parts.classifier(config.hidden[-1], config.classes)

    def front(self) -> Iterator[tuple[str, MeanPooling | Conv2d]]:
        """What makes steps of frames, with its names, in the order in which they pass through it."""
        layers = {"pool": self.pool, "conv": self.conv, "depthwise": self.depthwise}
        return ((name, layer) for name, layer in layers.items() if layer is not None)

    def initial_state(self, batch_size: int = 1) -> State:
        """The initial states of pooling, convolution, recurrent layers and attention."""
        layers = {**dict(self.front()), "gru": self.gru, "attention": self.attention}
        return {name: layer.initial_state(batch_size) for name, layer in layers.items() if layer is not None}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """`x (batch, n_mels, frames)` to logits `(batch, classes, steps)`."""
        trace = self.trace(x, state)
        return trace.logits, trace.state

    def trace(self, x: Tensor, state: State, *, decisions: int | None = None) -> Trace:
        """As `step`, and where attention looked: for distillation and for looking inside.

        Only the last `decisions` steps are judged, where that is given: training asks for one, and the many others
        would take as long as all that comes before them.
        """
        after: State = {}
        maps = x.unsqueeze(1)
        for name, layer in self.front():
            maps, after[name] = layer.step(maps, substate(state, name))
        values = maps.flatten(1, 2)
        if self.reduce is not None:
            values = self.reduce(values)
        hidden, after["gru"] = self.gru.step(values, substate(state, "gru"))
        weights = None
        if isinstance(self.attention, WindowAttention):
            looked_back = substate(state, "attention")
            hidden, weights, after["attention"] = self.attention.attend(hidden, looked_back, decisions=decisions)
        elif self.attention is not None:
            means, after["attention"] = self.attention.step(hidden.unsqueeze(1), substate(state, "attention"))
            hidden = means.squeeze(1)
        first = 0 if decisions is None else max(0, hidden.shape[-1] - decisions)
        return Trace(self.classifier(hidden[..., first:]), weights, after)


def _pooling(config: CrnnConfig, parts: Parts) -> MeanPooling | None:
    if config.pooling == (1, 1):
        return None
    return parts.pooling(1, bins=config.n_mels, kernel=config.pooling, stride=config.pooling)


def _convolution(config: CrnnConfig, parts: Parts) -> tuple[Conv2d, DepthwiseConv2d | None]:
    channels, bins, (high, long), (climb, hop) = config.channels, config.pooled_bins, config.kernel, config.stride
    if config.convolution == "full":
        return parts.convolution(1, channels, bins=bins, kernel=config.kernel, stride=config.stride), None
    return (
        parts.convolution(1, channels, bins=bins, kernel=(high, 1), stride=(climb, 1)),
        parts.depthwise(channels, bins=config.map_bins, kernel=(1, long), stride=(1, hop)),
    )


def _attention(config: CrnnConfig, parts: Parts) -> WindowAttention | MeanPooling | None:
    width = config.hidden[-1]
    match config.attention:
        case "additive":
            return parts.attention(width, config.attention_units or width, window=config.window)
        case "query":
            return parts.query(width, window=config.window)
        case "mean":
            return parts.pooling(1, bins=width, kernel=(1, config.window), stride=(1, 1))
        case "last":
            return None
