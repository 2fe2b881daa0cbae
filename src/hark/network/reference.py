"""The reference report's network as its author wrote it, on `nn.GRU`.

It cannot stream, so it is no `StreamingModule`: it serves to run the report's own compression (dynamic qint8,
row-wise pruning) on our weights, and to check our cells and counters against an independent implementation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from hark.errors import ModelError
from hark.network.crnn import Crnn, our_name

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
