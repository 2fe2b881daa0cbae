"""SIGINT and SIGTERM as a wish: what is being done is finished and saved first. A second one stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

from hark.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Holds back the signals while it is entered; the loop inside asks `wanted` after each step."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        # Python delivers signals to the main thread alone, and lets no other set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._wish) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def wanted(self) -> bool:
        """Whether someone has asked to stop."""
        return self.number is not None

    def stop(self, *, done: str) -> NoReturn:
        """Raise what ends the program; `done` says how far it came.

        Raises:
            Interrupted: always.
        """
        raise Interrupted(f"stopped, {done}; the same command goes on from there", signal_number=self.number or 0)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.number = number
