"""How long something takes, whatever else the machine does: a busy one must not make a test fail."""

from __future__ import annotations

import time
from pathlib import Path

PRESSURE = [Path("/proc/pressure", of) for of in ("cpu", "io")]


class Stopwatch:
    """Counts from its making; `seconds` by the clock, `undisturbed_s` what it would have been on an idle machine.

    Linux counts the time in which somebody had to wait for a processor or the disk; that much, and no more, may
    be the machine's fault. Where the system does not count it, all of it may be.
    """

    def __init__(self) -> None:
        self._begun, self._waited_s = time.monotonic(), _waited_s()

    @property
    def seconds(self) -> float:
        """By the clock."""
        return time.monotonic() - self._begun

    @property
    def undisturbed_s(self) -> float:
        """Those in which nobody on this machine had to wait; alone on it, it takes at least as long."""
        return max(0.0, self.seconds - (_waited_s() - self._waited_s))


def _waited_s() -> float:
    """So far, since the system began: seconds in which some process could not go on."""
    try:
        return sum(int(path.read_text().split("total=")[1].split()[0]) for path in PRESSURE) / 1e6
    except (OSError, IndexError):
        return time.monotonic()
