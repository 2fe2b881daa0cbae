"""Random packed models of every kind of layer, and log-mels for them: for all that reads, writes or runs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from hark.judging.detection import OperatingPoint
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.packed_layers import (
    FUNCTIONS,
    LARGEST_ROW,
    Activation,
    Affine,
    Arithmetic,
    Attention,
    Convolution,
    DepthwiseConvolution,
    FastGrnn,
    FloatMatrix,
    Frame,
    Gru,
    IntegerMatrix,
    Layer,
    Linear,
    Matrix,
    MeanPooling,
    MinimalGru,
    QueryAttention,
)
from hark.packed.packed_model import PackedModel

Rng = np.random.Generator
Floats = npt.NDArray[np.float32]

ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "integer")
SMALL = LogMelConfig(n_fft=32, hop_length=8, n_mels=8)
CELLS = (Gru, MinimalGru, FastGrnn)
SEPARABLE = ("convolution", "depthwise_convolution", "linear", "minimal_gru", "fast_grnn", "query_attention")
"""A network of the smaller kinds, as it is trained."""
INNER = (
    "convolution",
    "pooling",
    "gru",
    "attention",
    "linear",
    "activation",
    "minimal_gru",
    "fast_grnn",
    "query_attention",
    "depthwise_convolution",
)


class Maker:
    """Makes layers of random shapes and numbers.

    Most makers in integers are gentle: values of some thousand come out of their layers. Those of the others are
    of any size, and clip nearly everywhere.
    """

    def __init__(self, arithmetic: Arithmetic, rng: Rng) -> None:
        self.integer = arithmetic == "integer"
        self.rng = rng
        self.gentle = rng.random() < 0.8

    def matrix(self, rows: int, inputs: int, *, bias: bool = True) -> Matrix:
        """Weights and, where there is one, a bias."""
        if not self.integer:
            weights = self.rng.normal(0, 0.5, (rows, inputs)).astype(np.float32)
            return FloatMatrix(weights, self.rng.normal(0, 0.5, rows).astype(np.float32) if bias else None)
        bits: Literal[4, 8] = 8 if self.rng.random() < 0.6 else 4
        weights = self.weights(rows, inputs, bits)
        return IntegerMatrix(
            bits=bits,
            weights=weights,
            multipliers=self.rng.integers(0, 65_536, rows if self.rng.random() < 0.7 else 1).astype(np.uint16),
            shift=self.shift(weights),
            bias=self.biases(rows) if bias else None,
            bias_shift=int(self.rng.integers(2 if self.gentle else 4)) if bias else 0,
        )

    def shift(self, weights: npt.NDArray[np.int8]) -> int:
        """For sums of independent inputs to come out as large as these; or any."""
        if not self.gentle:
            return int(self.rng.integers(16))
        growth = np.sqrt(np.square(weights, dtype=np.float64).sum(axis=1).mean()) + 1
        return int(np.clip(17 - np.log2(growth) + self.rng.uniform(-1, 1), 0, 15))

    def biases(self, count: int) -> npt.NDArray[np.int16]:
        """Some thousand, or anything up to the ends of int16."""
        largest = 4_000 if self.gentle else 32_768
        return self.rng.integers(-largest, largest, count).astype(np.int16)

    def weights(self, rows: int, inputs: int, bits: int) -> npt.NDArray[np.int8]:
        """Rows that may be as large as the accumulator allows."""
        largest = min(127, LARGEST_ROW // inputs)
        whole = self.rng.integers(-largest, largest + 1, (rows, inputs)).astype(np.int8)
        return whole if bits == 8 else whole & np.int8(-16)

    def affine(self, frame: Frame) -> Affine:
        """Of one scale for all bands, or one for each."""
        bands = frame.size if self.rng.random() < 0.7 else 1
        if not self.integer:
            scale, shift = self.rng.normal(0.2, 0.1, bands), self.rng.normal(0, 1, bands)
            return Affine(scale.astype(np.float32), shift.astype(np.float32))
        scale, shift = self.rng.integers(0, 65_536, bands), self.rng.integers(-20_000, 20_000, bands)
        return Affine(
            scale.astype(np.uint16), shift.astype(np.int16), int(self.rng.integers(6 if self.gentle else 4, 12))
        )

    def convolution(self, frame: Frame) -> Convolution:
        """Of one to three channels."""
        kernel, stride = self._window(frame)
        rows = int(self.rng.integers(1, 4))
        return Convolution(self.matrix(rows, frame.channels * kernel[0] * kernel[1]), kernel, stride)

    def pooling(self, frame: Frame) -> MeanPooling:
        """The mean of some bins and frames."""
        return MeanPooling(*self._window(frame))

    def depthwise_convolution(self, frame: Frame) -> DepthwiseConvolution:
        """As many channels as come in."""
        kernel, stride = self._window(frame)
        return DepthwiseConvolution(self.matrix(frame.channels, kernel[0] * kernel[1]), kernel, stride)

    def gru(self, frame: Frame) -> Layer:
        """Of one to six units."""
        return self.cell(Gru, frame, int(self.rng.integers(1, 7)))

    def minimal_gru(self, frame: Frame) -> Layer:
        """Of one to six units."""
        return self.cell(MinimalGru, frame, int(self.rng.integers(1, 7)))

    def fast_grnn(self, frame: Frame) -> Layer:
        """Of one to six units."""
        return self.cell(FastGrnn, frame, int(self.rng.integers(1, 7)))

    def cell(self, kind: type[Gru] | type[MinimalGru] | type[FastGrnn], frame: Frame, units: int) -> Layer:
        """A recurrent cell."""
        rows, biases = kind.gates * units, (kind.gates + 1) * units
        bias: Any = self.biases(biases)
        if not self.integer:
            bias = self.rng.normal(0, 0.5, biases).astype(np.float32)
        return kind(self.matrix(rows, frame.size, bias=False), self.matrix(rows, units, bias=False), bias)

    def attention(self, frame: Frame) -> Attention:
        """Over one to five steps."""
        units, window = int(self.rng.integers(1, 5)), int(self.rng.integers(1, 6))
        return Attention(self.matrix(units, frame.size), self.matrix(1, units, bias=False), window)

    def query_attention(self, frame: Frame) -> QueryAttention:
        """Over one to five steps."""
        return QueryAttention(self.matrix(1, frame.size, bias=False), int(self.rng.integers(1, 6)))

    def linear(self, frame: Frame, *, outputs: int | None = None) -> Linear:
        """Of one to six outputs."""
        return Linear(self.matrix(outputs or int(self.rng.integers(1, 7)), frame.size))

    def activation(self, frame: Frame) -> Activation:
        """One of the three."""
        return Activation(FUNCTIONS[int(self.rng.integers(3))])

    def _window(self, frame: Frame) -> tuple[tuple[int, int], tuple[int, int]]:
        high, long = int(self.rng.integers(1, frame.bins + 1)), int(self.rng.integers(1, 5))
        return (high, long), (int(self.rng.integers(1, 4)), int(self.rng.integers(1, long + 1)))


def random_model(
    arithmetic: Arithmetic, inner: Sequence[str], *, seed: int = 0, front_end: LogMelConfig = SMALL
) -> PackedModel:
    """A model with an affine, the inner layers that are named, and a linear end with as many labels."""
    rng = np.random.default_rng(seed)
    maker = Maker(arithmetic, rng)
    classes = int(rng.integers(1, 4))
    frame = Frame(1, front_end.n_mels)
    layers: list[Layer] = []
    makers: list[Callable[[Frame], Layer]] = [maker.affine, *(getattr(maker, name) for name in inner)]
    for make in [*makers, lambda last: maker.linear(last, outputs=classes)]:
        layers.append(make(frame))
        frame = layers[-1].after(frame)
    return PackedModel(
        arithmetic=arithmetic,
        front_end=front_end,
        layers=tuple(layers),
        labels=("wörd",) if classes == 1 else ("", "wörd", "other")[:classes],
        logit_bits=int(rng.integers(31)) if arithmetic == "integer" else 0,
        operating_point=OperatingPoint(0.5, 3, 1.25) if rng.random() < 0.5 else None,
        metadata={"licence": "CC0-1.0", "seed": seed} if rng.random() < 0.5 else {},
    ).check()


@st.composite
def packed_models(draw: st.DrawFn, arithmetics: Sequence[Arithmetic] = ARITHMETICS) -> PackedModel:
    """Models of up to four inner layers."""
    inner = draw(st.lists(st.sampled_from(INNER), max_size=4))
    return random_model(draw(st.sampled_from(arithmetics)), inner, seed=draw(st.integers(0, 9_999)))


def some_features(model: PackedModel, frames: int, *, batch_size: int = 2, seed: int = 0) -> Floats:
    """Log-mels `(batch, n_mels, frames)` from silence to the loudest there is."""
    rng = np.random.default_rng(seed)
    shape = (batch_size, model.front_end.n_mels, frames)
    return rng.uniform(np.log(1e-9), 11, shape).astype(np.float32)
