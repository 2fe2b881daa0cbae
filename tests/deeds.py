"""What processes do in the tests of `do_all`: a module of its own, so that they load little."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hark.errors import RunError
from hark.notices import say


def tell(words: str) -> None:
    """On both outputs."""
    say(f"stderr: {words}")
    sys.stdout.write(f"stdout: {words}\n")
    sys.stdout.flush()


def wait_for(path: Path) -> None:
    """Until a file is there."""
    while not path.exists():
        time.sleep(0.01)


def fail(message: str) -> None:
    """With one of our errors."""
    raise RunError(message)
