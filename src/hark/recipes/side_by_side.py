"""Work in processes of their own, several at a time: an error is raised here, and what ends this ends them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from typing import Any

from hark.errors import HarkError, ProcessLost
from hark.files import explained, make_folder
from hark.record.interruption import leaving_on_sigterm, unattended


@dataclass(frozen=True)
class Deed:
    """What one process does: call a function of a module, which a new process can import, with some arguments."""

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...] = ()
    output: Path | None = None
    """Where all that it shows goes, behind what is there; None: where this process shows its own."""


def do_all(
    deeds: Sequence[Deed],
    *,
    jobs: int,
    meanwhile: Callable[[], object] = lambda: None,
    every_s: float | None = None,
) -> None:
    """Do all deeds, `jobs` of them at a time, each in a process of its own.

    The first error stops what has not begun, and is raised here when the others are done. What ends this process
    ends the others too: they finish the step in hand and save first. SIGUSR1 has all of them save now.

    Args:
        deeds: what is to be done, in this order.
        jobs: processes at a time.
        meanwhile: called whenever a deed has ended, and every `every_s` seconds while some are at work.
        every_s: None for never.

    Raises:
        HarkError: what a deed has raised.
        ProcessLost: the process of a deed has died.
    """
    waiting, at_work, errors = deque(deeds), dict[Connection, tuple[Deed, SpawnProcess]](), list[HarkError]()
    with unattended(on_wish_to_save=lambda: _have_saved([process for _, process in at_work.values()])):
        try:
            while at_work or (waiting and not errors):
                while waiting and not errors and len(at_work) < jobs:
                    deed = waiting.popleft()
                    answer, process = _begin(deed)
                    at_work[answer] = deed, process
                ready = set(wait([*at_work], every_s))
                for answer in [*at_work]:
                    if answer in ready:
                        errors += _end(answer, *at_work.pop(answer))
                meanwhile()
        except (KeyboardInterrupt, SystemExit):
            _stop([process for _, process in at_work.values()])
            raise
    if errors:
        raise errors[0]


def _begin(deed: Deed) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    answer, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(deed, theirs), name=deed.name)
    # Held back until the new process knows what the signal means; it would end it before.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    process.start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    theirs.close()  # so that the death of the process ends what can be read
    return answer, process


def _work(deed: Deed, answer: Connection) -> None:
    """What the process of a deed does."""
    os.setsid()  # Ctrl-C reaches the parent alone, which passes it on: twice would mean at once
    Thread(target=_follow_parent, daemon=True).start()
    with suppress(BrokenPipeError), leaving_on_sigterm(), unattended():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        try:
            if deed.output is not None:
                _show_in(deed.output)
            deed.function(*deed.arguments)
            answer.send(None)
        except HarkError as error:
            answer.send(error)


def _show_in(path: Path) -> None:
    """Have a file take what this process shows from now on."""
    make_folder(path.parent)
    with explained(path), path.open("ab") as file:
        for shown in (sys.stdout, sys.stderr):
            shown.flush()
            os.dup2(file.fileno(), shown.fileno())


def _follow_parent() -> None:
    """Wait for the parent's death, and take it for a wish to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _end(answer: Connection, deed: Deed, process: SpawnProcess) -> list[HarkError]:
    """What went wrong in a deed that has come to its end, if anything."""
    with answer:
        try:
            error: HarkError | None = answer.recv()
        except EOFError:
            process.join()
            error = ProcessLost(
                f"{deed.name}: its process ended with exit code {process.exitcode} and no word; "
                "run the same command again"
            )
    process.join()
    return [error] if error else []


def _have_saved(processes: Sequence[SpawnProcess]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, signal.SIGUSR1)


def _stop(processes: Sequence[SpawnProcess]) -> None:
    """Let each finish its step and save; at once if the wish is repeated."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        raise
