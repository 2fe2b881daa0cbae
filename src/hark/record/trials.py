"""What this machine does when it is tried: disk, clock, GPU, sound libraries, synthesis, network.

Nothing is judged here. Some of the answers may take long or never come: ask beside each other, with a limit.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hark.files import TEMPORARY, explained
from hark.record.locking import held
from hark.record.store import CheckpointStore

CLOCK_WATCHED_S, CLOCK_APART_S = 0.5, 0.01
SAVE_BYTES = 300_000  # a checkpoint of the base network
_SAVES = 3
_ASK_TORCH = """
import json, torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
gpu = gpu or ("Apple GPU" if torch.backends.mps.is_available() else None)
print(json.dumps({"build": torch.version.cuda or torch.version.hip, "gpu": gpu}))
"""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What torch says of a GPU, and what else tells of one."""

    torch: str | None
    """The version that is installed."""
    loads: bool | None
    """Whether it could be loaded; None where that took too long."""
    build: str | None
    """The version of CUDA or ROCm that torch was built for."""
    gpu: str | None
    complaint: str
    """The last line that torch wrote when it was asked."""
    nodes: int
    """NVIDIA's device files."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True, kw_only=True)
class Disk:
    """The place for runs: bytes and files that still fit, its file system, seconds that a save takes."""

    folder: Path
    file_system: str
    free_bytes: int
    free_files: int
    save_s: float


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The time of day, and how far it went while so many true seconds passed."""

    now: datetime
    passed_s: float
    true_s: float


@dataclass(frozen=True, kw_only=True)
class Audio:
    """The sound libraries' versions, and what went wrong in a round trip through them."""

    libsndfile: str
    soxr: str
    faults: tuple[str, ...]


def gpu(*, limit_s: float) -> Gpu:
    """What torch, loaded in a process of its own, says of a GPU within so many seconds."""
    version, loads, complaint = installed("torch"), None, ""
    answer: dict[str, str | None] = {}
    if version is not None:
        asked = [sys.executable, "-P", "-c", _ASK_TORCH]
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(asked, capture_output=True, text=True, timeout=limit_s)
            loads = done.returncode == 0
            answer = json.loads(done.stdout) if loads else {}
            complaint = (done.stderr.strip().splitlines() or [""])[-1].strip()
    return Gpu(
        torch=version,
        loads=loads,
        build=answer.get("build"),
        gpu=answer.get("gpu"),
        complaint=complaint,
        nodes=len(list(Path("/dev").glob("nvidia[0-9]*"))),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def disk(place: Path) -> Disk:
    """The place for runs, or where it would be made: a lock is taken and checkpoints are saved there, for trial.

    Raises:
        RunError: it cannot be written to, or cannot do what runs need.
    """
    folder = next(path for path in (place.absolute(), *place.absolute().parents) if path.is_dir())
    free = os.statvfs(folder)
    with explained(folder):
        trial = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}doctor-", dir=folder))
    try:
        took_s = []
        with held(trial / "lock"):
            store = CheckpointStore(trial / "checkpoints")
            for step in range(_SAVES):
                begun = time.monotonic()
                store.save(step, {"weights": os.urandom(SAVE_BYTES)}, info={})
                took_s.append(time.monotonic() - begun)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return Disk(
        folder=folder,
        file_system=file_system(folder),
        free_bytes=free.f_bavail * free.f_frsize,
        free_files=free.f_favail,
        save_s=statistics.median(took_s),
    )


def clock() -> Clock:
    """The clock, watched for a moment."""
    now, begun = _both_clocks()
    time.sleep(CLOCK_WATCHED_S)
    later, ended = _both_clocks()
    return Clock(now=now, passed_s=(later - now).total_seconds(), true_s=ended - begun)


def _both_clocks() -> tuple[datetime, float]:
    """The time of day, and of the clock that cannot be set, at one moment: again if this process was held up."""
    while True:
        before, now = time.monotonic(), datetime.now(UTC)
        if time.monotonic() - before < CLOCK_APART_S:
            return now, before


def audio() -> Audio:
    """The sound libraries, tried on a tenth of a second."""
    import numpy as np
    import soundfile
    import soxr

    sound = (np.arange(4410) * 7 % 2000).astype(np.int16)
    faults = []
    for kind in ("WAV", "FLAC"):
        file = io.BytesIO()
        soundfile.write(file, sound, 44_100, format=kind, subtype="PCM_16")
        file.seek(0)
        read, rate = soundfile.read(file, dtype="int16")
        if rate != 44_100 or not np.array_equal(read, sound):
            faults.append(f"{kind} comes back otherwise than it was written")
    if len(soxr.resample(sound, 44_100, 16_000)) != 1600:
        faults.append("soxr resamples to a wrong length")
    return Audio(libsndfile=soundfile.__libsndfile_version__, soxr=soxr.__version__, faults=tuple(faults))


def installed(package: str) -> str | None:
    """The version of a package, without loading it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def required() -> dict[str, str]:
    """Package → the oldest version that hark says will do."""
    try:
        lines = importlib.metadata.requires("hark-kws") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def voices(*, limit_s: float) -> int:
    """The number of espeak-ng's voices, asked of it.

    Raises:
        SynthesisError: it is not there, or does not answer.
    """
    from hark.sound._espeak import Espeak

    with Espeak(timeout_s=limit_s) as espeak:
        return len(espeak.voices)


def unreachable(address: str, *, limit_s: float) -> str | None:
    """Why a server does not answer; None where it does, be it with an error.

    The name server has a limit of its own, which may be longer than `limit_s`.
    """
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=limit_s):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)


def file_system(folder: Path, *, mounts: Path = Path("/proc/self/mounts")) -> str:
    """The kind of file system that a folder is on, such as `ext4`, `nfs4`, `tmpfs`."""
    kind, longest = "unknown", -1
    with suppress(OSError):
        for line in mounts.read_text().splitlines():
            point, found = line.split()[1:3]
            if folder.is_relative_to(point) and len(point) >= longest:  # the later mount hides the earlier
                kind, longest = found, len(point)
    return kind
