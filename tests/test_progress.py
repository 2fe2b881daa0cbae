"""How a training shows itself: what is on record does not depend on who is watching, nor on whether they can."""

from __future__ import annotations

import io
import itertools
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hark.record import progress
from hark.record.events import Event
from hark.record.progress import Progress
from hark.record.runs import Run

STEPS = 120


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "fold-0", "base [b] {y}", about={"kind": "train"})


def train(run: Run, *, on: io.StringIO | None) -> list[dict[str, Any]]:
    """What is on record of a training of so many steps with that stderr, times left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", on)
        _train(run)
    return [{name: value for name, value in event.items() if name not in TIMES} for event in run.events()]


def _train(run: Run) -> None:
    with Progress(run, total=STEPS, done=0, clips_per_step=16, device="cpu") as shown:
        for step in range(1, STEPS + 1):
            shown.advance(step, loss=1 / step, learning_rate=0.5)
            if step == 60:
                shown.validated(step, {"one_minus_auc": 0.25})


TIMES = ("time_s", "wall", "rate")


class Terminal(io.StringIO):
    """Somewhere to draw."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Stands in for stderr, and rich believes in it whatever the environment says."""
    for name in ("TERM", "NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(progress, "DRAW_EVERY_S", 0.0)
    return Terminal()


def test_each_fifty_steps_are_an_event_and_so_is_the_rest(run: Run) -> None:
    events = train(run, on=io.StringIO())
    assert [(event["kind"], event["step"]) for event in events] == [
        ("began", 0),
        ("train", 50),
        ("validation", 60),
        ("train", 100),
        ("train", STEPS),
    ]
    assert events[0]["work"] == {"steps": STEPS, "clips_per_step": 16, "device": "cpu"}
    assert events[1]["loss"] == pytest.approx(sum(1 / step for step in range(1, 51)) / 50)
    assert events[4]["loss"] == pytest.approx(sum(1 / step for step in range(101, STEPS + 1)) / 20)


def test_without_a_terminal_there_are_plain_lines(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    file = io.StringIO()
    train(run, on=file)
    first, soon, last = file.getvalue().splitlines()
    assert capsys.readouterr() == ("", "")
    assert first == "fold-0/base [b] {y}: training on cpu"
    assert re.fullmatch(r".* step 50/120  loss 0\.0900  .* clips/s  \d+ s left", soon), "how long will it take?"
    assert last.startswith("fold-0/base [b] {y}: step 120/120  loss 0.0091  rate 5.0e-01  ")
    assert last.endswith(" clips/s  validation 1-AUC 0.25000  0 s left")


def test_on_a_terminal_there_is_a_bar_whatever_the_run_is_called(run: Run, terminal: Terminal) -> None:
    train(run, on=terminal)
    drawn = terminal.getvalue()
    assert any("fold-0/base [b] {y} " in line and "120/120" in line for line in drawn.splitlines())
    assert "loss 0.0091  rate 5.0e-01" in drawn
    assert "step 120/120" not in drawn


class Broken:
    """A bar that fails from some call on."""

    task_ids = (0,)

    def __init__(self, failing: str) -> None:
        self.failing = failing
        self.calls: list[str] = []

    def start(self) -> None:
        """Begin to draw."""
        self._call("start")

    def update(self, *_: object, **changes: object) -> None:
        """Draw."""
        self._call("update")

    def stop(self) -> None:
        """Give the terminal back."""
        self._call("stop")

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.failing:
            raise OSError(5, "Input/output error")


@pytest.mark.parametrize("failing", ["start", "update", "stop"])
def test_a_bar_that_fails_gives_way_to_plain_lines_and_the_record_is_the_same(
    run: Run, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, failing: str, tmp_path: Path
) -> None:
    bar = Broken(failing)
    monkeypatch.setattr(progress, "_terminal_bar", lambda *_: bar)
    undisturbed = train(Run.create(tmp_path, "undisturbed", about={"kind": "train"}), on=Terminal())
    bar.calls.clear()
    assert train(run, on=terminal) == undisturbed
    assert bar.calls.count(failing) == 1, "it is not tried again"
    assert bar.calls[-1] == "stop"
    assert ("step 120/120" in terminal.getvalue()) == (failing != "stop")


def test_no_stderr_or_a_closed_one_is_no_reason_to_fail(run: Run, terminal: Terminal) -> None:
    terminal.close()
    assert len(train(run, on=terminal)) == 5
    assert len(train(run, on=None)) == 10


def test_a_drawing_library_that_is_broken_leaves_plain_lines(
    run: Run, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    assert len(train(run, on=terminal)) == 5
    assert "step 120/120" in terminal.getvalue()


def test_a_warning_is_on_record_and_on_stderr(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(run, total=1, done=0, clips_per_step=1, device="cpu") as shown:
        shown.warn("no noise is mixed in")
    (warning,) = (event for event in run.events() if event["kind"] == "warning")
    assert (warning["step"], warning["message"]) == (None, "no noise is mixed in")
    assert "base [b] {y}: warning: no noise is mixed in\n" in capsys.readouterr().err


def test_a_resumed_training_counts_what_it_does_itself(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate of the steps since it began, not of all that were ever made: a second each, 16 clips."""
    seconds = itertools.count()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
    with Progress(run, total=STEPS, done=100, clips_per_step=16, device="cpu") as shown:
        for step in range(101, STEPS + 1):
            shown.advance(step, loss=0.0, learning_rate=0.5)
    events: list[Event] = [event for event in run.events() if event["kind"] == "train"]
    assert [event["step"] for event in events] == [STEPS]
    assert events[0]["rate"] == 16
