"""Small files that no death can tear, and the one way hark writes JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hark.errors import DiskFull, RunError, UsageError

TEMPORARY = ".tmp-"
LARGEST_SMALL_BYTES = 4 << 20
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_WAYS_OUT = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "give yourself the right to it",
    errno.EPERM: "give yourself the right to it",
    errno.ENOENT: "make its folder, or put it back where it was,",
    errno.EISDIR: "choose the name of a file",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "choose another name",
}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, after any death, it holds either what it held before or all of `data`.

    Raises:
        RunError: it could not be written; the file is as it was.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write piece by piece, which takes the name `path`, durably, when it is whole.

    Raises:
        RunError: it could not be written; what had the name is as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    with explained(path):
        try:
            with temporary.open("wb") as file:
                yield file
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `path` when it is whole.

    Raises:
        UsageError: there is something at `path` already.
        RunError: it could not be made; what was written is gone again.
    """
    path = path.absolute()
    if path.is_symlink() or children(path):
        raise UsageError(f"{path}: is not empty, expected a new or an empty folder; choose another name")
    make_folder(path.parent)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    with explained(path):
        try:
            temporary.mkdir()
            yield temporary
            temporary.replace(path)
            fsync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def read_small(path: Path, *, largest_bytes: int = LARGEST_SMALL_BYTES) -> bytes:
    """The bytes of a small file that may come from anywhere: no pipe can block, no size can fill the memory.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, or larger than that.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    with path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"more than {largest_bytes:,} bytes")
    return content


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in `folder`."""
    for path in children(folder):
        if path.name.startswith(TEMPORARY):
            with explained(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, so that they would survive a power loss.

    Raises:
        RunError: it could not be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with explained(path):
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            fsync(folder.parent)


def children(folder: Path) -> list[Path]:
    """What lies in a folder, in order; nothing where there is no folder.

    Unlike `Path.glob`, which finds nothing in a folder that may not be read, this raises.

    Raises:
        RunError: it could not be read.
    """
    with explained(folder):
        try:
            return sorted(folder.iterdir())
        except FileNotFoundError:
            return []


def fsync(path: Path) -> None:
    """Return when the file's bytes, or the folder's list of names, would survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into a `RunError` with path, cause and the way out.

    Raises:
        DiskFull: no space or quota is left.
        RunError: anything else.
    """
    try:
        yield
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, "check the disk")
        kind = DiskFull if error.errno in _FULL else RunError
        raise kind(f"{path}: {error.strerror or error}; {way_out} and run the same command again") from error


def to_json(value: object, *, indent: int | None = None) -> str:
    """Write a value as strictly valid JSON.

    NaN and ±Infinity, which JSON does not have, become strings that `from_json` reads back; NumPy
    values become numbers and lists; anything else that JSON does not know becomes its `str`.
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Read what `to_json` wrote; raise `ValueError` where it is no JSON."""
    try:
        return _revived(json.loads(text, object_pairs_hook=_without_twins))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def digest(value: object) -> str:
    """The SHA-256 of a value's JSON in hex, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return next(name for name, number in _NOT_FINITE.items() if str(number) == str(value))
    if isinstance(value, str | int | float | None):
        return value
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        return {_whole(key): _revived(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return _NOT_FINITE.get(_whole(value), value) if isinstance(value, str) else value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys come once: of two, different readers would take different ones."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key comes twice")
    return found


def _whole(text: str) -> str:
    """The text itself; half a character, as JSON can name one, could be written nowhere and is a `ValueError`."""
    if not text.isascii():
        text.encode()
    return text
