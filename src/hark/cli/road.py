"""`hark reproduce` and `hark demo`: the whole road in one command."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hark.cli.options import (
    PATH,
    SET,
    TRACK,
    corpus_options,
    machine,
    machine_options,
    require_device,
    source,
    this_command,
)


@click.command()
@corpus_options
@click.option("--only", type=click.IntRange(0), multiple=True, help="Only this fold; may come again.")
@click.option("--recipe", "recipes", multiple=True, default=("reproduce", "reference"), show_default=True,
              help="A TOML file or a name; may come again.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Folds at a time.")
@click.option("--out", type=PATH, default=Path("runs"), show_default=True, help="Where the runs go.")
@machine_options
@TRACK
@SET
def reproduce(
    recipes: tuple[str, ...],
    only: tuple[int, ...],
    jobs: int,
    out: Path,
    overrides: tuple[str, ...],
    **corpus: Any,
) -> None:
    """Run whole recipes over all folds and write the report: by default ours, then the reference's own.

    The same command again goes on where it stopped. For 7,000 clips and five folds it takes
    about two hours on two cores; a GPU is taken where there is one.

    \b
    Example:
      $ hark reproduce --data speech_commands --keyword happy --folds 5 --jobs 2
    """
    require_device(corpus)
    from hark.recipes.recipe import load_recipe
    from hark.recipes.reproduction import Plan
    from hark.recipes.reproduction import reproduce as run
    from hark.showing.report import write_report

    loaded = [load_recipe(name, overrides=overrides) for name in recipes]
    work = {"trackers": corpus.pop("trackers"), "command": this_command(), "machine": machine(corpus)}
    data = source(corpus, cache=out)
    plans = [Plan(recipe=recipe, source=data, out=out, **work) for recipe in loaded]
    for plan in plans:
        run(plan, folds=only or range(data.folds), jobs=jobs)
    page = out / "report.html"
    write_report([out / plan.recipe.name for plan in plans], page)
    click.echo(f"{page}: open it in a browser")


@click.command()
@click.option(
    "--out", type=PATH, default=Path("demo"), show_default=True, help="A folder for everything it makes."
)
def demo(out: Path) -> None:
    """Go the whole road on synthesised speech: corpus, base, student, int8, proof, detection, report.

    Needs no data and no network; takes a few minutes on two cores. The same command again goes on where it
    stopped.

    \b
    Example:
      $ hark demo
    """
    from hark.showing.demo import run_demo

    run_demo(out, say=click.echo, command=this_command())
