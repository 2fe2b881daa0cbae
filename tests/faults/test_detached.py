"""The notebook's kernel is killed, the terminal is closed: the training they started goes on to the same bits."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hark_processes import one_thread

import hark
from hark.cli import cli
from hark.learning.dataset import Source
from hark.record.runs import OUTPUT, Run
from hark.record.watching import follow

LIMIT_S = 300
STARTED = "started"
# What a cell of a notebook runs, and then the kernel waits for the next.
KERNEL = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-m", "hark", "detach", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print("{STARTED}", flush=True)
time.sleep(3600)
"""


@pytest.fixture(scope="module")
def arguments(tiny_source: Source) -> list[str]:
    """A training long enough that it is not over when somebody dies; only where its run goes is missing."""
    options = ["--data", tiny_source.root, "--keyword", "beep", "--folds", 2, "--speech", tiny_source.speech]
    settings = ["training.epochs=100", "training.batch_size=16"]
    long = [word for setting in settings for word in ("--set", setting)]
    return ["train", *map(str, options), "--network", "stage-2", "--device", "cpu", *long]


@pytest.fixture(scope="module")
def undisturbed(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SHA-256 of the model when nobody dies."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    cli.main([*arguments, "--out", str(folder)], standalone_mode=False)
    return _sha256(folder)


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _is_under_way(folder: Path) -> bool:
    return (folder / "run.json").exists() and Run.open(folder).status.step > 0


def _watched_to_its_end(run: Run) -> None:
    deadline = time.monotonic() + LIMIT_S
    for _ in follow(run):
        assert time.monotonic() < deadline, f"{run.folder} is {run.status} after {LIMIT_S} s"


def _wait(ready: Callable[[], bool], pause: Callable[[], object] = lambda: time.sleep(0.05)) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not ready():
        assert time.monotonic() < deadline
        pause()


def _outcome(what: str, step: int, run: Run) -> str:
    total = run.status.total
    return f"{what} at step {step} of {total}: the run goes on to step {run.status.step}, to the same SHA-256"


@pytest.mark.chaos
@pytest.mark.fault("F24")
def test_a_run_started_detached_outlives_its_notebook(
    arguments: list[str], undisturbed: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KERNEL, *arguments, "--out", str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=one_thread(), text=True, start_new_session=True
    ) as kernel:
        assert kernel.stdout is not None
        assert kernel.stdout.readline().strip() == STARTED
        run = hark.attach(folder)
        _wait(lambda: _is_under_way(folder))
        step, holder = run.status.step, run.holder
        assert holder is not None
        assert holder.pid is not None
        assert "live" in run._repr_html_()
        os.killpg(kernel.pid, signal.SIGKILL)  # the kernel, and whatever it has not let go
    os.kill(holder.pid, signal.SIGHUP)
    assert run.holder == holder
    _watched_to_its_end(run)
    assert str(run.status) == "finished"
    assert run.status.step == run.status.total
    assert _sha256(folder) == undisturbed
    assert "1-AUC" in run.path(OUTPUT).read_text()
    assert "finished" in run._repr_html_()
    record_property("outcome", _outcome("notebook kernel killed (-9)", step, run))


@pytest.mark.chaos
@pytest.mark.fault("F24")
@pytest.mark.usefixtures("terminals_that_hang_up")
def test_a_run_in_a_terminal_outlives_the_terminal(
    arguments: list[str], undisturbed: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / "run"
    pid, terminal = pty.fork()
    if pid == 0:
        command = [sys.executable, "-m", "hark", *arguments, "--out", str(folder)]
        os.execve(sys.executable, command, one_thread())
    # Whoever writes to a terminal that nobody reads waits.
    _wait(
        lambda: _is_under_way(folder),
        lambda: select.select([terminal], [], [], 0.05)[0] and os.read(terminal, 4096),
    )
    run = hark.attach(folder)
    step = run.status.step
    os.close(terminal)  # SIGHUP to the session it led, and EIO to whoever writes to it
    _watched_to_its_end(run)
    _, code = os.waitpid(pid, 0)
    assert str(run.status) == "finished"
    assert run.status.step == run.status.total
    assert os.waitstatus_to_exitcode(code) == 0
    assert _sha256(folder) == undisturbed
    record_property("outcome", _outcome("terminal closed (SIGHUP)", step, run))
