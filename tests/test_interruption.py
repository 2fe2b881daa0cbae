"""A signal is a wish: the step in hand is finished and saved, a second signal stops at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from hark.errors import Interrupted
from hark.interruption import SIGNALS, Interruption


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_held_back_until_it_is_asked_for(number: signal.Signals) -> None:
    with Interruption() as interruption:
        assert not interruption.wanted
        os.kill(os.getpid(), number)
        assert interruption.wanted
        with pytest.raises(Interrupted, match="stopped, all saved; the same command goes on") as stopped:
            interruption.stop(done="all saved")
    assert stopped.value.exit_code == 128 + number


def test_a_second_signal_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interruption():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_in_another_thread_nothing_is_held_back() -> None:
    """Only the main thread may set handlers; a training in a notebook's thread still runs."""
    wanted = []

    def work() -> None:
        with Interruption() as interruption:
            wanted.append(interruption.wanted)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert wanted == [False]
