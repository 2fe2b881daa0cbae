"""What a process may use: the least of what the machine has and of what its control groups allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from hark import resources
from hark.resources import cpu_quota, memory_limit, usable_cores


def control_groups(top: Path, files: dict[str, str], membership: str) -> dict[str, Path]:
    """A tree of control groups as the kernel shows it, and the file that says where this process is."""
    for name, content in files.items():
        (top / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (top / "cgroup" / name).write_text(content + "\n")
    (top / "membership").write_text(membership)
    return {"groups": top / "cgroup", "membership": top / "membership"}


VERSION_2 = "0::/service/job\n"
VERSION_1 = "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/docker/1\n"


@pytest.mark.parametrize(
    ("files", "membership", "quota"),
    [
        ({"service/job/cpu.max": "150000 100000"}, VERSION_2, 1.5),
        ({"service/job/cpu.max": "max 100000"}, VERSION_2, None),
        ({"service/job/cpu.max": "max 100000", "service/cpu.max": "50000 100000"}, VERSION_2, 0.5),
        ({"service/job/cpu.max": "400000 100000", "service/cpu.max": "200000 100000"}, VERSION_2, 2.0),
        ({"cpu.max": "100000 100000"}, VERSION_2, 1.0),  # in a container: the group is mounted as the root
        ({"cpu.max": "nonsense"}, VERSION_2, None),
        ({"other/cpu.max": "50000 100000"}, VERSION_2, None),
        ({"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "50000", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000"},
         VERSION_1, 0.5),
        ({"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, VERSION_1, None),
        ({}, "", None),
    ],
)  # fmt: skip
def test_the_quota_is_the_smallest_of_the_groups_above(
    tmp_path: Path, files: dict[str, str], membership: str, quota: float | None
) -> None:
    assert cpu_quota(**control_groups(tmp_path, files, membership)) == quota


@pytest.mark.parametrize(
    ("files", "membership", "limit"),
    [
        ({"service/job/memory.max": "1073741824", "service/memory.max": "max"}, VERSION_2, 1 << 30),
        ({"service/job/memory.max": "max", "memory.max": "2147483648"}, VERSION_2, 2 << 30),
        ({"memory/docker/1/memory.limit_in_bytes": "1000", "memory/memory.limit_in_bytes": "9223372036854771712"},
         VERSION_1, 1000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, VERSION_1, None),
        ({}, VERSION_1, None),
    ],
)  # fmt: skip
def test_the_limit_of_memory_is_the_smallest_of_the_groups_above(
    tmp_path: Path, files: dict[str, str], membership: str, limit: int | None
) -> None:
    assert memory_limit(**control_groups(tmp_path, files, membership)) == limit


def test_where_there_are_no_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    nowhere = {"groups": tmp_path / "none", "membership": tmp_path / "none"}
    assert (cpu_quota(**nowhere), memory_limit(**nowhere)) == (None, None)


@pytest.mark.parametrize(
    ("cores", "allowed", "quota", "usable"),
    [(64, 64, None, 64), (64, 8, None, 8), (64, 64, 2.5, 2), (64, 2, 8.0, 2), (64, 64, 0.3, 1)],
)
def test_threads_are_made_for_the_cores_whose_time_may_be_used(
    monkeypatch: pytest.MonkeyPatch, cores: int, allowed: int, quota: float | None, usable: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(resources, "cpu_quota", lambda: quota)
    found = resources.processor()
    assert (found.cores, found.allowed, found.quota) == (cores, allowed, quota)
    assert usable_cores() == usable


def test_this_machine_has_memory_and_may_open_files() -> None:
    found = resources.memory()
    assert found.total is None or 0 < (found.available or 0) <= found.total
    assert resources.open_files_limit() > 10


def test_a_system_without_shared_memory_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "SHARED_MEMORY", tmp_path / "none")
    assert resources.shared_memory_bytes() is None
    monkeypatch.setattr(resources, "SHARED_MEMORY", tmp_path)
    assert (resources.shared_memory_bytes() or 0) > 0
