"""soundfile with a decoder that some files hurt: what the decoding helper gets where this folder comes first.

A file that begins with one of the words below makes the decoder crash, hang, or take all memory.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _take_all_memory() -> None:
    taken = []
    while True:
        taken.append(bytes(1 << 24))  # asked for and not touched, so that it is quick


HARM: dict[bytes, Callable[[], object]] = {
    b"segfault": lambda: ctypes.string_at(0),
    b"sleeping": lambda: time.sleep(600),
    b"memories": _take_all_memory,
}

sys.path.remove(str(Path(__file__).parent))
del sys.modules["soundfile"]
real: Any = importlib.import_module("soundfile")
healthy = real.SoundFile


class SoundFile(healthy):
    """A sound file that harms its reader if it begins so."""

    def __init__(self, descriptor: int, *arguments: Any, **options: Any) -> None:
        HARM.get(os.pread(descriptor, 8, 0), lambda: None)()
        super().__init__(descriptor, *arguments, **options)


real.SoundFile = SoundFile
