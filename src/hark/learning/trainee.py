"""What a training must remember to go on: weights, their average, the optimiser's moments, the step."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from hark.errors import RunError
from hark.files import digest
from hark.network.spotter import Spotter
from hark.network.weights import read_weights
from hark.record.environment import commit
from hark.record.runs import Run

MODEL, MOMENTS = "model.safetensors", "optimizer.safetensors"
AVERAGE = "average.safetensors"
"""The weights of a checkpoint that a finished training would give away."""
_commit = cache(commit)  # git is asked once, not at every save


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

    def save(self, run: Run, *, score: float | None = None) -> None:
        """Write a checkpoint to the run, and before it all that the run has logged so far.

        Args:
            run: held by this process.
            score: of the average on validation data, lower is better; None where this step was not validated.

        Raises:
            DiskFull: no space is left; the older checkpoints are untouched.
            RunError: it could not be saved.
        """
        files = {
            MODEL: to_safetensors(_tensors(self.model.state_dict())),
            AVERAGE: to_safetensors(_tensors(self.average.state_dict())),
            MOMENTS: to_safetensors(self._moments()),
        }
        run.require_held()
        run.event_log.flush()
        info = {"config": digest(run.config), "commit": _commit()}
        run.checkpoints.save(self.step, files, info=info, score=score)
        run.log("saved", step=self.step)

    def restore(self, run: Run) -> None:
        """Go on from the newest valid checkpoint of the run, if it has any.

        Raises:
            RunError: it is of another configuration.
            NoValidCheckpoint: the run has checkpoints, but none is intact.
        """
        checkpoint = run.resume()
        if checkpoint is None:
            return
        if checkpoint.info.get("config") != digest(run.config):
            raise RunError(
                f"{run.folder}: its checkpoint of step {checkpoint.step} was saved under another configuration; "
                "put the right one back, or start a run of another name"
            )
        try:
            self.model.load_state_dict(read_weights(checkpoint.files.get(MODEL, b"")))
            self.average.load_state_dict(read_weights(checkpoint.files.get(AVERAGE, b"")))
            self._set_moments(read_weights(checkpoint.files.get(MOMENTS, b"")))
        except (ValueError, RuntimeError) as error:  # intact, yet not from here
            raise RunError(
                f"{run.folder}: its checkpoint of step {checkpoint.step} does not fit the model "
                f"({str(error)[:200]}); put the right one back, or start a run of another name"
            ) from error
        self.step = checkpoint.step

    def _moments(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return _tensors({f"{index}.{name}": t for index, moments in state.items() for name, t in moments.items()})

    def _set_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Torch itself would take moments of any shape, and fail at the next step."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        shapes = {
            f"{index}.{name}": shape
            for index, weight in enumerate(weights)
            for name, shape in (("step", ()), ("exp_avg", weight.shape), ("exp_avg_sq", weight.shape))
        }
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if shapes.get(key) != tensor.shape:
                raise ValueError(f"{key} in {MOMENTS} is {tuple(tensor.shape)}, expected {shapes.get(key)}")
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = tensor
        if any(len(moments) != 3 for moments in state.values()):
            raise ValueError(f"{MOMENTS} lacks some")
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _tensors(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
