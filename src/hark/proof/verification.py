"""The proof of a trained spotter: in torch it streams as it is offline, and what ships is what was trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from hark.network.spotter import Spotter
from hark.network.streaming import State
from hark.packed import packing
from hark.packed.reference_runner import ReferenceRunner
from hark.proof.agreement import (
    EXACT_LOGITS,
    FLOAT_LOGITS,
    INTEGER,
    TORCH,
    agreement_check,
    compare_runners,
)
from hark.proof.checks import Check, Floats, Verification
from hark.proof.laws import law_checks
from hark.proof.packed_verification import HOUR_S, REFERENCE_S, packed_checks
from hark.runtime import Model
from hark.shipping.torch_runner import TorchRunner
from hark.shrinking.integer_network import IntegerCrnn

TORCH_S = 20.0


def verify_spotter(
    model: Spotter, file: bytes | None = None, *, seconds: float = TORCH_S, packed_seconds: float = HOUR_S
) -> Verification:
    """Prove a spotter, and the `.hark` file that was made of it where there is one; see `spotter_checks`.

    Args:
        model: what was trained.
        file: the bytes of the file.
        seconds: how much torch hears at least; it is slow.
        packed_seconds: how much the engine hears.

    Raises:
        VerificationError: the file is another spotter's.
        ModelFileError: the file is no model, or damaged.
    """
    checks = spotter_checks(model, file, seconds=seconds, packed_seconds=packed_seconds)
    return Verification(artefact="torch" if file is None else "torch and engine", checks=tuple(checks))


def spotter_checks(
    model: Spotter, file: bytes | None, *, seconds: float, packed_seconds: float
) -> Iterator[Check]:
    """The laws on torch; those on the engine; torch against the engine.

    The last is done twice: each with its own front end; and torch's network fed with the engine's log-mels, which
    in integers must give the engine's logits to the last bit.
    """
    runner = TorchRunner(model)
    # Torch's transform rounds by the length of the chunk: of integers that can move the last one.
    measure = INTEGER if isinstance(model.network, IntegerCrnn) else TORCH
    yield from law_checks(runner, "torch", allowed=measure.allowed, seconds=seconds)
    if file is None:
        return
    yield from packed_checks(file, seconds=packed_seconds)
    engine = Model(file)
    yield agreement_check(engine, runner, seconds=seconds)
    network = ReferenceRunner(packing.from_bytes(file), network=TorchNetwork(model))
    yield compare_runners(
        "engine, torch’s network",
        "engine against torch’s network on the engine’s log-mels",
        (engine, network),
        EXACT_LOGITS if engine.is_integer else FLOAT_LOGITS,
        seconds=min(seconds, REFERENCE_S),
    )


class TorchNetwork:
    """A spotter without its front end. A `hark.packed.reference_runner.Network`."""

    def __init__(self, model: Spotter) -> None:
        self._model = model.eval()

    def initial_state(self) -> State:
        """The state of a stream that has heard nothing."""
        return self._model.network.initial_state()

    @torch.inference_mode()
    def step(self, features: Floats, state: State, /) -> tuple[Floats, State]:
        """Log-mels `(1, n_mels, frames)` to logits `(1, classes, steps)`."""
        frames = torch.from_numpy(np.ascontiguousarray(features)).to(self._model.normalize.scale)
        logits, after = self._model.network.step(self._model.normalize(frames), state)
        return np.asarray(logits.float().cpu().numpy(), np.float32), after
