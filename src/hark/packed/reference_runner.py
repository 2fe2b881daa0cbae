"""The NumPy reference of a whole packed model, from sound to posteriors, as a runner: slow, plain, and the law."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hark.packed import float32_math, front_end
from hark.packed.front_end_settings import LogMelConfig
from hark.packed.network_reference import NetworkReference
from hark.packed.packed_model import PackedModel

Floats: TypeAlias = NDArray[np.float32]
Sound: TypeAlias = NDArray[np.int16] | Floats


class Network(Protocol):
    """Log-mels `(1, n_mels, frames)` to logits `(1, classes, steps)`; its state is its own affair."""

    def initial_state(self) -> Any:
        """The state of a stream that has heard nothing."""

    def step(self, features: Floats, state: Any, /) -> tuple[Floats, Any]:
        """More frames to the logits they complete, and the next state."""


class ReferenceRunner:
    """A packed model on NumPy. A `hark.runtime.Runner`."""

    def __init__(self, model: PackedModel, *, network: Network | None = None) -> None:
        """Run `model`; with `network` in the place of its own, behind the same front end."""
        self.labels = model.labels
        self.sample_rate = model.front_end.sample_rate
        self.step_samples = model.step_frames * model.front_end.hop_length
        self.first_step_samples = model.first_step_frames * model.front_end.hop_length
        self._front_end = model.front_end
        self._network = network or NetworkReference(model)

    def stream(self) -> ReferenceStream:
        """A stream that has heard nothing."""
        return ReferenceStream(self._front_end, self._network)


class ReferenceStream:
    """One stream through a front end and a network. A `hark.runtime.Stream`."""

    def __init__(self, settings: LogMelConfig, network: Network) -> None:
        self._settings, self._network = settings, network
        self.reset()

    def reset(self) -> None:
        """Begins anew, as if nothing had been heard."""
        self._past = front_end.initial_past(self._settings)
        self._state = self._network.initial_state()

    def step(self, sound: Sound, /) -> Floats:
        """Hears more sound; gives the posteriors `(steps, classes)` it completes."""
        return float32_math.posteriors(self.step_logits(sound))

    def step_logits(self, sound: Sound, /) -> Floats:
        """As `step`, but gives the logits."""
        frames, self._past = front_end.step(sound, self._past, self._settings)
        logits, self._state = self._network.step(frames.T[None], self._state)
        steps: Floats = logits[0].T
        return steps
