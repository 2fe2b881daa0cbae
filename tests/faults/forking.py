"""A process that has loaded torch once and forks a `hark` for each order; `hark_processes.py` is its other end.

An order is a line of JSON on standard input, its answer a line on standard output:

    {"arguments": […], "output": path, "before": Python to run in the child first}  →  process id
    {"wait": process id, "timeout_s": seconds}                                      →  exit code, or null
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys
import time
from typing import Any

# All that a command would load, torch before anything.
for module in ("cli.learning", "cli.road", "recipes.reproduction", "showing.report"):
    importlib.import_module(f"hark.{module}")


def main() -> None:
    """Answer orders until there are no more; a child leaves by what the command line raises."""
    tell("ready")
    for line in sys.stdin:
        order = json.loads(line)
        tell(wait(**order) if "wait" in order else fork(**order))


def tell(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def fork(arguments: list[str], output: str, before: str = "") -> int:
    if child := os.fork():
        return child
    with open(output, "ab") as file, open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    scope: dict[str, Any] = {}
    exec(before, scope)
    sys.argv = ["hark", *arguments]
    from hark.cli import main as hark

    try:
        hark()
    except SystemExit as left:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(int(left.code or 0))  # without taking torch apart, which takes longer than the training
    return 0


def wait(wait: int, timeout_s: float) -> int | None:
    until = time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(wait, os.WNOHANG)
        if found or time.monotonic() >= until:
            return os.waitstatus_to_exitcode(status) if found else None
        time.sleep(0.005)


if __name__ == "__main__":
    main()
