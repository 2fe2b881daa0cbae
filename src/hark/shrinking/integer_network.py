"""The CRNN in the engine's integers, to train with, in the units that a calibration gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hark.errors import ConfigError
from hark.network.crnn import Crnn, CrnnConfig, Parts, Trace
from hark.network.streaming import State
from hark.packed.integer_arithmetic import ENERGY_BITS, STATE_BITS, TANH_BITS
from hark.shrinking.integer_cells import INTEGER_CELLS, IntegerCell
from hark.shrinking.integer_layers import (
    IntegerAttention,
    IntegerConv2d,
    IntegerDepthwiseConv2d,
    IntegerLinear,
    IntegerMeanPooling,
    IntegerProjection,
    IntegerQueryAttention,
)

LOGIT_BITS = 16
MOST_BITS = 15


@dataclass(frozen=True)
class Calibration:
    """Fraction bits of those int16 whose range is not given by the arithmetic itself."""

    feature_bits: int
    """Of the log-mels behind the affine, pooled or not."""
    map_bits: int
    """Of what the convolution gives."""
    column_bits: int | None = None
    """Of what a separable convolution gives over frequency, before it goes over time."""
    reduced_bits: int | None = None
    """Of what the convolution's values are projected to."""

    def __post_init__(self) -> None:
        for name, bits in vars(self).items():
            if bits is not None and not 0 <= bits <= MOST_BITS:
                raise ConfigError(f"{name} is {bits}, expected 0 to {MOST_BITS}; calibrate on sound, normalised")


INTEGER_PARTS = Parts(
    pooling=IntegerMeanPooling,
    convolution=IntegerConv2d,
    depthwise=IntegerDepthwiseConv2d,
    projection=IntegerProjection,
    cells=INTEGER_CELLS,
    attention=IntegerAttention,
    query=IntegerQueryAttention,
    classifier=IntegerLinear,
)


class IntegerCrnn(Crnn):
    """The CRNN in the engine's integers."""

    parts = INTEGER_PARTS
    pool: IntegerMeanPooling | None
    conv: IntegerConv2d
    depthwise: IntegerDepthwiseConv2d | None
    reduce: IntegerProjection | None
    classifier: IntegerLinear

    def __init__(self, config: CrnnConfig, calibration: Calibration) -> None:
        """The calibration must be that of a network with the same layers.

        Raises:
            ConfigError: it is not.
        """
        super().__init__(config)
        self.calibration = calibration
        if self.pool is not None:
            self.pool.bits = calibration.feature_bits
        self.conv.in_bits, self.conv.out_bits = calibration.feature_bits, calibration.map_bits
        in_bits = calibration.map_bits
        if self.depthwise is not None:
            columns = _given(calibration, "column_bits")
            self.conv.out_bits = self.depthwise.in_bits = columns
            self.depthwise.out_bits = calibration.map_bits
        if self.reduce is not None:
            self.reduce.in_bits, self.reduce.out_bits = in_bits, _given(calibration, "reduced_bits")
            in_bits = self.reduce.out_bits
        next(layer for layer in self.gru.modules() if isinstance(layer, IntegerCell)).in_bits = in_bits
        self.classifier.out_bits = LOGIT_BITS

    def trace(self, x: Tensor, state: State, *, decisions: int | None = None) -> Trace:
        """As the float network's."""
        with parametrize.cached():  # each weight is then rounded once, however often it is read
            return super().trace(x, state, decisions=decisions)

    def gains(self) -> dict[str, Tensor]:
        """Of each weight, what a unit of its input is in units of its output, for every row or for all: 2^n."""
        gains: dict[str, Tensor] = {}
        for name, layer in self.named_modules():
            match layer:
                case IntegerConv2d() | IntegerDepthwiseConv2d() | IntegerProjection():
                    gains[f"{name}.weight"] = _power(layer.out_bits - layer.in_bits)
                case IntegerLinear():
                    gains[f"{name}.weight"] = _power(layer.out_bits - STATE_BITS)
                case IntegerCell():
                    gains[f"{name}.weight_ih"] = layer.row_units() * 2.0**-layer.in_bits
                    gains[f"{name}.weight_hh"] = layer.row_units() * 2.0**-STATE_BITS
                case IntegerAttention():
                    gains[f"{name}.project.weight"] = _power(TANH_BITS - STATE_BITS)
                    gains[f"{name}.score.weight"] = _power(ENERGY_BITS - STATE_BITS)
                case IntegerQueryAttention():
                    gains[f"{name}.query"] = _power(ENERGY_BITS - STATE_BITS)
        return gains

    def bias_bits(self, path: str) -> int:
        """Fraction bits of what the layer at `path` adds its bias to."""
        match self.get_submodule(path):
            case IntegerConv2d() | IntegerDepthwiseConv2d() | IntegerLinear() as layer:
                return layer.out_bits
            case _:
                return TANH_BITS


def _given(calibration: Calibration, name: str) -> int:
    if (bits := getattr(calibration, name)) is None:
        raise ConfigError(f"calibration without {name}, which this network needs; calibrate it anew")
    return int(bits)


def _power(bits: int) -> Tensor:
    return torch.tensor(2.0**bits)
