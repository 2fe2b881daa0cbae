"""What a search leaves to be looked at: `front.json`, `report.html`, both written anew after each trial."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from hark.exploring.front import Found
from hark.files import to_json, write_atomically
from hark.record.runs import Run
from hark.showing.confirmation import confirmations
from hark.showing.exploration_words import caution, progress_in_words
from hark.showing.report import render
from hark.showing.study import Study, collect
from hark.showing.terminal_front import TerminalFront

FRONT_FILE, PAGE = "front.json", "report.html"


class Showing:
    """Shows a search in the terminal and on a page; use it as a context manager."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.terminal = TerminalFront()
        self._written: object = None

    def __enter__(self) -> Showing:
        self.terminal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminal.__exit__(kind, error, trace)

    def __call__(self, found: Found) -> None:
        """Show what is known now; the page is written anew when a trial has ended, or a run is judged."""
        self.terminal(found)
        outcome = found.count("done", "stopped", "failed"), found.chosen, tuple(_judged(self.out))
        if outcome != self._written:
            self._written = outcome
            study = study_of(self.out)
            write_atomically(self.out / FRONT_FILE, (to_json(as_dict(found, study), indent=2) + "\n").encode())
            write_atomically(self.out / PAGE, render(study, found=found).encode())

    def summary(self, found: Found) -> list[str]:
        """The result, a line each."""
        judged = [confirmation.in_words for confirmation in confirmations(study_of(self.out), found)]
        page = f"{self.out / PAGE}: open it in a browser; recipes are in {self.out / 'recipes'}"
        return [progress_in_words(found), caution(found), *judged, page]


def study_of(out: Path) -> Study:
    """The runs that have been judged: the bases, and the chosen ones made anew."""
    runs = [Run.open(folder) for folder in _judged(out)]
    return collect(runs) if runs else Study((), ())


def _judged(out: Path) -> list[Path]:
    return sorted(file.parent for file in out.glob("fold-*/*/evaluation.json"))


def as_dict(found: Found, study: Study) -> dict[str, Any]:
    """`front.json`."""
    return {
        "keyword": found.keyword,
        "budget": found.budget,
        "quality": str(found.quality) if found.quality else None,
        "folds": found.folds,
        "trials": {"wanted": found.wanted}
        | {state: found.count(state) for state in ("done", "stopped", "failed", "running", "waiting")},
        "caution": caution(found),
        "base": {"quality": found.base if found.base_by_fold else None, "by_fold": list(found.base_by_fold)},
        "front": [tried.as_dict() for tried in found.front],
        "chosen": list(found.chosen),
        "confirmed": [confirmation.as_dict() for confirmation in confirmations(study, found)],
        "judged": study.summary()["settings"],
    }
