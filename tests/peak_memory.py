"""How much memory something takes at most, so that a test can say that what a file claims is never allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def allocating_at_most(most_bytes: int) -> Iterator[None]:
    """Fail where resident memory grows by more than `most_bytes` at any moment; only Linux can be asked."""
    if not _RESET.exists():
        yield
        return
    _RESET.write_text("5")  # the peak so far is forgotten
    before = _kilobytes("VmRSS")
    yield
    grown = (_kilobytes("VmHWM") - before) * 1024
    assert grown <= most_bytes, f"took {grown:,} bytes more, expected at most {most_bytes:,}"


def _kilobytes(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
