"""A trained spotter as what a `.hark` file holds: `packing.to_bytes(pack(model))` is the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark.errors import ModelError
from hark.judging.detection import OperatingPoint
from hark.network import attention, cells, layers
from hark.network.crnn import Crnn
from hark.network.spotter import Spotter
from hark.packed import packed_layers
from hark.packed.packed_layers import Affine, FloatMatrix, IntegerMatrix, Layer, Matrix
from hark.packed.packed_model import PackedModel
from hark.shrinking.integer_cells import IntegerCell
from hark.shrinking.integer_grids import bias_on_grid, bias_shift
from hark.shrinking.integer_network import LOGIT_BITS, IntegerCrnn
from hark.shrinking.integer_quantization import affine_numbers, level_size, levels_of, multipliers_of, quantizer_of
from hark.shrinking.quantization import is_quantized

CELLS: dict[type[cells.RecurrentLayer], type[packed_layers.RecurrentCell]] = {
    cells.GruLayer: packed_layers.Gru,
    cells.MinimalGruLayer: packed_layers.MinimalGru,
    cells.FastGrnnLayer: packed_layers.FastGrnn,
}


def can_be_packed(model: Spotter) -> bool:
    """Whether there is an arithmetic for it: not where only the weights are quantised."""
    return isinstance(model.network, IntegerCrnn) or not is_quantized(model)


@torch.no_grad()
def pack(
    model: Spotter, *, operating_point: OperatingPoint | None = None, metadata: Mapping[str, Any] | None = None
) -> PackedModel:
    """The values of the file of `model`: float32 of a float model, integers of one quantised to integers.

    Raises:
        ModelError: only the weights of the model are quantised.
        ModelFileError: a row of weights could overflow an accumulator.
    """
    if not can_be_packed(model):
        raise ModelError(
            "only the weights are quantised, which no engine computes with, expected floats or integers; "
            "quantise the float model anew: hark quantize --sound FOLDER"
        )
    network = model.network
    integer = isinstance(network, IntegerCrnn)
    numbers: _Numbers = _Integers(network) if isinstance(network, IntegerCrnn) else _Floats(network)
    return PackedModel(
        arithmetic="integer" if integer else "float32",
        front_end=model.config.features,
        layers=(numbers.affine(model.normalize), *_layers(network, numbers)),
        labels=model.config.labels,
        logit_bits=LOGIT_BITS if integer else 0,
        operating_point=operating_point,
        metadata=metadata or {},
    ).check()


def _layers(network: Crnn, numbers: _Numbers) -> Iterator[Layer]:
    for name, layer in network.front():
        yield _windowed(layer, numbers, name)
    if network.reduce is not None:
        yield packed_layers.Linear(numbers.with_bias("reduce"))
    for name, link in network.gru.layers():
        if isinstance(link, cells.RecurrentLayer):
            yield _cell(link, numbers, f"gru.{name}")
    match network.attention:
        case attention.Attention() as additive:
            project, score = numbers.with_bias("attention.project"), numbers.matrix("attention.score.weight")
            yield packed_layers.Attention(project, score, additive.window)
        case attention.QueryAttention() as query:
            yield packed_layers.QueryAttention(numbers.matrix("attention.query"), query.window)
        case layers.MeanPooling() as mean:
            yield packed_layers.MeanPooling(mean.kernel, mean.stride)
    yield packed_layers.Linear(numbers.with_bias("classifier"))


def _windowed(layer: layers.MeanPooling | layers.Conv2d, numbers: _Numbers, name: str) -> Layer:
    if isinstance(layer, layers.MeanPooling):
        return packed_layers.MeanPooling(layer.kernel, layer.stride)
    kernel = layer.weight.shape[2], layer.weight.shape[3]
    if isinstance(layer, layers.DepthwiseConv2d):
        return packed_layers.DepthwiseConvolution(numbers.with_bias(name), kernel, layer.stride)
    return packed_layers.Convolution(numbers.with_bias(name), kernel, layer.stride)


def _cell(layer: cells.RecurrentLayer, numbers: _Numbers, name: str) -> Layer:
    kind = next(packed for own, packed in CELLS.items() if isinstance(layer, own))
    matrices = numbers.matrix(f"{name}.weight_ih"), numbers.matrix(f"{name}.weight_hh")
    return cast("Layer", kind(*matrices, numbers.cell_bias(layer)))


class _Numbers(Protocol):
    """The numbers of a network as the file holds them."""

    def affine(self, layer: layers.Affine) -> Affine:
        """Of the normalisation."""

    def matrix(self, name: str) -> Matrix:
        """Of the weight `name`, without a bias."""

    def with_bias(self, path: str) -> Matrix:
        """Of weight and bias of the layer at `path`."""

    def cell_bias(self, layer: cells.RecurrentLayer) -> npt.NDArray[Any]:
        """Of all gates."""


class _Floats:
    def __init__(self, network: Crnn) -> None:
        self._network = network

    def affine(self, layer: layers.Affine) -> Affine:
        return Affine(_floats(layer.scale), _floats(layer.shift))

    def matrix(self, name: str) -> FloatMatrix:
        return FloatMatrix(_floats(_matrix(self._network.get_parameter(name))))

    def with_bias(self, path: str) -> FloatMatrix:
        bias = self._network.get_parameter(f"{path}.bias")
        return replace(self.matrix(f"{path}.weight"), bias=_floats(bias))

    def cell_bias(self, layer: cells.RecurrentLayer) -> npt.NDArray[np.float32]:
        return _floats(torch.cat(layer.biases()))


class _Integers:
    def __init__(self, network: IntegerCrnn) -> None:
        self._network = network
        self._gains = network.gains()

    def affine(self, layer: layers.Affine) -> Affine:
        numbers = affine_numbers(layer, self._network.calibration.feature_bits)
        return Affine(_whole(numbers.scale, np.uint16), _whole(numbers.shift, np.int16), numbers.exponent)

    def matrix(self, name: str) -> IntegerMatrix:
        quantizer, levels = quantizer_of(self._network, name), levels_of(self._network, name)
        multipliers, shift = multipliers_of(quantizer, self._gains[name])
        is_one = bool((multipliers == multipliers[0]).all())  # as a scale for the whole matrix makes them
        return IntegerMatrix(
            bits=4 if quantizer.bits <= 4 else 8,
            weights=_whole(_matrix(levels) * level_size(quantizer), np.int8),
            multipliers=_whole(multipliers[:1] if is_one else multipliers, np.uint16),
            shift=shift,
        )

    def with_bias(self, path: str) -> IntegerMatrix:
        bias, bits = self._network.get_parameter(f"{path}.bias"), self._network.bias_bits(path)
        lost = bias_shift(bias, bits)
        whole = _whole(bias_on_grid(bias, bits) * 2.0 ** (bits - lost), np.int16)
        return replace(self.matrix(f"{path}.weight"), bias=whole, bias_shift=lost)

    def cell_bias(self, layer: cells.RecurrentLayer) -> npt.NDArray[np.int16]:
        return _whole(cast("IntegerCell", layer).whole_biases(), np.int16)


def _matrix(weights: Tensor) -> Tensor:
    """`(rows, inputs)`; those of kernels `(out, in, frequency, time)` are counted (time, in, frequency)."""
    return weights.permute(0, 3, 1, 2).flatten(1) if weights.ndim == 4 else weights


def _floats(values: Tensor) -> npt.NDArray[np.float32]:
    return values.detach().cpu().float().contiguous().numpy()


def _whole(values: Tensor, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return values.detach().cpu().contiguous().numpy().astype(dtype)
