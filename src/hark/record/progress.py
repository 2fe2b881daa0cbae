"""How a training shows itself: events for the record, a bar for the eye (plain lines without a terminal)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from hark.notices import say, show
from hark.record.runs import Run
from hark.record.status import duration

LOG_EVERY_STEPS = 50
PLAIN_LINE_EVERY_S = 15.0
DRAW_EVERY_S = 0.1


class Progress:
    """Counts steps of one training; use it as a context manager.

    What cannot be shown is not: a bar that fails, or has no terminal any more, gives way to plain lines.
    """

    def __init__(self, run: Run, *, total: int, done: int, clips_per_step: int, device: str) -> None:
        self.run = run
        self.name = f"{run.folder.parent.name}/{run.folder.name}"
        self.device = device
        self.total = total
        self.clips_per_step = clips_per_step
        self._losses: list[float] = []
        self._begun = self._logged = time.monotonic()
        self._printed = self._drawn = -float("inf")  # so the first line comes at once, and says how long all takes
        self._done_at_start = self._done_at_log = done
        self._note = ""
        self._bar = _terminal_bar(self.name, total, done)
        self._draws = self._bar is not None

    def __enter__(self) -> Progress:
        work = {"steps": self.total, "clips_per_step": self.clips_per_step, "device": self.device}
        self.run.log("began", step=self._done_at_start, work=work)
        say(f"{self.name}: training on {self.device}")
        self._draw(lambda bar: bar.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:  # one that has given way too: it still holds the terminal
            show(self._bar.stop)

    def advance(self, step: int, *, loss: float, learning_rate: float) -> None:
        """One step is done."""
        self._losses.append(loss)
        now = time.monotonic()
        if now - self._drawn >= DRAW_EVERY_S:
            self._drawn = now
            self._draw(lambda bar: bar.update(bar.task_ids[0], completed=step))
        if step - self._done_at_log < LOG_EVERY_STEPS and step < self.total:
            return
        rate = (step - self._done_at_log) * self.clips_per_step / max(now - self._logged, 1e-9)
        mean = sum(self._losses) / len(self._losses)
        self.run.log("train", step=step, loss=mean, rate=rate, learning_rate=learning_rate)
        self._show(step, f"loss {mean:.4f}  rate {learning_rate:.1e}  {rate:,.0f} clips/s", now)
        self._losses.clear()
        self._logged, self._done_at_log = now, step

    def validated(self, step: int, values: Mapping[str, float]) -> None:
        """The validation part has been scored."""
        self.run.log("validation", step=step, **values)
        self._note = f"  validation 1-AUC {values['one_minus_auc']:.5f}"

    def warn(self, message: str) -> None:
        """Something that should be known before the result is believed."""
        self.run.log("warning", step=None, message=message)
        say(f"{self.name}: warning: {message}")

    def _show(self, step: int, line: str, now: float) -> None:
        line += self._note
        self._draw(lambda bar: bar.update(bar.task_ids[0], completed=step, status=line))
        if not self._draws and (now - self._printed >= PLAIN_LINE_EVERY_S or step == self.total):
            left_s = (now - self._begun) / max(1, step - self._done_at_start) * (self.total - step)
            say(f"{self.name}: step {step}/{self.total}  {line}  {duration(left_s)} left")
            self._printed = now

    def _draw(self, change: Callable[[Any], object]) -> None:
        if self._draws:
            show(lambda: self._try_to_draw(change))

    def _try_to_draw(self, change: Callable[[Any], object]) -> None:
        try:
            change(self._bar)
        except Exception:
            self._draws = False


def _terminal_bar(name: str, total: int, done: int) -> Any:
    """A bar, or None where there is no terminal or nothing to draw with."""
    with suppress(Exception):  # whatever is wrong with either, training is worth more
        if sys.stderr.isatty():
            return _bar(name, total, done)
    return None


def _bar(name: str, total: int, done: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    bar.add_task(name, total=total, completed=done, status="")
    return bar
