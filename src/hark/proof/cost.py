"""What a spotter costs, read off its weights; packed_cost.py says by which conventions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from hark.network.attention import Attention, QueryAttention
from hark.network.cells import RecurrentLayer
from hark.network.features import LogMel
from hark.network.layers import Affine, Conv2d, Linear, MeanPooling
from hark.network.spotter import Spotter
from hark.network.streaming import state_bytes
from hark.packed.packed_cost import Cost as Cost
from hark.packed.packed_cost import LayerCost as LayerCost
from hark.packed.packed_cost import Rhythm as Rhythm
from hark.packed.packed_cost import log_mel_macs
from hark.shrinking.quantization import RowQuantizer


def cost_of(model: Spotter) -> Cost:
    """Count `model` as it stands; pruned and quantised weights are seen as they are."""
    front_end, network = model.config.features, model.config.network
    frame_ms = 1000 / front_end.frame_rate
    return Cost(
        layers=tuple(_layers(model)),
        steps_per_clip=_steps_per_clip(model),
        steps_per_second=front_end.frame_rate / network.step_frames,
        frames_per_second=front_end.frame_rate,
        state_bytes=state_bytes(model.initial_state()),
        first_decision_ms=network.first_step_frames * frame_ms,
        latency_ms=network.step_frames * frame_ms,
    )


def _steps_per_clip(model: Spotter) -> int:
    network = model.config.network
    return (round(model.config.features.frame_rate) - network.seen_frames) // network.step_frames + 1


def _layers(model: Spotter) -> Iterator[LayerCost]:
    for name, module in model.named_modules():
        match module:
            case LogMel():
                macs = log_mel_macs(module.config, bank=int(torch.count_nonzero(module.bank)))
                yield _layer(name, "frame", module, thop=0, macs=macs)
            case Affine():
                yield _layer(name, "frame", module, thop=0, macs=model.config.features.n_mels)
            case MeanPooling():
                yield _layer(name, "step", module, thop=0, macs=0)
            case Conv2d():
                yield _convolution(name, module, model)
            case RecurrentLayer():
                yield _recurrent(name, module)
            case Attention() | QueryAttention():
                yield _layer(name, "decision", nn.Module(), thop=0, macs=module.window * module.inputs)
                if isinstance(module, QueryAttention):
                    yield _layer(f"{name}.query", "step", module, thop=module.inputs, macs=module.inputs)
            case Linear():
                products = module.weight.numel()
                rhythm: Rhythm = "decision" if name.endswith("classifier") else "step"
                yield _layer(name, rhythm, module, thop=products, macs=products)


def _convolution(name: str, layer: Conv2d, model: Spotter) -> LayerCost:
    products, depthwise = layer.weight.numel(), model.network.depthwise
    over_time = None if layer is depthwise else depthwise
    # One over frequency alone works for each frame that the one over time behind it gets.
    times = 1 if over_time is None else over_time.window.hop
    places = layer.out_bins * times
    with_bias = products + layer.weight.shape[0]
    line = _layer(name, "step", layer, thop=places * with_bias, macs=places * products)
    if over_time is None:
        return line
    frames = round(model.config.features.frame_rate) // model.config.network.pooling[1]
    return replace(line, lead_steps=frames / times - _steps_per_clip(model))


def _recurrent(name: str, layer: RecurrentLayer) -> LayerCost:
    products = layer.weight_ih.numel() + layer.weight_hh.numel()
    # As thop does of a GRU: three operations for each row, and four for each unit.
    own = 3 * len(layer.weight_hh) + 4 * layer.hidden
    return _layer(name, "step", layer, thop=products + own, macs=products)


def _layer(name: str, rhythm: Rhythm, module: nn.Module, *, thop: int, macs: int) -> LayerCost:
    return LayerCost(
        name=name,
        rhythm=rhythm,
        thop=thop,
        macs=macs,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        bytes=stored_bytes(module),
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
