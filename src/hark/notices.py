"""What is shown on stderr, for whoever is still there to see it: never a reason to fail, nor one to wait."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Thread

PATIENCE_S = 2.0
_showing: Thread | None = None


def say(line: str) -> None:
    """Write a line to stderr, if it takes one."""
    show(lambda: _write(line))


def show(action: Callable[[], object]) -> None:
    """Do something for the eye, and return whatever becomes of it.

    A terminal can be gone, and what writes to it fails. Or it is stuck (Ctrl-S, a connection that died, a pipe
    that nobody reads), and what writes to it never returns: a thread of its own is left behind in there, and
    until it comes back, nothing more is tried.
    """
    global _showing
    if _showing is not None and _showing.is_alive():
        return
    with suppress(RuntimeError):  # no more threads may be started
        _showing = Thread(target=_try, args=(action,), name="notices", daemon=True)
        _showing.start()
        _showing.join(PATIENCE_S)


def _try(action: Callable[[], object]) -> None:
    with suppress(Exception):
        action()


def _write(line: str) -> None:
    if sys.stderr is not None:  # print would take stdout instead
        print(line, file=sys.stderr, flush=True)  # noqa: T201
