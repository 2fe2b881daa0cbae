"""A torch spotter as a runner: what evaluates or verifies the engine's files takes it through the same door."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hark.network.spotter import Spotter
from hark.network.streaming import State
from hark.packed.front_end import clean_samples
from hark.runtime import Floats, Sound


class TorchRunner:
    """A spotter in use, in the precision of its weights. A `hark.runtime.Runner`."""

    def __init__(self, model: Spotter) -> None:
        self.model = model.eval()
        self.labels = model.config.labels
        self.sample_rate = model.sample_rate
        self.step_samples = model.step_samples
        self.first_step_samples = model.first_step_samples

    def stream(self) -> TorchStream:
        """A stream that has heard nothing."""
        return TorchStream(self.model)


class TorchStream:
    """One stream through a torch spotter. A `hark.runtime.Stream`."""

    def __init__(self, model: Spotter) -> None:
        self._model = model
        self._state: State = model.initial_state()

    def step(self, sound: Sound, /) -> Floats:
        """Hears more sound; gives the posteriors `(steps, classes)` it completes."""
        logits = self._logits(sound)
        return _array(torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=-1))

    def step_logits(self, sound: Sound, /) -> Floats:
        """As `step`, but gives the logits."""
        return _array(self._logits(sound))

    def reset(self) -> None:
        """Begins anew, as if nothing had been heard."""
        self._state = self._model.initial_state()

    @torch.inference_mode()
    def _logits(self, sound: Sound) -> Tensor:
        waveform = torch.from_numpy(clean_samples(sound)[0])[None].to(self._model.normalize.scale)
        logits, self._state = self._model.step(waveform, self._state)
        return logits[0].T


def _array(values: Tensor) -> Floats:
    return np.asarray(values.float().cpu().numpy(), np.float32)
