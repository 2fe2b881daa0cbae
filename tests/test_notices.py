"""A line on stderr reaches whoever is there, and hurts nobody if no one is."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from hark import notices
from hark.notices import say, show


class Gone:
    """A terminal that has died."""

    def write(self, text: str) -> int:
        """Nobody takes it."""
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        """Nothing is left to do."""


def test_a_line_goes_to_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    say("saved")
    assert capsys.readouterr() == ("", "saved\n")


def test_a_dead_terminal_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Gone())
    say("saved")


@pytest.mark.parametrize("stderr", [None, "closed"])
def test_a_line_that_stderr_does_not_take_goes_nowhere_else(
    stderr: str | None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open(os.devnull, "w")  # noqa: PTH123, SIM115 (to be closed at once)
    file.close()
    monkeypatch.setattr(sys, "stderr", file if stderr else None)
    say("saved")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A terminal stopped by Ctrl-S; the call starts it again."""
    monkeypatch.setattr(notices, "PATIENCE_S", 0.01)
    again = threading.Event()
    show(again.wait)

    def go_on() -> None:
        monkeypatch.setattr(notices, "PATIENCE_S", 60.0)
        again.set()
        if notices._showing:
            notices._showing.join(60)

    yield go_on
    go_on()


def test_nothing_more_is_tried_while_the_terminal_is_stuck_and_all_is_well_after(
    stuck: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[int] = []
    threads = threading.active_count()
    for number in range(100):
        show(lambda number=number: tried.append(number))  # type: ignore[misc]
    assert (tried, threading.active_count()) == ([], threads)
    stuck()
    say("saved")
    assert capsys.readouterr() == ("", "saved\n")


def test_where_no_thread_can_be_started_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    say("saved")


def test_a_pipe_that_nobody_reads_stops_nobody() -> None:
    """More lines than any pipe holds; it would wait for ever at the first that does not fit."""
    code = "from hark.notices import say; [say(80 * 'x') for _ in range(20_000)]; print('done', flush=True)"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"done\n"
        finally:
            process.kill()
