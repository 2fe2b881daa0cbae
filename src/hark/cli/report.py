"""`hark report`: from runs to one page."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path

import click

from hark.files import to_json
from hark.showing.report import headline, write_report


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    help="The page to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the page's numbers as one JSON object.")
def report(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Write one self-contained HTML page about all runs in and below RUNS.

    \b
    Example:
      $ hark report runs --out report.html
      “stage-2, int8”: 10.1× fewer MACs and a 53.8× smaller file than “base”
      ...
      report.html
    """
    study = write_report(runs, out)
    if as_json:
        click.echo(to_json(study.summary(), indent=2))
        return
    for sentence in headline(study):
        click.echo(sentence)
    click.echo(out)
