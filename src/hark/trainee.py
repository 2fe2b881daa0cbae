"""What a training must remember to go on: weights, their average, the optimiser's moments, the step."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hark.files import digest
from hark.models.spotter import Spotter
from hark.runs import Run


class Trainee:
    """A model in training, its weight average and its optimiser: everything that a checkpoint holds."""

    def __init__(self, model: Spotter, optimizer: torch.optim.Optimizer, *, averaging: float) -> None:
        self.model = model
        self.average = copy.deepcopy(model)
        self.optimizer = optimizer
        self.averaging = averaging
        self.step = 0

    @torch.no_grad()
    def advance(self) -> None:
        """Count a step and let the average follow: its decay rises to `averaging` as steps are made."""
        self.step += 1
        decay = min(self.averaging, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def save(self, run: Run) -> None:
        """Write a checkpoint to the run."""
        files = {
            "model.safetensors": to_safetensors(_tensors(self.model.state_dict())),
            "average.safetensors": to_safetensors(_tensors(self.average.state_dict())),
            "optimizer.safetensors": to_safetensors(self._moments()),
        }
        run.checkpoints.save(self.step, files, info={"config": digest(run.config)})
        run.log("saved", step=self.step)

    def restore(self, run: Run) -> None:
        """Go on from the newest valid checkpoint of the run, if it has any."""
        checkpoint = run.resume()
        if checkpoint is None:
            return
        self.model.load_state_dict(from_safetensors(checkpoint.files["model.safetensors"]))
        self.average.load_state_dict(from_safetensors(checkpoint.files["average.safetensors"]))
        self._set_moments(from_safetensors(checkpoint.files["optimizer.safetensors"]))
        self.step = checkpoint.step

    def _moments(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return _tensors({f"{index}.{name}": t for index, moments in state.items() for name, t in moments.items()})

    def _set_moments(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _tensors(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
