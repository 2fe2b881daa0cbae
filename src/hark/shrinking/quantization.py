"""Quantisation of weights: integers per row with one scale each, in a form that streams and trains everywhere.

A quantised model is the same model whose weights pass through a `RowQuantizer`: no layer has code of its own
for it, and whatever consumes a model (cost, evaluation, a packer) asks `quantized_weights` for the integers.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from hark.errors import ConfigError, ModelError
from hark.network.reference import ReferenceCrnn
from hark.network.spotter import Spotter

Scales: TypeAlias = Literal["row", "matrix"]
"""What has a scale of its own: each row of a matrix, or the whole of it."""
CLIPPINGS = torch.linspace(0.5, 1.0, 51)
"""Shares of the largest weight at which a scale may clip; the one of least squared error is taken."""


class RowQuantizer(nn.Module):
    """w ↦ s · clamp(round(w / s), −q, q) with one scale s per output row and q = 2^(bits − 1) − 1.

    Symmetric, so that there is no zero point. The gradient passes straight through the rounding
    (Bengio et al. 2013, arXiv 1308.3432) for weights within the range.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, *, bits: int, scale: Tensor | None = None) -> None:
        """Without a scale, that of least squared error for `weight` is taken."""
        super().__init__()
        if not 2 <= bits <= 8:
            raise ConfigError(f"quantize: bits is {bits}, expected 2 to 8")
        self.bits = bits
        self.weights = weight.numel()
        self.register_buffer("scale", best_scale(weight.detach(), bits=bits) if scale is None else scale.clone())

    @property
    def largest(self) -> int:
        """The largest level, q."""
        return int(2 ** (self.bits - 1) - 1)

    @property
    def stored_bytes(self) -> int:
        """Bytes of levels and scales in a file, where a level of any width takes a whole one."""
        return self.weights + self.scale.numel() * self.scale.element_size()

    def levels(self, weight: Tensor) -> Tensor:
        """The integers, int8, of the weight's shape."""
        levels = (weight / self.scale).round().clamp(-self.largest, self.largest)
        return torch.as_tensor(levels, dtype=torch.int8)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight on its grid."""
        bound = self.largest * self.scale
        within = weight.clamp(-bound, bound)
        return within + (self.levels(weight) * self.scale - within).detach()


def best_scale(weight: Tensor, *, bits: int) -> Tensor:
    """The scale per output row, `(rows, 1, …)`, of least squared rounding error."""
    largest = 2 ** (bits - 1) - 1
    flat = weight.flatten(1)
    peak = flat.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    best, least = peak / largest, torch.full_like(peak, torch.inf)
    for clipping in CLIPPINGS.to(weight):  # one by one: all at once would take 51 times the weight's memory
        scale = clipping * peak / largest
        rounded = (flat / scale).round().clamp(-largest, largest) * scale
        error = (rounded - flat).square().sum(dim=-1, keepdim=True)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    chosen: Tensor = best.view(-1, *[1] * (weight.ndim - 1))
    return chosen


def best_shared_scale(weight: Tensor, gain: Tensor, *, bits: int) -> Tensor:
    """As `best_scale`, of rows whose scales times their `gain`, `(rows,)` or for all, are one number."""
    largest = 2 ** (bits - 1) - 1
    by_row = gain.to(weight).expand(len(weight)).view(-1, *[1] * (weight.ndim - 1))
    peak = (weight * by_row).abs().max().clamp(min=1e-8)
    scales = [clipping * peak / largest / by_row for clipping in CLIPPINGS.to(weight)]
    rounded = [(weight / scale).round().clamp(-largest, largest) * scale for scale in scales]
    errors = torch.stack([(near - weight).square().sum() for near in rounded])
    chosen: Tensor = scales[int(errors.argmin())]
    return chosen


def quantize(model: Spotter, *, bits: int = 8) -> Spotter:
    """A copy of `model` whose every weight matrix and kernel is on a grid of `bits`; biases stay float32.

    Raises:
        ConfigError: bits is not 2 to 8.
        ModelError: the model is quantised already.
    """
    if is_quantized(model):
        raise ModelError("the model is quantised already; quantise the float model it came from")
    quantized = copy.deepcopy(model)
    for module, name in list(_matrices(quantized)):
        parametrize.register_parametrization(module, name, RowQuantizer(getattr(module, name), bits=bits))
    return quantized


def is_quantized(model: nn.Module) -> bool:
    """Whether any weight passes through a quantiser."""
    return any(isinstance(module, RowQuantizer) for module in model.modules())


def weight_bits(model: nn.Module) -> int | None:
    """Bits of the quantised weights; None for a float model."""
    return next((module.bits for module in model.modules() if isinstance(module, RowQuantizer)), None)


class QuantizedWeight(NamedTuple):
    """Integers and scales of one weight: it is worth `levels * scale`."""

    levels: Tensor
    """int8, the weight's shape"""
    scale: Tensor
    """(rows, 1, …)"""


def quantized_weights(model: nn.Module) -> Iterator[tuple[str, QuantizedWeight]]:
    """The integers of every quantised weight, under the name it has in the float model."""
    for path, module in model.named_modules():
        for name, chain in getattr(module, "parametrizations", {}).items():
            quantizer, original = chain[0], chain.original
            yield f"{path}.{name}", QuantizedWeight(quantizer.levels(original).detach(), quantizer.scale)


def set_quantized_weight(model: nn.Module, name: str, weight: QuantizedWeight, *, bits: int) -> None:
    """Put integers and scales, as a file has them, in the place of a float weight of `model` itself."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    parameter = getattr(module, leaf)
    with torch.no_grad():
        torch.mul(weight.levels, weight.scale, out=parameter)
    quantizer = RowQuantizer(parameter, bits=bits, scale=weight.scale)
    parametrize.register_parametrization(module, leaf, quantizer, unsafe=True)  # tried out, it would take memory


def _matrices(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                yield module, name


class ClipSpotter(nn.Module):
    """A spotter around the reference's network: it judges whole clips only, for it cannot stream."""

    def __init__(self, model: Spotter, network: nn.Module) -> None:
        super().__init__()
        self.features, self.normalize = model.features, model.normalize
        self.network = network

    @property
    def sample_rate(self) -> int:
        """Hz of the sound that it takes."""
        return self.features.config.sample_rate

    def forward(self, waveforms: Tensor) -> Tensor:
        """Clips `(batch, samples)` to the logits at their end, `(batch, classes, 1)`."""
        logits: Tensor = self.network(self.normalize(self.features(waveforms)))
        return logits.unsqueeze(-1)

    def to_bytes(self) -> bytes:
        """The network's state dict as `torch.save` writes it: what the report measured."""
        buffer = io.BytesIO()
        torch.save(self.network.state_dict(), buffer)
        return buffer.getvalue()


def quantize_dynamically(model: Spotter) -> ClipSpotter:
    """The reference's quantisation: torch's dynamic qint8 of Linear and GRU, the convolution in float32.

    No counter sees inside such modules: its operations are those of the float model.
    """
    with warnings.catch_warnings():
        # Deprecated in torch, and without a successor for GRUs: torchao converts nn.Linear only.
        warnings.simplefilter("ignore")
        network = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            ReferenceCrnn(model.network).eval(), {nn.Linear, nn.GRU}, dtype=torch.qint8
        )
    return ClipSpotter(model, network)
