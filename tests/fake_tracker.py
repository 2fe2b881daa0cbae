"""The process that feeds a tracker, with a tracker that fails on demand: started in place of `hark.record.mirror`.

python fake_tracker.py WHERE at-once|at-the-end LINGER_S RUN --to NAME

WHERE is "nowhere", or what it does and at which place: "raise at init", "hang at log 3", "exit at finish", …
It confirms what it has been given at once, or not before the end. Where it does something, the file
`trackers/reached` of the run is there from then on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hark.record import mirror
from hark.record.events import Event
from hark.record.runs import Run


def fail() -> None:
    """What a tracker may be expected to do."""
    raise ConnectionError("no such host")


def fail_badly() -> None:
    """What nobody expects."""
    raise BaseException("not even an Exception")


DEEDS: dict[str, Callable[[], object]] = {
    "raise": fail,
    "raise BaseException": fail_badly,
    "exit": lambda: os._exit(0),
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(3600),
}


class Fake:
    """A tracker that keeps nothing but counts."""

    url = None

    def __init__(self, run: Run) -> None:
        self.logged = self.confirmed = 0
        self.reached = run.path("trackers/reached")
        self.reach("init")

    def log(self, event: Event) -> None:
        """Count it."""
        self.logged += 1
        self.reach(f"log {self.logged}")

    def flush(self) -> None:
        """Confirm all, if this is a tracker that can."""
        if CONFIRMS == "at-once":
            self.confirmed = self.logged

    def finish(self) -> None:
        """Confirm all."""
        self.reach("finish")
        self.confirmed = self.logged

    def reach(self, place: str) -> None:
        """Do what is to be done there."""
        deed, _, where = WHERE.partition(" at ")
        if where == place:
            self.reached.touch()
            DEEDS[deed]()


if __name__ == "__main__":
    WHERE, CONFIRMS, linger_s, folder, _, name = sys.argv[1:]
    mirror.serve(Run.open(Path(folder)), to=name, open_backend=Fake, linger_s=int(linger_s))
