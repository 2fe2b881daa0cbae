"""The front as it grows, drawn in a terminal; plain lines where there is none."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from hark.exploring.front import Found, Tried
from hark.notices import say, show
from hark.showing.drawing import short
from hark.showing.exploration_words import COLUMNS, progress_in_words, rows

HEIGHT, LEFT = 12, 8
MOST_ROWS = 12
MARKS = {"stopped": "·", "running": "o", "done": "+", "front": "●"}


class TerminalFront:
    """Shows a search on stderr; use it as a context manager."""

    def __init__(self) -> None:
        self._live = _live()
        self._shown: Found | None = None
        self._said = ""

    def __enter__(self) -> TerminalFront:
        if self._live is not None:
            show(self._live.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            show(self._live.stop)

    def __call__(self, found: Found) -> None:
        """Show what is known now."""
        if found == self._shown:
            return
        self._shown = found
        if self._live is not None:
            show(lambda: self._live.update(_drawing(found, self._live.console.width), refresh=True))
        elif (line := progress_in_words(found)) != self._said:
            say(line)
            self._said = line


def chart(found: Found, *, width: int, height: int = HEIGHT) -> list[str]:
    """Quality against MACs per clip, both on logarithmic scales: a letter for each trial, as lines of text."""
    shown = [each for each in (*found.others, *found.tried) if each.by_fold and each.quality > 0]
    if not shown:
        return []
    front = set(found.front)
    across, up = (
        _Scale([each.price.macs for each in shown], width),
        _Scale([each.quality for each in shown], height),
    )
    grid = [[" "] * width for _ in range(height)]
    for each in sorted(shown, key=lambda each: (each in front, each.state == "done")):
        grid[up.place(each.quality)][across.place(each.price.macs)] = MARKS[
            "front" if each in front else each.state
        ]
    labels = {0: f"{1e5 * up.low:.2g}", height - 1: f"{1e5 * up.high:.2g}"}
    lines = [f"{labels.get(y, ''):>{LEFT - 2}} │{''.join(grid[y])}" for y in reversed(range(height))]
    ends = short(round(across.low)), short(round(across.high))
    rule = f"{'':>{LEFT - 2}} └{'─' * width}"
    return [*lines, rule, f"{'':>{LEFT}}{ends[0]}{'MACs per clip':^{max(0, width - len(''.join(ends)))}}{ends[1]}"]


class _Scale:
    """A logarithmic scale onto places 0 to size − 1."""

    def __init__(self, values: Sequence[float], size: int) -> None:
        self.low, self.high, self.size = min(values), max(values), size

    def place(self, value: float) -> int:
        """Where a value stands."""
        if self.high == self.low:
            return self.size // 2
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return min(self.size - 1, round(share * (self.size - 1)))


def _drawing(found: Found, width: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    key = "  ".join(f"{mark} {name}" for name, mark in MARKS.items())
    picture = chart(found, width=max(20, min(100, width - LEFT - 2)))
    lines = [progress_in_words(found), "", *picture, *([f"{'':>{LEFT}}{key}"] if picture else []), ""]
    return Group(Text("\n".join(lines)), _table(found.front))


def _table(front: Sequence[Tried]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for cells in rows(front[:MOST_ROWS]):
        table.add_row(*cells)
    return table


def _live() -> Any:
    """What redraws itself, or None where there is no terminal or nothing to draw with."""
    with suppress(Exception):
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            return Live(console=Console(stderr=True), auto_refresh=False)
    return None
