"""Command lines given to hark one after the other in one process, which tells what became of each.

Run as a program, it reads a JSON list of command lines and writes a JSON list of what `Told` has.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple

HANG_S = 300
_KIB = 1 if sys.platform == "linux" else 1 / 1024  # macOS counts bytes


class Told(NamedTuple):
    """What became of a command and what it took, its helpers included; the peaks are of all up to it."""

    code: int
    out: str
    err: str
    peak_mib: float
    helpers_peak_mib: float
    processor_s: float


def measured(commands: Sequence[Sequence[object]]) -> list[Told]:
    """What became of each command, in a process of its own; begin with some that load what they all need."""
    asked = json.dumps([[str(argument) for argument in arguments] for arguments in commands])
    process = [sys.executable, __file__]
    done = subprocess.run(process, input=asked, capture_output=True, text=True, timeout=HANG_S, check=True)
    return [Told(*told) for told in json.loads(done.stdout)]


def call(arguments: list[str]) -> Told:
    """One command, as from a shell; what is neither an exit nor an error of hark's is code 99 and a traceback."""
    from hark.cli import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["hark", *arguments]
    code, before_s = 0, processor_s()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            code = 99
            traceback.print_exc()
    peaks = (resource.getrusage(who).ru_maxrss * _KIB / 1024 for who in _WHO)
    return Told(code, out.getvalue(), err.getvalue(), *peaks, processor_s() - before_s)


def processor_s() -> float:
    """What this process and its helpers have taken of the processor so far, whatever else the machine does."""
    used = [resource.getrusage(who) for who in _WHO]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)

if __name__ == "__main__":
    json.dump([call(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
