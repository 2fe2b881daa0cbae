"""`hark track`: give a tracker what it missed."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path

import click

from hark import tracking
from hark.runs import Run


@click.group()
def track() -> None:
    """Mirror runs to W&B or TensorBoard; the events of a run stay the truth."""


@track.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(sorted(tracking.BACKENDS)), required=True, help="The tracker.")
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
    count = tracking.push(opened, to=to)
    click.echo(f"{count} events sent to {to}")
    if url := opened.about["tracker_url"]:
        click.echo(url)
