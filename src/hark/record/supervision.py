"""Commands that are started again when they have died, as long as they get further."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hark.errors import DeviceError, DeviceLost, RunError
from hark.notices import say
from hark.record.runs import find_runs

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0
LEAVING_S = 30.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
"""Signals by which one asks a program to end; by all others it dies."""
PASSED_ON = (*STOPPING, signal.SIGUSR1)
ON_ANOTHER_DEVICE = (("--device", "auto"), ("--device", "cpu"))
"""What to add after a lost device: take what is there; and the CPU if that has not helped."""
_POLL_S = 0.05


def supervise(
    command: Sequence[str],
    *,
    folder: Path,
    retries: int,
    after_loss: Sequence[Sequence[str]] = (),
    first_pause_s: float = FIRST_PAUSE_S,
) -> int:
    """Run a command until it ends by itself; return its exit code, which is 128 + n for signal n.

    It is started again when a signal killed it that is not there to end programs, and after exit code 75; not
    after an error of its own, which would come again, nor when it was asked to stop. The pauses before double,
    and vary by half, so that many machines do not all come back at once. SIGINT, SIGTERM, SIGQUIT and SIGUSR1
    are passed on to it; the end of the terminal concerns neither.

    Args:
        command: what is run; given again, it must go on where it stopped.
        folder: where its runs are; their checkpoints show whether it gets further.
        retries: restarts in a row that may bring it no further.
        after_loss: what is added to the command once a device was lost, and once that has not helped.
        first_pause_s: seconds before the first of the restarts in a row.
    """
    furthest, failures, losses = _progress(folder), 0, 0
    with _Child() as child:
        while True:
            added = after_loss[min(losses, len(after_loss)) - 1] if losses and after_loss else ()
            code = child.run([*command, *added])
            why = reason_to_restart(code, device_was_lost=losses > 0)
            if why is None or child.asked_to_stop:
                return code
            progress = _progress(folder)
            if progress > furthest:
                furthest, failures, losses = progress, 0, min(losses, 1)
            losses += code == DeviceLost.exit_code
            if failures == retries:
                say(f"supervise: {why}; {retries} restarts have brought {folder} no further, so that is the end")
                return code
            failures += 1
            pause_s = min(LONGEST_PAUSE_S, first_pause_s * 2 ** min(failures - 1, 20)) * random.uniform(0.5, 1.5)
            say(f"supervise: {why}; restart {failures} of {retries} in {pause_s:.1f} s")
            child.rest(pause_s, folder)


def reason_to_restart(code: int, *, device_was_lost: bool = False) -> str | None:
    """Why a command with this exit code is started again, or None if it is not.

    Args:
        code: 128 + n for signal n.
        device_was_lost: that there is no such device then only means that it is not back yet.
    """
    if code == DeviceLost.exit_code:
        return f"exit code {code}, which asks for another try"
    if code == DeviceError.exit_code and device_was_lost:
        return f"exit code {code}, the device is not back yet"
    try:
        killer = signal.Signals(code - 128)
    except ValueError:
        return None
    if killer in STOPPING:
        return None
    hint = ", as when memory runs out" if killer == signal.SIGKILL else ""
    return f"killed by {killer.name}{hint}"


class _Child:
    """The command while it runs, and the signals for it; between two runs they are kept in mind."""

    def __init__(self) -> None:
        self.asked_to_stop = False
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Child:
        self._before = {number: signal.signal(number, self._pass_on) for number in PASSED_ON}
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end; 143 at once if it was already asked to stop."""
        if self.asked_to_stop:
            return 128 + signal.SIGTERM
        self._process = None
        # In a session of its own Ctrl-C reaches this process alone: twice would mean to stop at once.
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        while self._early:  # what came while it was being started
            self._process.send_signal(self._early.pop(0))
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def rest(self, pause_s: float, folder: Path) -> None:
        """Wait, and a little longer if something that died leaves others at work in the folder."""
        begun = time.monotonic()
        while not self.asked_to_stop:
            waited_s = time.monotonic() - begun
            if waited_s > pause_s and (waited_s > pause_s + LEAVING_S or not _is_live(folder)):
                return
            time.sleep(_POLL_S)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.asked_to_stop |= number in STOPPING
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)


def _progress(folder: Path) -> int:
    """A number that grows whenever a run in the folder saves a checkpoint or finishes."""
    try:
        runs = find_runs([folder])
    except RunError:
        return 0  # nothing was begun
    return sum(max(run.checkpoints.steps(), default=0) + run.is_finished for run in runs)


def _is_live(folder: Path) -> bool:
    try:
        return any(run.is_live for run in find_runs([folder]))
    except RunError:
        return False
