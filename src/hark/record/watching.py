"""A run seen from outside: its events as they come, in lines; nothing here writes to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from hark.record.events import Event
from hark.record.runs import Run
from hark.record.status import Status, printable

POLL_S = 0.5
# What every line has in its place, and the text that needs no name before it.
_PLACED = ("kind", "step", "time_s", "wall")
_TEXTS = ("message", "reason", "text")


def attach(run: str | os.PathLike[str]) -> Run:
    """The run in a folder, live or not; in a notebook it shows its state, its curves and the last warnings.

    torch is not needed.

    Raises:
        RunError: the folder is not a run.
    """
    return Run.open(Path(run))


def follow(run: Run, *, pause: Callable[[float], None] = time.sleep) -> Iterator[list[Event]]:
    """The events of a run, those there are and then those that come, until nobody is at work in it any more.

    Args:
        run: the run; it does not notice.
        pause: waits so many seconds before the next look.
    """
    offset, was_stopped = 0, False
    while True:
        state = run.status.state  # asked first: whoever has let go had written everything before
        events, offset = run.event_log.since(offset)
        yield events
        # A command takes the run twice when it starts, and lets go between: a second look.
        if state != "live" and (state != "stopped" or was_stopped):
            return
        was_stopped = state == "stopped"
        pause(POLL_S)


def line(event: Event) -> str:
    """An event as one line: when, what, at which step, and all it says."""
    step = "-" if event["step"] is None else str(event["step"])
    told = {name: value for name, value in event.items() if name not in _PLACED}
    return "  ".join((_clock(event), f"{printable(event['kind']):<10}", f"{step:>7}", *_said(told))).rstrip()


def _said(values: Mapping[str, object]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _said(value)
        elif name in _TEXTS:
            yield printable(value)
        else:
            yield f"{printable(name)} {f'{value:.4g}' if isinstance(value, float) else printable(value)}"


def summary(status: Status) -> str:
    """How a run stands, in one line for the eye: state, newest figures, pace, remarks."""
    figures = {
        "loss {:.4f}": status.latest.get("train/loss"),
        "validation 1-AUC {:.5f}": status.latest.get("validation/one_minus_auc"),
    }
    told = (form.format(value) for form, value in figures.items() if value is not None)
    return "  ".join(part for part in (str(status), *told, *status.pace, status.remarks) if part)


def _clock(event: Event) -> str:
    """Local time of day, for someone who sits before it."""
    try:
        return datetime.fromisoformat(event["wall"]).astimezone().strftime("%H:%M:%S")
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "--:--:--"
