"""`hark runs`: what was started here, and what became of it."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import json
from pathlib import Path

import click

from hark.runs import find_runs


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), default="runs")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def runs(folder: Path, as_json: bool) -> None:
    """List all runs in and below DIR (runs): finished, live, or stopped at a step.

    A stopped run goes on when the command that started it is given again.

    \b
    Example:
      $ hark runs
      base-fold-0     train     finished
      stage-2-fold-0  distill   live
      stage-2-fold-1  distill   stopped at step 1200
    """
    found = [
        {"name": run.name, "kind": run.about.get("kind"), "state": run.state, "step": run.last_step}
        | {"path": str(run.folder)}
        for run in find_runs([folder])
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max((len(str(run["name"])) for run in found), default=0)
    for run in found:
        click.echo(f"{run['name']:<{width}}  {run['kind'] or '-':<8}  {run['state']}")
    if not found:
        click.echo(f"no runs in {folder}", err=True)
