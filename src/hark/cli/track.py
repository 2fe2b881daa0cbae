"""`hark track`: what trackers have of a run, and how to give them what they missed."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hark.cli.options import PATH, print_json
from hark.record.mirror import push as replay
from hark.record.runs import Run
from hark.record.standing import standing, standings
from hark.record.tracking import BACKENDS


@click.group()
def track() -> None:
    """Mirror runs to W&B or TensorBoard; the events of a run stay the truth."""


@track.command()
@click.argument("run", type=PATH)
@click.option("--to", type=click.Choice(sorted(BACKENDS)), required=True, help="The tracker.")
def push(run: Path, to: str) -> None:
    """Replay all events of RUN to a tracker, whatever it has seen of them before.

    W&B stays offline, for `wandb sync`, unless WANDB_MODE=online is set.

    \b
    Example:
      $ hark track push runs/base-fold-0 --to tensorboard
      212 events sent to tensorboard
      $ tensorboard --logdir runs
    """
    opened = Run.open(run)
    count = replay(opened, to=to)
    click.echo(f"{count} events sent to {to}")
    if url := standing(opened, to).url:
        click.echo(url)


@track.command()
@click.argument("run", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def status(run: Path, as_json: bool) -> None:
    """Show what each tracker has of RUN: all, what it lost, or which process is still feeding it.

    TensorBoard confirms twice a second, W&B not before the end.

    \b
    Example:
      $ hark track status runs/base-fold-0
      tensorboard has all 212 events
      wandb lost up to 57 of 212 events (killed by SIGKILL); replay with: hark track push runs/base-fold-0 ...
    """
    found = standings(Run.open(run))
    if as_json:
        print_json([asdict(one) | {"log": str(one.log), "lost": one.lost} for one in found])
        return
    for one in found:
        click.echo("  ".join(filter(None, (str(one), one.url))))
    if not found:
        click.echo(f"{run}: no tracker was used; use one with: hark track push {run} --to tensorboard", err=True)
