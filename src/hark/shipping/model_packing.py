"""A trained spotter as what a `.hark` file holds: `packing.to_bytes(pack(model))` is the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hark.errors import ModelError
from hark.judging.detection import OperatingPoint
from hark.network.cells import GruLayer
from hark.network.crnn import Crnn
from hark.network.layers import Linear
from hark.network.spotter import Spotter
from hark.packed.integer_arithmetic import SIGMOID_BITS, TANH_BITS
from hark.packed.packed_layers import (
    Affine,
    Attention,
    Convolution,
    FloatMatrix,
    Gru,
    IntegerMatrix,
    Layer,
)
from hark.packed.packed_layers import Linear as PackedLinear
from hark.packed.packed_model import PackedModel
from hark.shrinking.integer_layers import IntegerGruLayer, bias_on_grid, bias_shift
from hark.shrinking.integer_quantization import (
    LOGIT_BITS,
    IntegerCrnn,
    affine_numbers,
    level_size,
    levels_of,
    multipliers_of,
    quantizer_of,
)
from hark.shrinking.quantization import is_quantized


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
    layers = _integer_layers(model, network) if isinstance(network, IntegerCrnn) else _float_layers(model, network)
    return PackedModel(
        arithmetic="integer" if integer else "float32",
        front_end=model.config.features,
        layers=layers,
        labels=model.config.labels,
        logit_bits=LOGIT_BITS if integer else 0,
        operating_point=operating_point,
        metadata=metadata or {},
    ).check()


def _float_layers(model: Spotter, network: Crnn) -> tuple[Layer, ...]:
    kernel, conv = network.conv.weight, network.conv
    return (
        Affine(_floats(model.normalize.scale), _floats(model.normalize.shift)),
        Convolution(FloatMatrix(_floats(_matrix(kernel)), _floats(conv.bias)), _kernel(kernel), conv.stride),
        *(_float_gru(layer) for _, layer in network.gru.layers() if isinstance(layer, GruLayer)),
        Attention(
            _float_matrix(network.attention.project),
            FloatMatrix(_floats(network.attention.score.weight)),
            network.attention.window,
        ),
        PackedLinear(_float_matrix(network.classifier)),
    )


def _float_gru(layer: GruLayer) -> Gru:
    r, z, _ = (layer.bias_ih + layer.bias_hh).chunk(3)
    bias = torch.cat((r, z, layer.bias_ih.chunk(3)[2], layer.bias_hh.chunk(3)[2]))
    return Gru(FloatMatrix(_floats(layer.weight_ih)), FloatMatrix(_floats(layer.weight_hh)), _floats(bias))


def _float_matrix(layer: Linear) -> FloatMatrix:
    return FloatMatrix(_floats(layer.weight), _floats(layer.bias))


def _integer_layers(model: Spotter, network: IntegerCrnn) -> tuple[Layer, ...]:
    conv, attention, gains = network.conv, network.attention, network.gains()

    def matrix(name: str, bias: Tensor | None = None, bits: int = 0) -> IntegerMatrix:
        return _integer_matrix(network, name, gains[name], bias=bias, bits=bits)

    numbers = affine_numbers(model.normalize, conv.in_bits)
    scale, shift = _whole(numbers.scale, np.uint16), _whole(numbers.shift, np.int16)
    return (
        Affine(scale, shift, numbers.exponent),
        Convolution(matrix("conv.weight", conv.bias, conv.out_bits), _kernel(conv.weight), conv.stride),
        *(
            Gru(matrix(f"gru.{name}.weight_ih"), matrix(f"gru.{name}.weight_hh"), _integer_gru_bias(layer))
            for name, layer in network.gru.layers()
            if isinstance(layer, IntegerGruLayer)
        ),
        Attention(
            matrix("attention.project.weight", attention.project.bias, TANH_BITS),
            matrix("attention.score.weight"),
            attention.window,
        ),
        PackedLinear(matrix("classifier.weight", network.classifier.bias, LOGIT_BITS)),
    )


def _integer_matrix(
    network: IntegerCrnn, name: str, gain: Tensor, *, bias: Tensor | None, bits: int
) -> IntegerMatrix:
    quantizer, levels = quantizer_of(network, name), levels_of(network, name)
    multipliers, shift = multipliers_of(quantizer, gain)
    lost = 0 if bias is None else bias_shift(bias, bits)
    return IntegerMatrix(
        bits=4 if quantizer.bits <= 4 else 8,
        weights=_whole(_matrix(levels) * level_size(quantizer), np.int8),
        multipliers=_whole(multipliers, np.uint16),
        shift=shift,
        bias=None if bias is None else _whole(bias_on_grid(bias, bits) * 2.0 ** (bits - lost), np.int16),
        bias_shift=lost,
    )


def _integer_gru_bias(layer: IntegerGruLayer) -> npt.NDArray[np.int16]:
    bits = (SIGMOID_BITS, SIGMOID_BITS, TANH_BITS, TANH_BITS)
    whole = [bias * 2.0**own for bias, own in zip(layer.gate_biases(), bits, strict=True)]
    return _whole(torch.cat(whole), np.int16)


def _matrix(weights: Tensor) -> Tensor:
    """`(rows, inputs)`; those of kernels `(out, in, frequency, time)` are counted (time, in, frequency)."""
    return weights.permute(0, 3, 1, 2).flatten(1) if weights.ndim == 4 else weights


def _kernel(kernels: Tensor) -> tuple[int, int]:
    return kernels.shape[2], kernels.shape[3]


def _floats(values: Tensor) -> npt.NDArray[np.float32]:
    return values.detach().cpu().float().contiguous().numpy()


def _whole(values: Tensor, dtype: type[np.generic]) -> npt.NDArray[Any]:
    return values.detach().cpu().contiguous().numpy().astype(dtype)
