"""The event log of a run: one JSON object a line, only ever appended to, the truth about the run."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hark.files import explained, from_json, to_json

Event = dict[str, Any]


class EventLog:
    """The log at `path`, which need not be there yet.

    What follows its last newline is still being written, and not read. A line that cannot be understood
    is not passed over in silence: it reads as an event of kind `damaged`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began_s: float | None = None

    def append(self, kind: str, *, step: int | None, **values: object) -> None:
        """Append one event, or raise `RunError` and leave the log as it was."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        event = {"kind": kind, "step": step, "time_s": round(self._elapsed_s(), 3), "wall": now, **values}
        with explained(self.path):
            _append_whole(self.path, (to_json(event) + "\n").encode())

    def history(self) -> list[Event]:
        """All events ever logged, those of abandoned attempts included, in the order they happened."""
        return self.since(0)[0]

    def since(self, offset: int) -> tuple[list[Event], int]:
        """The events complete after byte `offset` of the log, and the offset to ask for next."""
        with explained(self.path):
            if not self.path.exists():
                return [], offset
            with self.path.open("rb") as file:
                file.seek(offset)
                raw = file.read()
        whole = raw[: raw.rfind(b"\n") + 1]
        return [_parse(line) for line in whole.splitlines()], offset + len(whole)

    def counting(self) -> list[Event]:
        """The events that count: those past the step to which a later resume went back are left out."""
        counting: list[Event] = []
        for event in self.history():
            if event["kind"] == "resumed":
                counting = [past for past in counting if (past["step"] or 0) <= event["step"]]
            counting.append(event)
        return counting

    def mend(self) -> None:
        """Cut a last line that a killed process has left unfinished; only for the only writer."""
        with explained(self.path):
            if self.path.exists():
                os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    def _elapsed_s(self) -> float:
        """Seconds at work since the run began, in this process and those before it; never goes back."""
        if self._began_s is None:
            before_s = max((event.get("time_s", 0.0) for event in self.history()), default=0.0)
            self._began_s = time.monotonic() - before_s
        return time.monotonic() - self._began_s


def _parse(line: bytes) -> Event:
    try:
        event = from_json(line)
        return {
            "kind": str(event["kind"]),
            "step": None if event["step"] is None else int(event["step"]),
            **event,
        }
    except (ValueError, KeyError, TypeError, OverflowError):
        return {"kind": "damaged", "step": None, "text": line.decode(errors="replace")}


def _append_whole(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
