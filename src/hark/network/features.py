"""The front end: sound to log-mel frames, causal, one frame every hop."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hark.network.streaming import SlidingWindow, State, StreamingModule
from hark.packed.front_end import FLOOR as FLOOR
from hark.packed.front_end_settings import LogMelConfig as LogMelConfig

ROWS_AT_ONCE = 8
"""Waveforms transformed together: their overlapping frames then stay in the cache, twice as fast."""


class LogMel(StreamingModule):
    """ln of the mel power: periodic Hann window, power spectrum, HTK mels from 0 Hz to half the sample rate.

    The first window covers `n_fft - hop_length` samples of silence and `hop_length` of sound: every hop of
    sound gives exactly one frame, and one second gives exactly 100.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.frames = SlidingWindow(config.n_fft, config.hop_length)
        # Constants of the configuration: not part of a saved model.
        self.register_buffer("window", hann_window(config).float(), persistent=False)
        self.register_buffer("bank", mel_bank(config).float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LogMel:
        """Convert or move; the constants are then computed anew, as exact as the new type can hold them."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.window = hann_window(self.config).to(self.window)
        self.bank = mel_bank(self.config).to(self.bank)
        return self

    def initial_state(self, batch_size: int = 1) -> State:
        """A past of silence, `(batch, n_fft - 1)`."""
        silence = self.config.n_fft - self.config.hop_length
        return self.frames.initial_state(self.window.new_zeros(batch_size, 0), filled=silence)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Waveform `x (batch, samples)` in ±1 to log-mels `(batch, n_mels, frames)`."""
        samples, state = self.frames.step(x, state)
        if not samples.shape[-1]:
            return x.new_zeros(x.shape[0], self.config.n_mels, 0), state
        power = torch.cat([mel_power(self, rows) for rows in torch.split(samples, ROWS_AT_ONCE)])
        return power.clamp(min=FLOOR).log(), state


def mel_power(front_end: LogMel, samples: Tensor) -> Tensor:
    """Mel power `(batch, n_mels, frames)` of the complete windows in `samples (batch, samples)`."""
    frames = samples.unfold(-1, front_end.config.n_fft, front_end.config.hop_length) * front_end.window
    spectrum = torch.fft.rfft(frames)
    power = spectrum.real.square() + spectrum.imag.square()
    mels: Tensor = power @ front_end.bank
    return mels.transpose(1, 2)


def hann_window(config: LogMelConfig) -> Tensor:
    """The periodic Hann window, `(n_fft,)` in float64."""
    return torch.hann_window(config.n_fft, periodic=True, dtype=torch.float64)


def mel_bank(config: LogMelConfig) -> Tensor:
    """Triangles on the HTK mel scale, 2595 log10(1 + f / 700), not normalised by area.

    Returns:
        `(n_fft // 2 + 1, n_mels)` in float64.
    """
    top = config.sample_rate / 2
    bins = torch.linspace(0, top, config.n_fft // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(0, float(_hertz_to_mel(torch.tensor(top))), config.n_mels + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (bins[:, None] - left) / (centre - left)
    falling = (right - bins[:, None]) / (right - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _hertz_to_mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz.double() / 700)
