"""The checkpoint store: whatever dies, the newest checkpoint that was saved whole is found again.

A checkpoint is a folder of files beside a `MANIFEST.json` with their sizes and SHA-256. It is written
under a temporary name in the same parent, made durable, and takes its own name only then:

    make_folder → write_files → fsync_files → write_manifest → fsync_folder → rename → fsync_parent

There is no pointer to the latest one: it is the newest folder that verifies. Tests set
`HARK_FAULT=after:<one of these names>` to have the process killed right there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import signal
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hark.errors import NoValidCheckpoint, RunError, UsageError
from hark.files import TEMPORARY, children, digest, explained, fsync, remove_leftovers, to_json

MANIFEST = "MANIFEST.json"
LARGEST_MANIFEST = 1 << 20
_FOLDER_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")
_SIGNS_OF_DAMAGE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EIO}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose every byte has been verified; `score` is lower when better."""

    step: int
    files: Mapping[str, bytes]
    info: Mapping[str, object]
    score: float | None = None


@dataclass(frozen=True)
class Damage:
    """A checkpoint that does not verify; `path` is where it lies now."""

    path: Path
    reason: str


Listener = Callable[[Damage], None]


class CheckpointStore:
    """The checkpoints of one run: the newest `keep` stay, to go on from, and the best one.

    A training goes on from the newest and ends with its last weights; the best is for people, who may want to
    begin another training with it where this one went wrong later on (`hark train --weights-only-from`).

    Only the process that holds the run's lock may save or ask for `latest`, which sets damaged ones aside.

    Args:
        folder: where the checkpoints lie; made at the first save.
        keep: how many of the newest stay, at least 1.
        on_damage: called for every checkpoint that had to be passed over.
    """

    def __init__(self, folder: Path, *, keep: int = 3, on_damage: Listener | None = None) -> None:
        if keep < 1:
            raise UsageError(f"keep is {keep}, expected at least 1: the newest checkpoint must stay")
        self.folder = folder
        self.keep = keep
        self.on_damage = on_damage

    def save(
        self, step: int, files: Mapping[str, bytes], *, info: Mapping[str, object], score: float | None = None
    ) -> Path:
        """Save a checkpoint durably, let go of those no longer needed, and return its folder.

        Args:
            step: training steps done; never less than that of the newest checkpoint.
            files: plain file names and what they hold.
            info: what to know about it (digest of the configuration, …), as JSON can say it.
            score: a metric on validation data, lower is better; NaN counts as none.

        Raises:
            RunError: it could not be saved (disk full, no permission, …); the older ones are untouched.
        """
        for name in files:
            if not _is_plain(name):
                raise UsageError(f"checkpoint file {name!r}: expected a plain name other than {MANIFEST}")
        finite_score = float(score) if score is not None and math.isfinite(score) else None
        manifest = _Manifest(step, finite_score, info, {name: _stamp(data) for name, data in files.items()})
        with explained(self.folder):
            target = self._free_folder(step)
            _write_durably(target, files, manifest)
            try:
                _read(target)
            except _Damaged as damage:
                raise RunError(f"{target}: just written, yet {damage}; check the disk") from None
            self._let_go()
        return target

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint that verifies; None where nothing was ever saved.

        Newer ones that do not verify are renamed `*.corrupt` and reported to `on_damage`.

        Raises:
            NoValidCheckpoint: there are checkpoints, but all are damaged; nothing was renamed.
            RunError: one could not be read for a reason that is no damage, such as a missing right.
        """
        return self._first_valid(reversed(self.folders()))

    def best(self) -> Path | None:
        """Return the folder of the checkpoint with the lowest score, the newest of several; None without scores.

        Nothing but scores is read: `read_checkpoint` tells whether it is intact.
        """
        scores = {folder: score for folder in self.folders() if (score := _score(folder)) is not None}
        return min(reversed(scores), key=scores.__getitem__, default=None)

    def folders(self) -> list[Path]:
        """The checkpoints' folders, oldest first; none of them is read."""
        found = [path for path in children(self.folder) if _FOLDER_NAME.fullmatch(path.name)]
        return sorted(found, key=_order)

    def steps(self) -> list[int]:
        """The steps of the checkpoints that are there, oldest first; none of them is read."""
        return [_order(folder)[0] for folder in self.folders()]

    def clean(self) -> None:
        """Remove what an interrupted save left behind."""
        remove_leftovers(self.folder)

    def _free_folder(self, step: int) -> Path:
        """A name for the new checkpoint: a step that is saved again gets a folder beside the first."""
        newest, attempt = max((_order(folder) for folder in self.folders()), default=(-1, 0))
        if step < newest:
            raise RunError(f"{self.folder}: step {step} is before the saved step {newest}; start a new run")
        return self.folder / (f"step-{step:08d}-{attempt + 1}" if step == newest else f"step-{step:08d}")

    def _first_valid(self, folders: Iterable[Path]) -> Checkpoint | None:
        damaged: list[Damage] = []
        for folder in folders:
            try:
                checkpoint = _read(folder)
            except _Damaged as reason:
                damaged.append(Damage(folder, str(reason)))
                continue
            for damage in damaged:
                self._set_aside(damage)
            return checkpoint
        corrupt = [path for path in children(self.folder) if path.suffix == ".corrupt"]
        damaged += [Damage(path, "set aside before") for path in corrupt]
        if not damaged:
            return None
        told = "; ".join(f"{damage.path.name}: {damage.reason}" for damage in damaged)
        way_out = "put a good copy back, or start a run of another name"
        raise NoValidCheckpoint(f"{self.folder}: no valid checkpoint ({told}); {way_out}")

    def _set_aside(self, damage: Damage) -> None:
        folder, number = damage.path, 1
        while (target := folder.with_name(f"{folder.name}.{number}.corrupt")).exists():
            number += 1
        with explained(folder):
            folder.rename(target)
        if self.on_damage is not None:
            self.on_damage(Damage(target, damage.reason))

    def _let_go(self) -> None:
        best = self.best()
        for folder in self.folders()[: -self.keep]:
            if folder != best:
                # Renamed first: a kill while deleting must not leave half a checkpoint under its name.
                shutil.rmtree(folder.rename(folder.with_name(TEMPORARY + folder.name)))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint wherever it lies, and leave it as it is.

    Raises:
        NoValidCheckpoint: it is none, or is damaged.
        RunError: it may not be read.
    """
    try:
        if not _FOLDER_NAME.fullmatch(folder.name):
            raise _Damaged("expected a folder named step-…")
        return _read(folder)
    except _Damaged as reason:
        raise NoValidCheckpoint(f"{folder}: no valid checkpoint ({reason}); choose another one") from None


class _Damaged(Exception):
    """A checkpoint does not verify; the message is the reason."""


@dataclass(frozen=True)
class _Manifest:
    """What a checkpoint must consist of; `files` maps names to (bytes, SHA-256)."""

    step: int
    score: float | None
    info: Mapping[str, object]
    files: Mapping[str, tuple[int, str]]

    def encode(self) -> bytes:
        body = {
            "step": self.step,
            "score": self.score,
            "info": self.info,
            "files": {name: {"bytes": size, "sha256": sha256} for name, (size, sha256) in self.files.items()},
        }
        return (to_json({"manifest": body, "sha256": digest(body)}, indent=1) + "\n").encode()

    @classmethod
    def decode(cls, raw: bytes) -> _Manifest:
        try:
            body = json.loads(raw)["manifest"]
            score = None if body["score"] is None else float(body["score"])
            files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in body["files"].items()}
            manifest = cls(int(body["step"]), score, dict(body["info"]), files)
            # Whatever was changed, be it a space or a type, writing what was understood gives other bytes.
            intact = manifest.encode() == raw
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            intact = False
        if not intact:
            raise _Damaged(f"{MANIFEST} does not match its own checksum")
        return manifest


def _write_durably(target: Path, files: Mapping[str, bytes], manifest: _Manifest) -> None:
    """Take the seven steps; a failure on the way leaves nothing behind."""
    temporary = target.with_name(TEMPORARY + target.name)
    if not target.parent.is_dir():
        target.parent.mkdir()  # and none above it: a run that was moved away is not begun again in its place
        fsync(target.parent.parent)
    try:
        temporary.mkdir()
        _reached("make_folder")
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        _reached("write_files")
        for name in files:
            fsync(temporary / name)
        _reached("fsync_files")
        (temporary / MANIFEST).write_bytes(manifest.encode())
        fsync(temporary / MANIFEST)
        _reached("write_manifest")
        fsync(temporary)
        _reached("fsync_folder")
        temporary.rename(target)
        _reached("rename")
        fsync(target.parent)
        _reached("fsync_parent")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reached(point: str) -> None:
    if os.environ.get("HARK_FAULT") == f"after:{point}":
        os.kill(os.getpid(), signal.SIGKILL)


def _read(folder: Path) -> Checkpoint:
    """Read a checkpoint; what is returned is what was verified, byte for byte."""
    manifest = _Manifest.decode(_read_file(folder / MANIFEST, most_bytes=LARGEST_MANIFEST))
    if manifest.step != _order(folder)[0]:
        raise _Damaged(f"its manifest is of step {manifest.step}")
    files: dict[str, bytes] = {}
    for name, (size, sha256) in manifest.files.items():
        if not _is_plain(name):
            raise _Damaged(f"its manifest names {name!r}, which is not a plain file name")
        files[name] = _read_file(folder / name, most_bytes=size)
        if len(files[name]) != size:
            raise _Damaged(f"{name} has {len(files[name])} bytes, expected {size}")
        if _stamp(files[name]) != (size, sha256):
            raise _Damaged(f"{name} has changed: its SHA-256 is not the one in the manifest")
    return Checkpoint(manifest.step, files, manifest.info, manifest.score)


def _read_file(path: Path, *, most_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _Damaged(f"{path.name} is not a file")
        if status.st_size > most_bytes:
            raise _Damaged(f"{path.name} has {status.st_size} bytes, expected at most {most_bytes}")
        return path.read_bytes()
    except OSError as error:
        if error.errno in _SIGNS_OF_DAMAGE:
            raise _Damaged(f"{path.name}: {error.strerror}") from None
        # Not being allowed to read is no damage: falling back would throw good work away.
        raise RunError(f"{path}: {error.strerror}; make it readable and run the same command again") from error


def _score(folder: Path) -> float | None:
    try:
        return _Manifest.decode(_read_file(folder / MANIFEST, most_bytes=LARGEST_MANIFEST)).score
    except _Damaged:
        return None


def _order(folder: Path) -> tuple[int, int]:
    """The (step, attempt) in a checkpoint's name."""
    step, _, attempt = folder.name.removeprefix("step-").partition("-")
    return int(step), int(attempt or 1)


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", "..", MANIFEST) and "\0" not in name


def _stamp(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()
