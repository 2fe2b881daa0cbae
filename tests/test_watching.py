"""Watching a run: every event once, in order, until nobody is at work; the run does not notice."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given

import hark
from hark.cli.runs import attach
from hark.errors import RunError
from hark.record.events import Event
from hark.record.runs import Run
from hark.record.status import status_of
from hark.record.watching import follow, line, summary
from test_status import BEGAN, EVENTS, TRAIN, event

WORKER = """
import sys
from pathlib import Path
from hark.record.runs import Run
run = Run.open(Path(sys.argv[1]))
with run.at_work():
    print("in", flush=True)
    for line in sys.stdin:
        run.log(line.strip(), step=None)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path, "base", about={"kind": "train"})


@contextmanager
def at_work(run: Run) -> Iterator[Callable[[str], None]]:
    """Another process at work in a run; gives what makes it log an event of a kind."""
    command = [sys.executable, "-c", WORKER, str(run.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        stdin = process.stdin

        def log(kind: str) -> None:
            stdin.write(f"{kind}\n")
            stdin.flush()

        yield log


def test_all_events_come_once_in_order_until_nobody_is_at_work(run: Run) -> None:
    run.log("train", step=1)
    seen: list[str] = []
    batches = follow(run, pause=lambda _: None)
    with at_work(run) as log:
        seen += [found["kind"] for found in next(batches)]
        log("saved")
        while "saved" not in seen:
            seen += [found["kind"] for found in next(batches)]
        log("validation")
    seen += [found["kind"] for batch in batches for found in batch]
    assert seen == ["train", "saved", "validation"]


def test_the_moment_between_two_holds_of_a_run_is_not_taken_for_its_end(run: Run) -> None:
    """A command that starts takes the run, lets go, and takes it again."""
    looks = follow(run, pause=lambda _: None)
    with run.locked():
        next(looks)
    next(looks)
    with run.locked():
        run.log("train", step=1)
        assert [found["kind"] for found in next(looks)] == ["train"]
    assert all(batch == [] for batch in looks)


@given(EVENTS)
def test_any_event_is_one_line_that_a_terminal_only_shows(events: list[Event]) -> None:
    for found in events:
        assert line(found).isprintable()
    assert summary(status_of(events, is_live=True)).isprintable()


def test_a_line_says_when_what_and_how_much() -> None:
    trained = event("train", 1200, time_s=60.0, loss=0.031234, rate=410.0)
    assert line(trained)[8:] == "  train          1200  loss 0.03123  rate 410"
    assert line(trained)[2:6:3] == "::"
    assert (
        line(event("warning", message="no noises") | {"wall": "?"}) == "--:--:--  warning           -  no noises"
    )


def test_a_summary_has_state_figures_pace_and_remarks() -> None:
    events = [BEGAN, TRAIN, event("validation", 40, one_minus_auc=0.001), event("warning")]
    assert summary(status_of(events, is_live=True)) == (
        "live at step 40 of 100  loss 0.5000  validation 1-AUC 0.00100  8 clips/s  2 min left  1 warning"
    )


def test_attaching_needs_neither_torch_nor_numpy_and_importing_hark_nothing_at_all(run: Run) -> None:
    script = (
        "import sys; import hark; assert 'hark.record.runs' not in sys.modules\n"
        "run = hark.attach(sys.argv[1]); run._repr_html_(); print(run.status)\n"
        "print(sorted({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script, str(run.folder)], capture_output=True, text=True)
    assert told.stdout == "stopped at step 0\n[]\n", told.stderr


def test_what_is_no_run_cannot_be_attached_to(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it is not a run"):
        hark.attach(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'detatch'"):
        _ = hark.detatch


def test_the_command_shows_the_tail_and_ends_well_with_a_run_that_has_finished(run: Run) -> None:
    for step in range(20):
        run.log("train", step=step, loss=0.5)
    run.log("finished", step=None)
    shown = CliRunner().invoke(attach, [str(run.folder), "--tail", "2"])
    assert shown.exit_code == 0
    first, second, state = shown.stdout.splitlines()
    assert "train" in first
    assert "19" in first
    assert "finished" in second
    assert state == "finished  loss 0.5000"
    assert "\033" not in shown.output, "a pipe gets plain lines"


def test_the_command_tells_how_a_run_ended_that_did_not_finish(run: Run) -> None:
    with pytest.raises(ValueError, match="wide"), run.at_work():
        run.log("train", step=7)
        raise ValueError("too wide")
    shown = CliRunner().invoke(attach, [str(run.folder)])
    assert isinstance(shown.exception, RunError)
    assert f"failed at step 7: ValueError: too wide; go on with: hark resume {run.folder}" in str(shown.exception)
    assert "ended" in shown.stdout


def test_ctrl_c_ends_the_watching_and_not_the_run(run: Run) -> None:
    """In a terminal: events scroll, the state stays below them, and is wiped at the end."""
    main, other = pty.openpty()
    with at_work(run) as log:
        log("saved")
        watcher = subprocess.Popen(
            [sys.executable, "-m", "hark", "attach", str(run.folder)], stdin=other, stdout=other, stderr=other
        )
        os.close(other)
        shown = _read_until(main, b"saved", b"live")
        watcher.send_signal(signal.SIGINT)
        shown += _read_until(main, b"nothing that it says")
        assert watcher.wait() == 130
        assert run.is_live
        log("validation")
    assert [found["kind"] for found in run.events()] == ["saved", "validation"]
    assert b"saved" in shown
    assert shown.rstrip().split(b"\r\033[K")[-1].startswith(f"{run.folder}: goes on".encode())


def _read_until(terminal: int, *sought: bytes) -> bytes:
    """What a terminal shows until all these have come, or until nobody writes to it any more."""
    shown = b""
    guard = threading.Timer(60, os.close, [terminal])
    guard.start()
    try:
        while not all(words in shown for words in sought):
            try:
                piece = os.read(terminal, 1 << 16)
            except OSError:  # Linux says so when the last writer is gone
                piece = b""
            if not piece:
                return shown
            shown += piece
    finally:
        guard.cancel()
    return shown
