"""Signals as wishes: what is being done is finished and saved before the program ends.

SIGINT, SIGTERM  finish the step, save, then end with exit code 130 or 143; a second one ends at once
SIGUSR1          save now and go on
SIGHUP           go on without the terminal
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, NoReturn

from hark.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a program that SIGTERM has ended."""

_Handler = Callable[[int, FrameType | None], None]


class Interruption:
    """Holds back the signals while it is entered; the loop inside asks after each step what is wanted."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._wants_saving = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._before = _set({**dict.fromkeys(SIGNALS, self._wish), signal.SIGUSR1: self._wish_to_save})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _give_back(self._before)
        if self.wanted and kind is None:
            signal.raise_signal(self.number or 0)  # it came after the loop had last asked

    @property
    def wanted(self) -> bool:
        """Whether someone has asked to stop."""
        return self.number is not None

    def take_wish_to_save(self) -> bool:
        """Whether someone has asked to save since this was last called."""
        wish, self._wants_saving = self._wants_saving, False
        return wish

    def stop(self, *, done: str) -> NoReturn:
        """Raise what ends the program; `done` says how far it came.

        Raises:
            Interrupted: always.
        """
        number, self.number = self.number or 0, None
        raise Interrupted(f"stopped, {done}; the same command goes on from there", signal_number=number)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            _give_back(self._before)
            signal.raise_signal(number)  # whoever handled it before this loop ends it now
        self.number = number

    def _wish_to_save(self, number: int, frame: FrameType | None) -> None:
        self._wants_saving = True


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Around a whole program: SIGTERM leaves it by way of `SystemExit`, as SIGINT does by `KeyboardInterrupt`.

    So what is open is closed, and half-written files go, wherever the signal comes. A second one, in the midst
    of that, ends the process by the system's own hand.
    """
    # Python's last search for cycles among all that torch has made takes longer than a save: it is spared that.
    atexit.register(gc.freeze)
    before = _set({signal.SIGTERM: _leave})
    try:
        yield
    finally:
        _give_back(before)


@contextmanager
def unattended(*, on_wish_to_save: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Work that goes on when its terminal has died, and does not end by a wish to save.

    Args:
        on_wish_to_save: called for each SIGUSR1; without it, all is saved already.
    """
    terminals = [descriptor for descriptor in (0, 1, 2) if os.isatty(descriptor)]

    def hang_up(number: int, frame: FrameType | None) -> None:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in terminals:
            os.dup2(nowhere, descriptor)

    def pass_on(number: int, frame: FrameType | None) -> None:
        on_wish_to_save()

    handlers: dict[int, _Handler] = {signal.SIGUSR1: pass_on}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # and not nohup's
        handlers[signal.SIGHUP] = hang_up
    before = _set(handlers)
    try:
        yield
    finally:
        _give_back(before)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(TERMINATED)


def _set(handlers: dict[int, _Handler]) -> dict[int, Any]:
    """Set handlers and give those of before; Python lets no thread but the main one do so."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


def _give_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
