"""The event log of a run: one JSON object a line, only ever appended to, the truth about the run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from hark.errors import DiskFull
from hark.files import explained, from_json, fsync, to_json

Event = dict[str, Any]
LONGEST_LINE_BYTES = 1 << 20
_SHOWN_BYTES = 1000


class EventLog:
    """The log at `path`, which need not be there yet.

    What follows its last newline is still being written, and not read. A line that cannot be understood
    is not passed over in silence: it reads as an event of kind `damaged`.

    While the disk is full, events wait in memory and are written, in order, as soon as there is space. They
    are lost if the process dies first, and with them only what no checkpoint could keep either.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began_s: float | None = None
        self._waiting: list[bytes] = []

    def append(self, kind: str, *, step: int | None, **values: object) -> None:
        """Append one event.

        Raises:
            RunError: it could not be written, and not because the disk is full; the log is as it was.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = {"kind": kind, "step": step, "time_s": round(self._elapsed_s(), 3), "wall": now, **values}
        self._waiting.append((to_json(event) + "\n").encode())
        with suppress(DiskFull):
            self._write()

    def flush(self) -> None:
        """Return when every event would survive a power loss.

        Raises:
            DiskFull: some events still wait for space.
            RunError: they could not be written.
        """
        self._write()
        if self.path.exists():
            with explained(self.path):
                fsync(self.path)

    def history(self) -> list[Event]:
        """All events ever logged, those of abandoned attempts included, in the order they happened."""
        return self.since(0)[0]

    def since(self, offset: int, *, about_bytes: int = -1) -> tuple[list[Event], int]:
        """The events complete after byte `offset` of the log, and the offset to ask for next.

        Args:
            offset: bytes.
            about_bytes: read whole lines until there are so many bytes; -1 for all.
        """
        found: list[Event] = []
        taken = 0
        with explained(self.path):
            if not self.path.exists():
                return [], offset
            with self.path.open("rb") as file:
                file.seek(offset)
                for line, length in _lines(file):
                    found.append(_parse(line))
                    taken += length
                    if 0 <= about_bytes <= taken:
                        break
        return found, offset + taken

    def counting(self) -> list[Event]:
        """The events that count: those past the step to which a later resume went back are left out."""
        counting: list[Event] = []
        furthest = math.inf
        for event in reversed(self.history()):
            if (event["step"] or 0) <= furthest:
                counting.append(event)
            if event["kind"] == "resumed":
                furthest = min(furthest, event["step"] or 0)
        return counting[::-1]

    def mend(self) -> None:
        """Cut a last line that a killed process has left unfinished; only for the only writer."""
        with explained(self.path):
            if self.path.exists():
                with self.path.open("rb") as file:
                    whole = sum(length for _, length in _lines(file))
                os.truncate(self.path, whole)

    def _write(self) -> None:
        if self._waiting:
            with explained(self.path):
                _append_whole(self.path, b"".join(self._waiting))
            self._waiting.clear()

    def _elapsed_s(self) -> float:
        """Seconds at work since the run began, in this process and those before it; never goes back."""
        if self._began_s is None:
            before_s = max((event.get("time_s", 0.0) for event in self.history()), default=0.0)
            self._began_s = time.monotonic() - before_s
        return time.monotonic() - self._began_s


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The whole lines that follow, each with its length; of those too long to be meant only the beginning."""
    beginning, length = b"", 0
    while piece := file.readline(LONGEST_LINE_BYTES):
        beginning, length = beginning or piece, length + len(piece)
        if piece.endswith(b"\n"):
            yield beginning, length
            beginning, length = b"", 0


def _parse(line: bytes) -> Event:
    try:
        event: Event = from_json(line)
        if not (isinstance(event["kind"], str) and _is_step(event["step"]) and _is_time(event.get("time_s", 0.0))):
            raise ValueError("not of their types")
        return event
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return {"kind": "damaged", "step": None, "text": line[:_SHOWN_BYTES].decode(errors="replace").rstrip("\n")}


def _is_step(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _append_whole(path: Path, lines: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while lines:
                lines = lines[os.write(descriptor, lines) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
