"""What each tracker has of a run: computed from the event log and from what the tracker's feeder has noted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hark.errors import RunError
from hark.files import children
from hark.record.events import Event
from hark.record.locking import Holder, holder_of
from hark.record.runs import Run
from hark.record.status import number, printable
from hark.record.tracking import BACKENDS, FOLDER, metrics

_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a tracker has of a run.

    Attributes:
        tracker: a name in `BACKENDS`.
        events: how many the run has logged that have metrics.
        confirmed: how many of them are certainly with the tracker.
        holder: the process that is feeding it now.
        reason: why the last one ended early; empty where it did not, or could not say.
        url: where the tracker shows the run.
        log: what it wrote on the way.
        replay: the command that gives the tracker all of it.
    """

    tracker: str
    events: int
    confirmed: int
    holder: Holder | None
    reason: str
    url: str | None
    log: Path
    replay: str

    @property
    def lost(self) -> int:
        """Events that the tracker may not have, and that nobody is bringing to it any more."""
        return 0 if self.holder else max(0, self.events - self.confirmed)

    def __str__(self) -> str:
        if self.holder:
            return (
                f"{self.tracker} has {self.confirmed} of {self.events} events for certain; {self.holder} feeds it"
            )
        if not self.lost:
            return f"{self.tracker} has all {self.events} events"
        why = self.reason or f"ended without a word, see {self.log}"
        return f"{self.tracker} lost up to {self.lost} of {self.events} events ({why}); replay with: {self.replay}"


def standings(run: Run) -> list[Standing]:
    """What each tracker that was ever used for the run has of it, by name."""
    if not run.path(FOLDER).is_dir():
        return []
    names = {path.stem for path in children(run.path(FOLDER)) if path.suffix in (".json", ".log")}
    return [standing(run, name) for name in sorted(names & BACKENDS.keys())]


def standing(run: Run, tracker: str) -> Standing:
    """What one tracker has of the run."""
    noted = _noted(run, tracker)
    return Standing(
        tracker=tracker,
        events=sum(len(events) for events in Tail(run).news()),
        confirmed=int(number(noted.get("confirmed")) or 0),
        holder=holder_of(lock(run, tracker)),
        reason=printable(noted.get("reason", "")),
        url=None if noted.get("url") is None else printable(noted["url"]),
        log=run.path(FOLDER) / f"{tracker}.log",
        replay=replay_command(run, tracker),
    )


class Tail:
    """Reads the events of a run that have metrics, while the run may still be adding to them."""

    def __init__(self, run: Run) -> None:
        self._log = run.event_log
        self._offset = 0

    def news(self) -> Iterator[list[Event]]:
        """Those that were not read yet, some thousand at a time, so that any log fits into memory."""
        while True:
            events, end = self._log.since(self._offset, about_bytes=_READ_BYTES)
            if end == self._offset:
                return
            self._offset = end
            yield [event for event in events if metrics(event)]


def note(run: Run, tracker: str, **progress: object) -> None:
    """Note `confirmed`, `reason` or `url`, for reports and for the process that does the training."""
    run.write_json(_notes(tracker), {**_noted(run, tracker), **progress})


def _noted(run: Run, tracker: str) -> dict[str, Any]:
    """What was noted last; nothing where there is no note, or one that cannot be read."""
    with suppress(RunError):
        return run.read_json(_notes(tracker))
    return {}


def _notes(tracker: str) -> str:
    return f"{FOLDER}/{tracker}.json"


def lock(run: Run, tracker: str) -> Path:
    """The lock that is held by whoever feeds the tracker."""
    return run.path(FOLDER) / f"{tracker}.lock"


def replay_command(run: Run, tracker: str) -> str:
    """What gives the tracker all of the run, whatever it has seen of it before."""
    return f"hark track push {shlex.quote(str(run.folder))} --to {tracker}"
