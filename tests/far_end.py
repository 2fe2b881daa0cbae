"""The far end of a helper that does whatever it is told, however bad: what `test_confinement.py` asks."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hark.confinement import Answer, Limits, serve
from hark.errors import HarkError

LIMITS = Limits(
    memory_bytes=1 << 30, answer_s=float(os.environ.get("FAR_END_ANSWER_S", "10")), answer_bytes=1 << 20
)


def sound(count: int) -> bytes:
    """So many bytes, no two neighbours alike."""
    return (bytes(range(256)) * (count // 256 + 1))[:count]


def answer(question: dict[str, Any]) -> Answer:
    """Do each thing that is asked and tell what came of it; `bytes` is how many raw bytes go with it."""
    told = {name: _DEEDS[name](value) for name, value in question.items() if name != "bytes"}
    return told, sound(question.get("bytes", 0))


def _refuse(why: str) -> None:
    raise HarkError(why)


def _fork_and_hang(pid_file: str) -> None:
    if child := os.fork():
        Path(pid_file).write_text(str(child))
    time.sleep(60)


_DEEDS: dict[str, Callable[[Any], Any]] = {
    "echo": lambda value: value,
    "pid": lambda _: os.getpid(),
    "limits": lambda names: [resource.getrlimit(getattr(resource, name))[0] for name in names],
    "sleep_s": time.sleep,
    "exit": sys.exit,
    "kill": lambda number: os.kill(os.getpid(), number),
    "read_address": ctypes.string_at,
    "allocate": lambda count: len(bytearray(count)),
    "divide_by": lambda number: 1 / number,
    "refuse": _refuse,
    "print": lambda text: print(text, flush=True),  # noqa: T201
    "write_to_pipe": lambda text: os.write(3, text.encode()),
    "fork_and_hang": _fork_and_hang,
}

if __name__ == "__main__":
    serve(answer, LIMITS)
