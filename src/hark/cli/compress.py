"""`hark compress`: from a budget to the best spotters within it."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hark.cli.options import (
    PATH,
    machine,
    machine_options,
    require_device,
    source,
    task_options,
    this_command,
)
from hark.errors import UsageError


@click.command()
@click.argument("root", metavar="DATA", type=PATH)
@task_options
@click.option("--budget", required=True, help="Such as macs<=18000,bytes<=2000; also macs_per_second, ram.")
@click.option("--quality", help="What is good enough: '<=1.1x base' or '<=5.5e-5'.")
@click.option("--trials", type=click.IntRange(1), default=100, show_default=True, help="Candidates to try.")
@click.option("--confirm", "confirmed", type=click.IntRange(0), default=4, show_default=True,
              help="How many of the front are made anew and judged on the test parts.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes on this machine.")
@click.option("--storage", help="The database that all join, as an SQLAlchemy URL.  [default: OUT/study.db]")
@click.option("--space", type=PATH, help="A TOML file that changes what is searched.")
@click.option("--teachers", default="teachers", show_default=True,
              help="A recipe, all of whose stages teach; the first is the base.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, help="Of what is drawn.  [default: 0]")
@click.option("--out", type=PATH, default=Path("compressed"), show_default=True, help="Where all of it goes.")
@machine_options
def compress(budget: str, quality: str | None, out: Path, **options: Any) -> None:
    """Search the best spotters for a word of DATA that cost no more than a budget.

    Networks, front ends, training and quantisation are searched together. Each candidate is a run of each fold,
    judged as its .hark file on the validation part; those that do worse than half of the others stop early. The
    best few are made anew and judged on the test parts. The same command goes on where it stopped; given on
    another machine with the same --storage, it joins.

    \b
    Example:
      $ hark compress speech_commands --keyword happy --budget "macs<=18000,bytes<=2000" --jobs 2
      $ hark compress speech_commands --keyword happy --budget "macs<=9338,bytes<=600" \\
          --quality "<=1.1x base" --trials 300 --storage postgresql+psycopg://me@server/happy
    """
    from hark.exploring.budget import parse_budget, parse_quality

    limits, bound = parse_budget(budget), parse_quality(quality) if quality else None
    if options["split"] == "whole":
        raise UsageError("--split whole leaves nothing to judge on, for all clips train; choose another")
    require_device(options)
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f'{error.name} is not installed; pip install "hark-kws[explore]"') from None
    from hark.exploring.exploration import Exploration, explore
    from hark.exploring.searching import Search
    from hark.exploring.space import Space, load_space
    from hark.exploring.workshop import Workshop
    from hark.recipes.recipe import load_recipe
    from hark.recipes.stages import training_threads
    from hark.showing.exploration_page import Showing

    names = ("trials", "confirmed", "jobs", "storage", "space", "teachers", "seed")
    trials, confirmed, jobs, storage, space, teachers, seed = (options.pop(name) for name in names)
    out = out.resolve()
    workshop = Workshop(
        machine=machine(options),
        source=source(options, cache=out),
        out=out,
        teachers=load_recipe(teachers),
        threads=training_threads(jobs),
        command=this_command(),
    )
    wanted = Search(
        workshop=workshop,
        space=load_space(space) if space else Space(),
        budget=limits,
        trials=trials,
        storage=storage or f"sqlite:///{out / 'study.db'}",
        seed=seed,
    )
    exploration = Exploration(search=wanted, quality=bound, confirmed=confirmed, jobs=jobs)
    with Showing(out) as showing:
        found = explore(exploration, show=showing)
    for line in showing.summary(found):
        click.echo(line)
