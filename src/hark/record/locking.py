"""One process at a time: a lock that any death gives back, and that tells who holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hark.errors import RunBusy
from hark.files import explained, from_json, to_json

# Looking who holds a lock takes it for an instant: worth a second try.
_TRIES, _PAUSE_S = 10, 0.02
_LONGEST = 1000  # letters of what a holder says of itself


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock; None where it has not said so (yet)."""

    pid: int | None
    host: str | None

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"process {self.pid} on {self.host}"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock in the file at `path`, which is made if needed, while the context is open.

    Raises:
        RunBusy: another process holds it; the message names its pid and host.
        RunError: the file cannot be written.
    """
    with explained(path):
        file = path.open("a+")
    with file:  # closing it gives the lock back, and so does any death
        with explained(path):
            if not _take(file):
                raise RunBusy(f"{path.parent}: {_read(file)} is at work in it; wait for it or stop it")
            file.truncate(0)
            file.write(to_json({"pid": os.getpid(), "host": socket.gethostname()}))
            file.flush()
        yield


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock now; None where nobody does."""
    with suppress(OSError), path.open() as file:
        for _ in range(_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                holder = _read(file)
            if holder.pid is not None:
                return holder
            time.sleep(_PAUSE_S)  # whoever has just taken it is about to write its name
        return holder
    return None


def _take(file: IO[str]) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE_S)
    return False


def _read(file: IO[str]) -> Holder:
    file.seek(0)
    try:
        holder = from_json(file.read(_LONGEST))
        if not str(holder["host"]).isprintable():
            raise ValueError("a terminal might obey it")
        return Holder(int(holder["pid"]), str(holder["host"]))
    except (ValueError, KeyError, TypeError, OverflowError):
        return Holder(None, None)
