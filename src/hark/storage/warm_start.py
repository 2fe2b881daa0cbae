"""Weights to begin with: those of a run, of one of its checkpoints, or of a model file, and no more of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hark.errors import ModelError, RunError
from hark.learning.trainee import AVERAGE
from hark.network.spotter import Spotter
from hark.network.weights import read_weights
from hark.record.runs import MODEL_FILE, Run
from hark.record.store import MANIFEST, read_checkpoint
from hark.shrinking.quantization import is_quantized
from hark.storage.model_files import in_brief, load


def is_run(source: Path) -> bool:
    """Whether this is to be a run, there or not, rather than a checkpoint or a model file."""
    return not source.is_file() and not (source / MANIFEST).exists()


def with_weights(model: Spotter, source: Path) -> Spotter:
    """A copy of `model` with the weights of `source`.

    Args:
        model: has the shapes that the weights must have.
        source: a model file; a checkpoint, whose averaged weights are taken; or a run. A run that is not finished
            gives its best checkpoint by the validation part, or the newest where none has been scored.

    Raises:
        ModelFileError: the file is missing or damaged.
        NoValidCheckpoint: the checkpoint is damaged.
        RunError: the run has neither a model nor a checkpoint.
        ModelError: the weights are of other shapes, or are integers.
    """
    weights = _weights(source)
    expected = model.state_dict()
    faults = [
        f"{name} is {_shape(weights, name)} there, {_shape(expected, name)} here"
        for name in sorted(expected.keys() | weights.keys())
        if _shape(weights, name) != _shape(expected, name)
    ]
    if faults:
        raise ModelError(f"{source}: of another network ({'; '.join(faults)}); choose --network as it was there")
    begun = copy.deepcopy(model)
    begun.load_state_dict(weights)
    return begun


def _weights(source: Path) -> Mapping[str, Tensor]:
    if not source.is_dir():
        model = load(source)
        if is_quantized(model):
            raise ModelError(f"{source}: its weights are integers, expected floats; choose what it was made from")
        return model.state_dict()
    if not is_run(source):
        checkpoint = read_checkpoint(source)
        try:
            return read_weights(checkpoint.files.get(AVERAGE, b""))
        except ValueError as error:
            why = in_brief(error)
            raise RunError(f"{source}: a checkpoint without usable weights ({why}); choose another one") from error
    run = Run.open(source)
    if run.path(MODEL_FILE).exists():
        return _weights(run.path(MODEL_FILE))
    folders = run.checkpoints.folders()
    if not folders:
        raise RunError(f"{source}: has neither {MODEL_FILE} nor a checkpoint yet; choose another run")
    return _weights(run.checkpoints.best() or folders[-1])


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return "×".join(map(str, tensors[name].shape)) or "a number" if name in tensors else "nothing"
