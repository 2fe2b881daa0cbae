"""`hark release`: a model that ships, with its card."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hark.cli.options import PATH, corpus_options, source
from hark.errors import UsageError
from hark.files import write_atomically
from hark.models.card import CREDITS, as_credit, card_file
from hark.models.shelf import SUFFIX


@click.command()
@click.argument("run", type=PATH)
@corpus_options
@click.option("--quality-from", "judged", type=PATH, required=True, help="Where its runs on all folds are.")
@click.option("--alarms-per-hour", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True,
              help="In speech and noise, at most.")  # fmt: skip
@click.option("--credit", "credits", multiple=True, required=True, metavar="CREDIT",
              help=f"Whose recordings: {', '.join(CREDITS)}, or 'NAME; LICENCE; HOLDER'.")  # fmt: skip
@click.option("--licence", default="Apache-2.0", show_default=True, help="Of the model.")
@click.option("--out", type=PATH, required=True, help=f"The file, whose name ends in {SUFFIX}.")
def release(
    run: Path,
    judged: Path,
    alarms_per_hour: float,
    credits: tuple[str, ...],
    licence: str,
    out: Path,
    **corpus: Any,
) -> None:
    """Ship the model of RUN, made with --split whole: choose its operating point and write its card.

    Its quality is that of the same recipe on folds. Of the operating points with at most so many alarms per hour
    in the judging parts of speech and noise it takes the one with the fewest mistakes among words; those are
    heard by the models of the folds that do not know them. The card goes beside the file, and hark models shows
    it. In src/hark/models both belong to the package.

    \b
    Example:
      $ hark release runs/tiny/whole/student --quality-from runs/tiny --data speech_commands --keyword happy \\
          --speech speech --credit speech-commands --credit picovoice-speech --out happy-tiny.hark
    """
    if out.suffix != SUFFIX:
        raise UsageError(f"--out {out}: expected a name that ends in {SUFFIX}, by which hark knows its files")
    from hark.models.page import page
    from hark.models.shipped import Shipped
    from hark.record.runs import Run
    from hark.releasing.release import Wish, release

    wish = Wish(
        run=Run.open(run),
        folds=judged,
        source=source(corpus, cache=Path("runs")),
        alarms_per_hour=alarms_per_hour,
        credits=tuple(map(as_credit, credits)),
        licence=licence,
    )
    released = release(wish)
    write_atomically(out, released.file)
    write_atomically(card_file(out), released.card.to_bytes())
    click.echo(page(Shipped.open(out)))
