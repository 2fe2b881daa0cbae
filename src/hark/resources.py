"""What this process may use of the machine: cores, memory, open files, by the machine's size and its limits.

What cannot be found out is None.
"""

from __future__ import annotations

import os
import platform
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
SHARED_MEMORY = Path("/dev/shm")
_NO_LIMIT = 1 << 60  # what version 1 of control groups says where there is none


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Cores: those there are, those this process may run on, and how many's time its control group may use."""

    name: str
    cores: int
    allowed: int
    quota: float | None
    threads_wanted: str | None
    """OMP_NUM_THREADS."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes: of the machine, free for use now, and the limit of the control group."""

    total: int | None
    available: int | None
    limit: int | None


def processor() -> Processor:
    """The processor."""
    cores = os.cpu_count() or 1
    return Processor(
        name=processor_name(),
        cores=cores,
        allowed=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        quota=cpu_quota(),
        threads_wanted=os.environ.get("OMP_NUM_THREADS"),
    )


def processor_name() -> str:
    """What the processor calls itself."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"


def usable_cores() -> int:
    """Cores whose time this process may use: by its affinity, and by the limit of its container."""
    found = processor()
    return max(1, int(min(found.allowed, found.quota or found.allowed)))


def memory() -> Memory:
    """The main memory."""
    lines: dict[str, int] = {}
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            lines[name] = int(amount.split()[0]) * 1024
    return Memory(total=lines.get("MemTotal"), available=lines.get("MemAvailable"), limit=memory_limit())


def shared_memory_bytes() -> int | None:
    """The size of /dev/shm, which others than hark hand over batches in; None where there is none."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_frsize * found.f_blocks


def open_files_limit() -> int:
    """How many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def cpu_quota(*, groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """How many cores' time the control groups of this process allow; None where they set no limit."""
    quotas = []
    for folder in _groups("cpu", groups, membership):
        with suppress(OSError, ValueError):
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
            if float(quota) > 0:
                quotas.append(float(quota) / float(period))
    return min(quotas, default=None)


def memory_limit(*, groups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """How many bytes the control groups of this process allow; None where they set no limit."""
    limits = []
    for folder in _groups("memory", groups, membership):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                limits.append(int((folder / name).read_text()))
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def _groups(controller: str, groups: Path, membership: Path) -> Iterator[Path]:
    """The folders of a controller's groups, from the one this process is in up to the root of all.

    Lines of the membership file are `number:controllers:/path`; without controllers it is version 2's.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = groups
        elif controller in controllers.split(","):
            root = groups / controllers
        else:
            continue
        own = root / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))
