"""Where a run was made: code, versions, machine and data, so that another one can be compared with it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from hark.resources import processor_name, usable_cores

_PACKAGES = ("hark-kws", "numpy", "torch", "soundfile")
_GIT_LIMIT_S = 30


def environment(*, data_digest: str | None = None) -> dict[str, object]:
    """Describe code, versions and machine as JSON can say it.

    Args:
        data_digest: the digest of the corpus that the run works on.
    """
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}, {processor_name()}",
        "cpu_count": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or usable_cores()),
        "data_digest": data_digest,
    }


def commit() -> str | None:
    """The commit of hark's own code, `-dirty` if changed; None where it is not in a git work tree."""
    here = Path(__file__)
    # An installed hark may lie inside somebody else's repository, which then does not track it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def differences(before: object, now: object, *, field: str = "") -> list[str]:
    """Name every field in which two configurations differ, as `training.rate: 0.1 there, 0.2 here`."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(before.keys() | now.keys())
            for line in differences(
                before.get(key, "nothing"),
                now.get(key, "nothing"),
                field=f"{field}.{key}" if field else str(key),
            )
        ]
    return [] if before == now else [f"{field}: {before} there, {now} here"]


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
