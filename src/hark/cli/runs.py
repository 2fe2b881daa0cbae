"""`hark runs`, `hark attach`: what was started here, what became of it, and how it is getting on."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import shutil
import sys
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hark.cli.options import PATH, print_json
from hark.errors import RunError
from hark.record.runs import Run, find_runs
from hark.record.status import duration, printable
from hark.record.watching import follow, line, summary

LONGEST_STATE = 100


@click.command()
@click.argument("folder", metavar="[DIR]", type=PATH, default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def runs(folder: Path, as_json: bool) -> None:
    """List all runs in and below DIR (runs): kind, time since the last event, state, warnings.

    A run is finished, live, interrupted by a signal, failed of an error, or stopped without a word
    (killed, or the power went). hark resume RUN goes on with it.

    \b
    Example:
      $ hark runs
      runs/base      train       2 h  finished
      runs/student   distill     1 s  live at step 1200 of 5600 (process 4711 on attic)  1 warning
      runs/student2  distill    11 h  interrupted by SIGTERM at step 350 of 5600
      runs/small     prune      11 h  failed at step 40 of 2800: runs/small: Input/output error; check the disk ...
    """
    found = [_look(run) for run in sorted(find_runs([folder]), key=lambda run: run.folder)]
    if as_json:
        print_json([facts for facts, _ in found])
        return
    width = max((len(printable(facts["path"])) for facts, _ in found), default=0)
    for facts, words in found:
        age = "-" if facts["age_s"] is None else duration(facts["age_s"])
        columns = (f"{printable(facts['path']):<{width}}", f"{printable(facts['kind'] or '-'):<8}", f"{age:>6}")
        click.echo("  ".join((*columns, words)))
    if not found:
        click.echo(f"no runs in {folder}", err=True)


@click.command()
@click.argument("run", type=PATH)
@click.option("--tail", type=click.IntRange(0), default=10, show_default=True, help="Events of the past to show.")
def attach(run: Path, tail: int) -> None:
    """Watch RUN from another terminal until it ends: its events as they come, and how far it is.

    Ctrl-C ends the watching and leaves the run alone. Exits with 0 if the run has finished, with 1 if it
    ended otherwise. In a notebook: import hark; hark.attach("runs/base").

    \b
    Example:
      $ hark attach runs/base
      23:14:02  train          1200  loss 0.0312  rate 410  learning_rate 0.0039
      23:14:09  validation     1230  one_minus_auc 0.00172  loss 0.0271
      live at step 1230 of 5600  loss 0.0312  410 clips/s  validation 1-AUC 0.00172  23 min left
    """
    opened = Run.open(run)
    try:
        _watch(opened, tail)
    except KeyboardInterrupt:
        _wipe()
        click.echo(f"{run}: goes on; hark attach {run} shows it again", err=True)
        sys.exit(130)
    status = opened.status
    if status.state != "finished":
        raise RunError(f"{run}: {status}; go on with: hark resume {run}")
    click.echo(summary(status))


def _watch(run: Run, tail: int) -> None:
    first = True
    for events in follow(run):
        _wipe()
        for event in deque(events, maxlen=tail) if first else events:
            click.echo(line(event))
        first = False
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            click.echo(summary(run.status)[:width], err=True, nl=False)
    _wipe()


def _wipe() -> None:
    """Take back the line of state at the bottom of a terminal, so that an event can take its place."""
    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)


def _look(run: Run) -> tuple[dict[str, Any], str]:
    """What the list tells of a run, as JSON and in words; a damaged one is named, and hides no other."""
    facts: dict[str, Any] = {"path": str(run.folder), "name": run.folder.name, "kind": None, "age_s": None}
    try:
        status, holder, about = run.status, run.holder, run.about
    except RunError as error:
        return facts | {"state": "damaged", "why": str(error)}, _short(f"damaged: {printable(error)}")
    facts |= {
        "name": about.get("name"),
        "kind": about.get("kind"),
        "state": status.state,
        "why": status.why,
        "step": status.step,
        "total_steps": status.total,
        "pid": holder.pid if holder else None,
        "host": holder.host if holder else None,
        "age_s": status.age_s(datetime.now(UTC)),
        "warnings": status.warnings,
        "fallbacks": status.fallbacks,
    }
    process = f" ({printable(holder)})" if holder else ""
    return facts, "  ".join(filter(None, (_short(str(status)) + process, status.remarks)))


def _short(words: str) -> str:
    return words if len(words) <= LONGEST_STATE else words[: LONGEST_STATE - 1] + "…"
