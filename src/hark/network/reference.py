"""The reference report's network as its author wrote it, on `nn.GRU`.

It cannot stream, so it is no `StreamingModule`: it serves to run the report's own compression (dynamic qint8,
row-wise pruning) on our weights, and to check our cells and counters against an independent implementation.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from hark.errors import ConfigError, ModelError, ModelFileError
from hark.network.crnn import Crnn, CrnnConfig

REFERENCE = {"pooling": (1, 1), "convolution": "full", "rank": None, "cell": "gru", "attention": "additive"}
"""The layers that the reference's network is made of, as `CrnnConfig` names them."""


class ReferenceAttention(nn.Module):
    """Energies, softmax over all steps of the clip, weighted sum."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), nn.Linear(units, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden (batch, steps, inputs)` to `(batch, inputs)`."""
        weights = torch.softmax(self.energy(hidden), dim=1)
        return (weights * hidden).sum(dim=1)


class ReferenceCrnn(nn.Module):
    """Log-mels of a clip `(batch, n_mels, frames)` to its logits `(batch, classes)`."""

    def __init__(self, network: Crnn) -> None:
        """The same shape and weights as `network`, whose GRU layers must be equally wide.

        Raises:
            ModelError: the layers differ in width, which `nn.GRU` does not know, or are not the reference's, or
                weights are quantised.
        """
        super().__init__()
        config = network.config
        if any(is_parametrized(module) for module in network.modules()):
            raise ModelError("the reference's network holds no quantised weights; give it the float model")
        others = {name: value for name, value in REFERENCE.items() if getattr(config, name) != value}
        if others:
            found = ", ".join(f"{name} = {getattr(config, name)}" for name in others)
            expected = ", ".join(f"{name} = {value}" for name, value in others.items())
            raise ModelError(f"a network with {found}: the reference's has {expected}")
        if len(set(config.hidden)) > 1:
            raise ModelError(f"GRU layers of {config.hidden} units: nn.GRU expects equal widths")
        self.conv = nn.Sequential(nn.Conv2d(1, config.channels, config.kernel, config.stride))
        inputs = config.channels * network.conv.out_bins
        self.gru = nn.GRU(inputs, config.hidden[0], len(config.hidden), batch_first=True)
        self.attention = ReferenceAttention(config.hidden[-1], config.attention_units or config.hidden[-1])
        self.classifier = nn.Linear(config.hidden[-1], config.classes)
        ours = network.state_dict()
        self.load_state_dict({name: ours[our_name(name)] for name in self.state_dict()})

    def forward(self, features: Tensor) -> Tensor:
        """Logits at the end of the clip."""
        maps = self.conv(features.unsqueeze(1)).flatten(1, 2).transpose(1, 2)
        hidden, _ = self.gru(maps)
        logits: Tensor = self.classifier(self.attention(hidden))
        return logits


def from_reference(weights: Mapping[str, Tensor]) -> Crnn:
    """A network from a state dict in the reference's own layout (`conv.0.weight`, `gru.weight_ih_l0`, …).

    All sizes but the stride follow from the weights; the stride is 8 frames, or 6 for the one-layer student,
    as the report has it.

    Raises:
        ModelFileError: the names or shapes are not those of this network.
    """
    layers = sum(name.startswith("gru.weight_ih_l") for name in weights)
    try:
        channels, _, *kernel = weights["conv.0.weight"].shape
        hidden = tuple(weights[f"gru.weight_hh_l{index}"].shape[1] for index in range(layers))
        config = CrnnConfig(
            channels=channels,
            kernel=(kernel[0], kernel[1]),
            stride=(2, 8 if layers > 1 else 6),
            hidden=hidden,
            attention_units=weights["attention.energy.0.weight"].shape[0],
            classes=weights["classifier.weight"].shape[0],
        )
        with torch.device("meta"):  # nothing of the size that one tensor claims is made before the others fit it
            network = Crnn(config)
        network.load_state_dict({our_name(name): tensor for name, tensor in weights.items()}, assign=True)
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, ConfigError) as error:
        reason = " ".join(str(error).split())
        raise ModelFileError(
            f"not the reference's CRNN ({reason}); expected conv.0.*, gru.*_l0, attention.energy.*, classifier.*"
        ) from error
    return network


def our_name(name: str) -> str:
    """Our name of a reference weight: `gru.0.weight_ih` for `gru.weight_ih_l0`, and so on."""
    if name.startswith("gru."):
        kind, _, layer = name.removeprefix("gru.").rpartition("_l")
        return f"gru.{layer}.{kind}"
    for theirs, ours in (
        ("conv.0.", "conv."),
        ("attention.energy.0.", "attention.project."),
        ("attention.energy.2.", "attention.score."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name
