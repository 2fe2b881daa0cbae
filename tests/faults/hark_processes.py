"""`hark` as a process that tests may kill: fresh as from a shell, or forked from one that has torch loaded.

A fresh process takes some seconds to load torch, and no longer for its work; most kills would hit the loading.
A forked one is the same code from there on, and a test can have twenty of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

FORKING = Path(__file__).with_name("forking.py")


def one_thread() -> dict[str, str]:
    """This process's environment, with one thread: bits are promised at equal thread counts only."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class Process(Protocol):
    """A running command."""

    pid: int

    def send_signal(self, number: int, /) -> None:
        """Send a signal."""

    def wait(self, timeout: float | None = ...) -> int:
        """The exit code; minus the signal's number where one has killed it."""


class Start(Protocol):
    """What starts a command, its output going to the end of a file."""

    def __call__(self, arguments: Sequence[object], output: Path) -> Process:
        """Start it."""


def start_fresh(arguments: Sequence[object], output: Path) -> Process:
    """Start a command as a shell does."""
    with output.open("ab") as file:
        command = [sys.executable, "-m", "hark", *map(str, arguments)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=one_thread())


class Parent:
    """The process that forks; use it as a context manager, and it as what starts a command."""

    def __init__(self, **environment: str) -> None:
        """With these variables beside those of this process."""
        self._environment = one_thread() | environment

    def __enter__(self) -> Parent:
        command = [sys.executable, str(FORKING)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, **pipes, env=self._environment, text=True)  # type: ignore[call-overload]
        self._process.stdout.readline()  # it is ready
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def __call__(self, arguments: Sequence[object], output: Path, *, before: str = "") -> Forked:
        """Start a command, in whose process some Python is run first."""
        order = {"arguments": list(map(str, arguments)), "output": str(output), "before": before}
        return Forked(self, self.ask(order))

    def ask(self, order: dict[str, Any]) -> Any:
        """Give an order and take the answer."""
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class Forked:
    """A child of the parent."""

    def __init__(self, parent: Parent, pid: int) -> None:
        self.pid = pid
        self._parent = parent
        self._code: int | None = None

    def send_signal(self, number: int, /) -> None:
        """Send a signal, if it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit code, None while it is running."""
        if self._code is None:
            self._code = self._parent.ask({"wait": self.pid, "timeout_s": 0.0})
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, which must come within `timeout` seconds."""
        if self._code is None:
            self._code = self._parent.ask({"wait": self.pid, "timeout_s": timeout or 600.0})
        if self._code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 600.0)
        return self._code
