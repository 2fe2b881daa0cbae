"""Structured pruning by unit: what is removed is gone everywhere, and the tensors are rebuilt smaller.

A GRU unit is one index in all three gates of W_ih, W_hh and the biases, one column of W_hh, and one column of
whatever reads it; cells of fewer gates are no different. Ranking rows of the stacked gates instead removes
different units in r, z and n and leaves a crippled network: `zero_rows` does so, to show the damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

from hark.errors import ConfigError, ModelError
from hark.network.attention import Attention, QueryAttention
from hark.network.cells import RecurrentLayer
from hark.network.crnn import Crnn
from hark.network.reference import ReferenceCrnn
from hark.network.spotter import Spotter, two_logits, with_network
from hark.shrinking.quantization import is_quantized


@dataclass(frozen=True, kw_only=True)
class PruningConfig:
    """The share of units to remove from each kind of layer, and how units are ranked."""

    conv: float = 0.0
    gru: float = 0.3
    attention: float = 0.3
    importance: Literal["magnitude", "loss"] = "magnitude"
    """Squared weights that would go, or the measured rise of the loss without the unit."""

    def __post_init__(self) -> None:
        for name in ("conv", "gru", "attention"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"prune: {name} is {getattr(self, name)}, expected a share from 0 up to 1")


@dataclass(frozen=True)
class Units:
    """Which units stay: channels of the convolution, units of each recurrent layer and of additive attention."""

    conv: Tensor
    gru: tuple[Tensor, ...]
    attention: Tensor

    def groups(self) -> Iterator[tuple[str, Tensor]]:
        """Each group with its name."""
        yield "conv", self.conv
        yield from ((f"gru.{layer}", units) for layer, units in enumerate(self.gru))
        yield "attention", self.attention

    def with_group(self, name: str, units: Tensor) -> Units:
        """The same with other units in one group."""
        if name == "conv":
            return replace(self, conv=units)
        if name == "attention":
            return replace(self, attention=units)
        layer = int(name.removeprefix("gru."))
        return replace(self, gru=(*self.gru[:layer], units, *self.gru[layer + 1 :]))


Loss = Callable[[Spotter], float]


def prune(model: Spotter, config: PruningConfig, *, loss: Loss | None = None) -> Spotter:
    """A smaller copy of `model` without its least important units.

    Args:
        model: a float model.
        config: how many to remove, and how to rank them.
        loss: the loss of a model on calibration data; needed for the importance "loss".

    Raises:
        ModelError: the model is quantised.
        ConfigError: the importance is "loss" and there is none to measure, or attention has no units to remove.
    """
    if is_quantized(model):
        raise ModelError("a quantised model cannot be pruned; prune the float model, then quantise")
    everything = all_units(model.network)
    if config.attention and not len(everything.attention):
        raise ConfigError(
            f"prune: attention is {config.attention}, expected 0: the network's attention is "
            f"{model.network.config.attention!r}, which has no units"
        )
    stay = everything
    for name, units in everything.groups():
        share = getattr(config, name.partition(".")[0])
        remove = int(share * len(units) + 1e-9)  # 0.29 of 100 units are 29, whatever binary fractions say
        if remove:
            ranks = _importance(model, everything, name, config, loss)
            stay = stay.with_group(name, ranks.argsort(stable=True)[remove:].sort().values)
    return with_network(model, keep(model.network, stay))


def all_units(network: Crnn) -> Units:
    """Every unit of a network."""
    config, attention = network.config, network.attention
    return Units(
        conv=torch.arange(config.channels),
        gru=tuple(torch.arange(hidden) for hidden in config.hidden),
        attention=torch.arange(len(attention.project.bias) if isinstance(attention, Attention) else 0),
    )


@torch.no_grad()
def keep(network: Crnn, units: Units) -> Crnn:
    """A network of only the given units, every tensor rebuilt."""
    small = Crnn(
        replace(
            network.config,
            channels=len(units.conv),
            hidden=tuple(len(layer) for layer in units.gru),
            attention_units=len(units.attention) or None,
            attention_window=network.config.window,
        )
    )
    small.to(network.conv.weight).train(network.training)
    weights = network.state_dict()
    for name, axis, stay in _cuts(network, units):
        weights[name] = weights[name].index_select(axis, stay.to(weights[name].device))
    small.load_state_dict(weights)
    return small


def _cuts(network: Crnn, units: Units) -> Iterator[tuple[str, int, Tensor]]:
    """What stays of which axis of each tensor: the rows that make a unit, and the columns that read it."""
    for name, windowed in network.front():
        yield from ((f"{name}.{weight}", 0, units.conv) for weight, _ in windowed.named_parameters())
    bins = network.config.map_bins
    read = (units.conv[:, None] * bins + torch.arange(bins)).flatten()
    if network.reduce is not None:
        yield "reduce.weight", 1, read
        read = torch.arange(len(network.reduce.bias))
    layers = ((name, layer) for name, layer in network.gru.layers() if isinstance(layer, RecurrentLayer))
    for (name, layer), stay in zip(layers, units.gru, strict=True):
        for weight, tensor in layer.named_parameters():
            yield f"gru.{name}.{weight}", 0, _in_each_gate(stay, layer.hidden, len(tensor))
        yield f"gru.{name}.weight_ih", 1, read
        yield f"gru.{name}.weight_hh", 1, stay
        read = stay
    if isinstance(network.attention, Attention):
        yield "attention.project.weight", 0, units.attention
        yield "attention.project.bias", 0, units.attention
        yield "attention.project.weight", 1, read
        yield "attention.score.weight", 1, units.attention
    if isinstance(network.attention, QueryAttention):
        yield "attention.query", 1, read
    yield "classifier.weight", 1, read


def _in_each_gate(units: Tensor, count: int, rows: int) -> Tensor:
    """The rows of the given ones of `count` units in all gates that are stacked."""
    return torch.cat([first + units for first in range(0, rows, count)])


def _importance(model: Spotter, everything: Units, name: str, config: PruningConfig, loss: Loss | None) -> Tensor:
    """What is lost without each unit of a group, in the group's order."""
    units = dict(everything.groups())[name]
    without = [everything.with_group(name, units[units != unit]) for unit in units]
    if config.importance == "loss":
        if loss is None:
            raise ConfigError('prune: importance "loss" needs calibration data; use "magnitude" without it')
        return torch.tensor([loss(with_network(model, keep(model.network, stay))) for stay in without])
    return torch.tensor([-_energy(keep(model.network, stay)) for stay in without])


@torch.no_grad()
def _energy(network: Crnn) -> float:
    return float(sum(p.double().square().sum() for p in network.parameters() if p.ndim > 1))


def zero_rows(model: Spotter, *, share: float) -> ReferenceCrnn:
    """The reference's pruning, kept to show its damage: L1-ranked rows of the GRU's stacked gates become zero."""
    network = ReferenceCrnn(model.network)
    names = [name for name, _ in network.gru.named_parameters() if name.startswith("weight")]
    for name in names if share else ():
        torch_prune.ln_structured(network.gru, name, amount=share, n=1, dim=0)  # type: ignore[no-untyped-call]
        torch_prune.remove(network.gru, name)  # type: ignore[no-untyped-call]
    return network


def calibration_loss(waveforms: Tensor, targets: Tensor) -> Loss:
    """The cross-entropy of a model on given clips `(clips, samples)`, `(clips,)`."""

    @torch.no_grad()
    def loss(model: Spotter) -> float:
        model.eval()
        return float(functional.cross_entropy(two_logits(model(waveforms)[..., -1]), targets))

    return loss
