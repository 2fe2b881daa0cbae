"""The contract of everything that streams, as one check that every layer, model and shrunk model passes.

Any chunking gives the offline output; the future never changes the past; arguments stay untouched; rows of a
batch don't mix; the state keeps names, shapes and types, and survives flattening. The contract proves that a
module agrees with itself; that it is also right is for the tests against references to show.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor

import hark.network
from hark.network.attention import Attention, QueryAttention
from hark.network.cells import CELLS, FastGrnnLayer, Gru, GruLayer, MinimalGruLayer
from hark.network.crnn import Crnn, CrnnConfig
from hark.network.features import LogMel, LogMelConfig
from hark.network.layers import Affine, Conv2d, DepthwiseConv2d, Dropout, Linear, MeanPooling
from hark.network.spotter import Spotter, SpotterConfig
from hark.network.streaming import Chain, State, StreamingModule, flatten, unflatten
from hark.shrinking.integer_cells import IntegerFastGrnnLayer, IntegerGruLayer, IntegerMinimalGruLayer
from hark.shrinking.integer_layers import (
    IntegerAttention,
    IntegerConv2d,
    IntegerDepthwiseConv2d,
    IntegerLinear,
    IntegerMeanPooling,
    IntegerProjection,
    IntegerQueryAttention,
)
from hark.shrinking.integer_network import Calibration, IntegerCrnn

T = TypeVar("T")

# Threads that wait for each other cost more than these tensors' whole arithmetic on a busy machine.
torch.set_num_threads(1)

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}
BATCH = 3


@dataclass(frozen=True)
class Example:
    """A module to try, and sound for it: `frames` frames of the shape `frame`."""

    build: Callable[[], StreamingModule]
    frame: tuple[int, ...]
    frames: int

    def module(self) -> StreamingModule:
        """The module, with the same weights each time."""
        return seeded(self.build)

    def sound(self) -> Tensor:
        """`(batch, ..., frames)` of noise in float64, the same each time."""
        return seeded(lambda: 0.3 * torch.randn(BATCH, *self.frame, self.frames, dtype=torch.float64))


def seeded(build: Callable[[], T], *, seed: int = 0) -> T:
    """What `build` makes of random numbers that start at `seed`; other tests' numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def spotter(
    network: CrnnConfig,
    *,
    features: LogMelConfig | None = None,
    normalization_bands: Literal["each", "one"] = "each",
    seed: int = 0,
) -> Spotter:
    """A spotter in use, with random weights and an affine that is not the identity."""
    config = SpotterConfig(
        keyword="happy",
        features=features or LogMelConfig(),
        network=network,
        normalization_bands=normalization_bands,
    )
    model = seeded(lambda: Spotter(config), seed=seed)
    channels = config.affine_channels
    model.normalize.normalize(torch.full((channels,), -3.0), torch.linspace(1, 2, channels))
    return model.eval()


SMALL = CrnnConfig(n_mels=8, channels=2, kernel=(3, 4), stride=(2, 2), hidden=(5, 4), attention_window=3)
CHEAPER = {
    "pooled": replace(SMALL, pooling=(2, 2), kernel=(3, 3)),
    "separable": replace(SMALL, convolution="separable"),
    "low rank": replace(SMALL, rank=3),
    "minimal": replace(SMALL, cell="minimal"),
    "fast": replace(SMALL, cell="fast"),
    "query": replace(SMALL, attention="query"),
    "mean": replace(SMALL, attention="mean"),
    "last": replace(SMALL, attention="last"),
    "one logit": replace(SMALL, classes=1),
    "all": replace(
        SMALL, pooling=(2, 2), kernel=(3, 3), convolution="separable", rank=3, cell="minimal", attention="query"
    ),
}
"""The small network with each of the cheaper forms of its parts."""
SMALL_FEATURES = LogMelConfig(n_fft=32, hop_length=8, n_mels=8)
SMALL_SAMPLES = 150  # 18 frames, 8 steps: more than attention looks back over


def small_spotter(network: CrnnConfig = SMALL, *, seed: int = 0) -> Spotter:
    """A spotter so small that it can be fed sample by sample."""
    return spotter(network, features=SMALL_FEATURES, seed=seed)


def small_sound() -> Tensor:
    """Noise for a small spotter, `(batch, samples)` in float64."""
    return Example(small_spotter, (), SMALL_SAMPLES).sound()


EXAMPLES: dict[type[StreamingModule], tuple[Example, ...]] = {
    Affine: (Example(lambda: Affine(4), (4,), 9),),
    Attention: (
        Example(lambda: Attention(5, 3, window=4), (5,), 11),
        Example(lambda: Attention(5, 3, window=1), (5,), 4),
    ),
    Chain: (Example(lambda: Chain(low=GruLayer(3, 4), drop=Dropout(0.5), high=Linear(4, 2)), (3,), 8),),
    Conv2d: (
        Example(lambda: Conv2d(2, 3, bins=7, kernel=(3, 5), stride=(2, 3)), (2, 7), 23),
        Example(lambda: Conv2d(1, 2, bins=4, kernel=(4, 2), stride=(1, 2)), (1, 4), 9),
        Example(lambda: Conv2d(1, 2, bins=4, kernel=(1, 1), stride=(1, 1)), (1, 4), 5),
    ),
    Crnn: tuple(Example(partial(Crnn, config), (8,), 40) for config in (SMALL, *CHEAPER.values())),
    DepthwiseConv2d: (
        Example(lambda: DepthwiseConv2d(2, bins=7, kernel=(3, 5), stride=(2, 3)), (2, 7), 23),
        Example(lambda: DepthwiseConv2d(3, bins=4, kernel=(1, 4), stride=(1, 1)), (3, 4), 9),
    ),
    Dropout: (Example(lambda: Dropout(0.5), (4,), 6),),
    FastGrnnLayer: (Example(lambda: FastGrnnLayer(3, 5), (3,), 9),),
    Gru: tuple(Example(partial(Gru, 3, (5, 4), cell=cell, dropout=0.5), (3,), 9) for cell in CELLS.values()),
    GruLayer: (Example(lambda: GruLayer(3, 5), (3,), 9),),
    IntegerAttention: (Example(lambda: IntegerAttention(5, 3, window=4), (5,), 11),),
    IntegerConv2d: (Example(lambda: IntegerConv2d(2, 3, bins=7, kernel=(3, 5), stride=(2, 3)), (2, 7), 23),),
    IntegerCrnn: tuple(
        Example(partial(IntegerCrnn, config, Calibration(12, 12, 11, 10)), (8,), 40)
        for config in (SMALL, *CHEAPER.values())
    ),
    IntegerDepthwiseConv2d: (
        Example(lambda: IntegerDepthwiseConv2d(3, bins=4, kernel=(1, 4), stride=(1, 2)), (3, 4), 9),
    ),
    IntegerFastGrnnLayer: (Example(lambda: IntegerFastGrnnLayer(3, 5), (3,), 9),),
    IntegerGruLayer: (Example(lambda: IntegerGruLayer(3, 5), (3,), 9),),
    IntegerLinear: (Example(lambda: IntegerLinear(4, 3), (4,), 6),),
    IntegerMeanPooling: (
        Example(lambda: IntegerMeanPooling(2, bins=7, kernel=(3, 5), stride=(2, 3)), (2, 7), 23),
    ),
    IntegerMinimalGruLayer: (Example(lambda: IntegerMinimalGruLayer(3, 5), (3,), 9),),
    IntegerProjection: (Example(lambda: IntegerProjection(4, 3), (4,), 6),),
    IntegerQueryAttention: (Example(lambda: IntegerQueryAttention(5, window=4), (5,), 11),),
    Linear: (Example(lambda: Linear(4, 3), (4,), 6),),
    MeanPooling: (
        Example(lambda: MeanPooling(2, bins=7, kernel=(3, 5), stride=(2, 3)), (2, 7), 23),
        Example(lambda: MeanPooling(1, bins=5, kernel=(1, 4), stride=(1, 1)), (1, 5), 9),
    ),
    MinimalGruLayer: (Example(lambda: MinimalGruLayer(3, 5), (3,), 9),),
    LogMel: (Example(lambda: LogMel(SMALL_FEATURES), (), 100),),
    QueryAttention: (Example(lambda: QueryAttention(5, window=4), (5,), 11),),
    Spotter: (Example(small_spotter, (), SMALL_SAMPLES),),
}
"""Of every streaming module in hark at least one; `test_streaming.py` fails where one is missing."""


def streaming_classes() -> list[type[StreamingModule]]:
    """Every streaming module that hark has, found by looking."""
    for module in pkgutil.iter_modules(hark.network.__path__, "hark.network."):
        importlib.import_module(module.name)
    return sorted(
        {
            cls
            for cls in _descendants(StreamingModule)
            if cls.__module__.startswith("hark.") and not inspect.isabstract(cls)
        },
        key=lambda cls: cls.__name__,
    )


def _descendants(cls: type[StreamingModule]) -> Iterator[type[StreamingModule]]:
    for child in cls.__subclasses__():
        yield child
        yield from _descendants(child)


@st.composite
def chunkings(draw: st.DrawFn, frames: int) -> list[int]:
    """Chunk lengths that add up to `frames`, empty chunks among them."""
    cuts = sorted(draw(st.lists(st.integers(0, frames), max_size=9)))
    return [end - start for start, end in pairwise([0, *cuts, frames])]


@torch.no_grad()
def check_streaming_contract(module: StreamingModule, x: Tensor, chunks: list[int]) -> None:
    """Hold `module` to the contract on `x (batch, ..., frames)`, fed in chunks of the given lengths."""
    for dtype, tolerance in TOLERANCES.items():
        tried, sound = copy.deepcopy(module).to(dtype).eval(), x.to(dtype)
        offline = tried(sound)
        assert offline.shape[-1], "an example must be long enough to have an output"
        _agree(_stream(tried, sound, chunks), offline, tolerance)
        _check_future(tried, sound, chunks[0], tolerance)
        for row in range(len(x)):
            _agree(tried(sound[row : row + 1]), offline[row : row + 1], tolerance)


def _check_future(module: StreamingModule, x: Tensor, now: int, tolerance: float) -> None:
    """What was complete before frame `now` is what it would be had the sound ended, or gone on otherwise."""
    past, future = x[..., :now], x[..., now:]
    known, other = module(past), module(torch.cat((past, 1 - 2 * future), dim=-1))
    steps = known.shape[-1]
    _agree(known, module(x)[..., :steps], tolerance)
    _agree(known, other[..., :steps], tolerance)


def _stream(module: StreamingModule, x: Tensor, chunks: list[int]) -> Tensor:
    """The output for `x` chunk by chunk, with another stream passing through the module in between."""
    state = module.initial_state(len(x))
    names = _signature(state)
    outputs = []
    for chunk in x.split(chunks, dim=-1):
        module.step(torch.ones_like(chunk), module.initial_state(len(x)))
        output, after = _pure_step(module, chunk, state)
        assert _signature(after) == names
        state = unflatten(flatten(after), like=module.initial_state(len(x)))
        outputs.append(output)
    return torch.cat(outputs, dim=-1)


def _pure_step(module: StreamingModule, chunk: Tensor, state: State) -> tuple[Tensor, State]:
    """A step that leaves its arguments alone, and whose results outlive the caller's sound buffer."""
    buffer, before = chunk.clone(), {name: tensor.clone() for name, tensor in flatten(state).items()}
    output, after = module.step(buffer, state)
    assert torch.equal(buffer, chunk), "a step changed its input"
    for name, tensor in flatten(state).items():
        assert torch.equal(tensor, before[name]), f"a step changed the state {name} that it was given"
    output = output.clone()
    buffer.fill_(torch.nan)
    return output, after


def _signature(state: State) -> dict[str, tuple[torch.Size, torch.dtype, int]]:
    """Names, shapes and types of a state, and the memory that it keeps alive."""
    return {
        name: (tensor.shape, tensor.dtype, tensor.untyped_storage().nbytes())
        for name, tensor in flatten(state).items()
    }


def _agree(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
