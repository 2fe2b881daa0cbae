"""Run directories: everything that one stage of an experiment did, wrote and was made from."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hark.errors import NoValidCheckpoint, RunError, UsageError
from hark.files import (
    children,
    explained,
    from_json,
    fsync,
    make_folder,
    read_small,
    remove_leftovers,
    to_json,
    write_atomically,
)
from hark.notices import say
from hark.record.environment import differences, environment
from hark.record.events import Event, EventLog
from hark.record.locking import Holder, held, holder_of
from hark.record.portrait import portrait
from hark.record.status import Status, ending, status_of
from hark.record.store import Checkpoint, CheckpointStore, Damage

ABOUT = "run.json"
CONFIG = "config.json"
ENVIRONMENT = "environment.json"
EVENTS = "events.jsonl"
LOCK = "lock"
MODEL_FILE = "model.safetensors"
PACKED_FILE = "model.hark"
OUTPUT = "output.log"
TRACKER = "tracker.json"
_NOTHING: Mapping[str, object] = MappingProxyType({})
_CODE = ("commit", "python", "packages")
# Facts of one start, not choices: they may differ when the same command is given again.
_NOT_COMPARED = {"name": None, "created": None, "tracker_url": None}


class Run:
    """One run directory; make it with `create`, `open` or `open_or_create`.

    Reading needs nothing; whoever writes does so inside `with run.locked():`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = CheckpointStore(folder / "checkpoints", on_damage=self._log_fallback)
        self.event_log = EventLog(folder / EVENTS)
        self._lock: os.stat_result | None = None

    @classmethod
    def create(
        cls, parent: Path, name: str, *, about: Mapping[str, object], config: Mapping[str, object] = _NOTHING
    ) -> Run:
        """Make a new run `name` in `parent`, or `name-2`, `name-3`, … where that is taken.

        Args:
            parent: made if needed.
            name: a plain folder name.
            about: setting, kind, group, fold, seed, parents: the fields of `run.json`.
            config: the resolved configuration.
        """
        if not name or Path(name).name != name or name.startswith("."):
            raise UsageError(f"run name {name!r}: expected a plain folder name")
        make_folder(parent)
        with explained(parent):
            for number in itertools.count(1):
                run = cls(parent / (name if number == 1 else f"{name}-{number}"))
                try:
                    run.folder.mkdir()
                    break
                except FileExistsError:
                    continue
            fsync(parent)
        with run.locked():
            run._describe(about, config)
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run that is there, to read it or to add to it."""
        if not (folder / ABOUT).is_file():
            raise RunError(f"{folder}: has no {ABOUT}, so it is not a run; list runs with: hark runs DIR")
        return cls(folder)

    @classmethod
    def open_or_create(
        cls, folder: Path, *, about: Mapping[str, object], config: Mapping[str, object] = _NOTHING
    ) -> Run:
        """Open the run that an earlier start of the same command made, or make it.

        Other code or other versions than those that made it are logged as a warning.

        Raises:
            RunError: it was made with another configuration; the message names the fields.
            RunBusy: another process is at work in it.
        """
        run = cls(folder)
        make_folder(folder)
        with run.locked():
            if run.path(ABOUT).exists():
                run._expect(about, config)
                run._note_other_code()
            elif strangers := {path.name for path in children(folder)} - {LOCK, CONFIG, OUTPUT}:
                raise RunError(f"{folder}: has no {ABOUT} but holds {min(strangers)}; choose an empty folder")
            else:
                run._describe(about, config)
        return run

    def __repr__(self) -> str:
        return f"<Run {str(self.folder)!r}: {self.status}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return portrait(self.folder.name, self.status, self.events())

    @property
    def about(self) -> dict[str, Any]:
        """The fields of `run.json`, `tracker_url` filled in where a tracker has given one."""
        tracker = self.read_json(TRACKER) if self.path(TRACKER).exists() else {}
        about = self.read_json(ABOUT)
        if not isinstance(about.get("name"), str):
            raise RunError(f"{self.path(ABOUT)}: holds no name; put a good copy back")
        return {**about, "tracker_url": tracker.get("url")}

    @property
    def name(self) -> str:
        """The name by which other runs and reports refer to this one."""
        name: str = self.about["name"]
        return name

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return dict(self.read_json(CONFIG))

    @property
    def is_finished(self) -> bool:
        """Whether the stage came to its end."""
        return any(event["kind"] == "finished" for event in self.events())

    @property
    def holder(self) -> Holder | None:
        """The process that is at work in it now."""
        return holder_of(self.path(LOCK))

    @property
    def is_live(self) -> bool:
        """Whether a process is at work in it now."""
        return self.holder is not None

    @property
    def status(self) -> Status:
        """How it stands: in words as text, in figures as fields."""
        is_live = self.is_live  # asked first: a run that ends meanwhile has logged so
        return status_of(self.events(), is_live=is_live)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process, and first mend what a killed one left behind.

        Raises:
            RunBusy: another process holds it; the message names its pid and host.
        """
        with held(self.path(LOCK)):
            remove_leftovers(self.folder)
            self.checkpoints.clean()
            self.event_log.mend()
            self._lock = self.path(LOCK).stat()
            try:
                yield
            finally:
                self._lock = None

    def require_held(self) -> None:
        """Return unless the folder that this process holds has been moved away, removed or replaced.

        Raises:
            RunError: it has.
        """
        if self._lock is None:
            return
        with explained(self.folder):
            try:
                is_there = os.path.samestat(self._lock, self.path(LOCK).stat())
            except FileNotFoundError:
                is_there = False
        if not is_there:
            raise RunError(
                f"{self.folder}: moved, removed or replaced while a process was at work in it; "
                "put it back where it was and run the same command again"
            )

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Hold the run as `locked` does, and log how the work ended if that is by an error or a signal."""
        with self.locked():
            try:
                yield
            except BaseException as error:
                with suppress(RunError):  # what ended it matters more than that it cannot be told
                    self.log("ended", step=None, **ending(error))
                raise

    def log(self, kind: str, *, step: int | None, **values: object) -> None:
        """Append one event.

        Args:
            kind: train, validation, warning, fallback, resumed, saved, finished, …
            step: training steps done; None for what belongs to no step and outlives any resume.
            values: metrics and notes, as JSON can say them; NaN and ±Infinity are fine.

        Raises:
            RunError: it could not be written; on a full disk it waits for space instead.
        """
        self.event_log.append(kind, step=step, **values)

    def finish(self) -> None:
        """Log that the stage came to its end, and return when that would survive a power loss.

        Raises:
            DiskFull: no space is left for it.
            RunError: it could not be written.
        """
        self.log("finished", step=None)
        self.event_log.flush()

    def events(self) -> list[Event]:
        """The events that count, in order; `event_log.history()` has those of abandoned attempts too."""
        return self.event_log.counting()

    def resume(self) -> Checkpoint | None:
        """Find where to go on, and log it: the newest valid checkpoint, or None to start from scratch.

        Raises:
            NoValidCheckpoint: checkpoints were saved, but there is none that verifies.
        """
        checkpoint = self.checkpoints.latest()
        events = self.events()
        if checkpoint is None and any(event["kind"] == "saved" for event in events):
            raise NoValidCheckpoint(
                f"{self.checkpoints.folder}: its checkpoints are gone, yet {EVENTS} tells of saved ones; "
                "put them back, or start a run of another name"
            )
        if events:
            self.log("resumed", step=checkpoint.step if checkpoint else 0)
        if checkpoint:
            say(f"{self.folder}: goes on from step {checkpoint.step}")
        return checkpoint

    def path(self, name: str) -> Path:
        """Where a file of this run lies."""
        return self.folder / name

    def write_json(self, name: str, content: object) -> None:
        """Write a JSON file of this run, whole or not at all."""
        write_atomically(self.path(name), (to_json(content, indent=2) + "\n").encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of this run, each of which holds one object."""
        path = self.path(name)
        try:
            if isinstance(content := from_json(read_small(path)), dict):
                return content
            raise ValueError("it is no object")
        except FileNotFoundError:
            raise RunError(f"{path}: not there; the stage that writes it has not run to its end") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: expected JSON ({error}); put a good copy back") from error

    def _describe(self, about: Mapping[str, object], config: Mapping[str, object]) -> None:
        self.write_json(CONFIG, config)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        # Last, because its presence makes the folder a run.
        self.write_json(ABOUT, {**about, "name": self.folder.resolve().name, "created": created})

    def _expect(self, about: Mapping[str, object], config: Mapping[str, object]) -> None:
        there, mine = self.read_json(ABOUT), from_json(to_json({**about, **_NOT_COMPARED}))
        changed = differences({key: there.get(key) for key in mine} | _NOT_COMPARED, mine)
        changed += differences(self.config, from_json(to_json(config)))
        if changed:
            way_out = "use that one, give this run another name, or remove the folder"
            raise RunError(f"{self.folder}: made with another configuration: {'; '.join(changed)}; {way_out}")

    def _note_other_code(self) -> None:
        if not self.path(ENVIRONMENT).exists():
            return
        before, now = self.read_json(ENVIRONMENT), environment()
        changed = [line for key in _CODE for line in differences(before.get(key), now[key], field=key)]
        if changed:
            message = f"begun by other code: {'; '.join(changed)}"
            self.log("warning", step=None, message=message)
            say(f"{self.folder}: warning: {message}")

    def _log_fallback(self, damage: Damage) -> None:
        self.log("fallback", step=None, checkpoint=damage.path.name, reason=damage.reason)
        say(
            f"{self.folder}: WARNING: a checkpoint is damaged ({damage.reason}); it is kept as "
            f"{damage.path.name}, and an older one is taken"
        )


def find_runs(paths: Iterable[Path]) -> list[Run]:
    """Find all runs in and below some folders, by name; hidden folders and folders in runs are not searched.

    Raises:
        RunError: one of the paths is not a folder.
    """
    found: dict[Path, Run] = {}
    for top in paths:
        if not top.is_dir():
            raise RunError(f"{top}: expected a folder with runs in it")
        for place, folders, files in os.walk(top):
            folders[:] = [] if ABOUT in files else [name for name in folders if not name.startswith(".")]
            if ABOUT in files:
                found.setdefault(Path(place).resolve(), Run(Path(place)))
    # Not by the name in `run.json`: a damaged one must not hide the others.
    return sorted(found.values(), key=lambda run: (run.folder.name, run.folder))
