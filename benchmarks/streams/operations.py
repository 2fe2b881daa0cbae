"""The arithmetic of a second of sound: what a core would have to do if it did nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np

from hark.network.spotter import Spotter
from hark.packed.front_end import logarithm, power_spectrum
from hark.packed.front_end_settings import LogMelConfig, front_end_constants
from hark.proof.cost import cost_of

ARITHMETIC = (np.add, np.subtract, np.multiply)


class Counting(np.ndarray[Any, Any]):
    """An array that counts the float32 additions and multiplications done on it, and on what comes of it."""

    operations = 0
    __array_priority__ = 1.0  # so that arrays that are put together stay of this kind

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Do it, and count a result of float32 as so many operations."""
        plain = [x.view(np.ndarray) if isinstance(x, Counting) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc in ARITHMETIC and result.dtype == np.float32:
            Counting.operations += result.size
        return result.view(Counting) if isinstance(result, np.ndarray) else result


def front_end_flops(settings: LogMelConfig) -> int:
    """Float32 operations of a second of sound, counted while the reference computes them."""
    constants = front_end_constants(settings)
    count = round(settings.frame_rate)
    frames = np.ones((count, settings.n_fft), np.float32).view(Counting)
    Counting.operations = settings.sample_rate  # an int16 times 2^-15
    power_spectrum(frames * constants.half_window, constants)
    logarithm(np.ones((count, settings.n_mels), np.float32).view(Counting))
    return Counting.operations + 2 * count * int(np.count_nonzero(constants.bands))


def network_flops(model: Spotter) -> float:
    """A multiplication and an addition for each MAC of a second of stream."""
    return 2 * cost_of(model).per_second("macs")
