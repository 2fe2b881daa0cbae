"""How a training shows itself: events for the record, a bar for the eye (plain lines without a terminal)."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from hark.runs import Run

LOG_EVERY_STEPS = 50
PLAIN_LINE_EVERY_S = 15.0


class Progress:
    """Counts steps of one training; use it as a context manager."""

    def __init__(self, run: Run, *, total: int, done: int, clips_per_step: int, device: str) -> None:
        self.run = run
        self.name = f"{run.folder.parent.name}/{run.folder.name}"
        self.device = device
        self.total = total
        self.clips_per_step = clips_per_step
        self._losses: list[float] = []
        self._begun = self._logged = self._printed = time.monotonic()
        self._done_at_start = self._done_at_log = done
        self._note = ""
        self._bar = _terminal_bar(self.name, total, done) if sys.stderr.isatty() else None

    def __enter__(self) -> Progress:
        _say(f"{self.name}: training on {self.device}")
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, step: int, *, loss: float, learning_rate: float) -> None:
        """One step is done."""
        self._losses.append(loss)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)
        if step - self._done_at_log < LOG_EVERY_STEPS and step < self.total:
            return
        now = time.monotonic()
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
        _say(f"{self.name}: warning: {message}")

    def _show(self, step: int, line: str, now: float) -> None:
        line += self._note
        if self._bar:
            self._bar.update(self._bar.task_ids[0], status=line)
        elif now - self._printed >= PLAIN_LINE_EVERY_S or step == self.total:
            left_s = (now - self._begun) / max(1, step - self._done_at_start) * (self.total - step)
            _say(f"{self.name}: step {step}/{self.total}  {line}  {left_s:.0f} s left")
            self._printed = now


def _say(line: str) -> None:
    """A line on stderr; a training outlives whoever was reading it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)  # noqa: T201


def _terminal_bar(name: str, total: int, done: int):  # type: ignore[no-untyped-def]  # rich is optional here
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    bar = Bar(*columns, console=Console(stderr=True))
    bar.add_task(name, total=total, completed=done, status="")
    return bar
