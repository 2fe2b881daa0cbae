"""Small files that no death can tear, and the one way hark writes JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hark.errors import RunError

TEMPORARY = ".tmp-"
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


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that, after any death, it holds either what it held before or all of `data`.

    Raises:
        RunError: it could not be written; the file is as it was.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
    with explained(path):
        try:
            temporary.write_bytes(data)
            fsync(temporary)
            temporary.replace(path)
            fsync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed process left in `folder`."""
    for path in children(folder):
        if path.name.startswith(TEMPORARY):
            with explained(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


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
    """Turn an error of the operating system into a `RunError` with path, cause and the way out."""
    try:
        yield
    except OSError as error:
        way_out = _WAYS_OUT.get(error.errno or 0, "check the disk")
        raise RunError(f"{path}: {error.strerror or error}; {way_out} and run the same command again") from error


def to_json(value: object, *, indent: int | None = None) -> str:
    """Write a value as strictly valid JSON.

    NaN and ±Infinity, which JSON does not have, become strings that `from_json` reads back; NumPy
    values become numbers and lists; anything else that JSON does not know becomes its `str`.
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """Read what `to_json` wrote; raise `ValueError` where it is no JSON."""
    try:
        return _revived(json.loads(text))
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
        return {key: _revived(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
