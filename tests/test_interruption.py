"""A signal is a wish: finish the step and save. A second one stops at once, a dead terminal never does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hark.errors import Interrupted
from hark.record.interruption import SIGNALS, TERMINATED, Interruption, leaving_on_sigterm, unattended

ALL = (*SIGNALS, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture(autouse=True)
def same_handlers_as_before() -> Iterator[None]:
    """Whatever a test sets is given back by what it tests."""
    before = [signal.getsignal(number) for number in ALL]
    yield
    assert [signal.getsignal(number) for number in ALL] == before


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_held_back_until_it_is_asked_for(number: signal.Signals) -> None:
    with Interruption() as interruption:
        assert not interruption.wanted
        send(number)
        assert interruption.wanted
        with pytest.raises(Interrupted, match="stopped, all saved; the same command goes on") as stopped:
            interruption.stop(done="all saved")
    assert stopped.value.exit_code == 128 + number


def test_a_second_signal_stops_at_once_as_it_would_have_without_the_loop() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption():
        send(signal.SIGINT)
        send(signal.SIGINT)
    with leaving_on_sigterm():
        with pytest.raises(SystemExit) as left, Interruption():
            send(signal.SIGINT)
            send(signal.SIGTERM)
        assert left.value.code == TERMINATED == 143


def test_a_signal_that_comes_after_the_loop_has_last_asked_is_not_lost() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        assert not interruption.wanted
        send(signal.SIGINT)


def test_an_error_is_not_replaced_by_a_signal_that_came_before_it() -> None:
    with pytest.raises(ZeroDivisionError), Interruption():
        send(signal.SIGINT)
        _ = 1 / 0


def test_sigusr1_is_a_wish_to_save_that_is_taken_once() -> None:
    with Interruption() as interruption:
        assert not interruption.take_wish_to_save()
        send(signal.SIGUSR1)
        assert interruption.take_wish_to_save()
        assert not interruption.take_wish_to_save()
        assert not interruption.wanted


def test_outside_of_any_loop_sigterm_leaves_by_closing_what_is_open() -> None:
    closed = []
    with pytest.raises(SystemExit) as left, leaving_on_sigterm():
        try:
            send(signal.SIGTERM)
        finally:
            closed.append(True)
    assert (left.value.code, closed) == (143, [True])


def test_sigterm_again_while_things_are_closed_ends_the_process_there_and_then() -> None:
    script = """
import os, signal
from hark.record.interruption import leaving_on_sigterm
with leaving_on_sigterm():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("closed in peace")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "")


def test_unattended_work_does_not_end_by_a_wish_to_save_nor_by_a_hang_up() -> None:
    with unattended():
        send(signal.SIGUSR1)
        send(signal.SIGHUP)


@pytest.mark.fault("F24")
@pytest.mark.usefixtures("terminals_that_hang_up")
def test_work_goes_on_when_its_terminal_dies(tmp_path: Path) -> None:
    """The terminal of a session leader is closed: the system sends SIGHUP, and writing to it is an error."""
    script = """
import fcntl, os, sys, termios, time
from pathlib import Path
from hark.record.interruption import unattended
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with unattended():
    print("at work", flush=True)
    while os.isatty(1):
        time.sleep(0.01)
    print("to nobody", flush=True)
    Path(sys.argv[1]).write_text("done")
"""
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", script, str(tmp_path / "result")]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        assert b"at work" in os.read(ours, 100)
        os.close(ours)
    assert process.returncode == 0
    assert (tmp_path / "result").read_text() == "done"


def test_at_its_end_a_program_does_not_search_all_memory_once_more() -> None:
    """With torch loaded that took a second, in which a signal had already been answered."""
    script = """
import atexit, gc
from hark.record.interruption import leaving_on_sigterm
atexit.register(lambda: print(gc.get_freeze_count() > 0))
with leaving_on_sigterm():
    pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n")


def test_nohup_is_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unattended():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_is_held_back() -> None:
    """Only the main thread may set handlers; a training in a notebook's thread still runs."""
    wanted = []

    def work() -> None:
        with leaving_on_sigterm(), unattended(), Interruption() as interruption:
            wanted.append(interruption.wanted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert wanted == [False]
