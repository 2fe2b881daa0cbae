"""What a spotter costs, read off its weights; packed_cost.py says by which conventions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from hark.network.attention import Attention
from hark.network.cells import GruLayer
from hark.network.features import LogMel
from hark.network.layers import Affine, Conv2d, Linear
from hark.network.spotter import Spotter
from hark.network.streaming import state_bytes
from hark.packed.packed_cost import Cost as Cost
from hark.packed.packed_cost import LayerCost as LayerCost
from hark.packed.packed_cost import Rhythm as Rhythm
from hark.packed.packed_cost import log_mel_macs
from hark.shrinking.quantization import RowQuantizer


def cost_of(model: Spotter) -> Cost:
    """Count `model` as it stands; pruned and quantised weights are seen as they are."""
    front_end, stride = model.config.features, model.network.conv.window.hop
    kernel = model.network.conv.window.size
    frame_ms = 1000 / front_end.frame_rate
    return Cost(
        layers=tuple(_layers(model)),
        steps_per_clip=(round(front_end.frame_rate) - kernel) // stride + 1,
        steps_per_second=front_end.frame_rate / stride,
        frames_per_second=front_end.frame_rate,
        state_bytes=state_bytes(model.initial_state()),
        first_decision_ms=kernel * frame_ms,
        latency_ms=stride * frame_ms,
    )


def _layers(model: Spotter) -> Iterator[LayerCost]:
    for name, module in model.named_modules():
        match module:
            case LogMel():
                macs = log_mel_macs(module.config, bank=int(torch.count_nonzero(module.bank)))
                yield _layer(name, "frame", module, thop=0, macs=macs)
            case Affine():
                yield _layer(name, "frame", module, thop=0, macs=module.scale.numel())
            case Conv2d():
                products, places = module.weight.numel(), module.out_bins
                with_bias = products + module.weight.shape[0]
                yield _layer(name, "step", module, thop=places * with_bias, macs=places * products)
            case GruLayer():
                products = module.weight_ih.numel() + module.weight_hh.numel()
                extra = 3 * 3 * module.hidden + 4 * module.hidden
                yield _layer(name, "step", module, thop=products + extra, macs=products)
            case Attention():
                yield _layer(name, "decision", module, thop=0, macs=module.window * module.inputs)
            case Linear():
                products = module.weight.numel()
                rhythm: Rhythm = "decision" if name.endswith("classifier") else "step"
                yield _layer(name, rhythm, module, thop=products, macs=products)


def _layer(name: str, rhythm: Rhythm, module: nn.Module, *, thop: int, macs: int) -> LayerCost:
    """The cost of a layer whose inner layers have lines of their own."""
    own = module if not isinstance(module, Attention) else nn.Module()
    return LayerCost(
        name=name,
        rhythm=rhythm,
        thop=thop,
        macs=macs,
        parameters=sum(parameter.numel() for parameter in own.parameters()),
        bytes=stored_bytes(own),
    )


def stored_bytes(module: nn.Module) -> int:
    """Bytes of a module's tensors in a file: quantised weights in their packed width, all else as it is."""
    packed = sum(inner.stored_bytes for inner in module.modules() if isinstance(inner, RowQuantizer))
    loose: int = sum(
        tensor.numel() * tensor.element_size()
        for name, tensor in module.state_dict().items()
        if "parametrizations" not in name
    )
    return loose + packed
