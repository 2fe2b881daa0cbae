"""How long something takes, whatever else the machine does: a busy one must not make a test fail."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

PRESSURE = [Path("/proc/pressure", of) for of in ("cpu", "io")]


class Took(NamedTuple):
    """Seconds by the clock, and those of them in which nobody on this machine had to wait.

    Alone on the machine it would have taken at least the latter. Linux counts in which time somebody waits for a
    processor or the disk; where the system does not, any of it may be the fault of others.
    """

    seconds: float
    undisturbed_s: float


class Stopwatch:
    """Counts from its making."""

    def __init__(self) -> None:
        self._begun, self._waited_s = time.monotonic(), _waited_s()

    def read(self) -> Took:
        """What has passed."""
        seconds, waited_s = time.monotonic() - self._begun, _waited_s() - self._waited_s
        return Took(seconds, max(0.0, seconds - waited_s))


def _waited_s() -> float:
    """So far, since the system began: seconds in which some process could not go on."""
    try:
        return sum(int(path.read_text().split("total=")[1].split()[0]) for path in PRESSURE) / 1e6
    except (OSError, IndexError):
        return time.monotonic()
