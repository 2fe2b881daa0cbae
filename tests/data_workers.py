"""The data workers that there are, and who of them really hangs: what tests of the watchdog need to be fair."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from hark.learning import loading
from hark.learning.workers import Hangs, answer_of

HANGS = "hangs"
LEAVING_S = 60.0


def data_workers() -> list[int]:
    """The process ids of the data workers there are."""
    return sorted(
        child.pid for child in multiprocessing.active_children() if child.name == "batches" and child.pid
    )


def say_that_this_thread_hangs() -> None:
    """Say so by its name, where the system has names for threads."""
    if Path("/proc").is_dir():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(HANGS)


def hanging() -> set[str]:
    """The threads of the data workers and of this process that hang or are stopped."""
    found = set[str]()
    for pid in (*data_workers(), os.getpid()):
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            try:
                name, _, rest = (thread / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:  # it has just ended
                continue
            if name == HANGS or rest.split()[0] == "T":
                found.add(str(thread))
    return found


@pytest.fixture
def fair_watchdog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The watchdog barks at those alone who do hang: on a busy machine others too may take longer than it waits.

    And no test finds a worker of the one before, which is just leaving.
    """
    before = hanging()

    def answer(future: Future[Any], limit_s: float, *, given_up: Callable[[], bool] = lambda: False) -> Any:
        while True:
            try:
                return answer_of(future, limit_s, given_up=given_up)
            except Hangs:
                if not Path("/proc").is_dir() or hanging() - before:
                    raise

    monkeypatch.setattr(loading, "answer_of", answer)
    yield
    require_no_workers()


def require_no_workers() -> None:
    """All are gone, even those in the midst of something."""
    for child in multiprocessing.active_children():
        child.join(LEAVING_S)
        assert not child.is_alive()
