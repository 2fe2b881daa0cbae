"""`hark models`: the models that come with hark, and their cards."""

# ruff: noqa: D301 (click wants the character itself: after it, lines stay as they are)

from __future__ import annotations

import click

from hark.cli.options import AS_JSON, print_json
from hark.models.page import page, table
from hark.models.shelf import find, shelf
from hark.models.shipped import Shipped


@click.command()
@click.argument("name", required=False)
@AS_JSON
def models(name: str | None, as_json: bool) -> None:
    """List the models that come with hark, or print the card of one; NAME may be a path to a .hark file, too.

    Wherever a command takes a model, it takes such a name. MACs per clip are counted for one second by the
    convention of thop 0.0.31, per second of stream as multiplications with the front end. The quality is that of
    the recipe: mean, standard deviation and 95 % interval over folds that were not heard.

    \b
    Example:
      $ hark models
      $ hark models happy-tiny
    """
    if name is not None:
        model = Shipped.open(find(name))
        print_json(model.as_dict()) if as_json else click.echo(page(model))
        return
    models = [Shipped.open(path) for path in shelf().values()]
    if as_json:
        print_json([model.as_dict() for model in models])
    else:
        click.echo("\n".join(table(models)))
