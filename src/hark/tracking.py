"""Trackers as mirrors of a run's event log, which cannot hurt the training.

A process of its own (`python -m hark.tracking RUN --to wandb`) follows `events.jsonl` and hands on what it
finds. Whatever becomes of it, the training neither waits nor fails, and the log can be replayed.
"""

from __future__ import annotations

import argparse
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from hark.errors import HarkError, RunError, UsageError
from hark.events import Event
from hark.files import digest, explained
from hark.runs import TRACKER, Run

FOLDER = "trackers"
POLL_S = 0.5
PARTING_S = 1.0


class Backend(Protocol):
    """A tracker, opened for one run."""

    url: str | None

    def log(self, event: Event) -> None:
        """Take over one event that has metrics."""

    def finish(self) -> None:
        """Return when all events are safe with the tracker."""


@contextmanager
def mirror(run: Run, *, to: str, command: Sequence[str] = ()) -> Iterator[None]:
    """Mirror the run's events to a tracker while the context is open; nothing of it is ever raised.

    At the end the tracker has a second; if it needs longer, it goes on by itself. If it died, one warning
    event tells how many events it lost at most, and how to replay them.

    Args:
        run: the run, locked by this process.
        to: a name in `BACKENDS`.
        command: what to start instead of `python -m hark.tracking`.
    """
    process = _start(run, to, command or (sys.executable, "-m", __name__, str(run.folder), "--to", to))
    try:
        yield
    finally:
        with suppress(Exception):  # whatever it is, the training is worth more
            _part(run, to, process)


def push(run: Run, *, to: str) -> int:
    """Replay all events of a run to a tracker, here and now; return how many had metrics.

    Raises:
        UsageError: the tracker is not installed.
        RunError: the tracker failed.
    """
    if to not in BACKENDS:
        raise UsageError(f"tracker {to!r}: expected one of {', '.join(sorted(BACKENDS))}")
    try:
        follow(run, to=to, open_backend=BACKENDS[to], ended=lambda: True)
    except HarkError:
        raise
    except Exception as error:
        again = f"hark track push {run.folder} --to {to}"
        raise RunError(f"{run.folder}: {to} failed ({error}); try again with: {again}") from error
    return _with_metrics(run.event_log.history())


def follow(run: Run, *, to: str, open_backend: Callable[[Run], Backend], ended: Callable[[], bool]) -> None:
    """Hand on the run's events, past and coming, until it has ended; raise whatever the tracker raises.

    Args:
        run: the run, which another process is writing.
        to: the name under which progress is noted for that process to read.
        open_backend: opens the tracker.
        ended: waits a moment, and returns whether no more events will come.
    """
    with explained(run.folder):
        run.path(FOLDER).mkdir(exist_ok=True)
    backend = open_backend(run)
    if backend.url is not None:
        run.write_json(TRACKER, {"url": backend.url})
    done = offset = 0
    over = False
    while not over:
        over = ended()
        events, offset = run.event_log.since(offset)
        try:
            for event in events:
                if metrics(event):
                    backend.log(event)
                done += 1
        finally:
            if events:
                _note(run, to, state="following", events=done)
    _note(run, to, state="finishing", events=0)  # from here on none is safe until the tracker says so
    backend.finish()
    _note(run, to, state="finished", events=done)


def metrics(event: Event) -> dict[str, float]:
    """The numbers of an event, named `kind/name`; empty where it is a note."""
    numbers = {name: value for name, value in event.items() if name not in ("step", "time_s")}
    return {
        f"{event['kind']}/{name}": float(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


class TensorBoard:
    """Event files under `trackers/tensorboard`, always the whole run; torch is not needed."""

    url: str | None = None

    def __init__(self, run: Run) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise _not_installed("tensorboard") from error
        folder = run.path(FOLDER) / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder), flush_secs=5)

    def log(self, event: Event) -> None:
        """Write the metrics as scalars, at the time they were measured."""
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in metrics(event).items()]
        wall_s = datetime.fromisoformat(event["wall"]).timestamp()
        summary = self._summary(value=values)
        self._writer.add_event(self._event(wall_time=wall_s, step=event["step"] or 0, summary=summary))

    def finish(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A W&B run, named like ours; offline unless the user has set WANDB_MODE."""

    def __init__(self, run: Run) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb
        except ImportError as error:
            raise _not_installed("wandb") from error
        about = run.about
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

    def log(self, event: Event) -> None:
        """Log the metrics against hark's own step."""
        self._run.log({**metrics(event), "step": event["step"] or 0})

    def finish(self) -> None:
        """Wait until W&B has written, or sent, everything."""
        self._run.finish()


BACKENDS: Mapping[str, Callable[[Run], Backend]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def main() -> None:
    """Follow a run until the standard input is closed, which the death of the training does too."""
    parser = argparse.ArgumentParser(prog="python -m hark.tracking", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", choices=sorted(BACKENDS), required=True)
    options = parser.parse_args()
    os.nice(10)  # the training goes first
    follow(Run.open(options.run), to=options.to, open_backend=BACKENDS[options.to], ended=standard_input_closed)


def standard_input_closed() -> bool:
    """Wait for the end of standard input, but no longer than until the next look at the log."""
    readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
    return bool(readable)


def _start(run: Run, to: str, command: Sequence[str]) -> subprocess.Popen[bytes] | None:
    try:
        folder = run.path(FOLDER)
        folder.mkdir(exist_ok=True)
        (folder / f"{to}.json").unlink(missing_ok=True)
        with (folder / f"{to}.log").open("wb") as output:
            # A session of its own, so that neither Ctrl-C nor the end of the terminal reaches it.
            return subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError:
        return None


def _part(run: Run, to: str, process: subprocess.Popen[bytes] | None) -> None:
    """Let the tracker finish, and log what became of it if that is not clear."""
    working = False
    if process is not None and process.stdin is not None:
        process.stdin.close()
        try:
            process.wait(PARTING_S)
        except subprocess.TimeoutExpired:
            working = True
    state, safe = _progress(run, to)
    history = run.event_log.history()
    if state == "finished":
        return
    count = f"{_with_metrics(history[safe:])} of {_with_metrics(history)} events"
    replay = f"hark track push {run.folder} --to {to}"
    if working:
        message = f"{to} has yet to confirm {count}; if they do not arrive, replay with: {replay}"
        run.log("note", step=None, message=message)
    else:
        message = f"{to} died ({_last_words(run, to)}) and lost up to {count}; replay with: {replay}"
        run.log("warning", step=None, message=message)


def _note(run: Run, to: str, **progress: object) -> None:
    run.write_json(f"{FOLDER}/{to}.json", progress)


def _progress(run: Run, to: str) -> tuple[str, int]:
    """The (state, events safe) that the tracker's process noted last."""
    try:
        progress: dict[str, Any] = run.read_json(f"{FOLDER}/{to}.json")
        return progress["state"], progress["events"]
    except RunError:
        return "not begun", 0


def _last_words(run: Run, to: str) -> str:
    try:
        lines = (run.path(FOLDER) / f"{to}.log").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "without a word")


def _with_metrics(events: Sequence[Event]) -> int:
    return sum(bool(metrics(event)) for event in events)


def _not_installed(package: str) -> UsageError:
    return UsageError(f'{package} is not installed; install it with: pip install "hark-kws[track]"')


if __name__ == "__main__":
    main()
