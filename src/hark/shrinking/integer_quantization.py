"""From a float spotter to one in the engine's integers: calibration, and rounding to what a file can hold.

Post-training quantisation is `quantize_to_integers(model, calibrate(model, sound))`; the result is a spotter like
any other, so that training it further is quantisation-aware training. docs/quantisation.md has the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hark.errors import ModelError
from hark.network.layers import Affine
from hark.network.spotter import Spotter, with_network
from hark.packed.front_end import FLOOR
from hark.packed.integer_arithmetic import LARGEST
from hark.shrinking.integer_layers import IntegerAttention, IntegerQueryAttention
from hark.shrinking.integer_network import Calibration, IntegerCrnn
from hark.shrinking.quantization import (
    RowQuantizer,
    Scales,
    best_shared_scale,
    is_quantized,
    quantize,
    quantized_weights,
)
from hark.sound.augmentation import generator

LARGEST_MULTIPLIER = 65_535
MOST_SHIFT = 15
MOST_EXPONENT = 30
HEADROOM = 2.0
"""How much larger than anything in calibration a value may be before it is cut off."""


def calibrate(model: Spotter, waveforms: Tensor) -> Calibration:
    """The ranges of a float `model`, from sound and from the extremes that no recording holds.

    Log-mels are bounded by the front end, so that none is ever cut off. The ranges of what the convolution and the
    projection give are those for `waveforms (clips, samples)`, silence, and noise, a square wave and a constant at
    full scale, each as a stream, with some room beyond.
    """
    front_end, affine, network = model.config.features, model.normalize, model.network
    loudest = math.log(front_end.n_fft * float(model.features.window.square().sum()))  # by Parseval's theorem
    ends = torch.stack([affine.scale * level + affine.shift for level in (math.log(FLOOR), loudest)])
    peaks: dict[str, float] = {}
    for sound in (waveforms, extremes(front_end.sample_rate).to(waveforms)):
        for name, values in _given_by_layers(model, sound):
            peaks[name] = max(peaks.get(name, 0.0), float(values.abs().max()))
    bits = {name: _bits_for(HEADROOM * peak) for name, peak in peaks.items()}
    return Calibration(
        feature_bits=_bits_for(float(ends.abs().max())),
        map_bits=bits["conv" if network.depthwise is None else "depthwise"],
        column_bits=None if network.depthwise is None else bits["conv"],
        reduced_bits=bits.get("reduce"),
    )


@torch.no_grad()
def _given_by_layers(model: Spotter, sound: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each layer before the recurrent ones gives, with its name."""
    network, maps = model.network, model.normalize(model.features(sound)).unsqueeze(1)
    for name, layer in network.front():
        maps = layer(maps)
        yield name, maps
    if network.reduce is not None:
        yield "reduce", network.reduce(maps.flatten(1, 2))


def quantize_to_integers(
    model: Spotter, calibration: Calibration, *, bits: int = 8, scales: Scales = "row"
) -> Spotter:
    """A copy of a float `model` that computes as the engine does, with weights of `bits` and int16 in between.

    Args:
        model: the float model.
        calibration: the ranges of its values.
        bits: of a weight, 2 to 8.
        scales: one for each row of a matrix; or one for all of it, so that its rows have one multiplier.

    Raises:
        ModelError: the model is quantised already, or a weight is too large for the arithmetic.
        ConfigError: bits is not 2 to 8, or the calibration is of a network with other layers.
    """
    if is_quantized(model):
        raise ModelError("the model is quantised already; quantise the float model it came from")
    network = IntegerCrnn(model.network.config, calibration)
    network.load_state_dict(model.network.state_dict())
    _energies_in_octaves(network)
    quantized = quantize(with_network(model, network.train(model.training)), bits=bits)
    _round_affine(quantized.normalize, calibration.feature_bits)
    if scales == "matrix":
        _share_scales(network_of(quantized), network)
    _round_scales(network_of(quantized))
    return quantized


@torch.no_grad()
def _energies_in_octaves(network: IntegerCrnn) -> None:
    match network.attention:
        case IntegerAttention() as attention:
            attention.score.weight.mul_(1 / math.log(2))
            attention.score.bias.zero_()
        case IntegerQueryAttention() as attention:
            attention.query.mul_(1 / math.log(2))


def network_of(model: Spotter) -> IntegerCrnn:
    """The network of a model in integers.

    Raises:
        ModelError: it is a float one.
    """
    if not isinstance(model.network, IntegerCrnn):
        raise ModelError("the model computes in floats; quantise it to integers first")
    return model.network


class AffineNumbers(NamedTuple):
    """An affine as the file holds it: `scale * 2 ** -exponent * x + shift` in units of 2^-feature_bits."""

    scale: Tensor
    shift: Tensor
    exponent: int


def affine_numbers(affine: Affine, feature_bits: int) -> AffineNumbers:
    """The whole numbers, in float64, that stand for an affine."""
    scale, shift = (values.double() * 2**feature_bits for values in (affine.scale, affine.shift))
    largest = max(float(scale.max()), 2.0**-20)
    exponent = min(MOST_EXPONENT, math.floor(math.log2((LARGEST_MULTIPLIER + 0.5) / largest)))
    return AffineNumbers((scale * 2**exponent).round(), shift.round(), exponent)


def level_size(quantizer: RowQuantizer) -> int:
    """What the engine computes with for one level: levels of fewer bits are the high bits of an int8."""
    return int(2 ** (8 - quantizer.bits))


def multipliers_of(quantizer: RowQuantizer, gain: Tensor) -> tuple[Tensor, int]:
    """Multipliers `(rows,)` as whole numbers in float64, and their shift.

    A row's scale times its gain is `level_size * multiplier * 2 ** (shift - 32)`.

    Raises:
        ModelError: a scale is too large.
    """
    scale = quantizer.scale.detach().double().flatten() / level_size(quantizer)
    real = scale * gain * 2.0**32
    shift = max(0, math.ceil(math.log2(float(real.max()) / (LARGEST_MULTIPLIER + 0.5))))
    if shift > MOST_SHIFT:
        raise ModelError(f"a weight's scale of {float(scale.max()):.3g} is too large; normalise what comes in")
    return (real / 2**shift).round().clamp(1, LARGEST_MULTIPLIER), shift


@torch.no_grad()
def _round_affine(affine: Affine, feature_bits: int) -> None:
    """Make of an affine one that the file can hold exactly."""
    scale, shift, exponent = affine_numbers(affine, feature_bits)
    affine.scale.copy_(scale / 2 ** (exponent + feature_bits))
    affine.shift.copy_(shift / 2**feature_bits)


@torch.no_grad()
def _share_scales(network: IntegerCrnn, floats: IntegerCrnn) -> None:
    """Give the rows of each matrix scales that are worth the same in units of their outputs."""
    for name, gain in network.gains().items():
        quantizer = quantizer_of(network, name)
        quantizer.scale.copy_(best_shared_scale(floats.get_parameter(name), gain, bits=quantizer.bits))


@torch.no_grad()
def _round_scales(network: IntegerCrnn) -> None:
    """Make of every weight's scales ones that the file can hold exactly."""
    for name, gain in network.gains().items():
        quantizer = quantizer_of(network, name)
        multipliers, shift = multipliers_of(quantizer, gain)
        scale = multipliers * 2.0 ** (shift - 32) * level_size(quantizer) / gain
        quantizer.scale.copy_(scale.view_as(quantizer.scale))


def levels_of(network: nn.Module, name: str) -> Tensor:
    """The integers of a weight."""
    return next(weight.levels for found, weight in quantized_weights(network) if found == name)


def quantizer_of(network: nn.Module, name: str) -> RowQuantizer:
    """What a weight passes through."""
    path, _, leaf = name.rpartition(".")
    quantizer = network.get_submodule(path).parametrizations[leaf][0]  # type: ignore[index]
    return cast("RowQuantizer", quantizer)


def _bits_for(peak: float) -> int:
    """Fraction bits with which int16 holds values up to `peak`."""
    return math.floor(math.log2(LARGEST / max(peak, 1.0)))


def extremes(sample_rate: int) -> Tensor:
    """A second each of what no recording holds, `(4, samples)`: silence, and at full scale what is not sound."""
    time = torch.arange(sample_rate)
    noise = torch.from_numpy(generator(0, 0, 0).uniform(-1, 1, sample_rate)).float()
    return torch.stack(
        [torch.zeros(sample_rate), torch.ones(sample_rate), (time // 16 % 2 * 2 - 1).float(), noise]
    )
