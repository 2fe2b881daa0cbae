"""Trackers behind one protocol: what they take of a run's events, and how much of it they confirm."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from hark.errors import RunError, UsageError
from hark.files import digest
from hark.record.events import Event
from hark.record.runs import Run

FOLDER = "trackers"


class Backend(Protocol):
    """A tracker, opened for one run. Any of its methods may raise, or never return."""

    url: str | None
    confirmed: int
    """How many of the events that were logged are certainly with the tracker."""

    def log(self, event: Event) -> None:
        """Take over one event that has metrics."""

    def flush(self) -> None:
        """Confirm what can be confirmed while more is to come; called twice a second at most."""

    def finish(self) -> None:
        """Confirm what can be confirmed at all."""


def metrics(event: Event) -> dict[str, float]:
    """The numbers of an event, named `kind/name`; empty where it is a note."""
    numbers = {name: value for name, value in event.items() if name not in ("step", "time_s")}
    return {
        f"{event['kind']}/{name}": float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def require_installed(tracker: str) -> None:
    """Return if the tracker's package can be found; it is not imported.

    Raises:
        UsageError: there is none of that name, or it is not installed.
    """
    if tracker not in BACKENDS:
        raise UsageError(f"tracker {tracker!r}: expected one of {', '.join(sorted(BACKENDS))}")
    if importlib.util.find_spec(tracker) is None:
        raise UsageError(f'{tracker} is not installed; install it with: pip install "hark-kws[track]"')


class TensorBoard:
    """Event files under `trackers/tensorboard`, always the whole run; torch is not needed."""

    url: str | None = None

    def __init__(self, run: Run) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = run.path(FOLDER) / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder))
        self._logged = self.confirmed = 0

    def log(self, event: Event) -> None:
        """Write the metrics as scalars, at the time they were measured."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in metrics(event).items()]
        wall_s = datetime.fromisoformat(event["wall"]).timestamp()
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=wall_s, step=event["step"] or 0, summary=summary))
        self._logged += 1

    def flush(self) -> None:
        """Hand all that was logged to the operating system."""
        self._writer.flush()
        self.confirmed = self._logged

    def finish(self) -> None:
        """Close the file."""
        self.flush()  # closing alone would not tell of a full disk
        self._writer.close()


class WeightsAndBiases:
    """A W&B run, named like ours; offline unless the user has set WANDB_MODE.

    W&B confirms nothing while it is at work, and at the end it does not tell of a full disk, nor of a server
    that refused. So its own file of the run is read back and its rows are counted, and its own log is searched
    for a fatal error. Whether a server that took them still has them, the server alone knows.
    """

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        about = run.about
        self._teardown = wandb.teardown
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "hark"),
            name=run.name,
            # The same for every start of this run, so that a complete replay takes the place of a part.
            id=digest([run.name, about["created"]])[:12],
            group=about.get("setting"),
            job_type=about.get("kind"),
            config={**about, "config": run.config},
            dir=str(run.path(FOLDER)),
            settings=wandb.Settings(console="off", disable_git=True, save_code=False),
        )
        self._run.define_metric("*", step_metric="step")
        self.url: str | None = self._run.url
        self._file, self._log = Path(self._run.settings.sync_file), Path(self._run.settings.log_internal)
        self._logged = self.confirmed = 0

    def log(self, event: Event) -> None:
        """Log the metrics against hark's own step."""
        self._run.log({**metrics(event), "step": event["step"] or 0})
        self._logged += 1

    def flush(self) -> None:
        """Do nothing: W&B confirms nothing before the end."""

    def finish(self) -> None:
        """Wait until W&B has written, or sent, everything, and see for ourselves.

        Raises:
            RunError: W&B says, in its log only, that it gave up sending.
        """
        self._run.finish()
        self._teardown()  # only the end of W&B's own process closes the file
        if error := fatal_error(self._log):
            raise RunError(f"W&B has stopped sending: {error}")
        rows = rows_written(self._file)
        self.confirmed = self._logged if rows is None else rows  # W&B's word, where there is nothing better


BACKENDS: Mapping[str, Callable[[Run], Backend]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


_HEADER = struct.Struct("<IHB")
_FILE_HEADER = b":W&B\xe1\xbe\x00"
_BLOCK_BYTES = 32_768
_WHOLE, _FIRST, _LAST = 1, 2, 4


def rows_written(path: Path) -> int | None:
    """How many rows of history W&B's file of a run holds, up to the first damage; None in an unknown format."""
    from wandb.proto.wandb_internal_pb2 import Record

    with path.open("rb") as file:
        if not _FILE_HEADER.startswith(file.read(len(_FILE_HEADER))):
            return None
        return sum(bool(Record.FromString(raw).HasField("history")) for raw in _records(file))


def _records(file: BinaryIO) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: fragments in blocks of 32 KiB, none across the end of one.

    A fragment is its CRC-32, its length (uint16), its place in the record (whole, first, middle, last), its bytes.
    """
    record = b""
    while True:
        left = _BLOCK_BYTES - file.tell() % _BLOCK_BYTES
        if left < _HEADER.size:  # too little for a fragment
            file.seek(left, os.SEEK_CUR)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            return
        checksum, length, place = _HEADER.unpack(header)
        fragment = file.read(length)
        if zlib.crc32(fragment, zlib.crc32(bytes([place]))) != checksum:
            return
        record = fragment if place in (_WHOLE, _FIRST) else record + fragment
        if place in (_WHOLE, _LAST):
            yield record


def fatal_error(log: Path) -> str | None:
    """The first fatal error in W&B's own log, which has one JSON object a line; None where there is none."""
    if not log.exists():
        return None
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                entry: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and entry.get("level") == "ERROR+4":
                return str(entry.get("msg"))
    return None
